// From events to what a person sees: one row per logical step. Pure.

const TERMINAL = { agent_completed: "completed", agent_failed: "failed", agent_cancelled: "cancelled" };
const ENDED = { completed: true, failed: true, cancelled: true };
const TITLE_CHARS = 80;
const QUOTED_CHARS = 28;
const RETRY_REASON = {
  worker_lost: "The worker was lost",
  drained: "The run was handed over",
  deploy: "A new version was deployed",
};

/** How many Unicode code points a text has: what offsets of the protocol count. */
export function codePoints(text) {
  let count = 0;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xd800 && unit < 0xdc00) at += 1;
    count += 1;
  }
  return count;
}

/** The text of a message's content: a string, a list of parts, or a reference to a large value. */
export function contentText(content) {
  if (typeof content === "string") return content;
  if (Array.isArray(content)) return content.map((part) => part?.text ?? "").join("");
  if (isReference(content)) return content.head;
  return content === undefined || content === null ? "" : JSON.stringify(content, null, 2);
}

/** Whether a value was put aside because it is large: `{"$ref", "bytes", "head"}`. */
export function isReference(value) {
  return typeof value === "object" && value !== null && typeof value.$ref === "string";
}

/** A stream of deltas: `text[:offset] + piece`, cheap when it appends. */
class Stream {
  constructor() {
    this.text = "";
    this.length = 0;
  }

  take(offset, piece) {
    if (offset < this.length) this.text = Array.from(this.text).slice(0, offset).join("");
    this.text += piece;
    this.length = offset + codePoints(piece);
  }
}

/** A title made of a thread's first message; empty if that says nothing. */
export function titleOf(content) {
  return contentText(content).replace(/\s+/g, " ").trim().slice(0, TITLE_CHARS);
}

/** What Esc and the button Stop would do now, in words; empty if nothing runs. */
export function stopHint(view) {
  const run = view.activeRun;
  if (run === null) return "";
  const waiting = view.waitingRuns.filter((other) => other !== run).length;
  const others = waiting === 0 ? "" : waiting === 1 ? "; 1 more waits" : `; ${waiting} more wait`;
  if (run.isStopping) return `Stopping ${quoted(run)}${others}`;
  return `Stop (Esc) ${run.status === "queued" ? "withdraws" : "ends"} ${quoted(run)}${others}`;
}

function quoted(run) {
  const text = titleOf(run.asked);
  return text ? `“${text.length > QUOTED_CHARS ? `${text.slice(0, QUOTED_CHARS)}…` : text}”` : "this message";
}

/**
 * The rows of one thread: grouped by run, runs in the order of their messages, a run's rows by seq.
 *
 * A message that was sent while a run goes on begins a run of its own; what the older run says later still
 * belongs above it. A row has `key`, `kind` (user, run, thinking, tool, message, note, custom, end), `seq`,
 * `run`, `rev` (moves with every change) and what its kind needs.
 */
export class View {
  constructor() {
    this.clear();
  }

  clear() {
    this.rows = [];
    this.byKey = new Map();
    this.streams = new Map(); // key of a row -> Stream, while deltas may come
    this.runs = new Map(); // run -> {run, agent, status, asked, startedAt, isStopping}
  }

  /** The run that goes on, else the oldest one that waits for its turn; null if the thread is idle. */
  get activeRun() {
    for (const run of this.runs.values()) if (run.status === "running") return run;
    return this.waitingRuns[0] ?? null;
  }

  /** The runs that no worker has begun, oldest first. */
  get waitingRuns() {
    return [...this.runs.values()].filter((run) => run.status === "queued");
  }

  /** Remember that a run was asked to stop, or that this did not arrive. */
  stopping(id, isStopping = true) {
    const run = this.runs.get(id);
    if (!run || run.status in ENDED) return;
    run.isStopping = isStopping;
    this.#markWaiting(run);
  }

