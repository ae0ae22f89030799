// The shell around the rules of client.js: one socket at a time, kept alive, opened again when it is lost.

import { afterClose, reconnectDelay } from "./client.js";

const CLIENT = "runwire-page/1";

/**
 * Calls `on.state({name, attempt, untilMs, code, reason})` with name connecting | live | reconnecting |
 * stopped | expired, `on.welcome(frame)` after each sign-in of a socket, and `on.frame(frame)` for the rest.
 */
export class Link {
  constructor({ root, session, on }) {
    this.url = new URL("v1/ws", root);
    this.url.protocol = this.url.protocol === "https:" ? "wss:" : "ws:";
    this.session = session;
    this.on = on;
    this.socket = null;
    this.attempt = 0;
    this.commands = 0;
    this.timers = {};
    this.bye = null;
    this.isWelcome = false;
    addEventListener("online", () => this.now());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.now(); });
  }

  /** Begin; also after a stop, with a new session. */
  start() {
    this.attempt = 0;
    this.stop();
    this.#open();
  }

  /** Close for good, until `start`. */
  stop() {
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
    this.timers = {};
    const socket = this.socket;
    this.socket = null;
    this.isWelcome = false;
    socket?.close(1000);
  }

  /** Try at once instead of waiting for the countdown. */
  now() {
    if (this.timers.reconnect === undefined) return;
    clearTimeout(this.timers.reconnect);
    this.timers.reconnect = undefined;
    this.#open();
  }

  /** Send a frame if the socket is signed in; say whether it went out. */
  send(frame) {
    if (!this.isWelcome || this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(frame));
    return true;
  }

  nextId() {
    this.commands += 1;
    return String(this.commands);
  }

  async #open() {
    this.on.state({ name: this.attempt ? "reconnecting" : "connecting", attempt: this.attempt, untilMs: null });
    let token;
    try {
      token = await this.session.token();
    } catch {
      return this.#again(0);
    }
    if (token === null) return this.on.state({ name: "expired" });
    const socket = new WebSocket(this.url, ["runwire.v1"]);
    this.socket = socket;
    this.bye = null;
    socket.onopen = () => socket.send(JSON.stringify({ op: "hello", token, client: CLIENT }));
    socket.onmessage = ({ data }) => { if (socket === this.socket) this.#receive(data); };
    socket.onclose = ({ code }) => { if (socket === this.socket) this.#closed(code); };
    // A server that accepts and then says nothing must not leave us waiting for ever.
    this.#expectLife(15000);
  }

  #receive(data) {
    const decoded = JSON.parse(data);
    for (const frame of Array.isArray(decoded) ? decoded : [decoded]) {
      if (frame.op === "welcome") this.#welcome(frame);
      else if (frame.op === "ping") this.send({ op: "pong" });
      else if (frame.op === "bye") this.bye = frame;
      else if (frame.op === "notice" && frame.kind === "token_expiring") this.#refresh();
      else this.on.frame(frame);
    }
    this.#expectLife();
  }

  #welcome(frame) {
    this.isWelcome = true;
    this.attempt = 0;
    this.lifeMs = (frame.ping_s + frame.pong_s) * 1000;
    this.#refreshInTime();
    this.on.state({ name: "live" });
    this.on.welcome(frame);
  }

  #expectLife(ms = this.lifeMs) {
    clearTimeout(this.timers.life);
    this.timers.life = setTimeout(() => {
      const socket = this.socket;
      this.#closed(4012);
      socket?.close();
    }, ms);
  }

  #refreshInTime() {
    clearTimeout(this.timers.refresh);
    this.timers.refresh = setTimeout(() => this.#refresh(), Math.min(this.session.refreshInMs, 2 ** 31 - 1));
  }

  async #refresh() {
    try {
      const token = await this.session.refresh();
      if (token === null) return this.#expired();
      this.send({ op: "refresh", id: this.nextId(), token });
      this.#refreshInTime();
    } catch {
      this.timers.refresh = setTimeout(() => this.#refresh(), 5000); // the server does not answer: later
    }
  }

  #expired() {
    this.stop();
    this.on.state({ name: "expired" });
  }

  async #closed(closeCode) {
    const bye = this.bye;
    const code = bye?.code ?? closeCode;
    this.stop();
    this.on.lost?.(code);
    const action = afterClose(code);
    if (action === "stop") {
      if (code === 4501 || code === 4507) {
        this.session.forget();
        return this.on.state({ name: "expired", code, reason: bye?.reason });
      }
      return this.on.state({ name: "stopped", code, reason: bye?.reason });
    }
    if (action === "refresh") {
      const token = await this.session.refresh().catch(() => undefined);
      if (token === null) return this.on.state({ name: "expired", code });
    }
    return this.#again(bye?.after_s ?? 0);
  }

  #again(afterS) {
    this.attempt += 1;
    const delay = reconnectDelay(this.attempt, { random: Math.random(), afterS });
    this.on.state({ name: "reconnecting", attempt: this.attempt, untilMs: performance.now() + delay });
    this.timers.reconnect = setTimeout(() => {
      this.timers.reconnect = undefined;
      this.#open();
    }, delay);
  }
}
