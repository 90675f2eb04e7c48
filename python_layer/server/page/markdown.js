// Shows Markdown, and keeps showing it while it grows: only the blocks that changed are made anew.

import { parseBlocks } from "./blocks.js";
import { copyButton, element } from "./dom.js";
import { highlighted } from "./highlight.js";
import { inlineNodes } from "./inline.js";

/** A place in the document that shows a text. */
export class MarkdownView {
  #blocks = [];
  #text = "";

  constructor() {
    this.node = element("div", { className: "markdown" });
  }

  /** Shows another text, which mostly is the last one with more at its end. */
  show(text) {
    if (text === this.#text) return;
    const blocks = parseBlocks(text);
    let same = 0;
    const old = this.#blocks;
    while (same < old.length && same < blocks.length && isSame(old[same], blocks[same])) same += 1;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    this.node.append(...blocks.slice(same).map(blockNode));
    this.#blocks = blocks;
    this.#text = text;
  }
}

function isSame(one, other) {
  return one.kind === other.kind && one.source === other.source;
}

function blockNode(block) {
  return MAKERS[block.kind](block);
}

const MAKERS = {
  paragraph: ({ text }) => element("p", {}, ...inlineNodes(text)),
  // The page's own title is h1, and each message's heading h2.
  heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, { className: `level-${level}` }, ...inlineNodes(text)),
  rule: () => element("hr"),
  quote: ({ blocks }) => element("blockquote", {}, ...blocks.map(blockNode)),
  list: ({ ordered, start, items, loose }) => {
    const nodes = items.map((blocks) => element("li", {}, ...blocks.flatMap((block) => itemNodes(block, loose))));
    return ordered ? element("ol", { start }, ...nodes) : element("ul", {}, ...nodes);
  },
  code: codeBlock,
  table: ({ align, header, rows }) => {
    const row = (tag) => (cells) =>
      element("tr", {}, ...cells.map((cell, i) => element(tag, { className: align[i] }, ...inlineNodes(cell))));
    const head = element("thead", {}, row("th")(header));
    const table = element("table", {}, head, element("tbody", {}, ...rows.map(row("td"))));
    return element("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, table);
  },
};

/** A tight list's paragraphs are plain text. */
function itemNodes(block, loose) {
  return block.kind === "paragraph" && !loose ? inlineNodes(block.text) : [blockNode(block)];
}

function codeBlock({ language, text }) {
  const code = element("code", {}, ...highlighted(text, language));
  const bar = element(
    "div",
    { className: "code-bar" },
    element("span", {}, language || "text"),
    copyButton(() => text, "Copy code"),
  );
  return element("div", { className: "code-block" }, bar, element("pre", { tabIndex: 0 }, code));
}
