// Training: the curve of a run, which goes on while it is trained, and what its best step writes.

import { get, pathOf } from "./api.js";
import { ColouredText } from "./coloured.js";
import { Writing } from "./writing.js";

const byId = (id) => document.getElementById(id);
const SECONDS = 3;
const DOCUMENTS = 5; // in a sample of a model that writes short texts
const LEFT = 48, RIGHT = 12, TOP = 12, BOTTOM = 28;
const writing = new Writing();
let page, timer, sampled = "";

export function connect(thePage) {
  page = thePage;
  place(1);
}

const place = (count) => ColouredText.several(byId("training-text"), "The sample", count);

async function update() {
  clearTimeout(timer);
  const name = page.model();
  try {
    const progress = await get(`progress/${pathOf(name)}`);
    const { charlm } = await get(`v1/models/${pathOf(name)}`);
    if (name !== page.model() || page.mode !== "training") return;
    draw(progress);
    tell(progress, charlm);
    if (sampled !== `${name} ${charlm.step} ${page.given()}`) {
      sampled = `${name} ${charlm.step} ${page.given()}`;
      const fields = { ...page.target(), prompt: "", max_tokens: 300, temperature: 0.8 };
      writing.run([{ fields, texts: place(charlm.documents ? DOCUMENTS : 1) }]).catch(page.fail);
    }
    if (progress.in_training) timer = setTimeout(update, 1000 * SECONDS);
  } catch (error) {
    page.fail(error);
    timer = setTimeout(update, 1000 * SECONDS);
  }
}

function tell(progress, charlm) {
  const last = progress.valid.at(-1);
  const curve = last ? `Validation loss ${last[1].toFixed(4)} nats per character at step ${last[0]}.` : "This model has no curve.";
  const state = progress.in_training ? "In training." : "";
  const words = `${curve} Its best step is ${charlm.step}. ${state}`.trim();
  if (byId("training-status").textContent !== words) byId("training-status").textContent = words;
}

function draw({ train, valid }) {
  const svg = byId("training-curve");
  const points = [...train, ...valid];
  svg.replaceChildren();
  svg.parentElement.hidden = !points.length;
  if (!points.length) return;
  const { clientWidth: width, clientHeight: height } = svg;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const most = Math.max(1, ...points.map(([step]) => step));
  const losses = points.map(([, nats]) => nats).sort((a, b) => a - b);
  const low = losses[0], high = Math.max(losses[Math.floor(losses.length * 0.98)], low + 0.1); // the first steps are far above
  const x = (step) => LEFT + (step / most) * (width - LEFT - RIGHT);
  const y = (nats) => TOP + (1 - (Math.min(nats, high) - low) / (high - low)) * (height - TOP - BOTTOM);
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const nats = low + part * (high - low);
    add(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: y(nats), y2: y(nats) });
    add(svg, "text", { x: LEFT - 6, y: y(nats) + 4, "text-anchor": "end" }, nats.toFixed(2));
    add(svg, "text", { x: x(part * most), y: height - 8, "text-anchor": part === 1 ? "end" : part ? "middle" : "start" },
      Math.round(part * most).toLocaleString("en"));
  }
  for (const [name, curve] of Object.entries({ train, valid })) {
    add(svg, "polyline", { class: name, points: curve.map(([step, nats]) => `${x(step)},${y(nats)}`).join(" ") });
  }
  const last = valid.at(-1) ?? train.at(-1);
  svg.setAttribute("aria-label", `Loss by step: ${last[1].toFixed(3)} nats per character at step ${last[0]}`);
}

function add(home, kind, attributes, content = "") {
  const part = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  part.textContent = content;
  home.append(part);
}

export function enter() {
  sampled = "";
  update();
}

export const modelChanged = enter;

export function leave() {
  clearTimeout(timer);
  writing.stop();
}

export const toAddress = () => page.settings();
export const fromAddress = () => {};
