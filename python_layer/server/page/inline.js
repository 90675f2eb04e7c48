// Markdown within a line: emphasis, code, links. Makes DOM nodes; HTML in the text stays text.

import { element } from "./dom.js";

const PUNCTUATION = /[!-/:-@[-`{-~\p{P}\p{S}]/u;
const ADDRESS = /^(?:https?:\/\/|mailto:)/i;
const BARE = /https?:\/\/[^\s<>"`]+/iy;
// Bounds on what is searched from one place, so that hostile text takes no time.
const LONGEST_ADDRESS = 2000;
const MOST_OPENERS = 200;
const TRAILING = ".,;:!?'\"*_~";

/** The nodes of a text. */
export function inlineNodes(text) {
  const parts = [];
  scan(text, parts);
  return nodesOf(parts);
}

// Parts are nodes, or what may yet become emphasis ({mark, count, opens, closes}) or a link ({bracket}).
function scan(text, parts) {
  const brackets = [];
  const missing = new Set();
  let plain = "";
  const flush = () => {
    if (plain) parts.push(document.createTextNode(plain));
    plain = "";
  };
  for (let i = 0; i < text.length; ) {
    const char = text[i];
    if (char === "\\" && i + 1 < text.length && /[!-/:-@[-`{-~]/.test(text[i + 1])) {
      plain += text[i + 1];
      i += 2;
    } else if (char === "\n") {
      flush();
      parts.push(element("br"));
      i += 1;
    } else if (char === "`") {
      const { node, end } = codeSpan(text, i, missing);
      if (node) {
        flush();
        parts.push(node);
      } else plain += text.slice(i, end);
      i = end;
    } else if (char === "*" || char === "_" || char === "~") {
      flush();
      const end = runEnd(text, i);
      parts.push(delimiter(text, i, end));
      i = end;
    } else if (char === "[" || (char === "!" && text[i + 1] === "[")) {
      flush();
      const opening = char === "!" ? "![" : "[";
      brackets.push(parts.length);
      parts.push({ bracket: opening });
      i += opening.length;
    } else if (char === "]" && brackets.length) {
      flush();
      const at = brackets.pop();
      const target = destination(text, i + 1);
      if (target) {
        const [opening, ...inside] = parts.splice(at);
        const children = nodesOf(inside);
        // The page loads no pictures; where one is no link's content, its address is.
        const withinLink = opening.bracket === "![" && brackets.length > 0;
        parts.push(...(withinLink ? children : [link(target.address, children)]));
        if (!withinLink) brackets.length = 0; // links hold no links
        i = target.end;
      } else {
        parts[at] = document.createTextNode(parts[at].bracket);
        plain += "]";
        i += 1;
      }
    } else if (char === "<") {
      const length = text.slice(i, i + LONGEST_ADDRESS).indexOf(">");
      const address = text.slice(i + 1, i + Math.max(length, 1));
      if (ADDRESS.test(address) && !/\s/.test(address)) {
        flush();
        parts.push(link(address, [document.createTextNode(address)]));
        i += length + 1;
      } else {
        plain += char;
        i += 1;
      }
    } else if ((char === "h" || char === "H") && !brackets.length && !/\w/.test(text[i - 1] ?? "")) {
      const address = bareAddress(text, i);
      if (address) {
        flush();
        parts.push(link(address, [document.createTextNode(address)]));
      } else plain += char;
      i += address.length || 1;
    } else {
      plain += char;
      i += 1;
    }
  }
  flush();
}

function runEnd(text, start) {
  let end = start;
  while (text[end] === text[start]) end += 1;
  return end;
}

function codeSpan(text, start, missing) {
  const open = runEnd(text, start);
  const length = open - start;
  if (!missing.has(length)) {
    for (let at = text.indexOf("`", open); at >= 0; ) {
      const end = runEnd(text, at);
      if (end - at === length) {
        const code = text.slice(open, at).replaceAll("\n", " ");
        const padded = code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
        return { node: element("code", {}, padded ? code.slice(1, -1) : code), end };
      }
      at = text.indexOf("`", end);
    }
    missing.add(length); // so that many runs without an end do not each search the rest
  }
  return { node: null, end: open };
}

function delimiter(text, start, end) {
  const mark = text[start];
  const before = text[start - 1] ?? " ";
  const after = text[end] ?? " ";
  const left = !/\s/.test(after) && (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
  const right = !/\s/.test(before) && (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
  const word = mark === "_"; // snake_case is no emphasis
  return {
    mark,
    count: end - start,
    opens: left && (!word || !right || PUNCTUATION.test(before)),
    closes: right && (!word || !left || PUNCTUATION.test(after)),
  };
}

function bareAddress(text, start) {
  BARE.lastIndex = start;
  let address = BARE.exec(text)?.[0] ?? "";
  while (address && (TRAILING.includes(address.at(-1)) || (address.endsWith(")") && !address.includes("(")))) {
    address = address.slice(0, -1);
  }
  return address;
}

/** The `(address "title")` at a place, or null. */
function destination(text, start) {
  if (text[start] !== "(") return null;
  let depth = 0;
  const last = Math.min(text.length, start + LONGEST_ADDRESS);
  for (let i = start; i < last && text[i] !== "\n"; i += 1) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "(") depth += 1;
    else if (text[i] === ")" && --depth === 0) {
      const [address] = text.slice(start + 1, i).trim().split(/\s+/, 1);
      return { address: address.replace(/^<|>$/g, "").replace(/\\(.)/g, "$1"), end: i + 1 };
    }
  }
  return null;
}

function link(address, children) {
  if (!ADDRESS.test(address)) return element("span", { title: "Not a link to the web or to mail" }, ...children);
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

/** Pairs the delimiters up, and makes nodes of all that is left. */
function nodesOf(parts) {
  const items = parts.map((part) => (part.bracket ? document.createTextNode(part.bracket) : part));
  const openers = [];
  const output = [];
  for (const item of items) {
    if (item.mark && item.closes) closeEmphasis(item, openers, output);
    if (item.mark && item.count === 0) continue;
    if (item.mark && item.opens) openers.push(output.length);
    output.push(item);
  }
  return output.map(asNode);
}

/** What is no emphasis is text. */
function asNode(item) {
  return item.mark ? document.createTextNode(item.mark.repeat(item.count)) : item;
}

function closeEmphasis(closer, openers, output) {
  while (closer.count > 0) {
    let found = openers.length - 1;
    const least = Math.max(0, found - MOST_OPENERS);
    while (found >= least && !fits(output[openers[found]], closer)) found -= 1;
    if (found < least) return;
    const at = openers[found];
    const opener = output[at];
    const width = closer.mark === "~" ? closer.count : opener.count > 1 && closer.count > 1 ? 2 : 1;
    const tag = closer.mark === "~" ? "del" : width === 2 ? "strong" : "em";
    const inside = output.splice(at + 1).map(asNode);
    openers.length = found;
    opener.count -= width;
    closer.count -= width;
    if (opener.count === 0) output.pop();
    else openers.push(at);
    output.push(element(tag, {}, ...inside));
  }
}

function fits(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  if (closer.mark === "~") return opener.count === closer.count && closer.count <= 2;
  // CommonMark's rule of three keeps "**a*b**" from pairing in the midst.
  const both = (opener.closes || closer.opens) && (opener.count + closer.count) % 3 === 0;
  return !both || (opener.count % 3 === 0 && closer.count % 3 === 0);
}
