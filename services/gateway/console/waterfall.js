// The stages of a search as a waterfall chart. The response has the duration of each stage. The start follows from the
// order of a search: first the embedding, then all retrievers in parallel, then one stage after the other.

import { h } from "./dom.js";
import { count, time } from "./words.js";

/** Returns the stages as bars over the time of the search. `kinds` has the kind of each stage. */
export function waterfall(answer, kinds) {
  const rows = placed(answer.stages, kinds);
  const whole = Math.max(answer.duration_s, ...rows.map((row) => row.end)) || 1;
  return h(
    "section",
    { class: "waterfall", "aria-label": "Stages" },
    h("h2", {}, "Stages", h("span", {}, time(answer.duration_s))),
    h("ol", {}, rows.map((row) => bar(row, whole))),
    h(
      "p",
      { class: "fine" },
      `pipeline ${answer.pipeline} · version ${count(answer.collection_version)}`,
      answer.models.length ? ` · ${[...new Set(answer.models)].join(", ")}` : "",
    ),
  );
}

/** Returns a notice for a degraded response, otherwise null. */
export function degraded(answer) {
  if (!answer.degraded) return null;
  const late = answer.stages.filter((stage) => stage.status === "skipped" || stage.status === "partial");
  return h(
    "div",
    { class: "notice warn", role: "status", "data-testid": "degraded" },
    h("strong", {}, "Degraded. "),
    late.map((stage) => `${stage.name} was ${stage.status === "skipped" ? "left out" : "cut short"}. `),
    "The results are ranked by the other stages.",
    answer.coverage > 0 ? ` Coverage ${Math.round(answer.coverage * 100)} %.` : null,
    h("small", {}, late.map((stage) => stage.reason).join("; ")),
  );
}

function placed(stages, kinds) {
  let now = 0;
  let ready = 0;
  return stages.map((stage) => {
    const isBeside = kinds[stage.name] === "retrieve";
    const start = isBeside ? ready : now;
    const end = start + stage.duration_s;
    now = Math.max(now, end);
    if (!isBeside) ready = now;
    return { ...stage, start, end };
  });
}

/** Labels in place of the duration, for stages that were not used. */
const WORDS = { left_out: "not used" };
const REASONS = { left_out: "The collection has no field for this stage." };

/** Returns how many texts the model of a stage truncated. */
const truncated = (stage) => (stage.truncated_count ? `${count(stage.truncated_count)} truncated` : "");

function bar(stage, whole) {
  const given = stage.given_count ? `${count(stage.given_count)} → ` : "";
  const counts = stage.kept_count || stage.given_count ? `${given}${count(stage.kept_count)}` : "";
  return h(
    "li",
    { class: `stage ${stage.status}`, title: stage.reason || REASONS[stage.status] || null },
    h("span", { class: "name" }, stage.name),
    h("span", { class: "counts", title: "candidates in → out" }, [counts, truncated(stage)].filter(Boolean).join(", ")),
    h("span", { class: "took" }, stage.status === "ok" ? time(stage.duration_s) : WORDS[stage.status] ?? stage.status),
    h("span", { class: "track" }, h("span", { class: "bar", "--from": stage.start / whole, "--part": stage.duration_s / whole })),
  );
}
