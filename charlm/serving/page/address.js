// What is shown, in the address of the page, so that it can be shared and the browser's Back works.

const MAX_TEXT = 4000; // characters of a text that fit into any address

export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

export function write(values, isNew) {
  const kept = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined && String(value).length <= MAX_TEXT);
  const hash = `#${new URLSearchParams(kept)}`;
  if (hash === location.hash) return;
  history[isNew ? "pushState" : "replaceState"](null, "", hash);
}
