// A file of JSON lines into a collection: sent in parts, so that progress is what is on disk, and any size will do.

import { postLines, Refused } from "./api.js";
import { h, show } from "./dom.js";
import { count, short } from "./words.js";

const PART_BYTES = 256 * 1024;
const TRIES = 5;

/** Fill `main` with the form; `file` is one that was dropped. */
export async function indexView(main, values, known, signal, file = null) {
  const progress = h("div", { class: "progress", "aria-live": "polite" });
  const picked = h("input", { type: "file", name: "file", accept: ".jsonl,.ndjson,.json", "aria-label": "File" });
  const form = h(
    "form",
    { class: "drop", onsubmit: submit },
    h("h1", {}, "Index a file"),
    h("p", {}, "One JSON object a line: ", h("code", {}, '{"id": "1", "title": "…", "text": "…", "metadata": {"year": 2024}}')),
    h("p", {}, file ? h("strong", {}, file.name) : picked, file ? ` ${count(file.size)} bytes` : " or drop it anywhere."),
    h(
      "div",
      { class: "options" },
      h("label", {}, "into", h("input", { name: "collection", value: values.collection ?? "docs", required: true, pattern: "[a-z][a-z0-9_\\-]*", spellcheck: "false" })),
      h("label", { class: "wide" }, "filters", h("input", { name: "filterable", placeholder: "for a new collection: year=number lang=string", spellcheck: "false" })),
      h("button", {}, "Index"),
    ),
    progress,
  );
  show(main, form);
  async function submit(event) {
    event.preventDefault();
    const chosen = file ?? picked.files[0];
    if (!chosen) return show(progress, h("p", { class: "notice warn" }, "Choose a file first."));
    const given = new FormData(form);
    const query = new URLSearchParams([["collection", given.get("collection")], ["create", "true"]]);
    for (const field of given.get("filterable").split(/[\s,]+/).filter(Boolean)) query.append("filterable", field);
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await send(chosen, `/documents?${query}`, progress, signal);
      document.dispatchEvent(new Event("indexed"));
    } finally {
      button.disabled = false;
    }
  }
}

async function send(file, path, progress, signal) {
  const tally = { indexed: 0, unchanged: 0, failed: 0, failures: [], bytes: 0, lines: 0, started: performance.now() };
  show(progress, state(tally, file));
  try {
    for await (const { text, lines } of parts(file)) {
      const answer = await patiently(() => postLines(path, text, { signal }), signal);
      for (const name of ["indexed", "unchanged", "failed"]) tally[name] += answer[name];
      const at = (failure) => ({ ...failure, line: failure.line && failure.line + tally.lines });
      tally.failures.push(...answer.failures.slice(0, 20 - tally.failures.length).map(at));
      tally.bytes += new Blob([text]).size;
      tally.lines += lines;
      show(progress, state(tally, file));
    }
    tally.bytes = file.size;
    show(progress, state(tally, file, "done"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    show(progress, state(tally, file), h("p", { class: "notice error" }, error.message));
  }
}

/** Try again while the system is busy or away: indexing twice is harmless. */
async function patiently(attempt, signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Refused) || ![0, 429, 503].includes(error.status) || tries === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
      signal.throwIfAborted();
    }
  }
}

/** The file in parts of whole lines. */
async function* parts(file) {
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let step = await reader.read(); !step.done; step = await reader.read()) {
    text += step.value;
    const end = text.lastIndexOf("\n") + 1;
    if (text.length >= PART_BYTES && end) {
      yield part(text.slice(0, end));
      text = text.slice(end);
    }
  }
  if (text.trim()) yield part(text);
}

const part = (text) => ({ text, lines: text.split("\n").length - 1 });

function state(tally, file, word = "") {
  const seconds = (performance.now() - tally.started) / 1000;
  const done = tally.indexed + tally.unchanged + tally.failed;
  const words = ["indexed", "unchanged", "failed"].map((name) => `${count(tally[name])} ${name}`).join(", ");
  return h(
    "div",
    { "data-testid": "progress", "data-state": word || null },
    h("progress", { max: Math.max(1, file.size), value: tally.bytes }),
    h("p", {}, words, done && seconds > 0.5 ? ` · ${short(done / seconds)} documents a second` : "", word ? ` · ${word}` : ""),
    tally.failures.length ? h("ul", { class: "failures" }, tally.failures.map((one) => h("li", {}, h("b", {}, one.document_id || `line ${one.line}`), ` ${one.message}`))) : null,
  );
}
