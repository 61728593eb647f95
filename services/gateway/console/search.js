// The search view.

import { post } from "./api.js";
import { h, show } from "./dom.js";
import { searchForm } from "./form.js";
import { resultList } from "./results.js";
import { degraded, waterfall } from "./waterfall.js";

/** Fills `main` with the search of the address. */
export async function searchView(main, values, known, signal) {
  const answers = h("div", { class: "answers", "aria-live": "polite" });
  show(main, searchForm("search", values, known, [["pipeline", "by", "default"]]), answers);
  if (!values.q) {
    main.querySelector(".question").focus();
    show(answers, welcome(known));
    return;
  }
  answers.setAttribute("aria-busy", "true");
  const answer = await search(values, values.pipeline, known, signal);
  answers.removeAttribute("aria-busy");
  show(
    answers,
    h(
      "div",
      { class: "found" },
      degraded(answer),
      answer.results.length
        ? resultList(answer.results, values.q)
        : h("p", { class: "notice" }, "No results. The filter may be too narrow."),
    ),
    h("aside", {}, waterfall(answer, known.kinds[answer.pipeline] ?? {})),
  );
}

/** Searches with a pipeline. Throws GatewayError. */
export async function search(values, pipeline, known, signal) {
  const body = {
    query: values.q,
    collection: values.collection ?? known.collections[0] ?? "docs",
    pipeline: pipeline ?? "",
    filter: values.filter ?? "",
    top_k: Number(values.top ?? 0),
  };
  return await post("/search", body, { signal });
}

function welcome(known) {
  if (known.collections.length) return h("p", { class: "fine center" }, "Press / to search, j and k to move between results, ? for all shortcuts.");
  return h("p", { class: "notice" }, "There is no collection yet. Drop a JSONL file here to index it.");
}