  /** Put older messages (of `GET …/messages`) above everything; those that are here already stay as they are. */
  putBefore(messages) {
    const older = [];
    for (const { message, role, content, run, seq, complete } of messages) {
      const key = `m:${message}`;
      if (this.byKey.has(key)) continue;
      const row = { key, seq, run, rev: 1, kind: role === "user" ? "user" : "message", text: contentText(content), isOpen: false, isComplete: complete };
      if (isReference(content)) row.reference = content;
      this.byKey.set(key, row);
      older.push(row);
    }
    // A run that was seen from its middle on comes to stand below its message.
    const groups = new Map();
    for (const row of [...older, ...this.rows]) {
      if (groups.has(row.run)) groups.get(row.run).push(row);
      else groups.set(row.run, [row]);
    }
    this.rows = [...groups.values()].flat();
  }

  /** Whether an event can be applied: "apply", "skip" or "gap" (see `Subscription.receive`). */
  fits(event) {
    const key = streamKey(event);
    if (key === null) return "apply";
    const stream = this.streams.get(key);
    if (stream) return event.data.offset > stream.length ? "gap" : "apply";
    // A message begins with `message_started`; thoughts and arguments with their first delta.
    return event.type !== "text_delta" && event.data.offset === 0 && !this.byKey.has(key) ? "apply" : "skip";
  }

  /** Apply an event that `Subscription.receive` said to apply. */
  apply(event) {
    const run = this.#run(event);
    if (event.type in TERMINAL) return this.#end(event, run);
    return this[`_${event.type}`]?.(event, run); // other types are in the list of raw events
  }

  _user_message(event, run) {
    run.status = "queued";
    run.asked = event.data.content;
    run.row = `m:${event.data.message}`;
    this.#put(run.row, event, { kind: "user", text: contentText(event.data.content) });
    this.#markWaiting(run);
  }

  _agent_started(event, run) {
    run.agent = event.data.agent;
    run.startedAt = event.ts;
    run.status = "running";
    this.#markWaiting(run);
    this.#put(`r:${event.run}`, event, { kind: "run", agent: event.data.agent });
  }

  _thinking_delta(event) {
    const key = `t:${event.data.thinking}`;
    this.#put(key, event, { kind: "thinking", text: this.#streamed(key, event.data), isOpen: true });
  }

  _agent_thinking(event) {
    const { thinking, text } = event.data;
    const key = thinking ? `t:${thinking}` : `e:${event.seq}`;
    this.streams.delete(key);
    const known = this.byKey.get(key);
    const startedAt = known ? known.ts : event.ts;
    const full = text === undefined || text === null ? (known?.text ?? "") : contentText(text);
    this.#put(key, event, { kind: "thinking", text: full, isOpen: false, durationMs: event.ts - startedAt });
  }

  _tool_args_delta(event) {
    const key = `c:${event.data.call}`;
    this.#put(key, event, { kind: "tool", name: "…", status: "preparing", argsText: this.#streamed(key, event.data) });
  }

  _tool_executing(event) {
    const { call, name, args } = event.data;
    this.streams.delete(`c:${call}`);
    this.#put(`c:${call}`, event, { kind: "tool", name, args, status: "running", startedAt: event.ts, attempt: event.data.try });
  }

  _tool_completed(event) {
    const { call, name, ok, final, result, error, duration_ms: durationMs } = event.data;
    const status = ok ? "ok" : final ? "failed" : "repeated";
    this.#put(`c:${call}`, event, { kind: "tool", name, status, result, error, durationMs, hasResult: "result" in event.data });
  }

  _message_started(event) {
    const key = `m:${event.data.message}`;
    this.streams.set(key, new Stream());
    this.#put(key, event, { kind: "message", role: event.data.role, text: "", isOpen: true, isComplete: true });
  }

  _text_delta(event) {
    const key = `m:${event.data.message}`;
    this.#put(key, event, { kind: "message", text: this.#streamed(key, event.data) });
  }

