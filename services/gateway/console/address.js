// The address contains the state of the page, so that it can be shared and the Back button works.

/** Returns the parameters of the address. */
export function parameters() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** Returns the address with these parameters, without empty ones. */
export function addressOf(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined);
  return given.length ? `/?${new URLSearchParams(given)}` : "/";
}

/** Opens an address, as a link does. */
export function go(values) {
  const address = addressOf(values);
  if (address !== location.pathname + location.search) history.pushState(null, "", address);
  dispatchEvent(new Event("popstate"));
}
