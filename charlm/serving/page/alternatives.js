// What else was likely in place of the character that is chosen in a coloured text, or in one of several texts.

const NAMES = { " ": "space", "\n": "line end", "\t": "tab", "": "end", "<|endoftext|>": "end" };
const HINT = "Point at a character, or move with the arrow keys: what else was likely in its place. A click holds it";

export const shown = (character) => NAMES[character] ?? character;

export function percent(probability) {
  if (probability >= 0.0995) return `${Math.round(100 * probability)}%`;
  return probability >= 0.00095 ? `${(100 * probability).toFixed(1)}%` : "under 0.1%";
}

export class Alternatives {
  constructor() {
    this.owner = null; // the coloured text whose character is shown
    this.isHeld = false; // whether it stays when the pointer moves on, such as towards the buttons
    this.element = document.createElement("div");
    this.element.className = "alternatives";
    this.element.setAttribute("aria-live", "polite");
  }

  clear() {
    this.owner?.deselect();
    this.owner = null;
    this.isHeld = false;
    this.element.replaceChildren();
  }

  // Say what can be done with a text, until somebody does it.
  invite(canBranch) {
    if (this.owner || this.element.firstChild) return;
    const hint = document.createElement("span");
    hint.className = "hint";
    hint.textContent = canBranch ? `${HINT}; choose another one to branch there.` : `${HINT}.`;
    this.element.append(hint);
  }

  // Show those of the current character of a text.
  show(text) {
    if (this.owner !== text) this.owner?.deselect();
    this.owner = text;
    const each = text.characters[text.current];
    const words = document.createElement("span");
    const mark = document.createElement("strong");
    mark.textContent = shown(each.text);
    words.append(mark, ` ${percent(2 ** -each.bits)}, ${each.bits.toFixed(1)} bits.`);
    const others = each.alternatives.filter(([name]) => name !== each.text);
    if (others.length) words.append(" Instead:");
    this.element.replaceChildren(words, ...others.map(([name, probability]) => this.#choice(name, probability)));
  }

  focus() {
    this.element.querySelector("button")?.focus();
  }

  #choice(name, probability) {
    const text = this.owner, index = text.current;
    const isText = [...name].length === 1 && name !== "\ufffd";
    const part = document.createElement(isText && text.onBranch ? "button" : "span");
    const small = document.createElement("small");
    small.textContent = percent(probability);
    part.append(shown(name), " ", small);
    if (part.tagName === "BUTTON") {
      part.setAttribute("aria-label", `Branch here with ${shown(name)}, ${percent(probability)}`);
      part.addEventListener("click", () => text.onBranch(text, index, name));
      part.addEventListener("keydown", (event) => this.#key(event, part));
    }
    return part;
  }

  #key(event, part) {
    const next = { ArrowRight: part.nextElementSibling, ArrowLeft: part.previousElementSibling }[event.key];
    if (event.key === "ArrowUp") this.owner.box.focus();
    else if (next?.tagName === "BUTTON") next.focus();
    else return;
    event.preventDefault();
  }
}
