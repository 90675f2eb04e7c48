// How an answer looks: thoughts folded away, text, tool calls, and below it times, buttons or an error.

import { isThinking } from "./answer.js";
import { copyButton, element } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { ToolCallsView } from "./tool_calls_view.js";

const ENDS = { length: "Cut off at the most tokens", stopped: "Stopped" };

/** Shows an answer, also while it grows. */
export class AnswerView {
  #message;
  #actions;
  #text = new MarkdownView();
  #tools = null;
  #thoughts = null;
  #foot = element("div", { className: "answer-foot" });
  #waiting = element("p", { className: "waiting" });

  /**
   * @param {object} message - the answer.
   * @param {object} actions - `regenerate()` and `sendResults(texts)`.
   */
  constructor(message, actions) {
    this.#message = message;
    this.#actions = actions;
    const heading = element("h2", { className: "offscreen" }, "Answer");
    this.node = element("article", { className: "answer" }, heading, this.#waiting, this.#text.node, this.#foot);
    this.update();
  }

  /**
   * Shows the message as it is now.
   * @param {string[]} [results] - what its tool calls gave, once they are there.
   */
  update(results) {
    const message = this.#message;
    const { state } = message;
    const open = state === "waiting" || state === "streaming";
    this.node.dataset.state = state;
    this.#waiting.hidden = state !== "waiting";
    this.#waiting.replaceChildren(...dots(), element("span", {}, message.clock?.note ?? ""));
    if (message.reasoning) this.#updateThoughts();
    this.#text.show(message.content);
    if (message.toolCalls.length) this.#updateTools(results, !open);
    if (!open && this.#foot.childElementCount === 0) this.#foot.append(...this.#footNodes());
  }

  #updateThoughts() {
    if (!this.#thoughts) {
      const summary = element("summary");
      const text = element("div", { className: "thoughts" });
      this.#thoughts = { summary, text };
      this.#text.node.before(element("details", { className: "thinking" }, summary, text));
    }
    const { reasoning, thoughtSeconds } = this.#message;
    const thinking = isThinking(this.#message);
    const past = thoughtSeconds === undefined ? "Thoughts" : `Thought for ${seconds(thoughtSeconds)}`;
    const title = thinking ? "Thinking …" : past;
    this.#thoughts.summary.classList.toggle("active", thinking);
    if (this.#thoughts.summary.textContent !== title) this.#thoughts.summary.textContent = title;
    if (this.#thoughts.text.textContent !== reasoning) this.#thoughts.text.textContent = reasoning;
  }

  #updateTools(results, complete) {
    if (!this.#tools) {
      this.#tools = new ToolCallsView(this.#actions.sendResults);
      this.#text.node.after(this.#tools.node);
    }
    this.#tools.show(this.#message.toolCalls, complete, results);
  }

  #footNodes() {
    const { content, error } = this.#message;
    const again = (label, className) =>
      element("button", { type: "button", className, onclick: this.#actions.regenerate }, label);
    if (error) {
      const text = element("p", {}, element("strong", {}, "This did not work: "), error.text);
      return [element("div", { className: "error", role: "alert" }, text, again("Retry", "retry primary"))];
    }
    const copy = content ? [copyButton(() => content, "Copy the answer")] : [];
    return [...copy, again("Regenerate", "quiet regenerate"), element("span", { className: "stats" }, this.#stats())];
  }

  #stats() {
    const { state, finishReason, tokens, perSecond, firstSeconds } = this.#message;
    const parts = [
      ENDS[state] ?? ENDS[finishReason],
      tokens && `${tokens} ${tokens === 1 ? "token" : "tokens"}`,
      perSecond && `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} tokens/s`,
      firstSeconds !== undefined && `first token after ${seconds(firstSeconds)}`,
    ];
    return parts.filter(Boolean).join(" · ");
  }
}

function dots() {
  return [0, 1, 2].map(() => element("i", { className: "dot-wait", "aria-hidden": "true" }));
}

function seconds(value) {
  if (value < 0.995) return value < 0.0995 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
  return `${value.toFixed(value < 9.95 ? 1 : 0)} s`;
}
