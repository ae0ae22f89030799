// The client half of the protocol's rules (PROTOCOL §1 and §4), pure: no socket, no clock, no page.

/** What a client must do after a close code: the range says it. */
export function afterClose(code) {
  if (code === 4005) return "refresh"; // the token expired: refresh first, then reconnect
  if (code >= 4500 && code <= 4999) return "stop";
  return "reconnect"; // 4000–4499, 1000, 1001, and whatever a network does (1006)
}

/**
 * Milliseconds to wait before connection attempt `attempt` (from 1): full jitter, so that a thousand
 * clients of a restarted server do not come back at once; never before the server's own `after_s`.
 */
export function reconnectDelay(attempt, { random, afterS = 0, baseMs = 400, capMs = 15000 }) {
  const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(attempt - 1, 16));
  return afterS * 1000 + random * ceiling;
}

/** A thread's subscription as the client holds it: position `(log, last)` and what it waits for. */
export class Subscription {
  constructor(thread) {
    this.thread = thread;
    this.log = null;
    this.last = null; // seq of the last event applied; null: no position held
    this.waiting = null; // id of a `subscribe` that has no answer yet
    this.following = null; // log of the present socket's subscription; null: it has none
  }

  /** Whether events of the present socket count: it follows the history that the position belongs to. */
  get isLive() {
    return this.following !== null && this.following === this.log;
  }

  /** The frame to send, to subscribe from the position held (else from the start). */
  subscribe(id) {
    this.waiting = id;
    const frame = { op: "subscribe", id, thread: this.thread, after: this.last ?? 0, view: "all" };
    if (this.log !== null) frame.log = this.log;
    return frame;
  }

  /** The socket is gone: its subscription too; the position stays. */
  disconnected() {
    this.waiting = null;
    this.following = null;
  }

  /**
   * Take a frame of this thread and say what to do with it.
   *
   * `fits(event)` answers "apply", "skip" (a delta of a stream that this view did not see begin) or
   * "gap" (an offset beyond the end of a stream). Returns one of
   * drop | apply | skip | resubscribe | begun | refused | reset | ended | deleted.
   */
  receive(frame, fits = () => "apply") {
    if (this.waiting !== null) return this.#awaited(frame);
    switch (frame.op) {
      case "event":
        return this.#event(frame, fits);
      case "position":
        return this.isLive && this.last !== null && frame.seq > this.last ? "resubscribe" : "drop";
      case "reset":
        this.last = frame.from;
        this.log = this.following = frame.log;
        return "reset";
      case "unsubscribed":
        return this.#unsubscribed(frame);
      default:
        return "drop";
    }
  }

  /** Take the `data` of a reply to `send`; it subscribed the socket. Returns drop | resubscribe. */
  sent(data) {
    this.following = data.log;
    this.last ??= data.after;
    this.log ??= data.log;
    return this.isLive ? "drop" : "resubscribe";
  }

  #awaited(frame) {
    if (frame.op === "subscribed" && frame.id === this.waiting) {
      this.waiting = null;
      this.following = frame.log;
      // With another log held, a reset follows and brings the new one. Were the socket cut in between, the
      // old position in the new log would name other events: so until then the position stays the old log's.
      this.log ??= frame.log;
      this.last = frame.after;
      return "begun";
    }
    if (frame.op === "reply" && frame.id === this.waiting && !frame.ok) {
      this.waiting = null; // an older subscription of this socket goes on, under its `last`
      return "refused";
    }
    // A thread that was deleted meanwhile says so whatever we wait for.
    if (frame.op === "unsubscribed" && frame.reason === "deleted") return this.#unsubscribed(frame);
    return "drop";
  }

  #event(event, fits) {
    if (!this.isLive || this.last === null || event.seq <= this.last) return "drop";
    if (event.prev > this.last) return "resubscribe";
    const fit = fits(event);
    if (fit === "gap") return "resubscribe";
    this.last = event.seq;
    return fit;
  }

  #unsubscribed(frame) {
    this.following = null;
    this.waiting = null;
    if (frame.reason !== "deleted") return "ended";
    this.last = null;
    this.log = null;
    return "deleted";
  }
}
