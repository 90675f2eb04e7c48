// Conversations in motion: asks the server, and puts what comes into the conversation.

import { addChunk, apiMessages, endAnswer, newAnswer } from "./answer.js";
import { requestFields } from "./settings.js";
import { titleOf } from "./store.js";

const LOADING_PAUSE = 1000;
const SAVE_PAUSE = 1000;

/**
 * Answers under way, at most one in each conversation.
 *
 * A listener is told of `changed(conversation)` when messages come or go, of `grown(conversation, message)` when one
 * has more text, of `ended(conversation, message)`, and of `failed(error)` when a conversation can't be kept.
 */
export class Chat {
  #api;
  #store;
  #settings;
  #listener;
  #running = new Map();

  constructor(api, store, settings, listener) {
    this.#api = api;
    this.#store = store;
    this.#settings = settings;
    this.#listener = listener;
  }

  /** Whether an answer to a conversation is under way. */
  isRunning(conversation) {
    return this.#running.has(conversation.id);
  }

  /** The conversation as it is here, if an answer to it is under way. */
  running(id) {
    return this.#running.get(id)?.conversation;
  }

  /** Asks; resolves when the answer has ended. */
  send(conversation, text) {
    conversation.title ||= titleOf(text);
    conversation.messages.push({ role: "user", content: text });
    return this.#answer(conversation);
  }

  /** Gives the results of the last answer's tool calls, a text for each call. */
  sendResults(conversation, results) {
    const { toolCalls } = conversation.messages.at(-1);
    toolCalls.forEach(({ id }, i) => conversation.messages.push({ role: "tool", callId: id, content: results[i] }));
    return this.#answer(conversation);
  }

  /** Answers again what the last message answers. */
  regenerate(conversation) {
    if (conversation.messages.at(-1)?.role === "assistant") conversation.messages.pop();
    return this.#answer(conversation);
  }

  /** Asks something else instead of the last question. */
  edit(conversation, text) {
    const last = conversation.messages.findLastIndex((message) => message.role === "user");
    conversation.messages.length = last;
    if (last === 0) conversation.title = "";
    return this.send(conversation, text);
  }

  /** Leaves the answer under way; what there is of it stays. */
  stop(conversation) {
    this.#running.get(conversation.id)?.controller.abort();
  }

  /** Leaves the answer under way, and keeps nothing more of the conversation. */
  forget(conversation) {
    this.stop(conversation);
    this.#running.delete(conversation.id);
  }

  /** Keeps all that is under way, as when the page is left. */
  saveAll() {
    for (const { conversation } of this.#running.values()) this.#save(conversation);
  }

  async #answer(conversation) {
    if (this.isRunning(conversation)) return;
    const { system, ...values } = this.#settings.values;
    const body = { messages: apiMessages(system, conversation.messages), ...requestFields(values) };
    const message = newAnswer();
    const controller = new AbortController();
    conversation.messages.push(message);
    conversation.updated = Date.now();
    this.#running.set(conversation.id, { conversation, controller });
    this.#save(conversation);
    this.#listener.changed(conversation);
    try {
      await this.#receive(conversation, message, body, controller.signal);
      endAnswer(message, "done");
    } catch (error) {
      endAnswer(message, controller.signal.aborted ? "stopped" : "failed");
      if (!controller.signal.aborted) message.error = { text: error.message };
    }
    if (this.#running.get(conversation.id)?.controller !== controller) return; // forgotten
    this.#running.delete(conversation.id);
    conversation.updated = Date.now();
    this.#save(conversation);
    this.#listener.ended(conversation, message);
  }

  async #receive(conversation, message, body, signal) {
    let saved = Date.now();
    for await (const chunk of this.#chunks(conversation, message, body, signal)) {
      addChunk(message, chunk);
      this.#listener.grown(conversation, message);
      if (Date.now() - saved > SAVE_PAUSE) {
        this.#save(conversation);
        saved = Date.now();
      }
    }
  }

  /** The server's chunks; while it loads the model, it is asked again. */
  async *#chunks(conversation, message, body, signal) {
    for (;;) {
      try {
        yield* this.#api.chat(body, signal);
        return;
      } catch (error) {
        if (error.code !== "model_not_loaded" || message.state !== "waiting") throw error;
        message.clock.note = `${capitalised(error.message)}. Asking again …`;
        this.#listener.grown(conversation, message);
      }
      await pause(LOADING_PAUSE, signal);
      message.clock.began = performance.now();
    }
  }

  #save(conversation) {
    try {
      this.#store.save(conversation);
    } catch (error) {
      this.#listener.failed(error);
    }
  }
}

function capitalised(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