  _message_completed(event) {
    const { message, content, complete } = event.data;
    this.streams.delete(`m:${message}`);
    const reference = isReference(content) ? content : null;
    this.#put(`m:${message}`, event, {
      kind: "message", text: contentText(content), reference, isOpen: false, isComplete: complete,
    });
  }

  _agent_retrying(event, run) {
    run.status = "running";
    this.#markWaiting(run);
    const reason = RETRY_REASON[event.data.reason] ?? "The run was interrupted";
    this.#note(event, `${reason}; attempt ${event.data.attempt} goes on.`);
  }

  _superseded(event) {
    const gone = new Set([
      ...(event.data.messages ?? []).map((id) => `m:${id}`),
      ...(event.data.thinking ?? []).map((id) => `t:${id}`),
      ...(event.data.events ?? []).map((seq) => `e:${seq}`),
    ]);
    for (const key of gone) {
      this.byKey.delete(key);
      this.streams.delete(key);
    }
    const before = this.rows.length;
    this.rows = this.rows.filter((row) => !gone.has(row.key));
    if (this.rows.length < before) this.#note(event, "Earlier words were taken back; the agent says this part anew.");
  }

  _agent_waiting(event) {
    const prompt = event.data.prompt ? `: ${contentText(event.data.prompt)}` : "";
    this.#note(event, `Waiting for ${event.data.kind}${prompt}`);
  }

  _agent_resumed(event) {
    this.#note(event, "The wait is over.");
  }

  _subagent_started(event) {
    this.#note(event, `${event.data.agent} begins to help.`);
  }

  _subagent_completed(event) {
    this.#note(event, "The helping agent is done.");
  }

  _subagent_failed(event) {
    this.#note(event, `The helping agent failed: ${event.data.message}`);
  }

  _custom(event) {
    this.#put(`e:${event.seq}`, event, { kind: "custom", name: event.data.name, value: event.data.value });
  }

  #end(event, run) {
    run.status = TERMINAL[event.type];
    this.#markWaiting(run);
    const { data } = event;
    const said = this.rows.some((row) => row.run === event.run && row.kind === "message");
    this.#put(`x:${event.run}`, event, {
      kind: "end",
      status: run.status,
      durationMs: data.duration_ms ?? (run.startedAt ? event.ts - run.startedAt : null),
      // What was returned and is no text has no message: it is shown here.
      output: event.type === "agent_completed" && !said ? data.output : undefined,
      code: data.code,
      message: data.message ?? data.reason,
      errorId: data.error_id,
      by: data.by,
    });
    for (const row of this.rows) if (row.run === event.run && row.isOpen) this.#change(row, { isOpen: false });
  }

  #run(event) {
    let run = this.runs.get(event.run);
    if (!run) {
      run = { run: event.run, agent: null, status: "running", asked: null, startedAt: null, isStopping: false };
      this.runs.set(event.run, run);
    }
    return run;
  }

  /** Show at a run's message whether it waits: `waiting` is "", "turn" or "stopping". */
  #markWaiting(run) {
    const row = this.byKey.get(run.row);
    const waiting = run.status !== "queued" ? "" : run.isStopping ? "stopping" : "turn";
    if (row && (row.waiting ?? "") !== waiting) this.#change(row, { waiting });
  }

  #note(event, text) {
    this.#put(`e:${event.seq}`, event, { kind: "note", text });
  }

  #streamed(key, { offset, text }) {
    let stream = this.streams.get(key);
    if (!stream) this.streams.set(key, (stream = new Stream()));
    stream.take(offset, text);
    return stream.text;
  }

  #put(key, event, fields) {
    let row = this.byKey.get(key);
    if (!row) {
      row = { key, seq: event.seq, ts: event.ts, run: event.run, rev: 0 };
      this.byKey.set(key, row);
      this.rows.splice(this.#placeOf(row.run, fields.kind), 0, row);
    }
    this.#change(row, fields);
  }

  /** Where a new row goes: to the end of its run. */
  #placeOf(run, kind) {
    if (this.rows.at(-1)?.run === run) return this.rows.length;
    const last = this.rows.findLastIndex((row) => row.run === run);
    if (last >= 0) return last + 1;
    // A run whose message this view never saw was asked for before everything that is here.
    const first = kind === "user" ? -1 : this.rows.findIndex((row) => row.kind === "user");
    return first < 0 ? this.rows.length : first;
  }

  #change(row, fields) {
    Object.assign(row, fields);
    row.rev += 1;
  }
}

function streamKey({ type, data }) {
  if (type === "text_delta") return `m:${data.message}`;
  if (type === "thinking_delta") return `t:${data.thinking}`;
  if (type === "tool_args_delta") return `c:${data.call}`;
  return null;
}
