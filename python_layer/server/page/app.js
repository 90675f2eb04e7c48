// Puts the page together: which conversation is on show, and what the keys do.

import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId, element } from "./dom.js";
import { Follow } from "./follow.js";
import { icon, placeIcons } from "./icons.js";
import { notice } from "./notice.js";
import { Settings } from "./settings.js";
import { SettingsDialog } from "./settings_dialog.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { Store, browserStorage } from "./store.js";
import { switchTheme, theme } from "./theme.js";
import { Thread } from "./thread.js";

const EXAMPLES = [
  "What is the capital of France?",
  "What is 218 + 34?",
  "Sort these numbers: 41, 7, 93, 20",
  "What is a KV cache?",
  "Tell me a story that begins with: There once was a curious fox named Nora.",
  "What can you do?",
];
const LONGEST_SPOKEN = 2000;

class App {
  #settings = new Settings(browserStorage("localStorage"), browserStorage("sessionStorage"));
  #store = new Store(browserStorage("localStorage"));
  #api = new Api(() => this.#settings.apiKey);
  #status = new Status(this.#api);
  #chat = new Chat(this.#api, this.#store, this.#settings, {
    changed: (conversation) => this.#changed(conversation),
    grown: (conversation, message) => conversation === this.#conversation && this.#thread.grown(message),
    ended: (conversation, message) => this.#ended(conversation, message),
    failed: (error) => notice(error.message, { kind: "error" }),
  });
  #follow = new Follow(byId("scroller"), byId("to-end"));
  #thread = new Thread(this.#follow, {
    regenerate: () => this.#unlessRunning(() => this.#chat.regenerate(this.#conversation)),
    edit: (text) => this.#unlessRunning(() => this.#chat.edit(this.#conversation, text)),
    sendResults: (texts) => this.#unlessRunning(() => this.#chat.sendResults(this.#conversation, texts)),
  });
  #composer = new Composer({
    send: (text) => this.#unlessRunning(() => this.#chat.send(this.#conversation, text)),
    stop: () => this.#chat.stop(this.#conversation),
    editLast: () => this.#thread.editLast(),
  });
  #sidebar = new Sidebar({
    open: (id) => this.#open(id),
    rename: (id, title) => this.#rename(id, title),
    remove: (id) => this.#remove(id),
  });
  #settingsDialog = new SettingsDialog(this.#settings, (error) => this.#settingsSaved(error));
  #conversation = this.#store.create();

  start() {
    placeIcons();
    byId("examples").append(...EXAMPLES.map((text) => this.#example(text)));
    this.#listen();
    this.#showTheme();
    this.#show(this.#store.list()[0] ?? this.#conversation);
    this.#status.refresh();
  }

  #listen() {
    const clicks = {
      new: () => this.#new(),
      export: () => this.#export(),
      import: () => byId("import-file").click(),
      theme: () => {
        switchTheme();
        this.#showTheme();
      },
      "settings-button": () => this.#settingsDialog.open(),
      "shortcuts-button": () => byId("shortcuts").showModal(),
    };
    for (const [id, run] of Object.entries(clicks)) byId(id).addEventListener("click", run);
    for (const button of document.querySelectorAll("[data-close]")) {
      button.addEventListener("click", () => button.closest("dialog").close());
    }
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
    document.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("pagehide", () => this.#chat.saveAll());
    addEventListener("storage", () => this.#list()); // another tab has changed them
  }

  #key(event) {
    const keys = {
      k: () => this.#new(),
      b: () => this.#sidebar.toggle(),
      ",": () => this.#settingsDialog.open(),
      "/": () => byId("shortcuts").open || byId("shortcuts").showModal(),
    };
    const within = document.querySelector("dialog[open]") !== null;
    if (event.key === "Escape" && !within) {
      if (!this.#sidebar.close()) this.#chat.stop(this.#conversation);
    } else if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      if (!within) keys[event.key]();
    }
  }

  /** Begins something about the conversation, unless its last answer is still coming; whether it did. */
  #unlessRunning(begin) {
    if (this.#chat.isRunning(this.#conversation)) {
      notice("Wait for the answer, or stop it with Esc.");
      return false;
    }
    begin();
    this.#follow.toEnd();
    this.#composer.focus();
    return true;
  }

  #example(text) {
    const send = () => this.#unlessRunning(() => this.#chat.send(this.#conversation, text));
    return element("button", { type: "button", onclick: send }, text);
  }

  #new() {
    this.#show(this.#store.create());
    this.#sidebar.chosen();
    this.#composer.focus();
  }

  #open(id) {
    const conversation = this.#chat.running(id) ?? this.#store.list().find((each) => each.id === id);
    if (conversation) this.#show(conversation);
    this.#sidebar.chosen();
    this.#composer.focus();
  }

  #show(conversation) {
    this.#conversation = conversation;
    this.#changed(conversation);
    this.#follow.toEnd();
  }

  #changed(conversation) {
    this.#list();
    if (conversation !== this.#conversation) return;
    const running = this.#chat.isRunning(conversation);
    this.#thread.show(conversation);
    this.#composer.setRunning(running);
    byId("thread").ariaBusy = String(running);
    byId("welcome").hidden = conversation.messages.length > 0;
    document.title = conversation.title ? `${conversation.title} · MILI` : "MILI";
  }

  #ended(conversation, message) {
    this.#changed(conversation);
    if (message.error) this.#status.refresh();
    if (conversation === this.#conversation) {
      byId("announcer").textContent = message.content.slice(0, LONGEST_SPOKEN);
      if (message.state === "done" && this.#composer.isIdle()) this.#thread.focusResult();
    }
  }

  #list() {
    this.#sidebar.show(this.#store.list(), this.#conversation.id);
  }

  #rename(id, title) {
    const conversation = this.#withId(id);
    conversation.title = title;
    this.#keep(conversation);
    this.#changed(conversation);
  }

  #remove(id) {
    const conversation = this.#withId(id);
    this.#chat.forget(conversation);
    this.#store.remove(id);
    if (id === this.#conversation.id) this.#show(this.#store.list()[0] ?? this.#store.create());
    this.#list();
    const undo = () => {
      this.#keep(conversation);
      this.#open(id);
    };
    notice(`“${conversation.title}” was deleted.`, { action: { label: "Undo", run: undo } });
  }

  /** The conversation as it is on show or under way, else as it is kept. */
  #withId(id) {
    if (id === this.#conversation.id) return this.#conversation;
    return this.#chat.running(id) ?? this.#store.list().find((each) => each.id === id);
  }

  #keep(conversation) {
    try {
      this.#store.save(conversation);
    } catch (error) {
      notice(error.message, { kind: "error" });
    }
  }

  #export() {
    const file = new Blob([this.#store.exported()], { type: "application/json" });
    const href = URL.createObjectURL(file);
    element("a", { href, download: "mili-conversations.json" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  }

  async #import(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      const count = this.#store.import(await file.text());
      notice(`${count} ${count === 1 ? "conversation was" : "conversations were"} imported.`);
    } catch (error) {
      notice(error.message, { kind: "error" });
    }
    this.#list();
  }

  #settingsSaved(error) {
    notice(error ? error.message : "The settings are saved.", { kind: error ? "error" : "info" });
    this.#status.refresh();
    if (!error) this.#composer.focus();
  }

  #showTheme() {
    const button = byId("theme");
    button.replaceChildren(icon(theme()));
    button.title = `Theme: ${theme()}`;
    button.setAttribute("aria-label", `Theme: ${theme()}. Switch`);
  }
}

new App().start();
