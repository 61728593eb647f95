// The search form, shared by the search and compare views.

import { go } from "./address.js";
import { h } from "./dom.js";

/** Returns a form that opens `view` with its values. `pipelines` has a name, label and default for each choice. */
export function searchForm(view, values, known, pipelines) {
  const choice = (name, label, options, chosen) =>
    h(
      "label",
      {},
      label,
      h("select", { name }, options.map((option) => h("option", { value: option, selected: option === chosen }, option))),
    );
  const form = h(
    "form",
    { class: "ask", role: "search", onsubmit: submit },
    h("input", {
      class: "question",
      type: "search",
      name: "q",
      value: values.q ?? "",
      placeholder: "Ask a question or enter some words",
      "aria-label": "Query",
      autocomplete: "off",
      maxlength: "4000",
    }),
    h(
      "div",
      { class: "options" },
      choice("collection", "in", known.collections, values.collection),
      pipelines.map(([name, label, fallback]) => choice(name, label, known.pipelines, values[name] || fallback)),
      h("label", { class: "wide" }, "where", h("input", {
        name: "filter", value: values.filter ?? "", placeholder: hint(known, values.collection), spellcheck: "false", "aria-label": "Filter",
      })),
      h("label", {}, "show", h("input", { name: "top", type: "number", min: "1", max: "1000", value: values.top || "10" })),
      h("button", {}, "Search"),
    ),
  );
  function submit(event) {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(form));
    go({ ...(view === "search" ? {} : { view }), ...given, top: given.top === "10" ? "" : given.top });
  }
  form.addEventListener("change", (event) => event.target.matches("select") && form.elements.q.value && form.requestSubmit());
  return form;
}

/** Returns an example of a filter on a field of the collection. */
function hint(known, collection) {
  const [field] = Object.entries(known.fields[collection ?? known.collections[0]] ?? {});
  if (!field) return "no filterable fields";
  const examples = { string: "== '…'", number: ">= 0", bool: "== true", timestamp: ">= timestamp('2024-01-01')" };
  return field[1] === "list" ? `'…' in ${field[0]}` : `${field[0]} ${examples[field[1]]}`;
}
