// Calls of the gateway. A token is kept for this tab alone, and asked for when one is wanted.

import { h } from "./dom.js";

/** A refusal, in the gateway's own words. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.reason = error.reason;
  }
}

/** The JSON of a path. Throws Refused; `signal` ends it early. */
export async function get(path, { signal } = {}) {
  return await call(path, { signal });
}

// Nobody looks at a page for longer; a stage that hangs is then left out of the answer.
const PATIENCE_MS = 10_000;

/** The JSON that answers a JSON body. */
export async function post(path, value, { signal } = {}) {
  const headers = { "content-type": "application/json", "x-deadline-ms": PATIENCE_MS };
  return await call(path, { method: "POST", body: JSON.stringify(value), headers, signal });
}

/** The JSON that answers lines of JSON. */
export async function postLines(path, lines, { signal } = {}) {
  return await call(path, { method: "POST", body: lines, headers: { "content-type": "application/jsonl" }, signal });
}

async function call(path, options) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "the gateway does not answer", reason: "UNAVAILABLE" });
  }
  if (response.status === 401 && (await askToken())) return await call(path, options);
  const value = await response.json().catch(() => ({ error: { message: response.statusText } }));
  if (!response.ok) throw new Refused(response.status, value.error);
  return value;
}

let asked = null;

/** Whether a token was given. However many calls want one, it is asked for once. */
function askToken() {
  asked ??= new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", "aria-label": "Token", required: true });
    const form = h("form", { method: "dialog" }, h("h2", {}, "A token, please"), input, h("button", {}, "Go on"));
    const dialog = h("dialog", { onclose: close }, form);
    function close() {
      if (input.value) sessionStorage.setItem("token", input.value);
      dialog.remove();
      asked = null;
      resolve(Boolean(input.value));
    }
    document.body.append(dialog);
    dialog.showModal();
  });
  return asked;
}
