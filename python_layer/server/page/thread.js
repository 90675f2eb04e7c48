// The messages of the conversation on show.

import { AnswerView } from "./answer_view.js";
import { batched, byId, element } from "./dom.js";
import { icon } from "./icons.js";

/** Shows one conversation. */
export class Thread {
  #node = byId("thread");
  #views = new Map();
  #conversation;
  #actions;
  #follow;
  #grownMessage;
  #showGrown = batched(() => this.#updateAnswer(this.#grownMessage));

  /**
   * @param {Follow} follow - told when there is more to see.
   * @param {object} actions - `regenerate()`, `edit(text)` and `sendResults(texts)`, all about the last message.
   */
  constructor(follow, actions) {
    this.#follow = follow;
    this.#actions = actions;
  }

  /** Shows a conversation as it is now; what is shown already stays as it is. */
  show(conversation) {
    this.#conversation = conversation;
    const { messages } = conversation;
    const shown = messages.filter((message) => message.role !== "tool");
    const views = new Map(shown.map((message) => [message, this.#views.get(message) ?? this.#viewOf(message)]));
    for (const [message, view] of this.#views) if (views.get(message) !== view) view.node.remove();
    const lastQuestion = shown.findLast((message) => message.role === "user");
    let at = this.#node.firstChild;
    for (const [message, view] of views) {
      if (view.node === at) at = at.nextSibling;
      else this.#node.insertBefore(view.node, at);
      view.node.classList.toggle("last-question", message === lastQuestion);
    }
    this.#views = views;
    for (const message of shown) if (message.role === "assistant") this.#updateAnswer(message);
    this.#follow.grown();
  }

  /** Shows more of an answer, with the next frame. */
  grown(message) {
    this.#grownMessage = message;
    this.#showGrown();
  }

  /** Lets the last question be edited where it stands. */
  editLast() {
    this.#node.querySelector(".last-question .edit")?.click();
  }

  /** Puts the cursor where the result of the last answer's tool call goes, if it has one. */
  focusResult() {
    this.#node.querySelector(".answer:last-child .unanswered textarea")?.focus();
  }

  #updateAnswer(message) {
    const view = this.#views.get(message);
    if (!view) return; // another conversation is on show by now
    view.update(this.#resultsOf(message));
    this.#follow.grown();
  }

  #resultsOf({ toolCalls }) {
    if (!toolCalls.length) return undefined;
    const all = this.#conversation.messages.filter((message) => message.role === "tool");
    const results = toolCalls.map(({ id }) => all.find((message) => message.callId === id)?.content);
    return results.includes(undefined) ? undefined : results;
  }

  #viewOf(message) {
    return message.role === "user" ? questionView(message, this.#actions.edit) : new AnswerView(message, this.#actions);
  }
}

function questionView(message, edit) {
  const heading = element("h2", { className: "offscreen" }, "Question");
  const text = element("div", { className: "question-text" }, message.content);
  const button = element("button", { type: "button", className: "icon edit", "aria-label": "Edit the question" }, icon("pencil"));
  const node = element("article", { className: "question" }, heading, text, button);
  button.addEventListener("click", () => {
    if (node.querySelector("form")) return;
    node.append(editForm(message.content, edit, () => button.focus()));
    node.querySelector("textarea").focus();
  });
  return { node };
}

function editForm(content, edit, left) {
  const box = element("textarea", { value: content, rows: Math.min(8, content.split("\n").length + 1), required: true });
  box.setAttribute("aria-label", "Edit the question");
  const leave = () => {
    form.remove();
    left();
  };
  const form = element(
    "form",
    { className: "edit-form" },
    box,
    element("button", { type: "button", className: "quiet", onclick: leave }, "Cancel"),
    element("button", { type: "submit", className: "primary" }, "Send"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (box.value.trim()) edit(box.value.trim());
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  return form;
}
