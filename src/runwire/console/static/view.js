// What a thread's state looks like: one row per logical step. Pure, and only presentation: what counts and what
// it means is decided in runwire.js.

const ENDED = { completed: true, failed: true, cancelled: true };
const GOING_ON = { running: true, waiting: true };
const TITLE_CHARS = 80;
const QUOTED_CHARS = 28;
const SPANS_DEEP = 8; // sub-agents inside each other; a span that names itself as its parent ends somewhere
const RETRY_REASON = {
  worker_lost: "The worker was lost",
  drained: "The run was handed over",
  deploy: "A new version was deployed",
};
// Said once, where it happened.
const NOTES = {
  agent_retrying: ({ reason, attempt }) => `${RETRY_REASON[reason] ?? "The run was interrupted"}; attempt ${attempt} goes on.`,
  superseded: () => "Earlier words were taken back; the agent says this part anew.",
};

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

/** A title made of a thread's first message; empty if that says nothing. */
export function titleOf(content) {
  return contentText(content).replace(/\s+/g, " ").trim().slice(0, TITLE_CHARS);
}

/** What a wait is for, in words: the head of its card, and what is said of it aloud. */
export function waitTitle({ waitKind, name, isOpen }) {
  if (waitKind === "timer") return isOpen ? "Sleeping" : "Slept";
  if (waitKind === "approval") return name ? `Approve ${name}?` : isOpen ? "Your approval is needed" : "Approval";
  return isOpen ? "The agent asks" : "The agent asked";
}

/** How a wait ended, in words; empty while it is open. */
export function waitOutcome({ waitKind, by, value }) {
  if (by === null) return "";
  if (by === "ended") return waitKind === "timer" ? "The run ended first." : "The run ended before this was answered.";
  if (by === "timer") return waitKind === "timer" ? "The time has come." : "Nobody answered in time.";
  if (waitKind === "approval") return value === true ? "You approved this." : "You rejected this.";
  return `You answered: ${contentText(value) || "null"}`;
}

