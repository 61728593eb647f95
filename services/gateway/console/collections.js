// The collections view: sizes, fields, the share of documents in approximate indexes, and live recall.

import { get } from "./api.js";
import { addressOf } from "./address.js";
import { h, show } from "./dom.js";
import { count, mebibytes } from "./words.js";

/** Fills `main` with the collections. */
export async function collectionsView(main, _values, _known, signal) {
  const [{ collections }, system] = await Promise.all([get("/collections", { signal }), get("/services", { signal })]);
  const models = new Map(system.services.flatMap(({ models }) => models.map((model) => [model.digest, model])));
  show(
    main,
    h("h1", {}, "Collections"),
    collections.length
      ? h("div", { class: "scroll" }, table(collections, models))
      : h("p", { class: "notice" }, "None yet. Drop a JSONL file here to index it."),
    h("p", { class: "fine" }, recall(system.metrics.retrieval)),
  );
}

function table(collections, models) {
  const largest = Math.max(1, ...collections.map((one) => one.document_count));
  const head = ["Collection", "Documents", "Fields", "Filters", "Size", "In an index", "Version"];
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, head.map((name) => h("th", {}, name)))),
    h("tbody", {}, collections.map((one) => row(one, models, largest))),
  );
}

function row(one, models, largest) {
  const filters = Object.entries(one.filterable_fields).map(([name, type]) => `${name} (${type})`);
  const share = one.document_count ? Math.round((100 * one.indexed_document_count) / one.document_count) : 0;
  return h(
    "tr",
    {},
    h("td", {}, h("a", { href: addressOf({ collection: one.name }), "data-local": true }, one.name)),
    h(
      "td",
      { class: "number" },
      count(one.document_count),
      h("span", { class: "size", "--part": one.document_count / largest }),
      one.dead_document_count ? h("small", {}, `${count(one.dead_document_count)} deleted, space not reclaimed yet`) : null,
    ),
    h("td", {}, one.fields.map((field) => described(field, models))),
    h("td", {}, filters.join(", ") || "none"),
    h("td", { class: "number" }, `${mebibytes(one.memory_bytes)} memory`, h("small", {}, `${mebibytes(one.disk_bytes)} disk`)),
    h("td", { class: "number", title: "Share of documents in an approximate index. The others are searched exactly." }, `${share} %`),
    h("td", { class: "number" }, count(one.version)),
  );
}

function described(field, models) {
  const model = models.get(field.model_digest);
  const facts = [field.dimensions, field.metric, field.language].filter(Boolean).join(", ");
  const name = model ? `${model.name}@${model.version}` : field.model_digest ? "a model that is not served" : "";
  return h(
    "div",
    { title: field.model_digest ? `model digest ${field.model_digest}` : null },
    h("b", {}, field.name),
    ` ${facts}`,
    name ? h("small", {}, ` ${name} ${field.model_digest.slice(0, 8)}`) : null,
  );
}

/** Describes the recall of the approximate indexes, from sampled searches that were repeated exactly. */
function recall(samples) {
  if (!samples) return "Live recall is unknown. Start the gateway with --scrape retrieval=HOST:PORT to show it.";
  const of = (outcome) =>
    samples.find((one) => one.name === "sluice_live_candidates_total" && one.labels.outcome === outcome)?.value ?? 0;
  const [found, missed] = [of("found"), of("missed")];
  if (!(found + missed)) return "Live recall: no sampled search has used an approximate index yet. Small collections are searched exactly.";
  return `Live recall ${((100 * found) / (found + missed)).toFixed(2)} % over ${count(found + missed)} candidates of sampled searches.`;
}
