// What the page shows is in its address, so that it can be shared, and so that Back goes back.

/** The parameters of the address. */
export function parameters() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** The address with these parameters; empty ones are left out. */
export function addressOf(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined);
  return given.length ? `/?${new URLSearchParams(given)}` : "/";
}

/** Go to an address, as a link would. */
export function go(values) {
  const address = addressOf(values);
  if (address !== location.pathname + location.search) history.pushState(null, "", address);
  dispatchEvent(new Event("popstate"));
}
