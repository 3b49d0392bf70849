// Write: a prompt and its continuation. A click on another character branches from there.

import { isBranch } from "./address.js";
import { ColouredText } from "./coloured.js";
import * as settings from "./settings.js";
import { Writing } from "./writing.js";

const byId = (id) => document.getElementById(id);
const writing = new Writing();
let page, texts = [];
let shown = null; // what the texts were made with, as in the address

export function connect(thePage) {
  page = thePage;
  place(1);
  byId("write-run").addEventListener("click", start);
  byId("write-stop").addEventListener("click", () => writing.stop());
  byId("write-back").addEventListener("click", () => history.back());
  byId("panel-write").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) start();
    if (event.key === "Escape") writing.stop();
  });
}

function place(count) {
  texts = ColouredText.several(byId("write-text"), "The text", count, branch);
}

// A new text: with the seed that is set, otherwise with a new one, which the address keeps.
function start() {
  return begin(settings.values().seed ?? settings.newSeed());
}

function begin(seed, branched = false) {
  shown = { ...page.settings(), prompt: byId("write-prompt").value, seed };
  page.remember({ isNew: true, isBranch: branched });
  return run();
}

export async function run() {
  page.clearError();
  byId("write-stop").disabled = false;
  byId("write-back").disabled = !isBranch();
  const fields = { ...settings.values(), ...page.target(), prompt: shown.prompt, seed: shown.seed };
  try {
    place(shown.n ?? 1);
    await writing.run([{ fields, texts }]);
  } catch (error) {
    page.fail(error);
  } finally {
    byId("write-stop").disabled = !writing.isRunning;
  }
}

function branch(text, index, character) {
  byId("write-prompt").value = shown.prompt + text.text(index) + character;
  begin(shown.seed, true);
  texts[0].box.focus();
}

export const leave = () => writing.stop();

export const toAddress = () => (shown ? { ...shown, run: 1 } : { ...page.settings(), prompt: byId("write-prompt").value });

export function fromAddress({ prompt = "", run: isRun, seed }) {
  byId("write-prompt").value = prompt;
  byId("write-back").disabled = !isBranch();
  shown = null;
  if (isRun === "1") {
    settings.set("seed", "");
    shown = { ...page.settings(), prompt, seed: /^\d{1,15}$/.test(seed ?? "") ? Number(seed) : settings.newSeed() };
  }
  place(1);
}
