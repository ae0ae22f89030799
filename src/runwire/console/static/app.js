// The page: signs in, keeps a connection, and shows one thread at a time.

import { safeLink } from "./markdown.js";
import { ThreadView, connect } from "./runwire.js";
import { Session, SignInFailed, keep, recall, takeLink } from "./session.js";
import { Threads } from "./threads.js";
import { Timeline, make } from "./timeline.js";
import { Rows, contentText, stopHint, waitTitle } from "./view.js";

const link = takeLink(); // before anything else: a link in the address could be copied or logged
const root = new URL(".", document.baseURI);
const at = (id) => document.getElementById(id);

const UNSENT = "runwire.unsent";
const CAUGHT_UP_MS = 4000;
const QUIET_MS = 700; // a catch-up is over when nothing came for this long: the last seqs may be in no view
const NEAR_BOTTOM_PX = 96;
const EVENTS_SHOWN = 400;
const EVENTS_HELD = 20000; // as many as a server replays; older ones leave the list
const RESET_REASON = {
  log_changed: "The server's history has changed, perhaps it was restored from a backup. This is what it has now.",
  too_far_behind: "This thread is long: only its latest run is shown.",
  trimmed: "Older events of this thread are no longer kept.",
};
const STOPPED = {
  4500: "The server did not understand this page: reload it",
  4503: "Access was refused",
  4504: "Too many connections: close another tab, then reload",
  4506: "This page does not fit the server: reload it",
};
const ENDED_WITH_CONNECTION = new Set(["closed", "stopped", "unauthenticated"]);
const HINT = "Enter sends, Shift+Enter starts a new line";
const GUIDE_IDEAS = ["How does resume work?", "What happens when I kill -9 the server?", "How do I write my own agent?", "How do I create an API key?"];

class Page {
  constructor() {
    this.session = new Session(root);
    this.client = null; // while signed in
    this.live = null; // the thread shown, kept up to date by the client; null: a new one that has no id yet
    this.rows = new Rows(new ThreadView());
    this.timeline = new Timeline(at("timeline"), {
      link: (href) => this.#linkTo(href),
      blob: (ref) => this.session.get(`v1/blobs/${ref}`),
      cancel: (run) => this.#cancel(run),
      answer: (run, wait, value) => this.#answer(run, wait, value),
      retry: (run) => this.#retry(run),
    });
    this.threads = new Threads(at("threads"), (path) => this.session.get(path));
    this.events = []; // raw events of the thread, as they were applied
    // Sends that are not acknowledged, or not yet in the view; those from before a reload too, with their keys.
    this.pending = new Set((recall(UNSENT) ?? []).map((item) => ({ ...item, shown: null, message: null, isInFlight: false })));
    this.shown = 0; // number of this view: a thread, or a new one that has no id yet
    this.catchUp = null;
    this.olderThan = null; // seq before which there are messages that are not shown
    this.eventsDrawn = 0;
    this.agents = [];
    this.sticks = true;
    this.#wire();
  }

  async begin() {
    if (link !== null) {
      try {
        await this.session.signIn({ link });
      } catch (error) {
        if (!this.session.isSignedIn) return this.#askToSignIn(messageOf(error));
      }
    }
    if (!this.session.isSignedIn) return this.#askToSignIn();
    this.#signedIn();
  }

  // ---- signing in

