// The console: a single page whose address selects the view.

import { addressOf, go, parameters } from "./address.js";
import { get } from "./api.js";
import { collectionsView } from "./collections.js";
import { compareView } from "./compare.js";
import { h, show } from "./dom.js";
import { indexView } from "./indexing.js";
import { listen } from "./keys.js";
import { searchView } from "./search.js";
import { servicesView } from "./services.js";

const VIEWS = {
  search: ["Search", searchView],
  compare: ["Compare", compareView],
  collections: ["Collections", collectionsView],
  services: ["Services", servicesView],
  index: ["Index", indexView],
};
const main = document.getElementById("main");
let known = null;
let leaving = new AbortController();

/** Shows the view of the address, and cancels the requests of the previous view. */
async function render(file = null) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const values = parameters();
  const view = values.view in VIEWS ? values.view : "search";
  navigation(view, values);
  document.title = values.q ? `${values.q} · Sluice` : "Sluice";
  try {
    // The services view must work when other services are down, so it loads nothing else first.
    if (view !== "services") known ??= await discover(signal);
    await VIEWS[view][1](main, values, known, signal, file);
  } catch (error) {
    if (error.name === "AbortError") return;
    main.querySelector("[aria-busy]")?.remove();
    main.append(h("p", { class: "notice error", role: "alert" }, error.message));
  }
}

/** Loads the collections and the pipelines with the kinds of their stages. */
async function discover(signal) {
  const [{ collections }, { pipelines }] = await Promise.all([get("/collections", { signal }), get("/pipelines", { signal })]);
  return {
    collections: collections.map((one) => one.name),
    fields: Object.fromEntries(collections.map((one) => [one.name, one.filterable_fields])),
    pipelines: pipelines.map((one) => one.name),
    kinds: Object.fromEntries(
      pipelines.map((one) => [one.name, Object.fromEntries(one.stages.map((stage) => [stage.name, stage.kind]))]),
    ),
  };
}

function navigation(current, { q, collection, filter }) {
  const links = Object.entries(VIEWS).map(([view, [label]]) => {
    const kept = view === "search" || view === "compare" ? { q, collection, filter } : {};
    const address = addressOf({ ...(view === "search" ? {} : { view }), ...kept });
    return h("a", { href: address, "data-local": true, "aria-current": view === current ? "page" : null }, label);
  });
  show(document.getElementById("views"), links);
}

addEventListener("popstate", () => render());
document.addEventListener("indexed", () => (known = null));
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-local]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go(Object.fromEntries(new URL(link.href).searchParams));
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (!file) return;
  history.pushState(null, "", addressOf({ view: "index", collection: parameters().collection }));
  render(file);
});
listen(Object.keys(VIEWS));
render();
