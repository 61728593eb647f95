// The view that indexes a file of JSON lines. The file is sent in parts, so it can have any size, and the progress counts
// only documents that are on disk.

import { postLines, GatewayError } from "./api.js";
import { h, show } from "./dom.js";
import { count, short } from "./words.js";

const PART_BYTES = 256 * 1024;
const TRIES = 5;

/** Fills `main` with the form. `file` is a dropped file. */
export async function indexView(main, values, known, signal, file = null) {
  const progress = h("div", { class: "progress", "aria-live": "polite" });
  const picked = h("input", { type: "file", name: "file", accept: ".jsonl,.ndjson,.json", "aria-label": "File" });
  const form = h(
    "form",
    { class: "drop", onsubmit: submit },
    h("h1", {}, "Index a file"),
    h("p", {}, "One JSON object per line: ", h("code", {}, '{"id": "1", "title": "…", "text": "…", "metadata": {"year": 2024}}')),
    h("p", {}, file ? h("strong", {}, file.name) : picked, file ? ` ${count(file.size)} bytes` : " or drop a file anywhere."),
    h(
      "div",
      { class: "options" },
      h("label", {}, "into", h("input", { name: "collection", value: values.collection ?? "docs", required: true, pattern: "[a-z][a-z0-9_\\-]*", spellcheck: "false" })),
      h("label", { class: "wide" }, "filters", h("input", { name: "filterable", placeholder: "fields for a new collection: year=number lang=string", spellcheck: "false" })),
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
  const counts = { indexed: 0, unchanged: 0, failed: 0, truncated: 0, failures: [], bytes: 0, lines: 0, started: performance.now() };
  show(progress, state(counts, file));
  try {
    for await (const { text, lines } of parts(file)) {
      const answer = await patiently(() => postLines(path, text, { signal }), signal);
      for (const name of ["indexed", "unchanged", "failed", "truncated"]) counts[name] += answer[name];
      const at = (failure) => ({ ...failure, line: failure.line && failure.line + counts.lines });
      counts.failures.push(...answer.failures.slice(0, 20 - counts.failures.length).map(at));
      counts.bytes += new Blob([text]).size;
      counts.lines += lines;
      show(progress, state(counts, file));
    }
    counts.bytes = file.size;
    show(progress, state(counts, file, "done"));
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    show(progress, state(counts, file), h("p", { class: "notice error" }, error.message));
  }
}

/** Retries while the system is busy or unreachable. Indexing a document twice is harmless. */
async function patiently(attempt, signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof GatewayError) || ![0, 429, 503].includes(error.status) || tries === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
      signal.throwIfAborted();
    }
  }
}

/** Yields the file in parts of whole lines. */
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

function state(counts, file, word = "") {
  const seconds = (performance.now() - counts.started) / 1000;
  const done = counts.indexed + counts.unchanged + counts.failed;
  const words = ["indexed", "unchanged", "failed"].map((name) => `${count(counts[name])} ${name}`).join(", ");
  return h(
    "div",
    { "data-testid": "progress", "data-state": word || null },
    h("progress", { max: Math.max(1, file.size), value: counts.bytes }),
    h("p", {}, words, done && seconds > 0.5 ? ` · ${short(done / seconds)} documents per second` : "", word ? ` · ${word}` : ""),
    counts.truncated
      ? h("p", { class: "notice warn" }, `${count(counts.truncated)} documents are longer than the model reads. Their last tokens were not embedded.`)
      : null,
    counts.failures.length ? h("ul", { class: "failures" }, counts.failures.map((one) => h("li", {}, h("b", {}, one.document_id || `line ${one.line}`), ` ${one.message}`))) : null,
  );
}
