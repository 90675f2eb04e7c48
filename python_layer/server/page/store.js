// Conversations, kept in the browser under one key each, so that two tabs do not overwrite each other's.

const PREFIX = "mili.conversation.";
const LONGEST_TITLE = 60;

/** Most characters of all conversations together; browsers give about 5 million. */
export const MOST_CHARACTERS = 4_000_000;

/** There is no room for more conversations. */
export class StoreFullError extends Error {
  constructor() {
    const millions = MOST_CHARACTERS / 1_000_000;
    super(`This browser's room for conversations (${millions} million characters) is full. Delete some, or export them first.`);
  }
}

/** A file that holds no conversations. */
export class ImportError extends Error {}

/** What keeps conversations. */
export class Store {
  #storage;

  /** @param {Storage} storage - localStorage, or what behaves like it. */
  constructor(storage) {
    this.#storage = storage;
  }

  /** A conversation without messages; it is kept once it is saved. */
  create() {
    const now = Date.now();
    return { id: newId(), title: "", created: now, updated: now, messages: [] };
  }

  /** All of them, the latest first; what can't be read is left out. */
  list() {
    const all = this.#keys().map((key) => this.#read(key));
    return all.filter((each) => each !== null).sort((a, b) => b.updated - a.updated);
  }

  /**
   * Keeps a conversation.
   * @throws {StoreFullError} there is no room for it.
   */
  save(conversation) {
    const key = PREFIX + conversation.id;
    const text = JSON.stringify(conversation);
    const others = this.#keys().filter((each) => each !== key);
    const size = others.reduce((sum, each) => sum + each.length + this.#storage.getItem(each).length, 0);
    if (size + key.length + text.length > MOST_CHARACTERS) throw new StoreFullError();
    try {
      this.#storage.setItem(key, text);
    } catch (error) {
      if (error.name === "QuotaExceededError") throw new StoreFullError();
      throw error;
    }
  }

  /** Forgets a conversation. */
  remove(id) {
    this.#storage.removeItem(PREFIX + id);
  }

  /** All of them as the text of a file. */
  exported() {
    return JSON.stringify({ format: "mili-conversations", version: 1, conversations: this.list() }, null, 1);
  }

  /**
   * Adds the conversations of a file; one that is here already is added again.
   * @returns {number} how many.
   * @throws {ImportError} it is no such file.
   * @throws {StoreFullError} there is no room for all of them; those before stay.
   */
  import(text) {
    const conversations = parsed(text);
    for (const conversation of conversations) this.save({ ...conversation, id: newId() });
    return conversations.length;
  }

  #keys() {
    return Object.keys(this.#storage).filter((key) => key.startsWith(PREFIX));
  }

  #read(key) {
    try {
      const conversation = JSON.parse(this.#storage.getItem(key));
      if (!isConversation(conversation)) return null;
      // What was under way when the page was left has ended.
      for (const message of conversation.messages) if (isUnfinished(message)) message.state = "stopped";
      return conversation;
    } catch {
      return null;
    }
  }
}

/** A conversation's title, from what its first message begins with. */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1).trimEnd()}…` : line;
}

/** The browser's storage, or one that lasts as long as the page where the browser refuses. */
export function browserStorage(kind) {
  try {
    window[kind].getItem(PREFIX);
    return window[kind];
  } catch {
    const kept = Object.create({
      getItem: (key) => (Object.hasOwn(kept, key) ? kept[key] : null),
      setItem: (key, value) => (kept[key] = value),
      removeItem: (key) => delete kept[key],
    });
    return kept;
  }
}

function newId() {
  // crypto.randomUUID is for secure contexts only.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function isUnfinished(message) {
  return message.state === "waiting" || message.state === "streaming";
}

function parsed(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ImportError("This file is no JSON. Choose one that “Export” has made.");
  }
  if (file?.format !== "mili-conversations" || !Array.isArray(file.conversations)) {
    throw new ImportError("This file holds no MILI conversations. Choose one that “Export” has made.");
  }
  const wrong = file.conversations.findIndex((each) => !isConversation(each));
  if (wrong >= 0) throw new ImportError(`Conversation ${wrong + 1} of this file is damaged; nothing was imported.`);
  return file.conversations;
}

function isConversation(value) {
  const numbers = Number.isFinite(value?.created) && Number.isFinite(value?.updated);
  return numbers && typeof value.title === "string" && Array.isArray(value.messages) && value.messages.every(isMessage);
}

function isMessage(message) {
  if (typeof message?.content !== "string") return false;
  if (message.role === "user") return true;
  if (message.role === "tool") return typeof message.callId === "string";
  return message.role === "assistant" && isAnswer(message);
}

function isAnswer({ reasoning, toolCalls, state, error, tokens, perSecond, firstSeconds, thoughtSeconds }) {
  const numbers = [tokens, perSecond, firstSeconds, thoughtSeconds].filter((number) => number !== undefined);
  return (
    typeof reasoning === "string" &&
    Array.isArray(toolCalls) &&
    toolCalls.every(isCall) &&
    ["waiting", "streaming", "done", "stopped", "failed"].includes(state) &&
    (error === undefined || typeof error?.text === "string") &&
    numbers.every(Number.isFinite)
  );
}

function isCall(call) {
  return [call?.id, call?.name, call?.arguments].every((text) => typeof text === "string");
}
