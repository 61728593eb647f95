// Keyboard shortcuts.

import { go, parameters } from "./address.js";
import { h } from "./dom.js";

const HELP = [
  ["/", "go to the query"],
  ["j, k", "next, previous result"],
  ["Enter", "show the whole text of a result, or the passage again"],
  ["1 … 5", "open a view, from left to right"],
  ["?", "this help"],
  ["Esc", "leave the query"],
];

/** Listens for keys. Digits open the views in their order. */
export function listen(views) {
  document.getElementById("help").addEventListener("click", help);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && isTyping) event.target.blur();
    if (isTyping || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (handle(event.key, views)) event.preventDefault();
  });
}

function handle(key, views) {
  const view = views[Number(key) - 1];
  if (key === "/") question();
  else if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (key === "Enter" && document.activeElement.matches(".results > li")) document.activeElement.dispatchEvent(new Event("toggle-text"));
  else if (key === "?") help();
  else if (view) to(view);
  else return false;
  return true;
}

function question() {
  const input = document.querySelector(".question");
  if (input) input.select();
  else go({});
}

function move(by) {
  const rows = [...document.querySelectorAll(".results > li")];
  const at = rows.indexOf(document.activeElement);
  const row = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  row?.focus();
  row?.scrollIntoView({ block: "nearest" });
}

function to(view) {
  const { q, collection, filter } = parameters();
  const kept = view === "search" || view === "compare" ? { q, collection, filter } : {};
  go({ ...(view === "search" ? {} : { view }), ...kept });
}

function help() {
  const rows = HELP.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]);
  const form = h("form", { method: "dialog" }, h("h2", {}, "Keyboard shortcuts"), h("dl", {}, rows), h("button", { autofocus: true }, "Close"));
  const dialog = h("dialog", { onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
}
