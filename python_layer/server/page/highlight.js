// Light colouring of code: comments, strings, numbers and keywords of a few languages.

import { element } from "./dom.js";

const LONGEST = 60_000;
const QUOTED = String.raw`"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
const TRIPLE = String.raw`"""(?:\\[^]|[^\\])*?(?:"""|$)|'''(?:\\[^]|[^\\])*?(?:'''|$)`;
const NUMBER = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]+)?(?:[eE][+-]?\d+)?)\b`;
const PYTHON =
  "and as assert async await break class continue def del elif else except finally for from global if import in is " +
  "lambda nonlocal not or pass raise return try while with yield match case True False None self";
const MOJO = `${PYTHON} fn var struct trait alias comptime inout borrowed owned mut ref out raises let read deinit Self`;
const JAVASCRIPT =
  "async await break case catch class const continue debugger default delete do else export extends finally for from " +
  "function if import in instanceof let new null of return static super switch this throw true try typeof undefined var " +
  "void while yield false interface type enum implements";
const SHELL = "if then elif else fi for in do done while until case esac function return export local set echo cd exit";

const LANGUAGES = new Map(Object.entries({
  python: language(String.raw`#[^\n]*`, `${TRIPLE}|${QUOTED}`, PYTHON),
  mojo: language(String.raw`#[^\n]*`, `${TRIPLE}|${QUOTED}`, MOJO),
  javascript: language(String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`, `${QUOTED}|${"`(?:\\\\[^]|[^`\\\\])*`?"}`, JAVASCRIPT),
  json: language("(?!)", QUOTED, "true false null"),
  bash: language(String.raw`(?<![\w$])#[^\n]*`, String.raw`"(?:\\[^]|[^"\\])*"?|'[^']*'?`, SHELL),
}));
const ALIASES = new Map([
  ["py", "python"],
  ["js", "javascript"],
  ["ts", "javascript"],
  ["typescript", "javascript"],
  ["sh", "bash"],
  ["shell", "bash"],
]);

function language(comment, string, keywords) {
  const words = new Set(keywords.split(" "));
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${string})|(?<number>${NUMBER})|(?<word>[A-Za-z_]\\w*)`, "g");
  return { pattern, words };
}

/**
 * Colours code.
 * @param {string} text - the code.
 * @param {string} name - its language; one that is not known stays plain.
 * @returns {(Node|string)[]} its parts.
 */
export function highlighted(text, name) {
  const known = LANGUAGES.get(ALIASES.get(name) ?? name);
  if (!known || text.length > LONGEST) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(known.pattern)) {
    const kind = kindOf(match, text, known.words);
    if (!kind) continue;
    nodes.push(text.slice(end, match.index), element("span", { className: `code-${kind}` }, match[0]));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}

function kindOf({ groups, index, 0: found }, text, words) {
  if (groups.word === undefined) return Object.keys(groups).find((kind) => groups[kind] !== undefined);
  if (words.has(found)) return "keyword";
  return text[index + found.length] === "(" ? "call" : null;
}
