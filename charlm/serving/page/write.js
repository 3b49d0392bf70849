// Write: a prompt and its continuation. A click on another character branches from there.

import { ColouredText } from "./coloured.js";
import * as settings from "./settings.js";
import { Writing } from "./writing.js";

const byId = (id) => document.getElementById(id);
const writing = new Writing();
let page, text, lastSeed, hasRun = false;

export function connect(thePage) {
  page = thePage;
  text = new ColouredText(byId("write-text"), "The text", branch);
  byId("write-run").addEventListener("click", start);
  byId("write-stop").addEventListener("click", () => writing.stop());
  byId("write-back").addEventListener("click", () => history.back());
  byId("panel-write").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) start();
    if (event.key === "Escape") writing.stop();
  });
}

// A new text: with the seed that is set, otherwise with a new one, which the address keeps.
function start() {
  return begin(settings.values().seed ?? settings.newSeed());
}

function begin(seed) {
  hasRun = true;
  lastSeed = seed;
  page.remember(true);
  return run();
}

export async function run() {
  page.clearError();
  byId("write-stop").disabled = false;
  const fields = { ...settings.values(), ...page.target(), prompt: byId("write-prompt").value, seed: lastSeed };
  try {
    await writing.run([{ fields, text }]);
  } catch (error) {
    page.fail(error);
  } finally {
    byId("write-stop").disabled = !writing.isRunning;
  }
}

function branch(index, character) {
  byId("write-prompt").value += text.text(index) + character;
  byId("write-back").disabled = false;
  begin(lastSeed);
  text.box.focus();
}

export const leave = () => writing.stop();

export function toAddress() {
  return { prompt: byId("write-prompt").value, ...(hasRun ? { run: 1, seed: lastSeed } : {}) };
}

export function fromAddress({ prompt = "", run: isRun, seed }) {
  byId("write-prompt").value = prompt;
  hasRun = isRun === "1";
  lastSeed = hasRun && /^\d{1,15}$/.test(seed ?? "") ? Number(seed) : settings.newSeed();
  if (hasRun) settings.set("seed", "");
  text.clear();
}
