// What is shown, in the address of the page, so that it can be shared. The browser's history keeps it, too, with texts
// that are too long for an address.

const MAX_TEXT = 4000; // characters of a text that fit into any address

export function read() {
  return history.state?.values ?? Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

// Whether a branch led here, so that Back undoes it.
export const isBranch = () => Boolean(history.state?.isBranch);

export function write(all, { isNew = false, isBranch: branched = isNew ? false : isBranch() } = {}) {
  const values = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== "" && value !== undefined)
    .map(([name, value]) => [name, String(value)]));
  const kept = Object.entries(values).filter(([, value]) => value.length <= MAX_TEXT);
  const isWhole = kept.length === Object.keys(values).length;
  // Without its whole text, an address must not promise the same result.
  const hash = `#${new URLSearchParams(isWhole ? kept : kept.filter(([name]) => name !== "run"))}`;
  if (isWhole && hash === location.hash) return;
  history[isNew ? "pushState" : "replaceState"]({ values, isBranch: branched }, "", hash);
}
