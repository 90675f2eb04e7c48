// The blocks of a Markdown text: what is a heading, a list, a table. Knows nothing of the document.

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
// A number with nothing behind it, as in "252.", is an answer, not a list.
const ITEM = /^( {0,3})([-*+](?= |$)|\d{1,9}[.)](?= +\S))( *)/;
const DEEPEST = 12;

/**
 * Splits a text; an end that is missing, as while it streams, is taken as being at the end.
 * @returns {object[]} blocks {kind, ...}, each with the `source` it was made of.
 */
export function parseBlocks(text) {
  return blocksOf(text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n"), 0);
}

function blocksOf(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const { end, ...block } = blockAt(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const heading = HEADING.exec(line);
  if (FENCE.test(line)) return fence(lines, at);
  if (heading) return { kind: "heading", level: heading[1].length, text: withoutHashes(heading[2] ?? ""), end: at + 1 };
  if (RULE.test(line)) return { kind: "rule", end: at + 1 };
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  return (isTable(lines, at) && table(lines, at)) || paragraph(lines, at, depth);
}

function fence(lines, at) {
  const [, ticks, info] = FENCE.exec(lines[at]);
  const indent = lines[at].search(/\S/);
  const code = [];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const trimmed = lines[end].trim();
    if (trimmed.length >= ticks.length && trimmed === ticks[0].repeat(trimmed.length)) break;
    code.push(lines[end].slice(Math.min(indent, lines[end].search(/\S|$/))));
  }
  return { kind: "code", language: info.trim().split(/\s/)[0].toLowerCase(), text: code.join("\n"), end: Math.min(end + 1, lines.length) };
}

function withoutHashes(text) {
  const trimmed = text.trim();
  let end = trimmed.length;
  while (trimmed[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(trimmed[end - 1]) ? trimmed.slice(0, end).trimEnd() : trimmed;
}

function quote(lines, at, depth) {
  const inside = [];
  let end = at;
  for (; end < lines.length && lines[end].trim() !== ""; end += 1) {
    if (!QUOTE.test(lines[end]) && beginsBlock(lines, end, depth)) break;
    inside.push(lines[end].replace(QUOTE, ""));
  }
  return { kind: "quote", blocks: blocksOf(inside, depth + 1), end };
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const kind = first[2].at(-1);
  const items = [];
  let loose = false;
  let end = at;
  while (end < lines.length) {
    const marker = ITEM.exec(lines[end]);
    if (!marker || marker[2].at(-1) !== kind || RULE.test(lines[end])) break;
    const item = itemAt(lines, end, marker, depth);
    loose ||= item.loose || (item.blankAfter && ITEM.exec(lines[item.end] ?? "")?.[2].at(-1) === kind);
    items.push(blocksOf(item.lines, depth + 1));
    end = item.end;
  }
  return { kind: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items, loose, end };
}

/** One item's lines, less its marker and indentation. */
function itemAt(lines, at, marker, depth) {
  const space = marker[3].length > 4 ? 1 : marker[3].length || 1;
  const indent = marker[1].length + marker[2].length + space;
  const inside = [lines[at].slice(indent)];
  let end = at + 1;
  let blanks = 0;
  let loose = false;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (line.trim() === "") {
      blanks += 1;
      continue;
    }
    // Nested items are taken from two spaces on, as models indent them below "1." too.
    const depthOf = line.search(/\S/);
    const nested = depthOf >= 2 && depthOf > marker[1].length + 1 && ITEM.test(line.trimStart());
    if (depthOf < indent && !nested && (blanks > 0 || ITEM.test(line) || beginsBlock(lines, end, depth))) break;
    loose ||= blanks > 0 && depthOf >= indent && !ITEM.test(line.trimStart());
    inside.push(...Array(blanks).fill(""), line.slice(Math.min(indent, depthOf)));
    blanks = 0;
  }
  return { lines: inside, end, loose, blankAfter: blanks > 0 };
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").split(/(?<!\\)\|/);
  if (cells.length > 1 && cells.at(-1).trim() === "") cells.pop();
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || !(lines[at + 1] ?? "").includes("-")) return false;
  const dashes = cellsOf(lines[at + 1]);
  return dashes.every((cell) => /^:?-+:?$/.test(cell)) && dashes.length === cellsOf(lines[at]).length;
}

function table(lines, at) {
  const align = cellsOf(lines[at + 1]).map((cell) =>
    cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left",
  );
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].trim() !== "" && lines[end].includes("|"); end += 1) {
    const cells = cellsOf(lines[end]);
    rows.push(align.map((_, column) => cells[column] ?? ""));
  }
  return { kind: "table", align, header: cellsOf(lines[at]), rows, end };
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !beginsBlock(lines, end, depth)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim());
  return { kind: "paragraph", text: text.join("\n"), end };
}

/** Whether a line ends a paragraph above it. */
function beginsBlock(lines, at, depth) {
  const line = lines[at];
  const item = depth < DEEPEST && ITEM.exec(line);
  // "1986. A year" within a paragraph is no list.
  const begins = item && item[3] !== "" && (!/\d/.test(item[2]) || /^1[.)]$/.test(item[2]));
  const other = FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEEPEST && QUOTE.test(line));
  return begins || other || isTable(lines, at);
}
