// The form of the settings.

import { byId, element } from "./dom.js";
import { DEFAULTS, problems } from "./settings.js";

const EXAMPLE_TOOL = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

/** Lets the user see and change settings. */
export class SettingsDialog {
  #dialog = byId("settings");
  #form = byId("settings-form");
  #settings;
  #saved;

  /**
   * @param {Settings} settings - what is shown and changed.
   * @param {(error: Error|null) => void} saved - told when they were, or why not.
   */
  constructor(settings, saved) {
    this.#settings = settings;
    this.#saved = saved;
    this.#form.addEventListener("submit", (event) => this.#submit(event));
    this.#form.addEventListener("input", () => this.#showProblems());
    byId("reset-settings").addEventListener("click", () => this.#fill(DEFAULTS));
    byId("example-tool").addEventListener("click", () => {
      this.#form.elements.tools.value = JSON.stringify([EXAMPLE_TOOL], null, 2);
      this.#showProblems();
    });
  }

  /** Opens it. */
  open() {
    if (this.#dialog.open) return;
    this.#fill(this.#settings.values);
    this.#form.elements.key.value = this.#settings.apiKey;
    this.#form.elements.remember.checked = this.#settings.remembersKey;
    this.#dialog.showModal();
  }

  #fill(values) {
    for (const [name, value] of Object.entries(values)) this.#form.elements[name].value = value;
    this.#showProblems();
  }

  #values() {
    return Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, this.#form.elements[name].value]));
  }

  /** Says below each field what is wrong with it; the first such field, or undefined. */
  #showProblems() {
    for (const old of this.#form.querySelectorAll(".problem")) old.remove();
    for (const field of this.#form.querySelectorAll("[aria-invalid]")) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
    const fields = Object.entries(problems(this.#values())).map(([name, text]) => {
      const field = this.#form.elements[name];
      const id = `problem-${name}`;
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", id);
      const problem = element("p", { className: "problem", id }, text);
      field.after(problem);
      if (field === document.activeElement) problem.scrollIntoView({ block: "nearest" });
      return field;
    });
    return fields[0];
  }

  #submit(event) {
    event.preventDefault();
    const wrong = this.#showProblems();
    if (wrong) {
      wrong.focus();
      return;
    }
    const { key, remember } = this.#form.elements;
    try {
      this.#settings.values = this.#values();
      this.#settings.setApiKey(key.value.trim(), remember.checked);
    } catch (error) {
      this.#saved(error);
      return;
    }
    this.#dialog.close();
    this.#saved(null);
  }
}
