// One text that is being written: it streams into a coloured text until it is complete or stopped.

import { stream } from "./api.js";
import { fromLogprobs } from "./coloured.js";

export const ALTERNATIVES = 8;

export class Writing {
  constructor() {
    this.controller = null;
  }

  get isRunning() {
    return this.controller !== null;
  }

  stop() {
    this.controller?.abort();
  }

  // Writes after fields.prompt into the texts of each request, at once. Resolves when all are complete or stopped.
  async run(requests) {
    this.stop();
    const controller = new AbortController();
    this.controller = controller;
    try {
      await Promise.all(requests.map(({ fields, texts }) => this.#one(fields, texts, controller.signal)));
    } catch (error) {
      controller.abort();
      if (error.name !== "AbortError") throw error;
    } finally {
      if (this.controller === controller) this.controller = null;
    }
  }

  async #one(fields, texts, signal) {
    for (const text of texts) text.clear(fields.prompt);
    for await (const choice of stream({ ...fields, n: texts.length, logprobs: ALTERNATIVES }, signal)) {
      if (signal.aborted) return;
      texts[choice.index].add(fromLogprobs(choice.logprobs));
      if (choice.finish_reason === "stop") texts[choice.index].end();
    }
  }
}
