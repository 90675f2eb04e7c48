// Small helpers to build the document. Text only ever becomes text nodes: nothing here parses HTML.

/**
 * Makes an element.
 * @param {string} tag - its name.
 * @param {object} properties - properties, attributes, and listeners as `onclick: function`.
 * @param {...(Node|string|null)} children - what it holds; null is left out.
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** The element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Runs the last of many calls, once per frame; at once where the page is hidden and frames do not come. */
export function batched(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    const run = () => {
      asked = false;
      work();
    };
    if (document.hidden) queueMicrotask(run);
    else requestAnimationFrame(run);
  };
}

/** Copies a text; whether that worked. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Outside of secure contexts, as on http://192.168.0.7, there is no clipboard but this.
    const area = element("textarea", { value: text, className: "offscreen" });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** A button that copies what `text` returns, and says so for a moment. */
export function copyButton(text, label) {
  const button = element("button", { type: "button", className: "quiet", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(text())) ? "Copied" : "Not allowed";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}
