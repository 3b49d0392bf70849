// Pick: the model offers ways to go on, and the person chooses.

import { post } from "./api.js";
import { percent, shown } from "./alternatives.js";
import { ranked } from "./coloured.js";

const byId = (id) => document.getElementById(id);
const CHOICES = 8;
const END = "<|endoftext|>";
const LONGEST = 14; // characters that are offered at a time
let page, taken = [], controller = null;

export function connect(thePage) {
  page = thePage;
  let timer;
  byId("pick-prompt").addEventListener("input", () => {
    taken = [];
    clearTimeout(timer);
    timer = setTimeout(offer, 250);
  });
  byId("pick-back").addEventListener("click", back);
  byId("pick-choices").addEventListener("keydown", (event) => {
    const button = byId("pick-choices").querySelectorAll("button")[Number(event.key) - 1];
    if (button) button.click();
    else if (event.key === "Backspace") back();
    else return;
    event.preventDefault();
  });
}

async function offer(focus = false) {
  page.clearError();
  page.remember();
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  const prompt = byId("pick-prompt").value;
  const target = page.target();
  byId("pick-choices").setAttribute("aria-busy", "true");
  try {
    const next = await likeliest(target, prompt, signal);
    const likely = next.filter(([name]) => [...name].length === 1).slice(0, CHOICES);
    const prompts = likely.map(([name]) => prompt + name);
    const rest = likely.length
      ? await post("v1/completions", { ...target, prompt: prompts, max_tokens: LONGEST, temperature: 0 }, signal) : null;
    show(likely.map(([name, logprob], i) => [name + rest.choices[i].text, Math.exp(logprob)]), focus);
    const end = next.find(([name]) => name === END);
    byId("pick-end").textContent = end ? `The text ends here: ${percent(Math.exp(end[1]))}` : "";
  } catch (error) {
    page.fail(error);
  }
}

// Names and log-probabilities of what may come next. An answer has them in the place of a character, and none where the
// text ends; so characters are drawn that need not be likely, and several, of which hardly all are the end.
async function likeliest(target, prompt, signal) {
  const drawn = { prompt, n: 4, max_tokens: 1, temperature: 1000, seed: 1, logprobs: CHOICES + 1 };
  const { choices } = await post("v1/completions", { ...target, ...drawn }, signal);
  const top = choices.map((each) => each.logprobs.top_logprobs[0]).find(Boolean) ?? {};
  return ranked(top).slice(0, CHOICES + 1); // without the one that was drawn
}

// Up to the end of the word, which the space belongs to.
function wordOf(text) {
  return /^\s*[^\s]+\s?|^\s+/u.exec(text)?.[0] ?? text;
}

function show(choices, focus) {
  const items = choices.map(([text, probability], i) => {
    const word = wordOf(text);
    const item = document.createElement("li");
    const button = document.createElement("button");
    const small = document.createElement("small");
    small.textContent = ` ${percent(probability)}`;
    button.append(`${i + 1} `, word.replaceAll("\n", "⏎").replaceAll(" ", "·"), small);
    button.setAttribute("aria-label", `${i + 1}: ${word.trim() || shown(word[0])}, ${percent(probability)}`);
    button.addEventListener("click", () => choose(word));
    item.append(button);
    return item;
  });
  byId("pick-choices").replaceChildren(...items);
  byId("pick-choices").setAttribute("aria-busy", "false");
  byId("pick-back").disabled = !taken.length;
  if (focus) byId("pick-choices").querySelector("button")?.focus();
}

function choose(word) {
  taken.push(word);
  byId("pick-prompt").value += word;
  offer(true);
}

function back() {
  const word = taken.pop();
  if (word === undefined) return;
  byId("pick-prompt").value = byId("pick-prompt").value.slice(0, -word.length);
  offer(true);
}

export const enter = () => { offer(); };
export const modelChanged = () => { offer(); };
export const leave = () => controller?.abort();
export const toAddress = () => ({ ...page.settings(), prompt: byId("pick-prompt").value });

export function fromAddress({ prompt = "" }) {
  byId("pick-prompt").value = prompt;
  taken = [];
}
