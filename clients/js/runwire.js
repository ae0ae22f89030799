// The client of Runwire for browsers and Node 22 or newer. One module, no dependencies, no build step.
//
// Three layers, each usable without the ones below it:
//   ThreadView     what events mean: the reducer of `runwire/protocol/view.py`, line by line
//   Subscription   which frames count: its apply rule (PROTOCOL §1, ADR 0011), line by line
//   connect        one socket kept alive, commands with replies, readers of threads
// The first two are pure: no socket, no clock, no page.

const CLIENT = "runwire-js/0.1";
const SUBPROTOCOL = "runwire.v1";

// ── what a server sends ──────────────────────────────────────────────────────────────────────────────────

const isText = (value) => typeof value === "string";
const isInt = (value) => Number.isInteger(value);
const isNumber = (value) => typeof value === "number";
const isFlag = (value) => typeof value === "boolean";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isAny = () => true;
const orNull = (check) => (value) => value === null || check(value);
const listOf = (check) => (value) => Array.isArray(value) && value.every(check);

/** A field that may be missing; then it is `absent`. */
const optional = (check, absent = null) => ({ check, absent });

const ERROR = { code: isText, message: isText };
const isError = (value) => read(ERROR, value) !== null;

// As in `runwire/protocol/events.py`: an event of a known type whose data has another shape is opaque. A word that is
// not known is another value, not another shape: a run ends, by whomever it was cancelled.
const DATA = new Map(Object.entries({
  user_message: { message: isText, content: isAny, metadata: optional(orNull(isObject)), retry_of: optional(orNull(isText)) },
  agent_started: { agent: isText, message: isText, version: optional(orNull(isText)) },
  agent_thinking: { text: optional(isAny), thinking: optional(orNull(isText)) },
  tool_executing: { call: isText, step: isText, try: isInt, name: isText, args: isAny, span: optional(orNull(isText)) },
  tool_completed: {
    call: isText, step: isText, try: isInt, name: isText, ok: isFlag, final: isFlag, duration_ms: isInt,
    result: optional(isAny), error: optional(isError), span: optional(isText),
  },
  message_started: { message: isText, role: optional(isText, "assistant"), span: optional(isText) },
  text_delta: { message: isText, offset: isInt, text: isText },
  message_completed: { message: isText, content: isAny, complete: optional(isFlag, true) },
  thinking_delta: { thinking: isText, offset: isInt, text: isText },
  tool_args_delta: { call: isText, offset: isInt, text: isText },
  custom: { name: isText, value: isAny },
  superseded: {
    messages: listOf(isText), thinking: listOf(isText), events: listOf(isInt), reason: isText,
  },
  agent_completed: { output: isAny, duration_ms: isInt, usage: optional(isObject) },
  agent_failed: {
    code: isText, message: isText, error_id: isText, retryable: isFlag, retry_after_s: optional(orNull(isNumber)),
  },
  agent_cancelled: { by: isText, reason: optional(orNull(isText)) },
  agent_waiting: {
    wait: isText, kind: isText, prompt: optional(isAny), call: optional(orNull(isText)),
    due_at: optional(orNull(isInt)),
  },
  agent_resumed: { wait: isText, value: isAny, by: isText },
  agent_retrying: { attempt: isInt, reason: isText },
  subagent_started: { span: isText, agent: isText, parent: optional(orNull(isText)), input: optional(isAny) },
  subagent_completed: { span: isText, output: optional(isAny) },
  subagent_failed: { span: isText, code: isText, message: isText },
  step_started: { step: isText, try: isInt, name: isText, args: optional(isAny) },
  step_completed: {
    step: isText, try: isInt, ok: isFlag, final: isFlag, duration_ms: optional(isInt), result: optional(isAny), error: optional(isError),
  },
}));

const FRAMES = new Map(Object.entries({
  welcome: {
    protocol: isInt, server: isText, connection: isText, user: isText, log: isText, ping_s: isNumber, pong_s: isNumber,
    expires_at: optional(orNull(isInt)), limits: optional(isObject, {}),
  },
  subscribed: { id: isText, thread: isText, log: isText, view: isText, after: isInt, head: isInt },
  reply: { id: orNull(isText), ok: isFlag, error: optional(isError) },
  event: {
    thread: isText, seq: isInt, prev: isInt, run: isText, attempt: isInt, ts: isInt, type: isText, data: isAny,
  },
  position: { thread: isText, seq: isInt },
  reset: { thread: isText, log: isText, from: isInt, reason: isText },
  unsubscribed: { id: orNull(isText), thread: isText, reason: isText },
  notice: { kind: isText, thread: optional(orNull(isText)), data: optional(isObject, {}) },
  ping: {},
  bye: { code: isInt, reconnect: isFlag, after_s: optional(orNull(isNumber)), reason: optional(isText, "") },
}));

const SEND_DATA = { thread: isText, log: isText, after: isInt, run: isText, message: isText, seq: isInt };

/** Return the known fields of an object, missing ones filled in; null if it has not this shape. */
function read(shape, value) {
  if (!isObject(value)) return null;
  const found = {};
  for (const [name, rule] of Object.entries(shape)) {
    const check = rule.check ?? rule;
    if (Object.hasOwn(value, name)) {
      if (!check(value[name])) return null;
      found[name] = value[name];
    } else if (rule.check) {
      found[name] = rule.absent;
    } else {
      return null;
    }
  }
  return found;
}

/**
 * Read one WebSocket message of a server: its frames in order. Unknown fields and frames are no error.
 *
 * @throws {RunwireError} `bad_frame`: it is not JSON, or a known frame lacks what it must have.
 */
export function readFrames(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new RunwireError("bad_frame", "The server sent something that is no JSON text.");
  }
  const frames = Array.isArray(value) ? value : [value];
  for (const frame of frames) {
    if (!isObject(frame) || !isText(frame.op)) throw new RunwireError("bad_frame", "The server sent something that is no frame.");
    const shape = FRAMES.get(frame.op);
    if (shape && read(shape, frame) === null) throw new RunwireError("bad_frame", `The server sent a frame \`${frame.op}\` of a wrong shape.`);
  }
  return frames;
}

/** Why something was refused, or came to an end. `code` is the server's (PROTOCOL §3), or one of ours. */
export class RunwireError extends Error {
  constructor(code, message, { field = null, retryAfterS = null, closeCode = null } = {}) {
    super(message);
    this.name = "RunwireError";
    this.code = code;
    this.field = field;
    this.retryAfterS = retryAfterS;
    this.closeCode = closeCode;
  }
}

const refusal = (body) =>
  new RunwireError(body?.code ?? "internal", body?.message ?? "The server refused without a reason.", {
    field: body?.field ?? null, retryAfterS: body?.retry_after_s ?? null,
  });

// ── when to come back ────────────────────────────────────────────────────────────────────────────────────

const OURS_AT_FAULT = new Set([1002, 1003, 1007, 1008, 1009, 1010]); // RFC 6455 §7.4.1: it would be again

