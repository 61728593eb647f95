// The list of results: passages with marked terms, and the rank of each document in each stage.

import { h } from "./dom.js";
import { ordinal, passage, pieces, short, terms } from "./words.js";

/** Returns a list of results. For comparisons, `moved` returns an element beside the title of a document. */
export function resultList(results, query, { moved = null } = {}) {
  const wanted = terms(query);
  return h(
    "ol",
    { class: "results" },
    results.map((result, i) => item(result, i + 1, wanted, moved)),
  );
}

function item(result, rank, wanted, moved) {
  const { document_id: id, title, text, metadata } = result.document;
  const body = h("p", { class: "text" }, marked(passage(text, wanted), wanted));
  const row = h(
    "li",
    { tabindex: "-1", "data-id": id, "aria-expanded": "false", "data-testid": "result" },
    h("span", { class: "rank", "aria-hidden": "true" }, String(rank)),
    h(
      "article",
      {},
      h("h3", {}, title || id, moved?.(id, rank) ?? null),
      body,
      h("p", { class: "facts" }, standings(result.standings), Object.entries(metadata).sort().map(fact), idOf(id, title)),
    ),
    h("span", { class: "score", title: "Score of the last stage. Scores of different searches do not compare." }, short(result.score)),
  );
  row.addEventListener("click", () => getSelection().isCollapsed && toggle(row, body, text, wanted));
  row.addEventListener("toggle-text", () => toggle(row, body, text, wanted));
  return row;
}

function toggle(row, body, text, wanted) {
  const isOpen = row.getAttribute("aria-expanded") === "true";
  row.setAttribute("aria-expanded", String(!isOpen));
  body.replaceChildren(...marked(isOpen ? passage(text, wanted) : text, wanted));
}

function marked(text, wanted) {
  return pieces(text, wanted).map(([piece, isHit]) => (isHit ? h("mark", {}, piece) : piece));
}

/** Returns the ranks: "41st by dense, 1st after rerank", each with its score. */
function standings(all) {
  return h(
    "span",
    { class: "standings" },
    all.map(({ stage, rank, score }, i) =>
      h(
        "span",
        { class: "standing", title: `score ${score}` },
        h("b", {}, ordinal(rank)),
        ` ${i && i === all.length - 1 ? "after" : "by"} ${stage} `,
        h("i", {}, short(score)),
      ),
    ),
  );
}

function fact([name, value]) {
  return h("span", { class: "fact" }, h("i", {}, name), ` ${Array.isArray(value) ? value.join(", ") : value}`);
}

function idOf(id, title) {
  return title && title !== id ? h("span", { class: "fact" }, h("i", {}, "id"), ` ${id}`) : null;
}
