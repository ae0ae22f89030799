// The list of threads: names come from the server's titles, else from each thread's first message.

import { keep, recall } from "./session.js";
import { make } from "./timeline.js";
import { titleOf } from "./view.js";

const STORE = "runwire.titles";
const LISTED = 50; // threads; so many first messages are asked for at most, one at a time, and only of those in sight

export class Threads {
  /**
   * @param {HTMLElement} list where threads go
   * @param {(path: string) => Promise<any>} get asks the server for JSON; null: not to be had
   */
  constructor(list, get) {
    this.list = list;
    this.get = get;
    this.titles = recall(STORE) ?? {};
    this.current = null;
    this.wanted = []; // threads in sight whose first message is not known
    this.sight = new IntersectionObserver((entries) => this.#seen(entries), { root: list });
  }

  /** Ask for the threads again. */
  async load() {
    const page = await this.get(`v1/threads?limit=${LISTED}`);
    if (page) this.#draw(page.items);
  }

  /** Show which thread is open; null: none. */
  mark(thread) {
    this.current = thread;
    for (const anchor of this.list.querySelectorAll("a")) {
      if (anchor.hash === `#${thread}`) anchor.setAttribute("aria-current", "page");
      else anchor.removeAttribute("aria-current");
    }
  }

  /** Take a thread's first message for its name. */
  name(thread, content) {
    const title = titleOf(content);
    if (!title || this.titles[thread]) return;
    this.titles[thread] = title;
    keep(STORE, this.titles);
    const anchor = this.#anchor(thread);
    if (anchor?.dataset.nameless) show(anchor, title);
  }

  /** Forget everything: somebody else may sign in. */
  clear() {
    this.titles = {};
    keep(STORE, null);
    this.#draw([]);
  }

  #draw(items) {
    this.sight.disconnect();
    this.wanted = [];
    const rows = items.map(({ thread, title, seq, created_at: createdAt }) => {
      const anchor = make("a", { href: `#${thread}` });
      const name = title || this.titles[thread];
      show(anchor, name || new Date(createdAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
      if (!name && seq > 0) {
        anchor.dataset.nameless = "true";
        this.sight.observe(anchor);
      }
      return make("li", {}, anchor);
    });
    this.list.replaceChildren(...rows);
    this.mark(this.current);
  }

  async #seen(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.sight.unobserve(target);
      this.wanted.push(target.hash.slice(1));
    }
    if (this.isAsking) return;
    this.isAsking = true;
    while (this.wanted.length) {
      const thread = this.wanted.shift();
      if (this.titles[thread]) continue;
      // The first message is the thread's event 1. A thread is asked for once: without an answer its date stays.
      const page = await this.get(`v1/threads/${thread}/messages?before=2&limit=1`);
      if (page?.items.length) this.name(thread, page.items[0].content);
    }
    this.isAsking = false;
  }

  #anchor(thread) {
    return [...this.list.querySelectorAll("a")].find((anchor) => anchor.hash === `#${thread}`);
  }
}

function show(anchor, name) {
  anchor.textContent = anchor.title = name;
  delete anchor.dataset.nameless;
}
