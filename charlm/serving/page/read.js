// Read: a text of the user, coloured by surprisal.

import { post } from "./api.js";
import { ColouredText } from "./coloured.js";

const byId = (id) => document.getElementById(id);
const ALTERNATIVES = 8;
let page, text, hasRun = false;

export function connect(thePage) {
  page = thePage;
  [text] = ColouredText.several(byId("read-text"), "The text", 1);
  byId("read-run").addEventListener("click", () => { hasRun = true; page.remember({ isNew: true }); run(); });
  byId("panel-read").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) byId("read-run").click();
  });
}

export async function score(target, input) {
  if (!input) throw new Error("There is no text yet: type or paste one.");
  const { data } = await post("v1/score", { ...target, input, alternatives: ALTERNATIVES });
  return data[0];
}

export function summary(scored) {
  const unknown = scored.unknown ? ` ${scored.unknown} that the model does not know.` : "";
  return `${scored.bits_per_char.toFixed(2)} bits per character, ${scored.bits.toFixed(0)} bits in all: as a choice ` +
    `among ${(2 ** scored.bits_per_char).toFixed(1)} equally likely characters. ${scored.count} characters.${unknown}`;
}

export async function run() {
  page.clearError();
  try {
    const scored = await score(page.target(), byId("read-input").value);
    byId("read-summary").textContent = summary(scored);
    text.clear();
    text.add(scored.characters);
  } catch (error) {
    page.fail(error);
  }
}

export function modelChanged() {
  if (hasRun) run();
}

export function toAddress() {
  return { ...page.settings(), text: byId("read-input").value, ...(hasRun ? { run: 1 } : {}) };
}

export function fromAddress({ text: input = "", run: isRun }) {
  byId("read-input").value = input;
  byId("read-summary").textContent = "";
  hasRun = isRun === "1";
  text.clear();
}
