// A text in which every character has the colour of its surprisal, and shows what else was likely in its place.

const LIMITS = [1, 2, 4, 6, 9]; // bits, as in charlm score --highlight
const NAMES = { " ": "space", "\n": "line end", "\t": "tab", "": "end", "<|endoftext|>": "end" };

export const bitsOf = (logprob) => Math.max(0, -logprob / Math.LN2);
export const levelOf = (bits) => LIMITS.filter((limit) => bits >= limit).length;
export const shown = (character) => NAMES[character] ?? character;

export function percent(probability) {
  if (probability >= 0.0995) return `${Math.round(100 * probability)}%`;
  return probability >= 0.00095 ? `${(100 * probability).toFixed(1)}%` : "under 0.1%";
}

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
  // onBranch(index, character) is called when another character is chosen in place of one.
  constructor(home, label, onBranch) {
    this.onBranch = onBranch;
    this.characters = [];
    this.current = -1;
    this.box = document.createElement("div");
    this.box.className = "text";
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "group");
    this.box.setAttribute("aria-label", `${label}. Arrow keys move from character to character.`);
    this.panel = document.createElement("div");
    this.panel.className = "alternatives";
    this.panel.setAttribute("aria-live", "polite");
    home.replaceChildren(this.box, this.panel);
    this.box.addEventListener("pointerover", (event) => this.#point(event.target));
    this.box.addEventListener("click", (event) => this.#point(event.target));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.clear();
  }

  clear(given = "") {
    this.characters = [];
    this.current = -1;
    this.panel.replaceChildren();
    this.box.replaceChildren();
    if (given) {
      const before = document.createElement("span");
      before.className = "given";
      before.textContent = given;
      this.box.append(before);
    }
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
    if (follows) this.box.scrollTop = this.box.scrollHeight;
  }

  text(end = this.characters.length) {
    return this.characters.slice(0, end).map((each) => each.text).join("");
  }

  #point(target) {
    const index = [...this.box.childNodes].indexOf(target) - this.first;
    if (target.tagName === "I" && index >= 0) this.select(index);
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step && this.characters.length) {
      event.preventDefault();
      this.select(Math.max(0, Math.min(this.characters.length - 1, this.current + step)));
    } else if ((event.key === "Enter" || event.key === "ArrowDown") && !event.ctrlKey) {
      event.preventDefault();
      this.panel.querySelector("button")?.focus();
    }
  }

  select(index) {
    if (index === this.current) return;
    this.box.querySelector(".current")?.classList.remove("current");
    this.current = index;
    this.box.childNodes[this.first + index].classList.add("current");
    this.#show(this.characters[index]);
  }

  #show(each) {
    const words = document.createElement("span");
    const mark = document.createElement("strong");
    mark.textContent = shown(each.text);
    words.append(mark, ` ${percent(2 ** -each.bits)}, ${each.bits.toFixed(1)} bits.`);
    const others = each.alternatives.filter(([name]) => name !== each.text);
    if (others.length) words.append(" Instead:");
    this.panel.replaceChildren(words, ...others.map(([name, probability]) => this.#choice(name, probability)));
  }

  #choice(name, probability) {
    const isText = [...name].length === 1 && name !== "\ufffd";
    const part = document.createElement(isText && this.onBranch ? "button" : "span");
    const small = document.createElement("small");
    small.textContent = percent(probability);
    part.append(shown(name), " ", small);
    if (part.tagName === "BUTTON") {
      part.setAttribute("aria-label", `Branch here with ${shown(name)}, ${percent(probability)}`);
      const index = this.current;
      part.addEventListener("click", () => this.onBranch(index, name));
      part.addEventListener("keydown", (event) => this.#keyOfChoice(event, part));
    }
    return part;
  }

  #keyOfChoice(event, part) {
    const next = { ArrowRight: part.nextElementSibling, ArrowLeft: part.previousElementSibling }[event.key];
    if (event.key === "ArrowUp") this.box.focus();
    else if (next?.tagName === "BUTTON") next.focus();
    else return;
    event.preventDefault();
  }
}
