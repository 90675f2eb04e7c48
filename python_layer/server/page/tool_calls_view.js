// The tool calls of an answer: a card each, with a box for what the tool gave.

import { copyButton, element } from "./dom.js";
import { highlighted } from "./highlight.js";
import { icon } from "./icons.js";

/** Shows the calls of one answer. */
export class ToolCallsView {
  #cards = [];
  #send;
  #button = element("button", { type: "submit", className: "primary" }, "Send the result");

  /** @param {(texts: string[]) => void} send - takes the results, one for each call. */
  constructor(send) {
    this.#send = send;
    this.node = element("form", { className: "tool-calls", onsubmit: (event) => this.#submit(event) }, this.#button);
  }

  /**
   * Shows calls.
   * @param {object[]} calls - so far.
   * @param {boolean} complete - no more will come, so results may be given.
   * @param {string[]} [results] - those that were.
   */
  show(calls, complete, results) {
    for (const [i, call] of calls.entries()) {
      if (!this.#cards[i]) {
        this.#cards[i] = new Card(i);
        this.#button.before(this.#cards[i].node);
      }
      this.#cards[i].show(call, complete, results?.[i]);
    }
    if (calls.length > 1) this.#button.textContent = "Send the results";
    // Once another question is asked, their results are of no use.
    this.node.classList.toggle("unanswered", results === undefined);
    this.#button.hidden = !complete || results !== undefined;
  }

  #submit(event) {
    event.preventDefault();
    this.#send(this.#cards.map((card) => card.box.value));
  }
}

class Card {
  #name = element("strong");
  #arguments = element("code");
  #shown = "";
  #result = element("pre", { className: "tool-result", tabIndex: 0 });
  #label;

  constructor(index) {
    const id = `result-${Math.random().toString(36).slice(2)}-${index}`;
    this.box = element("textarea", { id, rows: 2, required: true, spellcheck: false, placeholder: '{"temperature": 21}' });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.box.form.requestSubmit();
    });
    this.#label = element("label", { htmlFor: id }, "Paste the tool’s result");
    const copy = copyButton(() => this.#shown, "Copy the arguments");
    const head = element("div", { className: "tool-head" }, icon("tool"), this.#name, copy);
    const shown = element("pre", { tabIndex: 0 }, this.#arguments);
    this.node = element("section", { className: "tool-call" }, head, shown, this.#label, this.box, this.#result);
  }

  show({ name, arguments: text }, complete, result) {
    this.#name.textContent = name;
    this.node.setAttribute("aria-label", `Call of ${name}`);
    const pretty = prettyJson(text);
    if (pretty !== this.#shown) this.#arguments.replaceChildren(...highlighted(pretty, "json"));
    this.#shown = pretty;
    this.box.hidden = !complete || result !== undefined;
    this.#label.hidden = !complete;
    this.#result.hidden = result === undefined;
    if (result === undefined) return;
    this.#label.textContent = "Result";
    this.#result.replaceChildren(...highlighted(prettyJson(result), "json"));
  }
}

/** JSON with line breaks; what is none, such as arguments that are still on their way, as it is. */
function prettyJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
