// The list of conversations: open, rename, delete, search. On narrow screens it is a drawer.

import { byId, element } from "./dom.js";
import { icon } from "./icons.js";

const NARROW = matchMedia("(max-width: 52rem)");

/** Shows conversations. */
export class Sidebar {
  #node = byId("sidebar");
  #list = byId("conversations");
  #search = byId("search");
  #conversations = [];
  #current = "";
  #actions;

  /** @param {object} actions - `open(id)`, `rename(id, title)` and `remove(id)`. */
  constructor(actions) {
    this.#actions = actions;
    this.#search.addEventListener("input", () => this.#render());
    byId("open-sidebar").addEventListener("click", () => this.toggle());
    byId("close-sidebar").addEventListener("click", () => this.close());
    byId("scrim").addEventListener("click", () => this.close());
    NARROW.addEventListener("change", () => this.#setOpen(!NARROW.matches));
    this.#setOpen(!NARROW.matches);
  }

  /** Shows these, with one of them marked as being on show. */
  show(conversations, current) {
    this.#conversations = conversations;
    this.#current = current;
    this.#render();
  }

  /** Opens or closes it. */
  toggle() {
    const open = document.body.dataset.sidebar !== "open";
    this.#setOpen(open);
    if (open) byId("new").focus();
  }

  /** Closes the drawer; whether there was one to close. */
  close() {
    if (!this.#isDrawer()) return false;
    this.#setOpen(false);
    byId("open-sidebar").focus();
    return true;
  }

  /** Closes the drawer after a choice. */
  chosen() {
    if (this.#isDrawer()) this.#setOpen(false);
  }

  #isDrawer() {
    return NARROW.matches && document.body.dataset.sidebar === "open";
  }

  #setOpen(open) {
    document.body.dataset.sidebar = open ? "open" : "closed";
    this.#node.inert = !open;
    byId("open-sidebar").setAttribute("aria-expanded", String(open));
    byId("scrim").hidden = !(open && NARROW.matches);
    byId("page").inert = open && NARROW.matches;
  }

  #render() {
    const wanted = this.#search.value.trim().toLowerCase();
    const found = this.#conversations.filter(({ title }) => title.toLowerCase().includes(wanted));
    this.#list.replaceChildren(...found.map((each) => this.#item(each)));
    const none = byId("no-conversations");
    none.hidden = found.length > 0;
    none.textContent = wanted ? "No title has that in it." : "Conversations are kept in this browser.";
  }

  #item({ id, title }) {
    const open = element("button", { type: "button", className: "open", onclick: () => this.#actions.open(id) }, title);
    if (id === this.#current) open.setAttribute("aria-current", "true");
    const button = (name, label, onclick) =>
      element("button", { type: "button", className: "icon", "aria-label": `${label} ${title}`, onclick }, icon(name));
    const item = element("li", {}, open);
    item.append(
      button("pencil", "Rename", () => this.#rename(item, id, title)),
      button("trash", "Delete", () => this.#actions.remove(id)),
    );
    return item;
  }

  #rename(item, id, title) {
    const box = element("input", { value: title, maxLength: 200, "aria-label": "New title" });
    let ended = false;
    const end = (keep) => {
      if (ended) return; // taking the box away blurs it
      ended = true;
      if (keep && box.value.trim()) this.#actions.rename(id, box.value.trim());
      else this.#render();
    };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    box.addEventListener("blur", () => end(true));
    item.replaceChildren(box);
    box.select();
  }
}
