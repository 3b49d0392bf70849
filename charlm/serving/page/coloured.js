// A text in which every character has the colour of its surprisal, and shows what else was likely in its place.

import { Alternatives } from "./alternatives.js";

const LIMITS = [1, 2, 4, 6, 9]; // bits, as in charlm score --highlight

export const bitsOf = (logprob) => Math.max(0, -logprob / Math.LN2);
export const levelOf = (bits) => LIMITS.filter((limit) => bits >= limit).length;

// The likeliest first. An object has digits before all other names.
export const ranked = (logprobs) => Object.entries(logprobs).sort(([, a], [, b]) => b - a);

// The characters of the logprobs of a completion.
export function fromLogprobs(logprobs) {
  return logprobs.tokens.map((text, i) => ({
    text,
    bits: bitsOf(logprobs.token_logprobs[i]),
    alternatives: ranked(logprobs.top_logprobs[i]).map(([name, value]) => [name, Math.exp(value)]),
  }));
}

export class ColouredText {
  // onBranch(text, index, character) is called when another character is chosen in place of one.
  constructor(label, onBranch, alternatives) {
    this.onBranch = onBranch;
    this.alternatives = alternatives;
    this.box = document.createElement("div");
    this.box.className = "text";
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "group");
    this.box.setAttribute("aria-label", `${label}. Arrow keys move from character to character.`);
    this.box.addEventListener("pointerover", (event) => { if (!alternatives.isHeld) this.#point(event.target); });
    this.box.addEventListener("click", (event) => this.#click(event.target));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.clear();
  }

  // Texts that fill a part of the page, with one place for the alternatives of all.
  static several(home, label, count, onBranch = null) {
    const alternatives = new Alternatives();
    const labels = Array.from({ length: count }, (_, i) => (count > 1 ? `${label} ${i + 1} of ${count}` : label));
    const texts = labels.map((each) => new ColouredText(each, onBranch, alternatives));
    home.replaceChildren(...texts.map((text) => text.box), alternatives.element);
    home.classList.toggle("several", count > 1);
    return texts;
  }

  clear(given = "") {
    this.characters = [];
    this.current = -1;
    this.alternatives.clear();
    this.box.replaceChildren();
    if (given) this.#note("given", given);
    this.first = this.box.childNodes.length;
  }

  add(characters) {
    const follows = this.box.scrollTop + this.box.clientHeight >= this.box.scrollHeight - 4;
    const parts = characters.map((each) => {
      const part = document.createElement("i");
      part.className = `l${levelOf(each.bits)}${each.text === "\n" || each.text === "" ? " end" : ""}`;
      part.textContent = each.text;
      return part;
    });
    this.characters.push(...characters);
    this.box.append(...parts);
    if (this.characters.length) this.alternatives.invite(this.onBranch !== null);
    if (follows) this.box.scrollTop = this.box.scrollHeight;
  }

  // The model has ended the text.
  end() {
    this.#note("hint", " (end)");
  }

  #note(kind, words) {
    const part = document.createElement("span");
    part.className = kind;
    part.textContent = words;
    this.box.append(part);
  }

  text(end = this.characters.length) {
    return this.characters.slice(0, end).map((each) => each.text).join("");
  }

  #point(target) {
    const index = [...this.box.childNodes].indexOf(target) - this.first;
    if (target.tagName === "I" && index >= 0) this.select(index);
  }

  #click(target) {
    const before = this.current;
    this.#point(target);
    this.alternatives.isHeld = this.current >= 0 && !(this.alternatives.isHeld && this.current === before);
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step && this.characters.length) {
      event.preventDefault();
      this.select(Math.max(0, Math.min(this.characters.length - 1, this.current + step)));
    } else if ((event.key === "Enter" || event.key === "ArrowDown") && !event.ctrlKey) {
      event.preventDefault();
      this.alternatives.focus();
    }
  }

  select(index) {
    if (index === this.current) return;
    this.deselect();
    this.current = index;
    this.box.childNodes[this.first + index].classList.add("current");
    this.alternatives.show(this);
  }

  deselect() {
    this.current = -1;
    this.box.querySelector(".current")?.classList.remove("current");
  }
}
