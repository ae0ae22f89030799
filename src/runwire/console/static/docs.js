// A page of the documentation, from its Markdown.

import { renderBlock, safeLink, splitBlocks } from "./markdown.js";

const root = new URL(".", import.meta.url);
const docs = new URL("docs/", root);
const FOLDERS = {
  tutorial: "Learn", "how-to": "Get something done", reference: "Look it up", explanation: "Understand", adr: "Decisions",
};

const name = decodeURIComponent(location.pathname.slice(docs.pathname.length)).replace(/\.md$/, "") || "README";
const [pages, text] = await Promise.all([load("index.json", "json"), load(`${name}.md`, "text")]);

for (const [folder, title] of Object.entries(FOLDERS)) {
  const found = (pages ?? []).filter((page) => page.path.startsWith(`${folder}/`));
  if (!found.length) continue;
  const heading = document.createElement("h2");
  heading.textContent = title;
  const list = document.createElement("ul");
  for (const page of found) {
    const anchor = document.createElement("a");
    anchor.href = new URL(page.path, docs);
    anchor.textContent = page.title;
    if (page.path === name) anchor.setAttribute("aria-current", "page");
    const item = document.createElement("li");
    item.append(anchor);
    list.append(item);
  }
  document.getElementById("nav").append(heading, list);
}

const article = document.getElementById("text");
for (const block of splitBlocks(text ?? `# No such page\n\nThere is no page \`${name}\`. [All pages](README.md)`)) {
  article.append(renderBlock(block, link));
}
const title = article.querySelector("h2")?.textContent;
if (title) document.title = `${title} · Runwire`;
document.getElementById("nav").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
// The target was not there when the browser looked for it.
if (location.hash) location.replace(location.hash);

/** Links between pages are links between files; here the suffix goes. */
function link(href) {
  const url = safeLink(href, new URL(`${name}.md`, docs));
  return url?.startsWith(docs.href) ? url.replace(/\.md(#|$)/, "$1").replace(/\/README(#|$)/, "/$1") : url;
}

async function load(path, as) {
  const answer = await fetch(new URL(path, docs)).catch(() => null);
  return answer?.ok ? answer[as]() : null;
}
