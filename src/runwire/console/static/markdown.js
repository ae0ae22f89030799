// Markdown to DOM nodes, by createElement only: text is never parsed as HTML.

const FENCE = /^\s*(```+|~~~+)\s*([\w+-]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

// Of what nobody writes by hand only the text is shown: patterns that go back over a line of 60,000 signs, or quotes in
// quotes as deep, would stop the page.
const MAX_LINE = 2000;
const MAX_DEPTH = 8;

/** Split a text into its blocks; streaming changes only the last one. */
export function splitBlocks(text) {
  const blocks = [];
  let lines = [];
  let fence = null;
  const close = () => {
    if (lines.length) blocks.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const isPlain = line.length > MAX_LINE;
    const mark = isPlain ? null : FENCE.exec(line);
    if (fence) {
      lines.push(line);
      if (mark && mark[1].startsWith(fence) && line.trim() === mark[1]) {
        fence = null;
        close();
      }
    } else if (mark) {
      close();
      fence = mark[1];
      lines.push(line);
    } else if (!line.trim()) {
      close();
    } else if (!isPlain && (HEADING.test(line) || RULE.test(line))) {
      close();
      lines.push(line);
      close();
    } else {
      if (lines.length === 1 && !isPlain && ITEM.test(line) && !ITEM.test(lines[0]) && !line.startsWith(" ")) close();
      lines.push(line);
    }
  }
  close();
  return blocks;
}

/** Render one block. `link(href)` maps a link's address to the one to show, or null for none. */
export function renderBlock(block, link, depth = 0) {
  const lines = block.split("\n");
  const fence = lines[0].length > MAX_LINE ? null : FENCE.exec(lines[0]);
  if (fence) return codeBlock(lines, fence); // whose lines may be of any length
  if (depth === MAX_DEPTH || lines.some((line) => line.length > MAX_LINE)) return inlined("p", lines.join(" "), link);
  const heading = HEADING.exec(lines[0]);
  if (heading && lines.length === 1) return headingBlock(heading, link);
  if (RULE.test(lines[0]) && lines.length === 1) return document.createElement("hr");
  if (lines.length > 1 && lines[0].includes("|") && TABLE_RULE.test(lines[1])) return table(lines, link);
  if (ITEM.test(lines[0])) return list(lines, link);
  if (lines.every((line) => line.startsWith(">"))) {
    const quote = document.createElement("blockquote");
    const inner = lines.map((line) => line.replace(/^>\s?/, "")).join("\n");
    for (const part of splitBlocks(inner)) quote.append(renderBlock(part, link, depth + 1));
    return quote;
  }
  return inlined("p", lines.join(" "), link);
}

/** A link's address if a page may offer it: http, https or relative; null otherwise. */
export function safeLink(href, base) {
  try {
    const url = new URL(href, base);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** The anchor of a heading in the documentation, as its links have it. */
export function slug(title) {
  return title.toLowerCase().replace(/[`*]/g, "").replace(/[^\p{L}\p{N}_\- ]/gu, "").replaceAll(" ", "-");
}

function codeBlock(lines, fence) {
  const figure = document.createElement("figure");
  figure.className = "code";
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  const code = document.createElement("code");
  const isClosed = lines.length > 1 && lines.at(-1).trim() === fence[1];
  code.textContent = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  pre.append(code);
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy";
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(code.textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  figure.append(pre, copy);
  if (fence[2]) figure.dataset.language = fence[2];
  return figure;
}

function headingBlock([, marks, title], link) {
  // The page has its own h1: an answer's headings begin below it.
  // No id: an answer with the heading "Message" would be found in place of the message field.
  return inlined(`h${Math.min(marks.length + 1, 6)}`, title, link);
}

function list(lines, link) {
  const root = document.createElement(/^\s*\d/.test(lines[0]) ? "ol" : "ul");
  const open = [{ indent: 0, element: root }];
  let text = [];
  let item = null;
  const close = () => {
    if (item) item.prepend(...inline(text.join(" "), link));
    text = [];
  };
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (!match) {
      text.push(line.trim());
      continue;
    }
    close();
    const indent = match[1].length;
    while (open.length > 1 && indent < open.at(-1).indent) open.pop();
    if (item && indent > open.at(-1).indent + 1 && open.length < MAX_DEPTH) {
      const nested = document.createElement(/\d/.test(match[2]) ? "ol" : "ul");
      item.append(nested);
      open.push({ indent, element: nested });
    }
    item = document.createElement("li");
    open.at(-1).element.append(item);
    text = [match[3]];
  }
  close();
  const start = /^\s*(\d+)/.exec(lines[0]);
  if (start && start[1] !== "1") root.start = Number(start[1]);
  return root;
}

function table(lines, link) {
  const frame = document.createElement("div");
  frame.className = "table";
  frame.tabIndex = 0;
  const element = document.createElement("table");
  const head = element.createTHead().insertRow();
  for (const cell of cells(lines[0])) {
    const th = inlined("th", cell, link);
    th.scope = "col";
    head.append(th);
  }
  const body = element.createTBody();
  for (const line of lines.slice(2)) {
    const row = body.insertRow();
    for (const cell of cells(line)) row.append(inlined("td", cell, link));
  }
  frame.append(element);
  return frame;
}

function cells(line) {
  const trimmed = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  const found = [""];
  let inCode = false;
  for (let at = 0; at < trimmed.length; at += 1) {
    if (trimmed[at] === "\\" && trimmed[at + 1] === "|") found[found.length - 1] += trimmed[(at += 1)];
    else if (trimmed[at] === "|" && !inCode) found.push("");
    else {
      if (trimmed[at] === "`") inCode = !inCode;
      found[found.length - 1] += trimmed[at];
    }
  }
  return found.map((cell) => cell.trim());
}

function inlined(tag, text, link) {
  const element = document.createElement(tag);
  element.append(...inline(text, link));
  return element;
}

// `code`, **strong**, *emphasis*, [text](address) and bare addresses; everything else is text.
const SPAN = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?\S?)\*\*|(?<![\w*])[*_](?=\S)([^*_]+?)[*_](?![\w*])|!?\[([^\]]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)|https?:\/\/[^\s<>()[\]`"']*[^\s<>()[\]`"'.,;:!?]/g;
const MAX_INLINE = 10000; // a paragraph longer than this is shown as plain text

function inline(text, link) {
  if (text.length > MAX_INLINE) return [document.createTextNode(text)];
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(SPAN)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    nodes.push(span(match, link));
    at = match.index + match[0].length;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

function span([whole, ticks, code, strong, emphasis, label, address], link) {
  if (ticks) {
    const element = document.createElement("code");
    element.textContent = code.length > 2 && code.startsWith(" ") && code.endsWith(" ") ? code.slice(1, -1) : code;
    return element;
  }
  if (strong !== undefined) return inlined("strong", strong, link);
  if (emphasis !== undefined) return inlined("em", emphasis, link);
  const href = link(address ?? whole);
  if (href === null) return label ?? whole;
  const anchor = address === undefined ? document.createElement("a") : inlined("a", label, () => null);
  if (address === undefined) anchor.textContent = whole;
  anchor.href = href;
  if (new URL(href, document.baseURI).origin !== location.origin) {
    anchor.target = "_blank";
    anchor.rel = "noopener noreferrer";
  }
  return anchor;
}
