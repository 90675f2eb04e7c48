// The model's name at the top, and whether it can be asked.

import { byId } from "./dom.js";

const PAUSE = 1500;
const STATES = {
  model_not_loaded: (error) => ["loading", loadingText(error.message)],
  connection: () => ["failed", "No connection"],
  invalid_api_key: () => ["failed", "API key needed"],
};
const MENDED_BY_TIME = new Set(["model_not_loaded", "connection"]);

/** Shows the state of the server, and asks again while it is not ready. */
export class Status {
  #api;
  #asking = false;

  constructor(api) {
    this.#api = api;
  }

  /** Asks the server until it is ready. */
  async refresh() {
    if (this.#asking) return;
    this.#asking = true;
    while (!(await this.#ask())) await new Promise((resolve) => setTimeout(resolve, PAUSE));
    this.#asking = false;
  }

  /** Whether there is no more to ask; an error that waiting does not mend is shown once. */
  async #ask() {
    try {
      show("ready", await this.#api.model());
      return true;
    } catch (error) {
      show(...(STATES[error.code]?.(error) ?? ["failed", error.message]));
      return !MENDED_BY_TIME.has(error.code);
    }
  }
}

function loadingText(message) {
  const share = /(\d+) %/.exec(message);
  if (share) return `Loading, ${share[1]} %`;
  return message.includes("loading") ? "Loading" : "Not available";
}

function show(state, text) {
  byId("model").dataset.state = state;
  byId("model").title = text;
  const name = byId("model-name");
  if (name.textContent !== text) name.textContent = text;
}
