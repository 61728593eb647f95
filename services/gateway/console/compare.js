// The compare view: two pipelines side by side for the same query.

import { h, show } from "./dom.js";
import { searchForm } from "./form.js";
import { resultList } from "./results.js";
import { search } from "./search.js";
import { degraded, waterfall } from "./waterfall.js";

/** Fills `main` with the comparison of the address. */
export async function compareView(main, values, known, signal) {
  const [first, second] = [values.a || "default", values.b || known.pipelines.find((name) => name !== "default")];
  const answers = h("div", { class: "compared", "aria-live": "polite" });
  const choices = [["a", "by", first], ["b", "and by", second]];
  show(main, searchForm("compare", values, known, choices), answers);
  if (!values.q) {
    main.querySelector(".question").focus();
    return;
  }
  answers.setAttribute("aria-busy", "true");
  const sides = await Promise.allSettled([first, second].map((name) => search(values, name, known, signal)));
  signal.throwIfAborted();
  answers.removeAttribute("aria-busy");
  const ranks = sides.map((side) => new Map((side.value?.results ?? []).map((one, i) => [one.document.document_id, i + 1])));
  const shared = [...ranks[0].keys()].filter((id) => ranks[1].has(id)).length;
  show(
    answers,
    h("p", { class: "fine overlap" }, `${shared} of ${Math.max(ranks[0].size, ranks[1].size)} documents in both`),
    sides.map((side, i) => column([first, second][i], side, values.q, ranks[1 - i], known)),
  );
  pair(answers);
}

function column(name, side, query, others, known) {
  if (side.status === "rejected") {
    return h("section", {}, h("h2", {}, name), h("p", { class: "notice error" }, side.reason.message));
  }
  const answer = side.value;
  const moved = (id, rank) => movement(others.get(id), rank);
  return h(
    "section",
    { "aria-label": name, "data-testid": "side" },
    h("h2", {}, name),
    h("div", {}, degraded(answer), waterfall(answer, known.kinds[answer.pipeline] ?? {})),
    resultList(answer.results, query, { moved }),
  );
}

/** Returns the change of rank from the other side: ↑3, ↓1, = or "only here". */
function movement(other, rank) {
  if (other === undefined) return h("span", { class: "move only" }, "only here");
  const by = other - rank;
  const [kind, said] = by > 0 ? ["up", `↑${by}`] : by < 0 ? ["down", `↓${-by}`] : ["same", "="];
  return h("span", { class: `move ${kind}`, title: `rank ${other} on the other side` }, said);
}

/** Highlights the same document on the other side. */
function pair(answers) {
  answers.addEventListener("mouseover", (event) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    for (const row of answers.querySelectorAll("[data-id]")) row.classList.toggle("paired", row.dataset.id === id);
  });
}