  #askToSignIn(error = "") {
    at("sign-in").hidden = false;
    at("frame").inert = true;
    at("sign-in-error").hidden = error === "";
    at("sign-in-error").textContent = error;
    at("sign-out").hidden = true;
    this.#status(...(this.lastUser ? ["expired", "Session expired: sign in"] : ["signed-out", "Signed out"]));
    at("user").focus();
    this.#offerIssuers();
  }

  async #offerIssuers() {
    const names = await this.session.issuers();
    const links = names.map((name) =>
      make("a", { class: "quiet", text: `Sign in with ${name}`, href: new URL(`auth/external/${name}/start`, root).href }),
    );
    at("issuers").replaceChildren(...links);
    at("issuers").hidden = links.length === 0;
  }

  #signedIn() {
    at("sign-in").hidden = true;
    at("frame").inert = false;
    at("sign-out").hidden = false;
    if (this.lastUser && this.lastUser !== this.session.user) {
      history.replaceState(null, "", location.pathname);
      this.threads.clear();
    }
    this.lastUser = this.session.user;
    this.#connect();
    const thread = threadInAddress();
    // What was typed before the sign-in was through belongs to this view: it is not begun anew for nothing.
    if (thread !== (this.live?.thread ?? null)) this.#show(thread);
    else if (thread !== null) this.#follow(thread); // the connection that it was followed over has ended
    for (const item of this.pending) {
      item.shown ??= item.thread === thread ? this.shown : -1;
      item.user ??= this.session.user;
      if (item.user === this.session.user) this.#resend(item);
      else this.pending.delete(item); // somebody else's words
    }
    this.#keepUnsent();
    this.#drawSoon();
    this.#loadAgents();
    this.threads.load();
    if (matchMedia("(min-width: 720px)").matches) at("message").focus();
  }

  async #signIn() {
    const button = at("sign-in-form").querySelector("button");
    button.disabled = true;
    try {
      await this.session.signIn({ user: at("user").value.trim(), password: at("password").value });
      at("password").value = "";
      this.#signedIn();
    } catch (error) {
      this.#askToSignIn(messageOf(error));
    } finally {
      button.disabled = false;
    }
  }

  async #signOut() {
    this.#disconnect();
    await this.session.signOut();
    this.lastUser = null;
    history.replaceState(null, "", location.pathname);
    this.#show(null);
    this.threads.clear();
    this.pending.clear();
    this.#keepUnsent();
    this.#askToSignIn();
  }

  // ---- the connection

  #connect() {
    this.#disconnect();
    const client = connect({
      url: root.href,
      client: "runwire-page/1",
      getToken: ({ fresh }) => (fresh ? this.session.refresh() : this.session.token()),
      onState: (state) => { if (this.client === client) this.#showState(state); },
      onNotice: ({ kind }) => { if (kind === "draining") this.#status("reconnecting", "The server is being restarted"); },
    });
    this.client = client;
  }

  #disconnect() {
    const client = this.client;
    this.client = null;
    client?.close();
  }

  /** Whether the client is live or will be again: commands wait for it. */
  get #isConnected() {
    return ["connecting", "live", "reconnecting"].includes(this.client?.state.name);
  }

  get #isLive() {
    return this.client?.state.name === "live";
  }

  /** Show what the client has applied since the last time. */
  #changed(items) {
    this.rows.take(items);
    for (const item of items) {
      if (item.op === "event") this.#applied(item);
      else if (item.op === "subscribed") this.#begun(item);
      else if (item.op === "reset") this.#wasReset(item);
    }
    if (this.live.error) return this.#ended(this.live.error);
    return this.#draw();
  }

  #applied(event) {
    this.events.push(event);
    if (this.events.length > EVENTS_HELD + EVENTS_SHOWN) {
      this.eventsDrawn = Math.max(0, this.eventsDrawn - this.events.splice(0, EVENTS_SHOWN).length);
    }
    if (this.catchUp) {
      this.catchUp.count += 1;
      clearTimeout(this.catchUp.timer);
      if (event.seq >= this.catchUp.head) this.#finishCatchUp(true);
      else this.catchUp.timer = setTimeout(() => this.#finishCatchUp(true), QUIET_MS);
    }
    if (event.type === "user_message") this.#nameThread(event);
    if (event.type === "agent_completed") this.#announceAnswer(event);
    if (event.type === "agent_waiting") this.#announceWait(event);
  }

  #begun(frame) {
    this.#finishCatchUp(false);
    if (frame.head > frame.after) {
      this.catchUp = { head: frame.head, count: 0, timer: setTimeout(() => this.#finishCatchUp(true), 3000) };
    }
  }

  #wasReset(frame) {
    this.#clearEvents();
    this.olderThan = frame.from > 0 ? frame.from + 1 : null;
    this.#tell(RESET_REASON[frame.reason] ?? "The view was reset.");
  }

  #ended(error) {
    if (ENDED_WITH_CONNECTION.has(error.code)) return; // the status says why
    if (error.code === "not_found") this.#open(null);
    this.#tell(error.message);
  }

  #finishCatchUp(isDone) {
    if (!this.catchUp) return;
    clearTimeout(this.catchUp.timer);
    const { count } = this.catchUp;
    this.catchUp = null;
    if (!isDone || count === 0) return;
    this.#status("caught-up", `Caught up ${count} event${count === 1 ? "" : "s"}`);
    clearTimeout(this.caughtUpTimer);
    this.caughtUpTimer = setTimeout(() => { if (this.#isLive) this.#status("live", "Live"); }, CAUGHT_UP_MS);
  }

  // ---- sending

  #send(text) {
    const item = {
      key: randomKey(), text, thread: this.live?.thread ?? null, shown: this.shown, agent: at("agent").value || null, user: this.session.user, message: null, isInFlight: false,
    };
    this.pending.add(item);
    this.#keepUnsent();
    this.sticks = true;
    this.#tell("");
    this.#resend(item);
    this.#drawSoon();
  }

  /** Send what has no answer yet, again after a sign-in; with its key, so nothing starts twice. */
  async #resend(item) {
    if (!this.#isConnected || item.isInFlight || item.message) return;
    if (item.thread === null && item.shown === this.shown && this.live) item.thread = this.live.thread;
    // The second message of a new thread waits until the first one has made it.
    if (item.thread === null && [...this.pending].some((other) => other.isInFlight && other.shown === item.shown && !other.message)) return;
    item.isInFlight = true;
    const { key, thread, agent, text } = item;
    const { client } = this;
    try {
      this.#stored(item, await client.send(text, { key, thread, agent }));
    } catch (error) {
      // The connection ended for good: after the next sign-in once more.
      if (client !== this.client || !this.#isConnected) return;
      this.pending.delete(item);
      this.#tell(error.message);
      if (!at("message").value) this.#write(item.text);
    } finally {
      item.isInFlight = false;
      this.#keepUnsent();
      for (const other of this.pending) this.#resend(other);
      this.#drawSoon();
    }
  }

  /** A reload while the connection is away loses no words. */
  #keepUnsent() {
    const unsent = [...this.pending].filter(({ message }) => message === null);
    keep(UNSENT, unsent.length ? unsent.map(({ key, text, thread, agent, user }) => ({ key, text, thread, agent, user })) : null);
  }

  #stored(item, { thread, message }) {
    item.message = message;
    if (item.shown !== this.shown) {
      this.pending.delete(item); // another thread is shown by now; it has the message
    } else if (this.live === null) {
      history.pushState(null, "", `#${thread}`);
      this.#follow(thread);
    }
    this.threads.mark(this.live?.thread ?? null);
    this.threads.load();
  }

  /** Stop a run; without one named, what Esc and the button Stop mean (see `stopHint`). */
  async #cancel(run = this.rows.activeRun?.run) {
    if (!run || !this.#isConnected || this.rows.isStopping(run)) return;
    const { rows } = this;
    rows.stopping(run, true);
    this.#drawSoon();
    try {
      await this.client.cancel(run);
    } catch (error) {
      rows.stopping(run, false);
      if (rows === this.rows) this.#tell(error.message);
      this.#drawSoon();
    }
  }

  /** Answer a wait; a lost connection repeats it. Another tab may have been first: then the card closes, and it is said. */
  async #answer(run, wait, value) {
    const { client, rows } = this;
    if (!this.#isConnected) return;
    rows.answering(run, wait);
    this.#tell("");
    this.#drawSoon();
    try {
      await client.answer(run, wait, value);
    } catch (error) {
      rows.answering(run, wait, false);
      if (rows === this.rows && client === this.client && this.#isConnected) this.#tell(error.message);
      this.#drawSoon();
    }
  }

  /** Start a run with the message of one that failed. */
  async #retry(run) {
    const { client, rows } = this;
    if (!this.#isConnected) return;
    rows.retrying(run);
    this.#tell("");
    this.#drawSoon();
    this.sticks = true;
    try {
      await client.retry(run);
    } catch (error) {
      rows.retrying(run, false);
      if (rows === this.rows && client === this.client && this.#isConnected) this.#tell(error.message);
      this.#drawSoon();
    }
  }

  // ---- threads

  #open(thread) {
    history.pushState(null, "", thread ? `#${thread}` : location.pathname);
    this.#show(thread);
  }

  #show(thread) {
    this.shown += 1;
    this.#finishCatchUp(false);
    this.#unfollow();
    this.sticks = true;
    this.#tell("");
    if (thread) this.#follow(thread);
    this.threads.mark(thread);
    this.#toggleSide(false);
    this.#drawSoon();
  }

  #follow(thread) {
    this.#unfollow();
    if (!this.client) return;
    const live = this.client.view(thread);
    this.live = live;
    this.rows = new Rows(live.state);
    live.onChange((items) => { if (live === this.live) this.#changed(items); });
  }

  #unfollow() {
    this.live?.close();
    this.live = null;
    this.rows = new Rows(new ThreadView());
    this.#clearEvents();
  }

  #clearEvents() {
    this.events = [];
    this.olderThan = null;
    this.eventsDrawn = 0;
    at("events-list").replaceChildren();
  }

  #nameThread(event) {
    const { value: first } = this.live.state.messages.values().next();
    if (first?.seq === event.seq) this.threads.name(this.live.thread, event.data.content);
  }

  async #loadEarlier() {
    const { shown } = this;
    const page = await this.session.get(`v1/threads/${this.live.thread}/messages?before=${this.olderThan}&limit=50`);
    if (!page || shown !== this.shown) return;
    this.rows.putBefore(page.items);
    this.olderThan = page.next_cursor;
    this.sticks = false;
    this.#drawSoon();
  }

  async #loadAgents() {
    const found = await this.session.get("v1/agents");
    this.agents = (found?.items ?? []).map(({ agent, default: isDefault }) => ({ name: agent, isDefault }));
    at("agent-pick").hidden = this.agents.length < 2;
    at("agent").replaceChildren(...(this.agents.length < 2 ? [] : this.agents.map(({ name, isDefault }) =>
      make("option", { value: name, text: name, selected: isDefault }))));
    const isGuide = this.agents.some(({ name }) => /guide/i.test(name));
    if (isGuide) {
      at("empty-title").textContent = "Ask Runwire about itself.";
      at("empty-text").textContent = "The guide answers from the documentation and says so when it has no answer. Watch it think, search and read; reload or cut the network in the middle, and it goes on.";
      at("message").placeholder = "Ask about Runwire";
    }
    at("ideas").replaceChildren(...(isGuide ? GUIDE_IDEAS : []).map((idea) => {
      const button = make("button", { type: "button", class: "idea", text: idea });
      button.addEventListener("click", () => this.#send(idea));
      return button;
    }));
  }

  // ---- drawing

  #drawSoon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    const draw = () => {
      this.isDrawing = false;
      this.#draw();
    };
    // A hidden tab has no animation frames.
    if (document.hidden) setTimeout(draw, 200);
    else requestAnimationFrame(draw);
  }

  #draw() {
    for (const item of this.pending) if (item.message && this.rows.hasMessage(item.message)) this.pending.delete(item);
    this.timeline.draw(this.rows.rows);
    const here = [...this.pending].filter((item) => item.shown === this.shown);
    at("pending").replaceChildren(...here.map((item) => make("li", {}, make("p", { class: "said", text: item.text }), make("span", { class: "who", text: this.#isLive ? "Sending" : "Waits for the connection" }))));
    at("earlier").hidden = this.olderThan === null;
    const run = this.rows.activeRun;
    at("stop").hidden = run === null;
    at("stop").disabled = run?.isStopping === true;
    const hint = stopHint(this.rows);
    at("stop").title = hint;
    at("stop").textContent = run?.isStopping ? "Stopping" : "Stop";
    at("hint").textContent = hint || HINT;
    const waits = run?.status === "waiting";
    at("timeline").setAttribute("aria-busy", String(run !== null && !waits));
    document.body.classList.toggle("is-running", run !== null);
    document.body.classList.toggle("is-waiting-run", waits);
    this.#title(waits && run.isAsking);
    at("empty").hidden = this.live !== null || here.length > 0;
    at("scroll").hidden = !at("empty").hidden;
    if (!at("events").hidden) this.#drawEvents();
    at("events-count").textContent = this.events.length ? `${this.events.length}` : "";
    if (this.sticks) this.#toLatest();
  }

  #drawEvents() {
    const list = at("events-list");
    const from = Math.max(this.eventsDrawn, this.events.length - EVENTS_SHOWN);
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_BOTTOM_PX;
    for (const event of this.events.slice(from)) {
      const time = new Date(event.ts).toLocaleTimeString([], { hour12: false });
      list.append(make("details", { class: "event" },
        make("summary", {}, make("span", { class: "event-seq", text: `${event.seq}` }), make("span", { class: "event-type", text: event.type }), make("time", { text: time })),
        make("pre", { text: JSON.stringify(event, null, 2) })));
    }
    while (list.childElementCount > EVENTS_SHOWN) list.firstChild.remove();
    this.eventsDrawn = this.events.length;
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  #toLatest() {
    const scroll = at("scroll");
    at("jump").hidden = true;
    scroll.scrollTop = scroll.scrollHeight;
  }

  /** The view has another size (a window, Events, a longer message field): who saw the end still sees it. */
  #resized() {
    const { clientWidth, clientHeight } = at("scroll");
    this.size = `${clientWidth} ${clientHeight}`;
    if (this.sticks) this.#toLatest();
    else this.#scrolled();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientWidth, clientHeight } = at("scroll");
    if (this.size !== `${clientWidth} ${clientHeight}`) return; // nobody scrolled: the text runs anew, see #resized
    this.sticks = scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
    at("jump").hidden = this.sticks;
  }

  #showState(state) {
    clearInterval(this.countdown);
    clearTimeout(this.caughtUpTimer);
    at("try-now").hidden = state.name !== "reconnecting" || state.retryAt === null;
    if (state.name === "live") return this.#status("live", "Live");
    if (state.name === "connecting") return this.#status("connecting", "Connecting");
    if (state.name === "expired") {
      this.session.forget();
      this.#drawSoon();
      return this.#askToSignIn(state.code === 4507 ? "Access was withdrawn." : "");
    }
    if (state.name === "stopped") return this.#status("stopped", STOPPED[state.code] ?? state.reason ?? "The server ended the connection");
    this.#finishCatchUp(false);
    this.#status("reconnecting", `Reconnecting, attempt ${state.attempt}`);
    if (state.retryAt !== null) {
      const tick = () => {
        const seconds = Math.ceil((state.retryAt - Date.now()) / 1000);
        at("status").dataset.countdown = seconds > 0 ? `in ${seconds} s` : "";
      };
      tick();
      this.countdown = setInterval(tick, 250);
    }
    return this.#drawSoon();
  }

  #status(state, text) {
    at("status").dataset.state = state;
    delete at("status").dataset.countdown;
    if (at("status-text").textContent !== text) at("status-text").textContent = text;
  }

  /** Say something about the last command, above the message field; empty takes it away. */
  #tell(text) {
    let line = at("told");
    if (!line && text) at("composer").prepend((line = make("p", { id: "told", class: "told", role: "alert" })));
    if (line) text ? (line.textContent = text) : line.remove();
  }

  #announceAnswer(event) {
    // Words of a stream are no live region; the whole answer is said once.
    if (this.catchUp) return;
    const message = this.rows.rows.findLast((row) => row.run === event.run && row.kind === "message");
    if (message) at("announce").textContent = `Answer: ${message.text}`;
  }

  #announceWait({ run, data }) {
    if (this.catchUp || data.kind === "timer") return;
    const row = this.rows.openWaits.find((wait) => wait.run === run && wait.wait === data.wait);
    if (row) at("announce").textContent = `${waitTitle(row)}: ${contentText(row.prompt)}`;
  }

  /** A tab in the background tells that somebody is waited for. */
  #title(isAsked) {
    const title = isAsked ? "● Runwire waits for you" : "Runwire";
    if (document.title !== title) document.title = title;
  }

  #linkTo(href) {
    // The guide's links are absolute in the server; below a path prefix they are not absolute in the address.
    return safeLink(href.startsWith("/docs/") ? href.slice(1) : href, root);
  }

  #write(text) {
    const field = at("message");
    field.value = text;
    fit(field);
  }

  #toggleSide(isOpen) {
    document.body.classList.toggle("side-open", isOpen);
    at("menu").setAttribute("aria-expanded", String(isOpen));
  }

  #toggleEvents(isOpen) {
    at("events").hidden = !isOpen;
    at("events-toggle").setAttribute("aria-expanded", String(isOpen));
    document.body.classList.toggle("events-open", isOpen);
    if (!isOpen) return at("events-toggle").focus();
    this.eventsDrawn = 0;
    at("events-list").replaceChildren();
    this.#drawEvents();
    at("events-list").scrollTop = at("events-list").scrollHeight;
    return undefined;
  }

  #wire() {
    const field = at("message");
    at("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (!text) return;
      this.#write("");
      this.#send(text);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        at("composer").requestSubmit();
      }
    });
    field.addEventListener("input", () => fit(field));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      if (document.body.classList.contains("side-open")) this.#toggleSide(false);
      else if (!at("events").hidden && at("events").contains(document.activeElement)) this.#toggleEvents(false);
      else this.#cancel();
    });
    at("stop").addEventListener("click", () => this.#cancel());
    at("new-thread").addEventListener("click", () => {
      this.#open(null);
      field.focus();
    });
    at("menu").addEventListener("click", () => this.#toggleSide(!document.body.classList.contains("side-open")));
    at("events-toggle").addEventListener("click", () => this.#toggleEvents(at("events").hidden));
    at("events-close").addEventListener("click", () => this.#toggleEvents(false));
    at("events-copy").addEventListener("click", () => navigator.clipboard?.writeText(this.events.map((event) => JSON.stringify(event)).join("\n")));
    at("earlier").addEventListener("click", () => this.#loadEarlier());
    at("try-now").addEventListener("click", () => this.client?.reconnectNow());
    at("sign-out").addEventListener("click", () => this.#signOut());
    at("sign-out-narrow").addEventListener("click", () => this.#signOut());
    at("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#signIn();
    });
    at("jump").addEventListener("click", () => {
      this.sticks = true;
      this.#toLatest();
    });
    at("scroll").addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#resized()).observe(at("scroll"));
    addEventListener("popstate", () => {
      if (this.session.isSignedIn && threadInAddress() !== (this.live?.thread ?? null)) this.#show(threadInAddress());
    });
  }
}

function threadInAddress() {
  return /^#([A-Za-z0-9_]{1,64})$/.exec(location.hash)?.[1] ?? null;
}

function randomKey() {
  // crypto.randomUUID is missing where the page is served over plain HTTP from another machine.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function messageOf(error) {
  return error instanceof SignInFailed ? error.message : "Something went wrong in this page; see its console.";
}

function fit(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, innerHeight * 0.4)}px`;
}

new Page().begin();
