// Calls to the gateway. The page asks for a token when the gateway requires one, and keeps it for this tab.

import { h } from "./dom.js";

/** An error of the gateway. */
export class GatewayError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.reason = error.reason;
  }
}

/** Returns the JSON of a path. Throws GatewayError. `signal` cancels the request. */
export async function get(path, { signal } = {}) {
  return await call(path, { signal });
}

// Deadline of a search. A stage that hangs is then skipped.
const PATIENCE_MS = 10_000;

/** Posts a JSON body and returns the JSON of the response. */
export async function post(path, value, { signal } = {}) {
  const headers = { "content-type": "application/json", "x-deadline-ms": PATIENCE_MS };
  return await call(path, { method: "POST", body: JSON.stringify(value), headers, signal });
}

/** Posts JSON lines and returns the JSON of the response. */
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
    throw new GatewayError(0, { message: "the gateway does not respond", reason: "UNAVAILABLE" });
  }
  if (response.status === 401 && (await askToken())) return await call(path, options);
  const value = await response.json().catch(() => ({ error: { message: response.statusText } }));
  if (!response.ok) throw new GatewayError(response.status, value.error);
  return value;
}

let asked = null;

/** Asks for a token, once for all waiting calls. Resolves to whether there is one. */
function askToken() {
  asked ??= new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", "aria-label": "Token", required: true });
    const form = h("form", { method: "dialog" }, h("h2", {}, "Token required"), input, h("button", {}, "Continue"));
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
