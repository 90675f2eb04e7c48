// Short notices at the edge of the page.

import { byId, element } from "./dom.js";

const SHOWN = 8000;

/**
 * Shows a notice for a while.
 * @param {string} text - what it says.
 * @param {object} [more] - `kind` is "error" for what went wrong; `action` {label, run} adds a button.
 */
export function notice(text, { kind = "info", action } = {}) {
  const node = element("div", { className: `notice ${kind}` }, element("span", {}, text));
  const close = () => node.remove();
  if (action) {
    const run = () => {
      close();
      action.run();
    };
    node.append(element("button", { type: "button", className: "quiet", onclick: run }, action.label));
  }
  node.append(element("button", { type: "button", className: "quiet", onclick: close, "aria-label": "Dismiss" }, "✕"));
  byId("notices").replaceChildren(node);
  if (kind !== "error") setTimeout(close, SHOWN);
}