/** What Esc and the button Stop would do now, in words; empty if nothing runs. */
export function stopHint(rows) {
  const run = rows.activeRun;
  if (run === null) return "";
  const waiting = rows.waitingRuns.filter((other) => other.run !== run.run).length;
  const others = waiting === 0 ? "" : waiting === 1 ? "; 1 more waits" : `; ${waiting} more wait`;
  if (run.isStopping) return `Stopping ${quoted(run)}${others}`;
  if (run.status === "waiting") return `${run.isAsking ? "Waits for you" : "Sleeps"}: ${quoted(run)}; Stop (Esc) ends it${others}`;
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
 * belongs above it. A row has `key`, `kind` (user, run, thinking, tool, message, wait, span, note, custom, end), `seq`,
 * `run`, `rev` (moves with every change) and what its kind needs; `depth` says inside how many sub-agents it stands. What
 * is shown comes from the state; the events that made it only add when each thing happened, and where notes stand.
 */
export class Rows {
  #facts = new Map(); // run -> {asked, startedAt, marks, notes}: when things happened
  #rows = new Map(); // run -> its rows
  #byKey = new Map();
  #older = new Map(); // run -> rows of messages from before the state begins
  #stopping = new Set(); // runs that were asked to stop
  #answering = new Set(); // waits whose answer is on its way
  #retried = new Map(); // run -> "asked" (on its way) or "done" (there is another run with its message)
  #changed = new Set(); // runs whose rows are to be made anew

  /** @param {{runs: Map, messages: Map}} state a `ThreadView` that has applied what is given to `take` */
  constructor(state) {
    this.state = state;
  }

  /** Take the items of a change of the view, in order. */
  take(items) {
    for (const item of items) {
      if (item.op === "event") this.#note(item);
      else if (item.op === "reset") this.#clear();
    }
  }

  /** All rows, in the order in which they are shown. */
  get rows() {
    if (this.#changed.size) {
      const messages = new Map([...this.#changed].map((run) => [run, []]));
      for (const message of this.state.messages.values()) messages.get(message.run)?.push(message);
      for (const [run, of] of messages) this.#rows.set(run, this.#rowsOf(run, of));
      this.#changed.clear();
    }
    const isAsked = (run) => this.#facts.get(run)?.asked !== undefined;
    const later = [...this.state.runs.keys()].filter((run) => !this.#older.has(run));
    // A run whose message this view never saw was asked for before every one that was seen.
    const runs = [...this.#older.keys(), ...later.filter((run) => !isAsked(run)), ...later.filter(isAsked)];
    return runs.flatMap((run) => [...(this.#older.get(run) ?? []), ...(this.#rows.get(run) ?? [])]);
  }

  /** Whether a message is shown. */
  hasMessage(id) {
    return this.state.messages.has(id);
  }

  /** The run that goes on, else the oldest one that waits for its turn; null if the thread is idle. */
  get activeRun() {
    for (const run of this.state.runs.values()) if (run.status in GOING_ON) return this.#brief(run);
    return this.waitingRuns[0] ?? null;
  }

  /** The runs that no worker has begun, oldest first. */
  get waitingRuns() {
    return [...this.state.runs.values()].filter((run) => run.status === "queued").map((run) => this.#brief(run));
  }

  /** Remember that a run was asked to stop, or that this was refused. */
  stopping(id, isStopping = true) {
    const run = this.state.runs.get(id);
    if (!run || run.status in ENDED) return;
    if (isStopping) this.#stopping.add(id);
    else this.#stopping.delete(id);
    this.#changed.add(id);
  }

  /** Whether a run was asked to stop. */
  isStopping(id) {
    return this.#stopping.has(id);
  }

  /** Remember that an answer to a wait is on its way, or that it was stored or refused. */
  answering(id, wait, isAnswering = true) {
    if (isAnswering) this.#answering.add(wait);
    else this.#answering.delete(wait);
    this.#changed.add(id);
  }

  /** Remember that a run is being tried again, or that this was refused. */
  retrying(id, isAsked = true) {
    if (this.#retried.get(id) === "done") return;
    if (isAsked) this.#retried.set(id, "asked");
    else this.#retried.delete(id);
    this.#changed.add(id);
  }

  /** The open waits of a thread that a person may answer, oldest first. */
  get openWaits() {
    return this.rows.filter((row) => row.kind === "wait" && row.isOpen && row.waitKind !== "timer");
  }

  /** Put older messages (of `GET …/messages`) above everything; those that are here already stay as they are. */
  putBefore(messages) {
    const known = [...this.#older];
    this.#older = new Map();
    const seen = new Set(known.flatMap(([, rows]) => rows.map((row) => row.key)));
    for (const { message, role, content, run, seq, complete } of messages) {
      const key = `m:${message}`;
      if (seen.has(key) || this.hasMessage(message)) continue;
      push(this.#older, run, { key, seq, run, rev: 1, ...said({ role, content, complete, isOpen: false }) });
    }
    // A run that was seen from its middle on comes to stand below its message.
    for (const [run, rows] of known) push(this.#older, run, ...rows);
  }

  #clear() {
    for (const map of [this.#facts, this.#rows, this.#byKey, this.#older, this.#stopping, this.#answering, this.#retried, this.#changed]) map.clear();
  }

  #brief(run) {
    const asked = this.state.messages.get(this.#facts.get(run.id)?.asked)?.content ?? null;
    const isAsking = [...run.waits.values()].some(({ by, kind }) => by === null && kind !== "timer");
    return { run: run.id, status: run.status, asked, isStopping: this.#stopping.has(run.id), isAsking };
  }

  /** Remember when and where something happened. */
  #note(event) {
    const { run: id, seq, ts, type, data } = event;
    this.#changed.add(id);
    const run = this.state.runs.get(id);
    if (!run || (type !== "custom" && run.opaque.has(seq))) return; // of a newer server: it is in the list of raw events
    if (!this.#facts.has(id)) this.#facts.set(id, { asked: undefined, startedAt: null, marks: new Map(), notes: [] });
    const facts = this.#facts.get(id);
    const key = keyOf(event);
    if (!facts.marks.has(key)) facts.marks.set(key, { seq, beganAt: ts, endedAt: ts });
    facts.marks.get(key).endedAt = ts;
    if (type === "user_message") {
      facts.asked = data.message;
      facts.isRetry = typeof data.retry_of === "string";
      if (facts.isRetry && this.state.runs.has(data.retry_of)) {
        this.#retried.set(data.retry_of, "done");
        this.#changed.add(data.retry_of);
      }
    }
    if (type === "agent_resumed") this.#answering.delete(data.wait);
    if (type === "agent_started") facts.startedAt = ts;
    if (type in NOTES) facts.notes.push({ key, seq, kind: "note", text: NOTES[type](data) });
    if (run.status in ENDED) this.#stopping.delete(id);
  }

  #rowsOf(id, messages) {
    const run = this.state.runs.get(id);
    if (!run) return [];
    const facts = this.#facts.get(id) ?? { startedAt: null, marks: new Map(), notes: [] };
    const made = [
      ...messages.map((message) => this.#said(message, run, facts)),
      ...startRow(run),
      ...[...run.thinking.values()].map((thought) => thinkingRow(thought, run, facts)),
      ...toolRows(run),
      ...[...run.spans.values()].map((span) => spanRow(span, run)),
      ...[...run.waits.values()].map((wait) => this.#wait(wait, run)),
      ...[...run.opaque.values()].filter(({ type }) => type === "custom").map(({ seq, name, value }) => ({ key: `e:${seq}`, seq, kind: "custom", name, value })),
      ...facts.notes,
    ];
    if (run.isEnded) made.push({ ...endRow(run, facts, made.some((row) => row.kind === "message" && !row.depth)), retry: this.#retry(run) });
    // What began before this view did has no mark: it stands first.
    for (const row of made) Object.assign(row, { run: id, seq: facts.marks.get(row.key)?.seq ?? row.seq ?? 0 });
    const rows = made.sort((a, b) => a.seq - b.seq).map((row) => this.#kept(row));
    const kept = new Set(rows);
    for (const row of this.#rows.get(id) ?? []) if (!kept.has(row)) this.#byKey.delete(row.key);
    return rows;
  }

  /** Whether a failed run may be tried again: "" or what to say of it. */
  #retry(run) {
    if (run.status !== "failed") return null;
    return this.#retried.get(run.id) ?? "";
  }

  #wait({ wait, kind, prompt, call, due_at: dueAt, value, by }, run) {
    const isOpen = by === null && !run.isEnded;
    return {
      key: `w:${wait}`, kind: "wait", wait, waitKind: kind ?? "input", prompt: prompt ?? null, name: run.steps.get(call)?.name ?? null,
      dueAt: dueAt ?? null, value, by: by ?? (run.isEnded ? "ended" : null), isOpen, isSending: this.#answering.has(wait),
    };
  }

  #said(message, run, facts) {
    const row = said({ role: message.role, content: message.content, complete: message.complete, isOpen: !message.complete && !run.isEnded });
    const waiting = run.status !== "queued" ? "" : this.#stopping.has(run.id) ? "stopping" : "turn";
    return { key: `m:${message.id}`, seq: message.seq, ...row, ...(row.kind === "user" ? { waiting, isRetry: facts.isRetry === true } : depthIn(run, message.span)) };
  }

  /** The row as it was made first, changed in place; `rev` moves if something differs. */
  #kept(made) {
    const row = this.#byKey.get(made.key);
    if (row === undefined || row.kind !== made.kind) {
      const first = { ...made, rev: 1 };
      this.#byKey.set(made.key, first);
      return first;
    }
    const names = Object.keys(made);
    const isSame = names.length === Object.keys(row).length - 1 && names.every((name) => Object.is(row[name], made[name]));
    if (isSame) return row; // all but `rev`
    const { rev } = row;
    for (const name of Object.keys(row)) delete row[name];
    Object.assign(row, made, { rev: rev + 1 });
    return row;
  }
}

function keyOf({ type, seq, run, data }) {
  if (type === "user_message" || type.startsWith("message_") || type === "text_delta") return `m:${data.message}`;
  if (type === "thinking_delta" || (type === "agent_thinking" && data.thinking)) return `t:${data.thinking}`;
  if (type.startsWith("tool_")) return `c:${data.call}`;
  if (type === "agent_waiting" || type === "agent_resumed") return `w:${data.wait}`;
  if (type.startsWith("subagent_")) return `s:${data.span}`;
  if (type === "agent_started") return `r:${run}`;
  if (type === "agent_completed" || type === "agent_failed" || type === "agent_cancelled") return `x:${run}`;
  return `e:${seq}`;
}

function push(map, key, ...rows) {
  if (map.has(key)) map.get(key).push(...rows);
  else map.set(key, rows);
}

function said({ role, content, complete, isOpen }) {
  const reference = isReference(content) ? content : null;
  if (role === "user") return { kind: "user", text: contentText(content), reference };
  return { kind: "message", text: contentText(content), reference, isOpen, isComplete: complete };
}

function startRow(run) {
  return run.agent === null ? [] : [{ key: `r:${run.id}`, kind: "run", agent: run.agent }];
}

function thinkingRow(thought, run, facts) {
  const key = thought.id ? `t:${thought.id}` : `e:${thought.seq}`;
  const mark = facts.marks.get(key);
  const durationMs = thought.complete && mark ? mark.endedAt - mark.beganAt : null;
  return { key, seq: thought.seq, kind: "thinking", text: contentText(thought.text), isOpen: !thought.complete && !run.isEnded, durationMs };
}

/** Inside how many sub-agents something stands: nothing to add for what the run's own agent does. */
function depthIn(run, span) {
  let depth = 0;
  for (let id = span; id && depth < SPANS_DEEP; id = run.spans.get(id)?.parent) depth += 1;
  return depth === 0 ? {} : { depth, speaker: run.spans.get(span)?.agent ?? null };
}

function spanRow({ span, agent, parent, ok, output, error }, run) {
  const status = ok === null ? (run.isEnded ? "failed" : "running") : ok ? "ok" : "failed";
  return { key: `s:${span}`, kind: "span", name: agent ?? "A helping agent", status, output: output ?? undefined, error, ...depthIn(run, parent) };
}

function toolRows(run) {
  const streamed = [...run.args].map(([call, { text }]) => ({ key: `c:${call}`, kind: "tool", name: "…", status: "preparing", argsText: text }));
  const begun = [...run.steps.values()].map(({ call, seq, name, args, ok, final, result, error, duration_ms: durationMs, span }) => ({
    key: `c:${call}`, seq, kind: "tool", name, args: args ?? undefined, result, error, durationMs,
    status: ok === null ? "running" : ok ? "ok" : final === false ? "repeated" : "failed",
    hasResult: ok === true, ...depthIn(run, span),
  }));
  return [...streamed, ...begun];
}

function endRow(run, facts, hasSpoken) {
  const ended = facts.marks.get(`x:${run.id}`);
  const why = run.error ?? run.cancelled ?? {};
  return {
    key: `x:${run.id}`, seq: ended?.seq ?? Infinity, kind: "end", status: run.status,
    durationMs: run.duration_ms ?? (facts.startedAt !== null && ended ? ended.endedAt - facts.startedAt : null),
    // What was returned and is no text has no message: it is shown here.
    output: run.status === "completed" && !hasSpoken ? (run.output ?? undefined) : undefined,
    code: why.code, message: why.message ?? why.reason, errorId: why.error_id, by: why.by,
  };
}
