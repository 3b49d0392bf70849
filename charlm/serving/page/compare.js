// Compare: two models write after the same prompt with the same seed, or score the same text.

import { get, pathOf } from "./api.js";
import { ColouredText } from "./coloured.js";
import { score, summary } from "./read.js";
import * as settings from "./settings.js";
import { Writing } from "./writing.js";

const byId = (id) => document.getElementById(id);
const writing = new Writing();
let page, texts;
let shown = null; // what the texts were made with, as in the address

export function connect(thePage) {
  page = thePage;
  texts = ["a", "b"].flatMap((side) => ColouredText.several(byId(`compare-text-${side}`), `The text of model ${side.toUpperCase()}`, 1));
  byId("compare-write").addEventListener("click", () => begin("write"));
  byId("compare-score").addEventListener("click", () => begin("score"));
  byId("compare-stop").addEventListener("click", () => writing.stop());
  byId("compare-other").addEventListener("change", () => { modelChanged(); page.remember({ isNew: true }); });
  byId("panel-compare").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) begin("write");
    if (event.key === "Escape") writing.stop();
  });
}

// The other model has the same condition, if it knows it, otherwise its most frequent one, or none.
async function targets() {
  const model = byId("compare-other").value;
  const { charlm } = await get(`v1/models/${pathOf(model)}`);
  const given = charlm.values.includes(page.given()) ? page.given() : charlm.values[0];
  return [page.target(), given === undefined ? { model } : { model, given }];
}

function name() {
  [page.model(), byId("compare-other").value].forEach((model, i) => { byId(`compare-name-${"ab"[i]}`).textContent = model; });
}

function begin(action) {
  const prompt = byId("compare-prompt").value, other = byId("compare-other").value;
  shown = { ...page.settings(), prompt, other, action, seed: settings.values().seed ?? settings.newSeed() };
  page.remember({ isNew: true });
  return run();
}

export async function run() {
  page.clearError();
  if (!shown) {
    page.fail(new Error("The address names another model than these to compare with."));
    return;
  }
  name();
  const { prompt, action, seed } = shown;
  clear();
  byId("compare-stop").disabled = action !== "write";
  try {
    const both = await targets();
    both.forEach(({ model, given }, i) => { byId(`compare-name-${"ab"[i]}`).textContent = given ? `${model}, ${given}` : model; });
    if (action === "write") {
      const fields = { ...settings.values(), prompt, seed };
      await writing.run(both.map((target, i) => ({ fields: { ...fields, ...target }, texts: [texts[i]] })));
    } else {
      const scores = await Promise.all(both.map((target) => score(target, prompt)));
      scores.forEach((scored, i) => {
        byId(`compare-summary-${"ab"[i]}`).textContent = summary(scored);
        texts[i].add(scored.characters);
      });
    }
  } catch (error) {
    page.fail(error);
  } finally {
    byId("compare-stop").disabled = !writing.isRunning;
  }
}

export function enter() {
  const other = byId("compare-other");
  if (other.value === page.model() && page.models.length > 1) other.value = page.models.find((each) => each !== page.model());
  name();
}

// What is shown is not of these models.
export function modelChanged() {
  writing.stop();
  shown = null;
  clear();
  name();
}

function clear() {
  for (const side of "ab") byId(`compare-summary-${side}`).textContent = "";
  for (const text of texts) text.clear();
}

export const leave = () => writing.stop();

export function toAddress() {
  if (shown) return { ...shown, run: 1 };
  return { ...page.settings(), prompt: byId("compare-prompt").value, other: byId("compare-other").value };
}

export function fromAddress({ prompt = "", other, action, seed, run: isRun }) {
  byId("compare-prompt").value = prompt;
  if (page.models.includes(other)) byId("compare-other").value = other;
  shown = null;
  if (isRun === "1" && page.models.includes(other) && (action === "write" || action === "score")) {
    settings.set("seed", "");
    const number = /^\d{1,15}$/.test(seed ?? "") ? Number(seed) : settings.newSeed();
    shown = { ...page.settings(), prompt, other: byId("compare-other").value, action, seed: number };
  }
  clear();
}