/** What to do after a close code (PROTOCOL §4): the range says it. Returns `reconnect`, `refresh` or `stop`. */
export function afterClose(code) {
  if (code === 4005) return "refresh"; // the token expired: another one first, then reconnect
  if ((code >= 4500 && code <= 4999) || OURS_AT_FAULT.has(code)) return "stop";
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

// ── the apply rule ───────────────────────────────────────────────────────────────────────────────────────

/**
 * The client's half of one thread's subscription: what was applied, and what to do with each frame.
 *
 * Every input returns a list of what to do, in order; an empty one means: drop the frame. Actions are
 * `{do: "apply", event}`, `{do: "ask", frame}` (send this on the current socket), `{do: "dropView", reason}`,
 * `{do: "notSubscribed", error}` and `{do: "ended", reason}`. At most one `subscribe` of the thread is under way, and
 * until its answer everything else of the thread is dropped.
 */
export class Subscription {
  #newId;
  #following = null; // {log, view} of this socket's subscription; null: it has none
  #asked = null; // id of the subscribe under way
  #givenUp = new Set(); // ids of those before it that have no answer yet
  #unfitSeq = null; // a delta that did not fit and was asked for again

  /**
   * @param {string} thread the only thread it listens to
   * @param {{newId: () => string, view?: "all"|"lifecycle", shown?: ThreadView|null}} options `newId` makes the `id`
   *   of the next command of this socket; `shown` takes each event, and is cleared at a reset
   */
  constructor(thread, { newId, view = "all", shown = null }) {
    this.thread = thread;
    this.view = view; // belongs to the position; see `restart`
    this.last = null; // seq of the last event applied, or where events begin; null: no position
    this.log = null; // identity of the history that `last` belongs to; null: not known yet
    this.shown = shown;
    this.#newId = newId;
  }

  /** Whether a subscribe waits for its answer. */
  get isAsking() {
    return this.#asked !== null;
  }

  /** Whether events of this socket count. If not and nothing is asked, `subscribe` again. */
  get isSubscribed() {
    return this.#isOfThisView && this.#following.log === this.log;
  }

  /** Ask for what comes after the position, or after `after` where none is held (-1: from now). */
  subscribe(after = 0) {
    if (this.isAsking) return [];
    // Held from now on: a `send` whose reply comes first must not move it past what was asked for.
    if (this.last === null && after >= 0) this.last = after;
    this.#asked = this.#newId();
    const frame = { op: "subscribe", id: this.#asked, thread: this.thread, after: this.last ?? -1, view: this.view };
    if (this.log !== null) frame.log = this.log;
    return [{ do: "ask", frame }];
  }

  /**
   * Take another position (such as a snapshot's) or view, then subscribe from there. The caller fills `shown` anew:
   * with the snapshot, or with nothing for `after` 0.
   */
  restart({ after = 0, log = null, view = null } = {}) {
    this.last = after >= 0 ? after : null;
    this.log = log;
    this.view = view ?? this.view;
    if (this.#asked !== null) this.#givenUp.add(this.#asked); // its answer moves no position any more
    this.#asked = null;
    return this.subscribe(after);
  }

  /** The socket is gone; the position stays. Next, on another socket: `subscribe`. */
  disconnect() {
    this.#following = this.#asked = null;
    this.#givenUp.clear();
  }

  /** Take `data` of the reply to a `send` to this thread, which subscribes the socket (PROTOCOL §1). */
  sent(data) {
    // A subscription that is there goes on, and its view may be one that was given up.
    this.#following = { log: data.log, view: this.#following?.view ?? "all" };
    this.last ??= data.after;
    this.log ??= data.log;
    return this.isSubscribed ? [] : this.subscribe();
  }

  /** Take any frame of this socket; those of other threads and commands return nothing. */
  receive(frame) {
    switch (frame.op) {
      case "reply":
        return this.#refused(frame);
      case "event":
      case "position":
      case "reset":
        if (frame.thread !== this.thread || this.isAsking || !this.#isOfThisView) return [];
        return this.#follow(frame);
      case "subscribed":
        if (frame.id === this.#asked) return this.#begin(frame);
        // If the one under way is refused, this subscription is what goes on.
        if (this.#givenUp.delete(frame.id)) this.#following = { log: frame.log, view: frame.view };
        return [];
      case "unsubscribed":
        return frame.thread === this.thread ? this.#end(frame) : [];
      default:
        return [];
    }
  }

  get #isOfThisView() {
    return this.#following !== null && this.#following.view === this.view;
  }

  #begin(frame) {
    this.#asked = null;
    this.#following = { log: frame.log, view: this.view };
    // With another log held, a reset follows and brings the new one. Until then the position is of the old
    // log: were the socket cut in between, the old position in the new log would name other events.
    this.log ??= frame.log;
    // Asked for "from now" while a `send` was under way whose reply gave a position: a gap like any other.
    if (this.last !== null && frame.after > this.last) return this.subscribe();
    this.last = frame.after;
    return [];
  }

  #refused(frame) {
    if (frame.id === null || !frame.error) return [];
    this.#givenUp.delete(frame.id);
    if (frame.id !== this.#asked) return [];
    this.#asked = null;
    return [{ do: "notSubscribed", error: frame.error }];
  }

  #end(frame) {
    this.#following = null;
    if (frame.reason === "deleted") {
      this.last = this.log = null;
      this.shown?.clear();
    }
    return [{ do: "ended", reason: frame.reason }];
  }

  #follow(frame) {
    if (frame.op === "reset") {
      this.last = frame.from;
      this.log = frame.log;
      this.#following = { log: frame.log, view: this.view };
      this.shown?.clear();
      return [{ do: "dropView", reason: frame.reason }];
    }
    if (frame.seq <= this.last || !this.isSubscribed) return [];
    if (frame.op === "position" || frame.prev > this.last) return this.subscribe();
    return this.#apply(frame);
  }

  #apply(event) {
    if (this.shown && !this.shown.apply(event)) {
      if (this.#unfitSeq !== event.seq) {
        // Once: a server that sends it again as it was would be asked for ever. What completes it comes.
        this.#unfitSeq = event.seq;
        return this.subscribe();
      }
      this.shown.passOver(event);
    }
    this.last = event.seq;
    return [{ do: "apply", event }];
  }
}

// ── what a person sees ───────────────────────────────────────────────────────────────────────────────────

/** How many Unicode code points a text has: what offsets of the protocol count. */
export function codePoints(text) {
  let count = 0;
  for (let at = 0; at < text.length; at += 1) {
    if (isPair(text, at)) at += 1;
    count += 1;
  }
  return count;
}

function isPair(text, at) {
  const unit = text.charCodeAt(at);
  const next = text.charCodeAt(at + 1); // NaN at the end
  return unit >= 0xd800 && unit < 0xdc00 && next >= 0xdc00 && next < 0xe000;
}

/** A text that grows by deltas; engines keep the pieces apart until somebody looks. */
class Text {
  constructor(text = "") {
    this.text = text;
    this.length = codePoints(text);
    this.isCutOff = false; // something in it will not come: it stays as it is until it is complete
  }

  /** Apply a delta as `text[:offset] + text`; return false if the offset is beyond the end. */
  put(offset, text) {
    if (this.isCutOff) return true;
    if (offset > this.length) return false;
    if (offset < this.length) this.text = Array.from(this.text).slice(0, offset).join("");
    this.text += text;
    this.length = offset + codePoints(text);
    return true;
  }
}

/** A value that is a text while it is streamed, and the full value once it is complete. */
class Streamed {
  #value;

  constructor(value) {
    this.#value = value;
  }

  get value() {
    return this.#value instanceof Text ? this.#value.text : this.#value;
  }

  /** Apply a delta; false: it does not fit, null: this is no stream that began here. */
  put(offset, text) {
    return this.#value instanceof Text ? this.#value.put(offset, text) : null;
  }

  /** Take no more deltas: one of them will not come. */
  cutOff() {
    if (this.#value instanceof Text) this.#value.isCutOff = true;
  }

  replace(value) {
    this.#value = value;
  }
}

/** One message of a person or an agent. */
class Message extends Streamed {
  constructor({ id, role, content, run, seq, complete, span = null }) {
    super(content);
    this.id = id;
    this.role = role; // "user" | "assistant"
    this.run = run;
    this.seq = seq; // of the event that began it, or else of the first one seen
    this.complete = complete; // false: open, or its run ended inside it
    this.span = span; // the sub-agent that speaks
  }

  /** The text as it stands, the parts a person sent, or a `$ref` object. */
  get content() {
    return this.value;
  }

  completeWith(content, complete) {
    this.replace(content);
    this.complete = complete;
  }

  toJSON() {
    const shape = { message: this.id, role: this.role, content: this.content, run: this.run, seq: this.seq, complete: this.complete };
    return this.span === null ? shape : { ...shape, span: this.span };
  }
}

/** Something an agent thought: whole, or streamed under an id. */
class Thought extends Streamed {
  constructor({ id, seq, text, complete }) {
    super(text);
    this.id = id;
    this.seq = seq; // of its first event seen
    this.complete = complete;
  }

  /** The text as it stands. */
  get text() {
    return this.value;
  }

  completeWith(text) {
    this.replace(text);
    this.complete = true;
  }
}

/** One tool call: one try of a step. */
class Step {
  constructor({ call, name, args, seq, span = null, ok = null, result = null, error = null }) {
    this.call = call;
    this.name = name;
    this.args = args;
    this.seq = seq; // of its tool_executing, or else of the first event seen
    this.ok = ok; // null: it is under way
    this.result = result;
    this.error = error; // {code, message}
    this.final = null; // false: the try was cut off or will be repeated
    this.duration_ms = null;
    this.span = span;
  }

  toJSON() {
    return { call: this.call, name: this.name, args: this.args, ok: this.ok, result: this.result, error: this.error };
  }
}

/** What a run waits for; `by` says who ended it. */
class Wait {
  constructor({ wait, kind, prompt = null, call = null, due_at = null, value = null, by = null }) {
    this.wait = wait;
    this.kind = kind; // "approval" | "input" | "timer"; null: not seen to begin
    this.prompt = prompt;
    this.call = call;
    this.due_at = due_at; // ms, UTC
    this.value = value;
    this.by = by; // null: still open
  }

  toJSON() {
    return { wait: this.wait, kind: this.kind, prompt: this.prompt, call: this.call, due_at: this.due_at, value: this.value, by: this.by };
  }
}

/** One execution of an agent, as its events told it. */
class Run {
  constructor({ id, agent = null, status = "queued" }) {
    this.id = id;
    this.agent = agent; // null: no worker has begun it
    this.status = status;
    this.attempt = 0;
    this.error = null; // of a failed run: code, message, error_id, retryable, retry_after_s?
    this.output = null; // of a completed run
    this.usage = null;
    this.duration_ms = null;
    this.cancelled = null; // {by, reason?}
    this.steps = new Map(); // by call
    this.waits = new Map(); // by wait
    this.thinking = new Map(); // by stream, or by seq of a whole thought
    this.spans = new Map(); // by span: {span, agent, parent, ok, output, error}
    this.opaque = new Map(); // by seq: {seq, type, name, value}
    this.args = new Map(); // arguments being streamed, by call: {text}
  }

  /** Whether its terminal event was seen. */
  get isEnded() {
    return this.status === "completed" || this.status === "failed" || this.status === "cancelled";
  }

  toJSON() {
    return {
      run: this.id,
      agent: this.agent,
      status: this.status,
      attempt: this.attempt,
      error: this.error,
      steps: [...this.steps.values()].map((step) => step.toJSON()),
      waits: [...this.waits.values()].map((wait) => wait.toJSON()),
    };
  }
}

/** Messages and runs as the events of a thread tell them. Feed it each event once, in order. */
export class ThreadView {
  #takenBack = new Set(); // ids of messages and thinking that must not come back

  constructor() {
    this.seq = 0; // of the last event applied
    this.messages = new Map(); // by id, in the order they began
    this.runs = new Map(); // by id, in the order they began
  }

  /** Forget everything: a reset. */
  clear() {
    this.seq = 0;
    this.messages.clear();
    this.runs.clear();
    this.#takenBack.clear();
  }

  /** Make a view of the body of `GET /v1/threads/{id}`; events after its `seq` continue it. */
  static fromSnapshot(snapshot) {
    const view = new ThreadView();
    view.seq = snapshot.seq ?? 0;
    for (const shape of snapshot.runs) {
      const run = new Run({ id: shape.run, agent: shape.agent, status: shape.status });
      run.attempt = shape.attempt;
      run.error = shape.error;
      for (const step of shape.steps) run.steps.set(step.call, new Step({ ...step, seq: 0 }));
      for (const wait of shape.waits) run.waits.set(wait.wait, new Wait(wait));
      view.runs.set(run.id, run);
    }
    for (const { message, role, content, run, seq, complete, span = null } of snapshot.messages) {
      const shown = view.runs.get(run);
      const isOpen = !complete && shown !== undefined && !shown.isEnded;
      // An open one is streamed on; its text so far is the beginning that this view saw.
      const known = isOpen && isText(content) ? new Text(content) : content;
      view.messages.set(message, new Message({ id: message, content: known, role, run, seq, complete, span }));
    }
    return view;
  }

  /** Return `messages` and `runs` exactly as in `GET /v1/threads/{id}`. */
  toSnapshot() {
    return {
      messages: [...this.messages.values()].map((message) => message.toJSON()),
      runs: [...this.runs.values()].map((run) => run.toJSON()),
    };
  }

  /**
   * Take the next event. Returns false if it is a delta beyond the end of a stream that began in this view; then
   * nothing was changed but that its run is known.
   */
  apply(event) {
    const shape = DATA.get(event.type);
    const data = shape ? read(shape, event.data) : null;
    let run = this.runs.get(event.run);
    if (run === undefined) {
      run = new Run({ id: event.run, status: "running" });
      this.runs.set(event.run, run);
    }
    if (data === null) run.opaque.set(event.seq, { seq: event.seq, type: event.type, name: null, value: event.data });
    else if (REDUCERS[event.type].call(this, run, event, data, this.#takenBack) === false) return false;
    run.attempt = event.attempt;
    this.seq = event.seq;
    return true;
  }

  /**
   * Take a delta that does not fit and will not: from here on its stream waits for its completing event. Otherwise
   * each later delta of it would be a gap of its own: for one fault as many subscribes as it has pieces.
   */
  passOver(event) {
    const run = this.runs.get(event.run);
    const { message, thinking, call } = event.data;
    if (event.type === "text_delta") this.messages.get(message).cutOff();
    else if (event.type === "thinking_delta") run.thinking.get(thinking).cutOff();
    else if (event.type === "tool_args_delta") run.args.get(call).isCutOff = true;
    this.apply(event);
  }
}

function end(run, status) {
  run.status = status;
  run.args.clear();
}

/** Keep only what was said: `{by: "user"}` and not `{by: "user", reason: null}`. */
const withoutNull = (data) => Object.fromEntries(Object.entries(data).filter(([, value]) => value !== null));

function defaulted(map, key, make) {
  if (!map.has(key)) map.set(key, make());
  return map.get(key);
}

// Called on the view with (run, event, data, ids that were taken back); false: the delta does not fit.
const REDUCERS = {
  __proto__: null,

  user_message(run, event, data) {
    run.status = "queued";
    this.messages.set(data.message, new Message({
      id: data.message, role: "user", content: data.content, run: run.id, seq: event.seq, complete: true,
    }));
  },

  agent_started(run, _event, data) {
    run.agent = data.agent;
    run.status = "running";
  },

  agent_retrying(run) {
    run.status = statusAtWork(run); // a wait that is open is entered again without a word
  },

  message_started(run, event, data) {
    this.messages.set(data.message, new Message({
      id: data.message, role: data.role, content: new Text(), run: run.id, seq: event.seq, complete: false, span: data.span || null,
    }));
  },

  text_delta(_run, _event, data) {
    const message = this.messages.get(data.message);
    return message === undefined || message.put(data.offset, data.text) !== false;
  },

  message_completed(run, event, data, takenBack) {
    if (takenBack.has(data.message)) return;
    const message = defaulted(this.messages, data.message, () => new Message({
      id: data.message, role: "assistant", content: "", run: run.id, seq: event.seq, complete: false,
    }));
    message.completeWith(data.content, data.complete);
  },

  thinking_delta(run, event, data, takenBack) {
    let thought = run.thinking.get(data.thinking);
    if (thought === undefined) {
      if (data.offset !== 0 || takenBack.has(data.thinking)) return true;
      thought = new Thought({ id: data.thinking, seq: event.seq, text: new Text(), complete: false });
      run.thinking.set(data.thinking, thought);
    }
    return thought.put(data.offset, data.text) !== false;
  },

  agent_thinking(run, event, data, takenBack) {
    if (data.thinking !== null && takenBack.has(data.thinking)) return;
    const thought = defaulted(run.thinking, data.thinking || event.seq, () =>
      new Thought({ id: data.thinking, seq: event.seq, text: null, complete: false }));
    // One that only ends its stream says the text no second time: what was streamed stands.
    thought.completeWith(data.text === null ? thought.text : data.text);
  },

  tool_args_delta(run, _event, data) {
    if (!run.args.has(data.call)) {
      if (data.offset !== 0 || run.steps.has(data.call)) return true;
      run.args.set(data.call, new Text());
    }
    return run.args.get(data.call).put(data.offset, data.text);
  },

  tool_executing(run, event, data) {
    run.args.delete(data.call); // complete now
    run.steps.set(data.call, new Step({ call: data.call, name: data.name, args: data.args, seq: event.seq, span: data.span || null }));
  },

  tool_completed(run, event, data) {
    const step = defaulted(run.steps, data.call, () => new Step({ call: data.call, name: data.name, args: null, seq: event.seq }));
    step.ok = data.ok;
    step.final = data.final;
    step.duration_ms = data.duration_ms;
    step.result = data.result;
    step.error = data.error && read(ERROR, data.error);
  },

  agent_waiting(run, _event, data) {
    run.status = "waiting";
    run.waits.set(data.wait, new Wait(data));
  },

  agent_resumed(run, _event, data) {
    const wait = defaulted(run.waits, data.wait, () => new Wait({ wait: data.wait, kind: null }));
    wait.value = data.value;
    wait.by = data.by;
    run.status = statusAtWork(run);
  },

  subagent_started(run, _event, data) {
    run.spans.set(data.span, { span: data.span, agent: data.agent, parent: data.parent, ok: null, output: null, error: null });
  },

  subagent_completed(run, _event, data) {
    Object.assign(spanOf(run, data), { ok: true, output: data.output });
  },

  subagent_failed(run, _event, data) {
    Object.assign(spanOf(run, data), { ok: false, error: { code: data.code, message: data.message } });
  },

  custom(run, event, data) {
    run.opaque.set(event.seq, { seq: event.seq, type: event.type, name: data.name, value: data.value });
  },

  superseded(run, _event, data, takenBack) {
    for (const id of [...data.messages, ...data.thinking]) takenBack.add(id);
    for (const message of data.messages) this.messages.delete(message);
    for (const thinking of data.thinking) run.thinking.delete(thinking);
    for (const seq of data.events) {
      run.thinking.delete(seq);
      run.opaque.delete(seq);
    }
  },

  agent_completed(run, _event, data) {
    run.output = data.output;
    run.duration_ms = data.duration_ms;
    run.usage = data.usage;
    end(run, "completed");
  },

  agent_failed(run, _event, data) {
    run.error = withoutNull(data);
    end(run, "failed");
  },

  agent_cancelled(run, _event, data) {
    run.cancelled = withoutNull(data);
    end(run, "cancelled");
  },

  // Internal: a client never gets them.
  step_started() {},
  step_completed() {},
};

/** Return the status of a run that has not ended: somebody or some time is waited for, or nothing is. */
function statusAtWork(run) {
  return [...run.waits.values()].some((wait) => wait.by === null) ? "waiting" : "running";
}

function spanOf(run, data) {
  return defaulted(run.spans, data.span, () => ({ span: data.span, agent: null, parent: null, ok: null, output: null, error: null }));
}

// ── readers of a thread ──────────────────────────────────────────────────────────────────────────────────

const QUEUED = 4096; // items of one reader; a 256 KiB batch of the server has fewer
const COMMANDS = 1000; // of the caller, without a reply
const KEPT = 100; // threads whose position is kept
const DELTAS = new Set(["text_delta", "thinking_delta", "tool_args_delta"]);
const TERMINALS = new Set(["agent_completed", "agent_failed", "agent_cancelled"]);

/**
 * What one reader of a thread gets: its own position over the socket's stream, and a queue.
 *
 * The queue holds 4,096 items. At the limit a reader that is called back is called at once; one that iterates pauses:
 * nothing is dropped and nobody waits, events pass, and once half of the queue was read the thread is subscribed again
 * from the reader's own position.
 */
class Feed {
  #queue = [];
  #taken = 0; // of the queue's front
  #unfitSeq = null;
  #deliveredLog; // history that the items at the front belong to

  constructor({ thread, last, log = null, view = "all", run = null, runSeq = 0, shown = null, wake }) {
    this.thread = thread;
    this.last = last; // the position to read after; null: from now
    this.log = log;
    this.view = view;
    this.run = run; // only this run's events, ending with its terminal one
    this.runSeq = runSeq;
    this.shown = shown; // a ThreadView that takes the same events
    this.wake = wake;
    this.overflow = null; // takes the queue at its limit; null: pause instead
    this.isBehind = false; // events passed that it must still get
    this.isQueueing = true; // false: nobody listens, only `shown` is kept
    this.isEnded = false;
    this.error = null;
    this.head = 0; // of the thread, when its subscription last began
    this.#deliveredLog = log;
  }

  get length() {
    return this.#queue.length - this.#taken;
  }

  get hasRoom() {
    return this.length <= QUEUED / 2;
  }

  /** The next item, or undefined. */
  take() {
    if (this.#taken === this.#queue.length) return undefined;
    const item = this.#queue[this.#taken];
    this.#taken += 1;
    if (this.#taken > 1024 && this.#taken * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#taken);
      this.#taken = 0;
    }
    if (item.op === "reset") this.#deliveredLog = item.log;
    return item;
  }

  /** The position after an item that was taken. */
  positionAfter(item) {
    return { log: this.#deliveredLog, seq: item.op === "reset" ? item.from : item.seq };
  }

  /** Take an event of the stream if it is the next one for this reader. */
  offer(event) {
    if (this.isEnded || this.last === null || event.seq <= this.last) return;
    if (this.length >= QUEUED && this.overflow) this.overflow();
    if (this.isEnded) return; // by whom it was given to
    if (this.length >= QUEUED || event.prev > this.last) {
      this.isBehind = true;
      return;
    }
    if (this.shown && !this.shown.apply(event)) {
      if (this.#unfitSeq !== event.seq) {
        this.#unfitSeq = event.seq; // asked for again, once: as `Subscription` does
        this.isBehind = true;
        return;
      }
      this.shown.passOver(event);
    }
    this.last = event.seq;
    if ((this.run === null || event.run === this.run) && (this.view === "all" || !DELTAS.has(event.type))) this.#put(event);
    if (event.run === this.run && TERMINALS.has(event.type)) this.end();
  }

  /** Take the answer to a subscribe: a reader that began now begins at the head. */
  begin(frame) {
    this.last ??= frame.head;
    this.log ??= frame.log;
    this.#deliveredLog ??= frame.log;
    this.head = frame.head;
    if (this.shown) this.#put(frame);
  }

  /** Take a reset of the stream, unless this reader's own position stands. */
  reset(frame) {
    if (this.isEnded || (this.log === frame.log && this.last !== null && this.last >= frame.from)) return;
    this.last = frame.from;
    this.log = frame.log;
    this.isBehind = false;
    this.shown?.clear();
    if (this.length >= QUEUED) this.clear(); // the view that they would build is dropped anyway
    this.#put(frame);
    if (this.run !== null && frame.from >= this.runSeq) {
      this.end(new RunwireError("log_reset", "The run's events are older than what the server replays; its messages are in the thread over HTTP."));
    }
  }

  /** Forget what is queued. */
  clear() {
    this.#queue = [];
    this.#taken = 0;
  }

  /** Nothing more comes; what is queued may still be taken. */
  end(error = null) {
    if (this.isEnded) return;
    this.isEnded = true;
    this.error = error;
    this.wake();
  }

  #put(item) {
    if (this.isQueueing) this.#queue.push(item);
    this.wake();
  }
}

/** Whether the thread's stream has passed a reader's position, or may have when its answer comes. */
function isPast({ cursor, isFollowed }, feed) {
  if (cursor.isAsking) return true;
  if (!isFollowed) return false; // the next subscription takes the reader into account
  const isKnown = feed.log === null || cursor.log === null || feed.log === cursor.log;
  return !isKnown || feed.last === null || cursor.last === null || feed.last < cursor.last;
}

// ── commands and threads over all sockets ────────────────────────────────────────────────────────────────

const GAPS = 5; // subscribes for a gap that a thread may have at once; then one each `GAP_MS`
const GAP_MS = 1000;
const REFUSED_FOR_NOW = new Set(["unavailable", "circuit_open", "deadline"]);
const LINGER_MS = 1000; // a thread that a `send` subscribed waits so long for its reader

/**
 * Say what to send for what comes in; follows `runwire/client/session.py`.
 *
 * Commands without a reply are sent again on the next socket (a `send` has its key); each thread with a reader is
 * subscribed again from the earliest position that a reader needs. At most 1,000 commands wait; the next is refused.
 */
class Session {
  #threads = new Map(); // thread -> {cursor, feeds, isFollowed, before, leaving, gaps, gapAt, timer}
  #waiting = [];
  #inFlight = new Map(); // id -> pending
  #ids = 0;
  #write; // sends a frame on the present socket
  #report; // takes an error that nobody else gets

  constructor(write, report) {
    this.#write = write;
    this.#report = report;
    this.welcome = null; // of the present socket
  }

  nextId = () => String((this.#ids += 1));

  // Inputs from the socket.

  opened(welcome) {
    this.welcome = welcome;
    for (const thread of [...this.#threads.values()]) this.#settle(thread);
    this.flush();
  }

  lost() {
    this.welcome = null;
    const pendings = [...this.#inFlight.values(), ...this.#waiting];
    this.#inFlight.clear();
    this.#waiting = pendings.filter(({ isOurs, frame }) => !isOurs && frame.op !== "refresh");
    // The next hello has a token of its own, perhaps a fresher one.
    for (const { frame, resolve } of pendings) if (frame.op === "refresh") resolve({ expires_at: null });
    for (const thread of this.#threads.values()) {
      thread.cursor.disconnect();
      clearTimeout(thread.timer);
      Object.assign(thread, { isFollowed: false, before: null, leaving: null, timer: null, isResting: false });
    }
  }

  /** End everything that waits: there will be no other socket. */
  fail(error) {
    this.lost();
    for (const pending of this.#waiting.splice(0)) pending.reject(error);
    for (const thread of this.#threads.values()) endAll(thread.feeds, error);
    this.#threads.clear();
  }

  receive(frame) {
    if (frame.op === "reply" || frame.op === "subscribed" || frame.op === "unsubscribed") this.#answered(frame);
    else if (frame.op === "event" || frame.op === "position" || frame.op === "reset") {
      const thread = this.#threads.get(frame.thread);
      if (thread) this.#follow(thread, frame);
    }
  }

  // Inputs from the caller.

  /** Send a command, now or when there is a socket and room; settles with the reply's data. */
  command(frame, signal = null) {
    let forget;
    const done = new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.#waiting.length >= COMMANDS) throw new RunwireError("unavailable", `${COMMANDS} commands wait for the server; wait for their replies.`);
      const pending = { frame, resolve, reject, isOurs: false };
      if (!this.#fits(pending)) return;
      this.#waiting.push(pending);
      forget = () => this.#forget(pending, signal.reason);
      signal?.addEventListener("abort", forget);
      this.flush();
    });
    return signal ? done.finally(() => signal.removeEventListener("abort", forget)) : done;
  }

  open(feed) {
    const thread = this.#thread(feed.thread);
    feed.isBehind = isPast(thread, feed);
    thread.feeds.push(feed);
    this.#settle(thread);
    this.flush();
  }

  close(feed) {
    const thread = this.#threads.get(feed.thread);
    if (!thread || !thread.feeds.includes(feed)) return;
    thread.feeds = thread.feeds.filter((other) => other !== feed);
    this.#settle(thread);
    this.flush();
  }

  /** Note that the reader took items: one that paused may go on. */
  drained(feed) {
    const thread = this.#threads.get(feed.thread);
    if (!thread || !feed.isBehind || !feed.hasRoom) return;
    this.#settle(thread);
    this.flush();
  }

  /** Write what may be written now. */
  flush() {
    if (!this.welcome) return;
    const limit = this.welcome.limits?.commands_in_flight ?? 32;
    while (this.#waiting.length && this.#inFlight.size < limit) {
      const pending = this.#waiting.shift();
      if (pending.isOurs || this.#fits(pending)) {
        this.#inFlight.set(pending.frame.id, pending);
        this.#write(pending.frame);
      }
    }
  }

  // Inside.

  #fits(pending) {
    const limit = this.welcome?.limits?.frame_bytes ?? 65536;
    if (new TextEncoder().encode(JSON.stringify(pending.frame)).length <= limit) return true;
    pending.reject(new RunwireError("too_large", `The command is over ${limit} bytes.`));
    return false;
  }

  #forget(pending, reason) {
    this.#waiting = this.#waiting.filter((other) => other !== pending);
    pending.isOurs = true; // its reply is still taken if it comes, but it is not repeated
    pending.reject(reason);
  }

  #thread(name) {
    return defaulted(this.#threads, name, () => ({
      cursor: new Subscription(name, { newId: this.nextId }),
      feeds: [],
      isFollowed: false, // this socket has a subscription of it, whether its events count yet or not
      before: null, // the cursor's position before a restart that may be refused
      leaving: null, // id of the unsubscribe under way
      timer: null, // of a subscribe that waits for its time, or of leaving
      isResting: false, // the server refused for now: until the timer no subscribe is sent
      gaps: 0,
      gapAt: 0,
    }));
  }

  #ask(frame) {
    this.#waiting.push({ frame, resolve() {}, reject() {}, isOurs: true });
  }

  #answered(frame) {
    const pending = frame.id === null ? undefined : this.#inFlight.get(frame.id);
    this.#inFlight.delete(frame.id);
    const thread = this.#threads.get(frame.op === "reply" ? pending?.frame.thread : frame.thread);
    if (frame.op !== "reply" || pending?.frame.op === "subscribe") {
      if (thread) this.#follow(thread, frame);
    } else if (pending?.frame.op === "unsubscribe") {
      if (thread) {
        thread.cursor.disconnect(); // refused: then it is no subscription of ours
        Object.assign(thread, { isFollowed: false, leaving: null });
        this.#settle(thread);
      }
    } else if (pending) {
      this.#replied(pending, frame);
    }
    this.flush();
  }

  #replied(pending, reply) {
    if (!reply.ok) return pending.reject(refusal(reply.error));
    if (pending.frame.op !== "send") return pending.resolve(reply.data);
    const data = read(SEND_DATA, reply.data);
    if (data === null) return pending.reject(new RunwireError("bad_frame", "The server's reply to send cannot be read."));
    const thread = this.#thread(data.thread);
    thread.isFollowed = true;
    this.#act(thread, thread.cursor.sent(data));
    pending.resolve(data);
    return this.#settle(thread);
  }

  #follow(thread, frame) {
    const actions = thread.cursor.receive(frame);
    // What is asked for because of what the server said: it may say so for ever. Not after our own unsubscribe.
    const isGap = frame.op !== "unsubscribed" || frame.id === null;
    this.#act(thread, actions, isGap);
    if (frame.op === "subscribed" && !thread.cursor.isAsking) {
      Object.assign(thread, { isFollowed: true, before: null });
      for (const feed of thread.feeds) feed.begin(frame);
    } else if (frame.op === "reset" && actions.length) {
      for (const feed of thread.feeds) feed.reset(frame);
    } else if (frame.op === "unsubscribed") {
      thread.isFollowed = false;
      if (frame.id === thread.leaving) thread.leaving = null;
    }
    if (frame.op !== "event" || thread.feeds.some((feed) => feed.isBehind || feed.isEnded)) this.#settle(thread, isGap && frame.op !== "subscribed");
    this.flush();
  }

  #act(thread, actions, isGap = false) {
    for (const action of actions) {
      if (action.do === "apply") for (const feed of thread.feeds) feed.offer(action.event);
      else if (action.do === "ask") this.#subscribe(thread, action.frame, isGap);
      else if (action.do === "notSubscribed") this.#refuse(thread, refusal(action.error));
      else if (action.do === "ended" && action.reason === "deleted") endAll(thread.feeds, new RunwireError("not_found", "The thread was deleted."));
    }
  }

  /** Ask at once, or later where gaps follow each other: a fault of the server must not become a storm. */
  #subscribe(thread, frame, isGap) {
    clearTimeout(thread.timer);
    Object.assign(thread, { timer: null, isResting: false }); // the timer that would have ended the rest is gone
    if (!isGap) return this.#ask(frame);
    const now = Date.now();
    thread.gaps = Math.max(0, thread.gaps - Math.max(0, now - thread.gapAt) / GAP_MS) + 1;
    thread.gapAt = now;
    if (thread.gaps <= GAPS) return this.#ask(frame);
    thread.timer = setTimeout(() => {
      thread.timer = null;
      this.#ask(frame);
      this.flush();
    }, (thread.gaps - GAPS) * GAP_MS);
    return undefined;
  }

  /** End the readers that the refused subscription was for; an older one goes on under its position. */
  #refuse(thread, error) {
    if (thread.isFollowed && thread.before) Object.assign(thread.cursor, thread.before);
    thread.before = null;
    const unserved = thread.feeds.filter((feed) => !thread.isFollowed || isPast(thread, feed));
    if (!REFUSED_FOR_NOW.has(error.code) && error.retryAfterS === null) return endAll(unserved, error);
    for (const feed of unserved) feed.isBehind = true;
    this.#report(error);
    thread.isResting = true;
    clearTimeout(thread.timer);
    thread.timer = setTimeout(() => {
      Object.assign(thread, { timer: null, isResting: false });
      this.#settle(thread);
      this.flush();
    }, reconnectDelay(4, { random: Math.random(), afterS: error.retryAfterS ?? 1 }));
    return undefined;
  }

  /** Subscribe, subscribe again or unsubscribe, as the readers need; nothing while an answer is awaited. */
  #settle(thread, isGap = false) {
    thread.feeds = thread.feeds.filter((feed) => !feed.isEnded);
    const { cursor } = thread;
    if (!this.welcome || thread.leaving !== null || cursor.isAsking || thread.isResting) return;
    if (!thread.feeds.length) return this.#leaveSoon(thread);
    const able = thread.feeds.filter((feed) => feed.hasRoom || !feed.isBehind);
    if (!able.length || (thread.isFollowed && !able.some((feed) => feed.isBehind))) return;
    const foreign = able.find((feed) => feed.log && cursor.log && feed.log !== cursor.log);
    const positions = able.filter((feed) => feed.last !== null).map((feed) => feed.last);
    const after = foreign && foreign.last !== null ? foreign.last : positions.length ? Math.min(...positions) : -1;
    const log = foreign ? foreign.log : (cursor.log ?? able.find((feed) => feed.log)?.log ?? null);
    for (const feed of able) feed.isBehind = false;
    thread.before = { last: cursor.last, log: cursor.log };
    this.#act(thread, cursor.restart({ after, log }), isGap);
  }

  /** A reader may come in a moment: what `send` has begun is not ended before its caller could look. */
  #leaveSoon(thread) {
    if (!thread.isFollowed) {
      clearTimeout(thread.timer);
      this.#threads.delete(thread.cursor.thread);
    } else {
      thread.timer ??= setTimeout(() => {
        thread.timer = null;
        if (thread.feeds.length || !thread.isFollowed || !this.welcome) return;
        thread.leaving = this.nextId();
        this.#ask({ op: "unsubscribe", id: thread.leaving, thread: thread.cursor.thread });
        this.flush();
      }, LINGER_MS);
    }
  }
}

