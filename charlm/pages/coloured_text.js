// Choosing a character with the mouse, a finger or the keyboard. One script serves all texts of a page, also those that
// are inserted later.
(() => {
  if (window.charlmText) return;
  window.charlmText = true;
  const all = () => [...document.querySelectorAll(".charlm-text")];
  const show = (root, span, scroll) => {
    for (const old of root.querySelectorAll(".chosen")) old.classList.remove("chosen");
    span.classList.add("chosen");
    root.querySelector(".detail output").textContent = span.title.replace(/\n/g, " · ");
    if (scroll) span.scrollIntoView({ block: "center" });
  };
  const stops = (root) => {
    const listed = new Set([...root.querySelectorAll(".places a")].map((link) => link.hash.slice(1)));
    return [...root.querySelectorAll("p span[id]")].filter((s) => s.classList.contains("stop") || listed.has(s.id));
  };
  const move = (root, step) => {
    const places = stops(root), chosen = root.querySelector(".chosen");
    if (!places.length) return;
    const follows = (one, other) => one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING;
    let next;
    if (!chosen) next = step > 0 ? places[0] : places[places.length - 1];
    else if (step > 0) next = places.find((place) => follows(chosen, place)) || places[0];
    else next = places.reverse().find((place) => follows(place, chosen)) || places[0];
    show(root, next, true);
  };
  const ready = () => all().forEach((root) => root.classList.add("scripted"));
  document.addEventListener("click", (event) => {
    const root = event.target.closest(".charlm-text");
    if (!root) return;
    ready();
    const span = event.target.closest("p span"), link = event.target.closest(".places a");
    const button = event.target.closest(".detail button");
    if (button) move(root, Number(button.value));
    if (span) show(root, span, false);
    if (link) {
      event.preventDefault();
      show(root, document.getElementById(link.hash.slice(1)), true);
    }
  });
  document.addEventListener("keydown", (event) => {
    const step = { n: 1, j: 1, p: -1, k: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const root = event.target.closest(".charlm-text") || (document.body.classList.contains("charlm-page") && all()[0]);
    if (!root) return;
    event.preventDefault();
    ready();
    move(root, step);
  });
  new MutationObserver(ready).observe(document.documentElement, { childList: true, subtree: true });
  ready();
})();
