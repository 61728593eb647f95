// What is stored: sizes, fields, how much of it the graphs cover, live recall.

import { get } from "./api.js";
import { addressOf } from "./address.js";
import { h, show } from "./dom.js";
import { count, mebibytes } from "./words.js";

/** Fill `main` with the collections. */
export async function collectionsView(main, _values, _known, signal) {
  const [{ collections }, system] = await Promise.all([get("/collections", { signal }), get("/services", { signal })]);
  const models = new Map(system.services.flatMap(({ models }) => models.map((model) => [model.digest, model])));
  show(
    main,
    h("h1", {}, "Collections"),
    collections.length
      ? h("div", { class: "scroll" }, table(collections, models))
      : h("p", { class: "notice" }, "None yet: drop a JSONL file here to index it."),
    h("p", { class: "fine" }, recall(system.metrics.retrieval)),
  );
}

function table(collections, models) {
  const largest = Math.max(1, ...collections.map((one) => one.document_count));
  const head = ["Collection", "Documents", "Fields", "Filters", "Size", "In a graph", "Version"];
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
      one.dead_document_count ? h("small", {}, `${count(one.dead_document_count)} deleted, not yet freed`) : null,
    ),
    h("td", {}, one.fields.map((field) => described(field, models))),
    h("td", {}, filters.join(", ") || "none"),
    h("td", { class: "number" }, `${mebibytes(one.memory_bytes)} memory`, h("small", {}, `${mebibytes(one.disk_bytes)} disk`)),
    h("td", { class: "number", title: "The others are compared one by one, which is exact." }, `${share} %`),
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

/** What sampled searches, repeated exactly, say of the graphs. */
function recall(samples) {
  if (!samples) return "Live recall is not known: the gateway was not told of retrieval's metrics (--scrape retrieval=HOST:PORT).";
  const of = (outcome) =>
    samples.find((one) => one.name === "sluice_live_candidates_total" && one.labels.outcome === outcome)?.value ?? 0;
  const [found, missed] = [of("found"), of("missed")];
  if (!(found + missed)) return "Live recall: no sampled search yet has used a graph. Small collections are searched exactly.";
  return `Live recall ${((100 * found) / (found + missed)).toFixed(2)} % over ${count(found + missed)} candidates of sampled searches.`;
}
