// How characters are chosen: sliders that say what they do at their present value.

const percent = (value) => `${Math.round(100 * value)}%`;

function temperature(value) {
  if (value === 0) return "Always the likeliest character. It soon repeats itself.";
  if (value < 0.6) return "Cautious: few surprises, and phrases that come again.";
  if (value < 0.95) return "Somewhat more predictable than the training text.";
  if (value <= 1.05) return "As varied as the model believes its training text to be.";
  return value < 1.4 ? "Bold: more inventions, more misspelt words." : "Wild: close to noise.";
}

export const SETTINGS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.8, words: temperature },
  {
    name: "top_p", label: "Top p", min: 0.05, max: 1, step: 0.05, value: 1,
    words: (v) => (v === 1 ? "Off: any character may come." : `Only the likeliest, up to ${percent(v)} in total.`),
  },
  {
    name: "top_k", label: "Top k", min: 0, max: 50, step: 1, value: 0,
    words: (v) => (v === 0 ? "Off: any character may come." : v === 1 ? "Only the likeliest." : `Only the ${v} likeliest.`),
  },
  {
    name: "min_p", label: "Min p", min: 0, max: 0.5, step: 0.01, value: 0,
    words: (v) => (v === 0 ? "Off: any character may come." : `None that is less than ${percent(v)} as likely as the likeliest.`),
  },
  {
    name: "n", label: "Texts", min: 1, max: 20, step: 1, value: 8,
    words: (v) => (v === 1 ? "One at a time." : `${v} at a time, each another one.`),
  },
  { name: "max_tokens", label: "Length", min: 10, max: 2000, step: 10, value: 400, words: (v) => `At most ${v} new characters.` },
];

const inputs = {};

export function build(home) {
  for (const setting of SETTINGS) home.append(slider(setting));
  const seed = document.createElement("input");
  Object.assign(seed, { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, id: "setting-seed" });
  home.append(row("seed", "Seed", seed, null, () => (seed.value === "" ? "Empty: another text each time." : "The same seed gives the same text.")));
}

function slider(setting) {
  const input = document.createElement("input");
  const { min, max, step, value } = setting;
  Object.assign(input, { type: "range", min, max, step, value, id: `setting-${setting.name}` });
  const output = document.createElement("output");
  output.htmlFor = input.id;
  return row(setting.name, setting.label, input, output, () => {
    output.textContent = input.value;
    return setting.words(Number(input.value));
  });
}

function row(name, label, input, output, words) {
  const home = document.createElement("div");
  const caption = document.createElement("label");
  caption.htmlFor = input.id;
  caption.append(label, ...(output ? [output] : []));
  const explanation = document.createElement("p");
  explanation.id = `${input.id}-words`;
  input.setAttribute("aria-describedby", explanation.id);
  const update = () => { explanation.textContent = words(); };
  input.addEventListener("input", update);
  inputs[name] = { input, update };
  home.append(caption, input, explanation);
  update();
  return home;
}

// The values as fields of a request, except how many texts; the seed only if there is one.
export function values() {
  const fields = {};
  for (const { name } of SETTINGS) if (name !== "n") fields[name] = Number(inputs[name].input.value);
  const seed = inputs.seed.input.value;
  if (/^\d{1,15}$/.test(seed)) fields.seed = Number(seed);
  return fields;
}

export function set(name, value) {
  inputs[name].input.value = value;
  inputs[name].update();
}

export const texts = () => Number(inputs.n.input.value);
export const allowSeveralTexts = (isAllowed) => { inputs.n.input.parentElement.hidden = !isAllowed; };
export const newSeed = () => Math.floor(Math.random() * 2 ** 31);
