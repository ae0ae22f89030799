// A page of the documentation, from its Markdown.

import { renderBlock, safeLink, slug, splitBlocks } from "./markdown.js";

const root = new URL(".", import.meta.url);
const docs = new URL("docs/", root);
const FOLDERS = {
  tutorial: "Learn", "how-to": "Get something done", reference: "Look it up", explanation: "Understand", adr: "Decisions",
};

const name = decoded(location.pathname.slice(docs.pathname.length)).replace(/(\.md|\/+)$/, "") || "README";
const menu = document.getElementById("menu");
const nav = document.getElementById("nav");
menu.addEventListener("click", () => open(!document.body.classList.contains("side-open")));
document.getElementById("page").addEventListener("click", () => open(false));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("side-open")) return;
  open(false);
  menu.focus();
});

const pages = (await load("index.json", "json")) ?? [];
// Only what is there is asked for: a page that is not there needs no failed request to know it.
const text = pages.some((page) => page.path === name) ? await load(`${name}.md`, "text") : null;

for (const [folder, title] of Object.entries(FOLDERS)) {
  const found = pages.filter((page) => page.path.startsWith(`${folder}/`));
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
  nav.append(heading, list);
}

const article = document.getElementById("text");
for (const block of splitBlocks(text ?? folder() ?? missing())) {
  article.append(renderBlock(block, link));
}
for (const heading of article.querySelectorAll("h2, h3, h4, h5, h6")) heading.id = slug(heading.textContent);
const title = article.querySelector("h2")?.textContent;
if (title) document.title = `${title} · Runwire`;
nav.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
// The target was not there when the browser looked for it.
if (location.hash) location.replace(location.hash);

/** A folder's pages as a list; null if there is no such folder. */
function folder() {
  const found = pages.filter((page) => page.path.startsWith(`${name}/`));
  if (!found.length) return null;
  const list = found.map((page) => `- [${page.title}](${docs.href}${page.path})`).join("\n");
  return `# ${FOLDERS[name] ?? name}\n\n${list}`;
}

/** What to say of a page that is not there: those whose names are like it, and where all are. */
function missing() {
  const words = name.toLowerCase().split(/[^a-z0-9]+/).filter((word) => word.length > 2);
  const alike = pages.filter((page) => page.path !== "README" && words.some((word) => `${page.path} ${page.title}`.toLowerCase().includes(word))).slice(0, 5);
  return [
    "# No such page",
    `The documentation has no page \`${name.replace(/[`\s]+/g, " ").slice(0, 100)}\`.`,
    ...(alike.length ? ["Perhaps one of these:", alike.map((page) => `- [${page.title}](${docs.href}${page.path})`).join("\n")] : []),
    `[All pages](${docs.href}) are listed by what you need, and the [agent](${root.href}) can be asked.`,
  ].join("\n\n");
}

function open(isOpen) {
  document.body.classList.toggle("side-open", isOpen);
  menu.setAttribute("aria-expanded", String(isOpen));
  if (isOpen) nav.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function decoded(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path; // a stray % in the address
  }
}

/** Links between pages are links between files; here the suffix goes. Files outside of docs/, such as tests, are not served. */
function link(href) {
  const url = safeLink(href, new URL(`${name}.md`, docs));
  if (href.startsWith("../") && !url?.startsWith(docs.href)) {
    return null;
  }
  return url?.startsWith(docs.href) ? url.replace(/\.md(#|$)/, "$1").replace(/\/README(#|$)/, "/$1") : url;
}

async function load(path, as) {
  const answer = await fetch(new URL(path, docs)).catch(() => null);
  return answer?.ok ? answer[as]() : null;
}
