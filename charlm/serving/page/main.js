// The page: models, tabs, errors, and the address.

import * as address from "./address.js";
import { ApiError, get, pathOf, useKey } from "./api.js";
import * as compare from "./compare.js";
import * as pick from "./pick.js";
import * as readText from "./read.js";
import * as settings from "./settings.js";
import * as training from "./training.js";
import * as writeText from "./write.js";

const MODES = { write: writeText, read: readText, pick, compare, training };
const byId = (id) => document.getElementById(id);

// What the modes need of the page.
const page = {
  mode: "",
  details: {}, // of the chosen model
  models: [],
  model: () => byId("model").value,
  given: () => (byId("given-label").hidden ? undefined : byId("given").value),
  // The settings as they are in the address. A model of documents writes several texts, such as names.
  settings() {
    const { max_tokens: length, ...fields } = settings.values();
    return { ...page.target(), ...fields, length, ...(page.details.documents ? { n: settings.texts() } : {}) };
  },
  // The fields that choose the model, for a request.
  target: () => ({ model: page.model(), ...(page.given() === undefined ? {} : { given: page.given() }) }),
  // Put what is shown into the address: a result with the settings that it was made with, otherwise the present ones.
  remember(options) {
    address.write({ mode: page.mode, ...MODES[page.mode].toAddress() }, options);
  },
  fail(error) {
    if (error.name === "AbortError") return;
    if (error instanceof ApiError && error.status === 401) byId("key-form").hidden = false;
    else console.info(error);
    byId("error").textContent = error.message;
    byId("error").hidden = false;
  },
  clearError() {
    byId("error").hidden = true;
  },
};

async function chooseModel(name, given) {
  byId("model").value = name;
  const { charlm } = await get(`v1/models/${pathOf(page.model())}`);
  page.details = charlm;
  byId("given-label").hidden = !charlm.given;
  byId("given-name").textContent = charlm.given ?? "";
  byId("given").replaceChildren(...charlm.values.map((value) => new Option(value, value)));
  if (charlm.values.includes(given)) byId("given").value = given;
  settings.allowSeveralTexts(page.mode === "write" && Boolean(charlm.documents));
  MODES[page.mode]?.modelChanged?.();
}

function show(mode) {
  MODES[page.mode]?.leave?.();
  page.mode = mode;
  for (const name of Object.keys(MODES)) {
    const isShown = name === mode;
    byId(`panel-${name}`).hidden = !isShown;
    byId(`tab-${name}`).setAttribute("aria-selected", isShown);
    byId(`tab-${name}`).tabIndex = isShown ? 0 : -1;
  }
  settings.allowSeveralTexts(mode === "write" && Boolean(page.details.documents));
  byId("settings").hidden = mode === "read" || mode === "training" || mode === "pick";
}

// A mode that the person chose: a new entry of the history, before the mode itself changes the address.
function choose(mode) {
  page.clearError();
  show(mode);
  page.remember({ isNew: true });
  MODES[mode].enter?.();
}

function connectTabs() {
  const names = Object.keys(MODES);
  for (const name of names) {
    byId(`tab-${name}`).addEventListener("click", () => choose(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = names[(names.indexOf(name) + step + names.length) % names.length];
      byId(`tab-${next}`).focus();
      byId(`tab-${next}`).click();
    });
  }
}

// Show what the address says.
async function restore() {
  const { mode, model, given, length, ...rest } = address.read();
  page.clearError();
  for (const { name, value } of settings.SETTINGS) settings.set(name, (name === "max_tokens" ? length : rest[name]) ?? value);
  settings.set("seed", rest.seed ?? "");
  const name = page.models.includes(model) ? model : page.models[0];
  const isOther = model !== undefined && model !== name;
  if (isOther) rest.run = ""; // the result would be another one
  const shown = MODES[mode] ? mode : "write";
  for (const each of Object.values(MODES)) each.leave?.();
  page.mode = "";
  const main = document.querySelector("main");
  main.inert = main.ariaBusy = true; // what is entered now would be replaced
  try {
    await chooseModel(name, given);
    MODES[shown].fromAddress(rest);
    show(shown);
    MODES[shown].enter?.();
  } finally {
    main.inert = main.ariaBusy = false;
  }
  if (isOther) page.fail(new Error(`There is no model named ${model} here. Another one is chosen: ${name}.`));
  if (rest.run === "1") await MODES[shown].run?.();
}

async function start() {
  try {
    const { data } = await get("v1/models");
    page.models = data.map((model) => model.id);
    byId("key-form").hidden = true;
    for (const id of ["model", "compare-other"]) byId(id).replaceChildren(...page.models.map((name) => new Option(name, name)));
    await restore();
  } catch (error) {
    page.fail(error);
  }
}

settings.build(document.querySelector(".settings"));
for (const mode of Object.values(MODES)) mode.connect(page);
connectTabs();
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds what is shown
  document.querySelector("main section:not([hidden]) :is(textarea, .text)").focus();
});
byId("model").addEventListener("change", async () => {
  page.clearError();
  try {
    await chooseModel(page.model());
    page.remember({ isNew: true });
  } catch (error) {
    page.fail(error);
  }
});
byId("given").addEventListener("change", () => { MODES[page.mode].modelChanged?.(); page.remember({ isNew: true }); });
byId("settings").addEventListener("change", () => page.remember());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  start();
});
addEventListener("popstate", () => restore().catch(page.fail));
start();