function endAll(feeds, error) {
  for (const feed of feeds) feed.end(error);
}

// ── the socket ───────────────────────────────────────────────────────────────────────────────────────────

const OPEN_MS = 15000; // for socket and welcome
const STEADY_MS = 5000; // a socket that lived so long was a good one
const NETWORK_MS = 30000; // for a token or a snapshot: a network may swallow everything
const TOKEN_RETRY_MS = 5000;
const REFRESH_EARLY_MS = 60000; // before the token's end, or a quarter of what is left if that is less
const TIMER_MAX_MS = 2 ** 31 - 1;

/** Wait for what may never come; rejects after `NETWORK_MS`, and `act` is told by its signal. */
async function inTime(act) {
  const abort = new AbortController();
  let timer;
  const late = new Promise((_resolve, reject) => {
    timer = setTimeout(() => {
      const error = new RunwireError("unavailable", `It did not come within ${NETWORK_MS / 1000} s.`);
      abort.abort(error);
      reject(error);
    }, NETWORK_MS);
    timer.unref?.(); // no reason for Node to stay
  });
  try {
    return await Promise.race([act(abort.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Keep one socket open until it is closed or the server says stop. There is never a second one. */
class Link {
  #options;
  #socket = null;
  #session;
  #timers = {};
  #attempt = 0;
  #openedAt = 0;
  #notBefore = 0; // the server asked not to be tried before
  #afterMs = 0;
  #triedAt = 0;
  #bye = null;
  #needsFresh = false;
  #isFresh = false; // the token of this socket was asked for as a fresh one
  #isRefreshing = false;
  #wasOffline = false;
  #life = { at: 0, ms: OPEN_MS };
  #generation = 0; // of the attempt under way: a token that comes late is of no use
  #removers = [];

  constructor(options) {
    this.#options = options;
    this.#session = options.session;
    this.state = { name: "connecting", attempt: 0, retryAt: null, code: null, reason: null };
  }

  start() {
    this.#watch();
    this.#open();
  }

  /** Close for good. */
  close(state = { name: "closed" }, error = new RunwireError("closed", "The client was closed.")) {
    this.#drop();
    for (const remove of this.#removers.splice(0)) remove();
    this.#session.fail(error);
    this.#show(state);
  }

  get isClosed() {
    return this.state.name === "closed" || this.state.name === "stopped" || this.state.name === "expired";
  }

  write(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  /** Try at once instead of waiting, but never before the time that the server asked for. */
  now() {
    if (this.#timers.reconnect === undefined) return;
    const wait = Math.max(this.#notBefore, this.#triedAt + 1000) - Date.now();
    clearTimeout(this.#timers.reconnect);
    // A clock that was set back must not hold us up.
    this.#timers.reconnect = setTimeout(() => this.#open(), Math.min(Math.max(0, wait), Math.max(1000, this.#afterMs), TIMER_MAX_MS));
  }

  /** Bring a fresh token in band; resolves to `{expires_at}` once the server took it. */
  async refresh(token) {
    const fresh = token ?? (await inTime(() => this.#options.token({ fresh: true })));
    if (this.state.name !== "live") return { expires_at: null }; // the next hello has it
    if (fresh === null || fresh === undefined) throw new RunwireError("unauthenticated", "There is no token.");
    const generation = this.#generation;
    const answer = await this.#session.command({ op: "refresh", id: this.#session.nextId(), token: fresh });
    if (generation === this.#generation) this.#refreshInTime(answer?.expires_at ?? null);
    return answer;
  }

  // One socket, from its token to its end.

  async #open() {
    this.#timers.reconnect = undefined;
    this.#triedAt = Date.now();
    const generation = (this.#generation += 1);
    this.#show({ name: this.#attempt ? "reconnecting" : "connecting" });
    let token;
    try {
      token = await inTime(() => this.#options.token({ fresh: this.#needsFresh }));
    } catch (error) {
      if (generation === this.#generation) this.#lost({ code: 1006, reason: `No token could be had: ${error.message}` });
      return;
    }
    if (generation !== this.#generation || this.isClosed) return;
    if (token === null || token === undefined) return this.#stop("expired", { code: 4501, reason: "There is no token." });
    this.#isFresh = this.#needsFresh;
    this.#needsFresh = false;
    try {
      this.#connect(token);
    } catch (error) {
      this.#options.report(error);
      this.#stop("stopped", { code: null, reason: error.message });
    }
  }

  #connect(token) {
    const socket = new this.#options.WebSocket(this.#options.address, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#bye = null;
    this.#openedAt = 0;
    this.#alive(OPEN_MS);
    socket.onopen = () => {
      if (socket === this.#socket) socket.send(JSON.stringify({ op: "hello", token, client: this.#options.client }));
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#receive(data);
    };
    socket.onerror = () => {}; // a close follows, and says more
    socket.onclose = ({ code, reason }) => {
      if (socket === this.#socket) this.#lost({ code, reason });
    };
    this.#timers.life = setInterval(() => this.check(), Math.min(5000, Math.max(50, this.#life.ms / 8)));
  }

  #receive(text) {
    const socket = this.#socket;
    try {
      const frames = readFrames(text);
      this.#alive();
      for (const frame of frames) {
        this.#take(frame);
        if (socket !== this.#socket) return; // a caller closed the client meanwhile
      }
    } catch (error) {
      // Nothing after it can be trusted on this socket; what was applied before is sound.
      this.#options.report(error);
      this.#lost({ code: 1006, reason: error.message });
    }
  }

  #take(frame) {
    if (frame.op === "welcome") this.#welcome(frame);
    else if (frame.op === "ping") this.write({ op: "pong" });
    else if (frame.op === "bye") this.#bye = frame;
    else if (frame.op === "notice") this.#notice(frame);
    else this.#session.receive(frame);
  }

  #welcome(frame) {
    this.#openedAt = Date.now();
    this.#alive((frame.ping_s + frame.pong_s) * 1000);
    clearInterval(this.#timers.life);
    this.#timers.life = setInterval(() => this.check(), Math.min(5000, Math.max(50, this.#life.ms / 8)));
    this.#refreshInTime(frame.expires_at ?? null);
    this.#show({ name: "live" });
    if (!this.isClosed) this.#session.opened(frame); // the caller may have closed the client meanwhile
  }

  #notice(frame) {
    if (frame.kind === "token_expiring") this.#bringToken();
    this.#options.notice(frame);
  }

  #alive(ms = this.#life.ms) {
    this.#life = { at: Date.now(), since: performance.now(), ms };
  }

  /**
   * Look whether the socket still lives. Both clocks are asked: the monotonic one stands still while a laptop sleeps,
   * and the wall clock may be set back.
   */
  check() {
    if (!this.#socket) return;
    const quietMs = Math.max(Date.now() - this.#life.at, performance.now() - this.#life.since);
    if (quietMs > this.#life.ms) this.#lost({ code: 4012, reason: `no life for ${Math.round(quietMs / 1000)} s` });
  }

  #lost({ code, reason = "" }) {
    const bye = this.#bye;
    const isBare = code === 1006 || code === 1005; // the close frame may be lost where the bye was not
    const end = { code: bye && isBare ? bye.code : code, reason: bye?.reason || reason || null };
    if (this.#openedAt && Date.now() - this.#openedAt >= STEADY_MS) this.#attempt = 0;
    this.#openedAt = 0;
    this.#drop();
    this.#session.lost();
    // A token that was taken for a valid one (a laptop slept, a clock is wrong) does not end the session: a fresh one says.
    const isStale = end.code === 4501 && this.#options.canRefresh && !this.#isFresh;
    const action = isStale ? "refresh" : afterClose(end.code);
    if (action === "stop") return this.#stop(end.code === 4501 || end.code === 4507 ? "expired" : "stopped", end);
    this.#needsFresh ||= action === "refresh";
    this.#attempt += 1;
    const afterS = Math.max(0, bye?.after_s ?? 0);
    const delay = reconnectDelay(this.#attempt, { random: this.#options.random(), afterS });
    this.#afterMs = afterS * 1000;
    this.#notBefore = Date.now() + this.#afterMs;
    this.#timers.reconnect = setTimeout(() => this.#open(), Math.min(delay, TIMER_MAX_MS));
    return this.#show({ name: "reconnecting", retryAt: Date.now() + delay, ...end });
  }

  #stop(name, end) {
    this.close({ name, ...end }, new RunwireError(name === "expired" ? "unauthenticated" : "stopped", end.reason || "The server ended the connection.", { closeCode: end.code }));
  }

  /** Let go of the socket and every timer; a half-open one may take long to close, and is not ours any more. */
  #drop() {
    this.#generation += 1;
    clearTimeout(this.#timers.reconnect);
    clearTimeout(this.#timers.refresh);
    clearInterval(this.#timers.life);
    this.#timers = {};
    const socket = this.#socket;
    this.#socket = null;
    this.#isRefreshing = false;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    }
  }

  #show(state) {
    this.state = { attempt: this.#attempt, retryAt: null, code: null, reason: null, ...state };
    this.#options.show(this.state);
  }

  // A fresh token before the old one ends.

  #refreshInTime(expiresAt) {
    clearTimeout(this.#timers.refresh);
    if (expiresAt === null || !this.#options.canRefresh) return;
    // By the server's clock, which may not be ours: never at once, and the server says `token_expiring` in time.
    const leftMs = expiresAt - Date.now();
    const wait = Math.max(TOKEN_RETRY_MS, leftMs - Math.min(REFRESH_EARLY_MS, leftMs / 4));
    this.#timers.refresh = setTimeout(() => this.#bringToken(), Math.min(wait, TIMER_MAX_MS));
  }

  async #bringToken() {
    if (this.#isRefreshing || !this.#options.canRefresh) return;
    this.#isRefreshing = true;
    const generation = this.#generation;
    try {
      const token = await inTime(() => this.#options.token({ fresh: true }));
      if (generation !== this.#generation) return;
      if (token === null || token === undefined) return this.#stop("expired", { code: 4501, reason: "The session is over." });
      await this.refresh(token);
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#options.report(error);
      this.#timers.refresh = setTimeout(() => this.#bringToken(), TOKEN_RETRY_MS);
    } finally {
      if (generation === this.#generation) this.#isRefreshing = false;
    }
  }

  // What a browser knows about the network and about sleep.

  #watch() {
    const on = (target, name, act) => {
      if (!target?.addEventListener) return;
      target.addEventListener(name, act);
      this.#removers.push(() => target.removeEventListener(name, act));
    };
    const awake = () => {
      this.check();
      this.now();
    };
    const page = globalThis.document;
    if (!page) return;
    on(page, "visibilitychange", () => { if (!page.hidden) awake(); });
    on(page, "resume", awake);
    on(globalThis, "pageshow", awake);
    on(globalThis, "offline", () => { this.#wasOffline = true; });
    on(globalThis, "online", () => {
      // A socket of the network that went away may seem open until its life is over.
      if (this.#wasOffline && this.#socket) this.#lost({ code: 1006, reason: "The network has changed." });
      this.#wasOffline = false;
      awake();
    });
  }
}

// ── the page's side ──────────────────────────────────────────────────────────────────────────────────────

const HIDDEN_MS = 200; // a hidden tab has no frames; browsers slow its timers to 1 s and, after minutes, to 60 s
const FRAME_LATE_MS = 500; // a frame that was asked for in a tab that is hidden meanwhile never comes

/** Call readers back: at most once per animation frame, and at the latest after 500 ms while the tab is visible. */
class Notifier {
  #due = new Set();
  #timer = null;
  #frame = null;

  constructor() {
    const page = globalThis.document;
    const flush = () => { if (!page.hidden) this.flush(); };
    page?.addEventListener?.("visibilitychange", flush);
    this.stop = () => page?.removeEventListener?.("visibilitychange", flush);
  }

  call(deliver) {
    this.#due.add(deliver);
    if (this.#timer !== null) return;
    const page = globalThis.document;
    const hasFrames = page && !page.hidden && globalThis.requestAnimationFrame;
    if (hasFrames) this.#frame = requestAnimationFrame(() => this.flush());
    this.#timer = setTimeout(() => this.flush(), hasFrames ? FRAME_LATE_MS : page ? HIDDEN_MS : 0);
  }

  flush() {
    clearTimeout(this.#timer);
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#timer = this.#frame = null;
    const due = [...this.#due];
    this.#due.clear();
    for (const deliver of due) deliver();
  }
}

/** Positions of threads, in a `Storage` such as sessionStorage: of the 100 threads used last. */
class Positions {
  #storage;
  #name;
  #kept = new Map(); // thread -> {log, seq}, the one used last at the end

  constructor(storage, name) {
    this.#storage = storage;
    this.#name = name;
    try {
      for (const [thread, log, seq] of JSON.parse(storage?.getItem(name) ?? "[]")) {
        if (isText(thread) && isText(log) && isInt(seq)) this.#kept.set(thread, { log, seq });
      }
    } catch {
      this.#kept.clear(); // not ours, or not allowed: as if nothing was kept
    }
  }

  get(thread) {
    return this.#kept.get(thread) ?? null;
  }

  set(thread, position) {
    this.#kept.delete(thread);
    this.#kept.set(thread, position);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    this.#save();
  }

  delete(thread) {
    if (this.#kept.delete(thread)) this.#save();
  }

  #save() {
    try {
      this.#storage?.setItem(this.#name, JSON.stringify([...this.#kept].map(([thread, { log, seq }]) => [thread, log, seq])));
    } catch {
      // Full or forbidden: the position is kept for the life of this page only.
    }
  }
}

/**
 * A reader of one thread: iterate over it with `for await`, or call `subscribe` once. Made by `client.events`.
 *
 * Items are `event` frames, in order and each once, and `reset` frames where the server cannot go on: drop what was
 * built; the events after `from` follow.
 */
class Reader {
  #feed;
  #host;
  #wake = null;
  #isTaken = false;
  #keeps;
  #deliver = null;

  constructor(feed, host, keeps) {
    this.#feed = feed;
    this.#host = host;
    this.#keeps = keeps;
    this.thread = feed.thread;
    this.position = feed.last === null ? null : { log: feed.log, seq: feed.last }; // after the last item handled
    feed.wake = () => this.#woken();
  }

  /** Why it ended; null while it goes on, and after the end that was asked for. */
  get error() {
    return this.#feed.isEnded ? this.#feed.error : null;
  }

  async *[Symbol.asyncIterator]() {
    this.#take();
    try {
      for (;;) {
        const { isEnded } = this.#feed;
        for (let item = this.#feed.take(); item !== undefined; item = this.#feed.take()) {
          const position = this.#feed.positionAfter(item);
          yield item;
          this.#handled(position); // the caller came back for more
          this.#host.session.drained(this.#feed);
        }
        if (isEnded) break;
        await new Promise((resolve) => {
          this.#wake = resolve;
          if (this.#feed.length || this.#feed.isEnded) resolve();
        });
      }
      if (this.#feed.error) throw this.#feed.error;
    } finally {
      this.close();
    }
  }

  /**
   * Call back with a list of items: at most once per animation frame, or at once when 4,096 wait.
   *
   * @param {(items: object[]) => void} onItems
   * @param {(error: Error|null) => void} [onEnd] called once, after the last items
   * @returns {() => void} ends it
   */
  subscribe(onItems, onEnd = () => {}) {
    this.#take();
    let hasEnded = false;
    const deliver = () => {
      if (this.#deliver === null) return; // closed since this call was asked for
      const items = [];
      let position = null;
      for (let item = this.#feed.take(); item !== undefined; item = this.#feed.take()) {
        items.push(item);
        position = this.#feed.positionAfter(item);
      }
      if (items.length) this.#host.guard(() => onItems(items));
      if (position) this.#handled(position);
      if (this.#feed.isEnded && !hasEnded) {
        hasEnded = true;
        this.#host.guard(() => onEnd(this.#feed.error));
      }
    };
    this.#deliver = this.#feed.overflow = deliver;
    if (this.#feed.length || this.#feed.isEnded) this.#host.notifier.call(deliver);
    return () => this.close();
  }

  /** Read no more: what is queued is not given out. */
  close() {
    this.#deliver = null;
    this.#feed.clear();
    this.#feed.end();
    this.#host.session.close(this.#feed);
  }

  #take() {
    if (this.#isTaken) throw new RunwireError("conflict", "A reader is read once: call `client.events` again.");
    this.#isTaken = true;
  }

  #woken() {
    this.#wake?.();
    if (this.#deliver) this.#host.notifier.call(this.#deliver);
  }

  #handled(position) {
    this.position = position;
    if (!this.#keeps) return;
    if (this.#feed.error?.code === "not_found") this.#host.positions.delete(this.thread);
    else this.#host.positions.set(this.thread, position);
  }
}

/** A thread as it stands, kept up to date. Made by `client.view`. */
class LiveView {
  #feed;
  #host;
  #listeners = new Set();
  #deliver;

  constructor(feed, host) {
    this.#feed = feed;
    this.#host = host;
    this.thread = feed.thread;
    this.state = feed.shown; // a ThreadView; changes in place
    feed.isQueueing = false;
    this.#deliver = () => this.#notify();
    feed.overflow = this.#deliver;
    feed.wake = () => host.notifier.call(this.#deliver);
  }

  /** The position `{log, seq}` of what `state` shows; null until the server was asked. */
  get position() {
    return this.#feed.log === null || this.#feed.last === null ? null : { log: this.#feed.log, seq: this.#feed.last };
  }

  /** Why it ended: the thread was deleted, is not yours, or the client was closed. */
  get error() {
    return this.#feed.error;
  }

  /**
   * Call back after changes: at most once per animation frame, or at once when 4,096 items wait. The items are what
   * `state` has applied since: `event` and `reset` frames, and a `subscribed` frame where a subscription began, whose
   * `head` says how far there is to catch up. Without items: the view has ended, see `error`, or a snapshot was taken.
   *
   * @param {(items: object[]) => void} listener
   * @returns {() => void} ends it
   */
  onChange(listener) {
    this.#listeners.add(listener);
    this.#feed.isQueueing = true;
    return () => {
      this.#listeners.delete(listener);
      this.#feed.isQueueing = this.#listeners.size > 0;
    };
  }

  /** Follow it no more; `state` stays as it is. */
  close() {
    this.#listeners.clear();
    this.#feed.end();
    this.#host.session.close(this.#feed);
  }

  #notify() {
    const items = [];
    for (let item = this.#feed.take(); item !== undefined; item = this.#feed.take()) items.push(item);
    for (const listener of [...this.#listeners]) this.#host.guard(() => listener(items));
  }
}

/** A connection to a server that heals itself. Made by `connect`. */
class Client {
  #link;
  #host;
  #options;
  #token;

  constructor(options) {
    this.#options = options;
    this.#token = options.token ?? null;
    const root = new URL(options.url, globalThis.location?.href);
    root.protocol = root.protocol.replace("ws", "http");
    if (!root.pathname.endsWith("/")) root.pathname += "/";
    const address = new URL("v1/ws", root);
    address.protocol = address.protocol.replace("http", "ws");
    const notifier = new Notifier();
    const session = new Session((frame) => this.#link.write(frame), (error) => this.#report(error));
    const storage = options.storage === undefined ? pageStorage() : options.storage;
    this.#host = {
      session, notifier, root,
      positions: new Positions(storage, `runwire.positions ${root.href}`),
      guard: (act) => this.#guard(act),
    };
    this.#link = new Link({
      address: address.href,
      session,
      client: options.client ?? CLIENT,
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      random: options.random ?? Math.random,
      canRefresh: Boolean(options.getToken),
      token: ({ fresh }) => this.#tokenOf(fresh),
      show: (state) => this.#guard(() => this.#options.onState?.(state)),
      notice: (frame) => this.#guard(() => this.#options.onNotice?.(frame)),
      report: (error) => this.#report(error),
    });
    queueMicrotask(() => { if (!this.#link.isClosed) this.#link.start(); });
  }

  /** How the connection is: see `ConnectionState` in the types. */
  get state() {
    return this.#link.state;
  }

  /** The last welcome of the server while the connection is live, else null. */
  get welcome() {
    return this.#host.session.welcome;
  }

  /**
   * Say something to an agent. Resolves to `{thread, log, after, run, message, seq}` once the server has stored it; a
   * reply that is lost with its socket is asked for again with the same key, so a message never starts two runs.
   * At most 1,000 commands wait for a reply; the next is refused with `unavailable`.
   */
  async send(content, { thread = null, agent = null, onActive = "enqueue", metadata = null, key = randomKey(), signal = null } = {}) {
    const frame = { op: "send", id: this.#host.session.nextId(), key, thread, agent, content, on_active: onActive };
    if (metadata !== null) frame.metadata = metadata;
    return this.#command(frame, signal);
  }

  /** Ask a run to end; resolves to `{run, status}` once that is noted. Its terminal event is the outcome. */
  async cancel(run, { signal = null } = {}) {
    return this.#command({ op: "cancel", id: this.#host.session.nextId(), run }, signal);
  }

  /**
   * Answer a wait of a run; resolves to `{run, wait}` once that is stored. The first answer wins: another than it is
   * refused with `conflict`. An answer whose reply is lost is given again, and the same one twice is as good as once.
   */
  async answer(run, wait, value, { signal = null } = {}) {
    return this.#command({ op: "answer", id: this.#host.session.nextId(), run, wait, value }, signal);
  }

  /**
   * Start a new run with the message of one that has ended; resolves to `{thread, log, run, message, seq}`. It is asked
   * for over HTTP, with a key, until there is an answer: so it never starts two runs. Follow the thread to see it.
   */
  async retry(run, { onActive = "enqueue", key = randomKey(), signal = null } = {}) {
    const path = `v1/runs/${encodeURIComponent(run)}/retry`;
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const body = JSON.stringify({ on_active: onActive });
    let fresh = false;
    for (let attempt = 1; !this.#link.isClosed; attempt += 1) {
      signal?.throwIfAborted();
      const answer = await this.#ask(path, fresh, { method: "POST", headers, body });
      if (answer.body) return answer.body;
      if (answer.error) throw answer.error;
      fresh = answer.status === 401;
      await this.#pause(attempt + 1, signal);
    }
    throw new RunwireError("closed", "The client is closed.");
  }

  /**
   * Follow a thread: a `Reader`, to be iterated over or subscribed to. Close it, or the thread stays subscribed.
   *
   * `after`: a seq; 0 from the start, -1 from now. `log`: the history that it belongs to. `view`: `lifecycle` leaves
   * the deltas out. `run` (with `seq`): only that run, to its end; the data of a `send` fits. `resume`: go on after
   * what this tab has handled, as kept in `storage`, and keep that up to date; ask for it only if what the events led
   * to was kept as well. A page that draws a thread needs `view`.
   */
  events(thread, { after = 0, log = null, view = "all", run = null, seq = 0, resume = false } = {}) {
    const kept = resume ? this.#host.positions.get(thread) : null;
    const last = kept ? kept.seq : after < 0 ? null : after;
    const feed = new Feed({ thread, last, log: kept ? kept.log : log, view, run, runSeq: seq, wake() {} });
    const reader = new Reader(feed, this.#host, resume);
    this.#follow(feed);
    return reader;
  }

  /**
   * Keep a `ThreadView` of a thread up to date: a `LiveView`. Close it, or the thread stays subscribed.
   *
   * `from`: `start` replays the thread, so thoughts and custom events are in it too; `snapshot` takes the messages and
   * runs of `GET /v1/threads/{id}`, exact at its seq, and goes on from there: less to load. Either way a page that
   * was reloaded shows what the log has.
   */
  view(thread, { from = "start" } = {}) {
    const feed = new Feed({ thread, last: from === "snapshot" ? null : 0, shown: new ThreadView(), wake() {} });
    const live = new LiveView(feed, this.#host);
    if (from === "snapshot") this.#load(feed, live);
    else this.#follow(feed);
    return live;
  }

  /** Bring a fresh token of the same user in band: this one, or what `getToken({fresh: true})` returns. */
  async refresh(token) {
    if (token !== undefined && this.#token !== null) this.#token = token;
    return this.#link.refresh(token);
  }

  /** Try at once instead of waiting for the next attempt (not before the time that the server asked for). */
  reconnectNow() {
    this.#link.now();
  }

  /** Close for good: what waits for a reply is refused with `closed`, readers end. Idempotent. */
  close() {
    if (!this.#link.isClosed) this.#link.close();
    this.#host.notifier.flush();
    this.#host.notifier.stop();
  }

  async #command(frame, signal) {
    if (this.#link.isClosed) throw new RunwireError("closed", "The client is closed.");
    return this.#host.session.command(frame, signal);
  }

  #follow(feed) {
    if (this.#link.isClosed) feed.end(new RunwireError("closed", "The client is closed."));
    else this.#host.session.open(feed);
  }

  /** Take the snapshot, over as many tries as it needs, then follow the thread from its seq. */
  async #load(feed, live) {
    let fresh = false;
    for (let attempt = 1; !feed.isEnded && !this.#link.isClosed; attempt += 1) {
      const answer = await this.#ask(`v1/threads/${encodeURIComponent(feed.thread)}`, fresh);
      if (feed.isEnded) return undefined;
      if (answer.body) {
        const { body } = answer;
        try {
          live.state = feed.shown = ThreadView.fromSnapshot(body);
        } catch {
          return feed.end(new RunwireError("bad_frame", "The server's snapshot cannot be read."));
        }
        feed.last = body.seq;
        feed.log = body.log;
        feed.wake();
        return this.#follow(feed);
      }
      if (answer.error) return feed.end(answer.error);
      fresh = answer.status === 401;
      await this.#pause(attempt + 1);
    }
    return feed.end(new RunwireError("closed", "The client is closed."));
  }

  /** Wait before attempt `attempt`; the end of `signal` ends it. */
  async #pause(attempt, signal = null) {
    let done;
    await new Promise((resolve) => {
      done = resolve;
      setTimeout(resolve, reconnectDelay(attempt, { random: this.#random() })).unref?.();
      signal?.addEventListener("abort", done);
    });
    signal?.removeEventListener("abort", done);
  }

  /** Ask for JSON: `{body}`, `{error}` if it never will be had, `{status}` or nothing if not now. */
  async #ask(path, fresh, { headers = {}, ...more } = {}) {
    try {
      return await inTime(async (signal) => {
        const token = await this.#tokenOf(fresh);
        const answer = await fetch(new URL(path, this.#host.root), { ...more, headers: { ...headers, Authorization: `Bearer ${token}` }, signal });
        if (answer.ok) return { body: await answer.json() };
        if ((answer.status >= 500 && answer.status !== 501) || answer.status === 429 || answer.status === 401) return { status: answer.status };
        const problem = await answer.json().catch(() => ({}));
        return { error: refusal({ code: "not_found", message: problem.detail ?? "There is no such thing, or it is not yours.", ...problem }) };
      });
    } catch (error) {
      this.#report(error);
      return {};
    }
  }

  #random() {
    return (this.#options.random ?? Math.random)();
  }

  #tokenOf(fresh) {
    return this.#options.getToken ? this.#options.getToken({ fresh }) : this.#token;
  }

  #report(error) {
    if (this.#options.onError) this.#guard(() => this.#options.onError(error));
    else globalThis.console?.warn(`runwire: ${error.message}`);
  }

  /** Call the page's own function: what it throws is the page's, and never ends the connection. */
  #guard(act) {
    try {
      act();
    } catch (error) {
      if (globalThis.reportError) globalThis.reportError(error);
      else queueMicrotask(() => { throw error; });
    }
  }
}

/**
 * Connect to a server and stay connected until `close()`. Returns at once; commands wait for the connection.
 *
 * @param {object} options see `ConnectOptions` in `runwire.d.ts`
 */
export function connect(options) {
  return new Client(options);
}

function pageStorage() {
  try {
    return globalThis.document ? (globalThis.sessionStorage ?? null) : null;
  } catch {
    return null; // access may be forbidden
  }
}

function randomKey() {
  // crypto.randomUUID is missing where a page is served over plain HTTP from another machine.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
