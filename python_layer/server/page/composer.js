// The box for the question.

import { byId } from "./dom.js";

/** Takes questions. */
export class Composer {
  #box = byId("question");
  #actions;

  /** @param {object} actions - `send(text)`, `stop()` and `editLast()`. */
  constructor(actions) {
    this.#actions = actions;
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    this.#box.addEventListener("input", () => this.#fit());
    byId("stop").addEventListener("click", () => actions.stop());
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#fit();
  }

  /** Shows whether an answer is under way, which another question waits for. */
  setRunning(running) {
    byId("send").hidden = running;
    byId("stop").hidden = !running;
  }

  /** Puts the cursor into the box. */
  focus() {
    this.#box.focus();
  }

  /** Whether the cursor is in it and nothing is written. */
  isIdle() {
    return document.activeElement === this.#box && this.#box.value === "";
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && this.#box.value === "") {
      event.preventDefault();
      this.#actions.editLast();
    }
  }

  #submit() {
    const text = this.#box.value.trim();
    if (!text || !this.#actions.send(text)) return;
    this.#box.value = "";
    this.#fit();
  }

  #fit() {
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
    byId("send").disabled = this.#box.value.trim() === "";
  }
}
