// Types of runwire.js, written by hand. Frames and events are in protocol.d.ts, which is generated from the server's types.

import type {
  AnswerData,
  CancelData,
  Content,
  ErrorBody,
  Event,
  Notice,
  RefreshData,
  Reset,
  SendData,
  ServerFrame,
  Subscribe,
  Subscribed,
  Welcome,
} from "./protocol.js";

export type * from "./protocol.js";

/** An event of a newer server: a type that these types do not know. */
export interface OpaqueEvent {
  op: "event";
  thread: string;
  seq: number;
  prev: number;
  run: string;
  attempt: number;
  ts: number;
  type: string;
  data: unknown;
}

/** What a thread's event is to the reducer; frames have more. */
export type AnyEvent = Pick<Event | OpaqueEvent, "seq" | "run" | "attempt" | "type" | "data">;

// ── connect ──────────────────────────────────────────────────────────────────────────────────────────────

export interface ConnectOptions {
  /** `http(s)://host[:port][/prefix]`; in a page it may be relative. */
  url: string | URL;
  /** An API key or access token; instead of `getToken`. */
  token?: string;
  /**
   * Return a token that is valid for a while; `fresh`: the last one ends soon or did, bring another. Null: the session
   * is over. Throw (or reject) where none can be had now: it is asked again. The session is over, too, where the server
   * refuses a fresh one; any other that it refuses is replaced first.
   */
  getToken?: (asked: { fresh: boolean }) => string | null | Promise<string | null>;
  /** `name/version`, for the server's log. */
  client?: string;
  /** Called with every change of the connection. */
  onState?: (state: ConnectionState) => void;
  /** Called with errors that no promise or reader gets, such as frames that cannot be read; default: a warning. */
  onError?: (error: Error) => void;
  /** Called with hints of the server that are never stored: `draining`, `stalled`, `token_expiring`. */
  onNotice?: (notice: Notice) => void;
  /** Where positions are kept (of the 100 threads used last); default in a page: sessionStorage. Null: nowhere. */
  storage?: Pick<Storage, "getItem" | "setItem"> | null;
  /** A WebSocket class; default: the global one (browsers, Node 22). */
  WebSocket?: new (url: string, protocols: string[]) => WebSocket;
  /** A number in [0, 1) for the jitter. */
  random?: () => number;
}

export interface ConnectionState {
  /**
   * `connecting` at first, `live` while signed in, `reconnecting` after a loss. For good: `expired` (no valid token or
   * access withdrawn), `stopped` (the server said so, see `code`), `closed` (by `close()`).
   */
  name: "connecting" | "live" | "reconnecting" | "expired" | "stopped" | "closed";
  /** How many attempts were lost in a row; a connection that lived for 5 s ends the row. */
  attempt: number;
  /** When the next attempt begins (ms, by this machine's clock); null: it is under way, or there is none. */
  retryAt: number | null;
  /** The close code of the loss (PROTOCOL §4), if this state comes from one. */
  code: number | null;
  reason: string | null;
}

export interface SendOptions {
  /** Where; null begins a new thread. */
  thread?: string | null;
  /** Whom; null: the only agent, or the server's default. */
  agent?: string | null;
  /** What becomes of the message while another run of the thread is active. */
  onActive?: "enqueue" | "reject" | "interrupt";
  metadata?: Record<string, unknown> | null;
  /** Makes the send idempotent for this user; default: a fresh one. */
  key?: string;
  signal?: AbortSignal | null;
}

export interface RetryOptions extends CommandOptions {
  /** What becomes of it while another run of the thread is active. */
  onActive?: "enqueue" | "reject" | "interrupt";
  /** Makes the retry idempotent for this user; default: a fresh one. */
  key?: string;
}

export interface CommandOptions {
  /** Ends the waiting, such as `AbortSignal.timeout(30_000)`; whether the command was done is then not known. */
  signal?: AbortSignal | null;
}

export interface EventsOptions {
  /** A seq; 0 (default): from the start, -1: from now. */
  after?: number;
  /** The history that `after` belongs to; a `reset` comes if it changed. */
  log?: string | null;
  /** `lifecycle` leaves the deltas out. */
  view?: "all" | "lifecycle";
  /** Only this run, to its terminal event; with `seq` of its user_message. The data of a `send` fits. */
  run?: string | null;
  seq?: number;
  /**
   * Go on after what this tab has handled, as kept in `storage`, and keep that up to date. Handled is an item once the
   * loop asks for the next one or the callback has returned. Ask for it only if what the events led to was kept too.
   */
  resume?: boolean;
}

/** The position of a reader or view. */
export interface ThreadPosition {
  log: string | null;
  seq: number;
}

export type ReaderItem = Event | OpaqueEvent | Reset;

/** A reader of one thread, to be iterated over or subscribed to, once. */
export interface Reader extends AsyncIterable<ReaderItem> {
  readonly thread: string;
  /** After the last item that was handled; null: it began "from now", and nothing came yet. */
  readonly position: ThreadPosition | null;
  /** Why it ended; null while it goes on, and after an end that was asked for. */
  readonly error: RunwireError | null;
  [Symbol.asyncIterator](): AsyncGenerator<ReaderItem, void, undefined>;
  /** Call back at most once per animation frame, or at once when 4,096 items wait. Returns what ends it. */
  subscribe(onItems: (items: ReaderItem[]) => void, onEnd?: (error: RunwireError | null) => void): () => void;
  /** Read no more: what is queued is not given out, and nobody is called any more. */
  close(): void;
}

export type ViewItem = Event | OpaqueEvent | Reset | Subscribed;

/** A thread as it stands, kept up to date. */
export interface LiveView {
  readonly thread: string;
  /** Changes in place. */
  readonly state: ThreadView;
  /** What `state` shows; null until the server answered. */
  readonly position: ThreadPosition | null;
  /** Why it ended: `not_found` (deleted, or not yours), or the connection's end. */
  readonly error: RunwireError | null;
  /** Call back at most once per animation frame, or at once when 4,096 items wait. Returns what ends it. */
  onChange(listener: (items: ViewItem[]) => void): () => void;
  /** Follow it no more; `state` stays as it is. */
  close(): void;
}

export interface Client {
  readonly state: ConnectionState;
  /** The server's welcome while the connection is live, else null. */
  readonly welcome: Welcome | null;
  /** Resolves once the server has stored the message; never starts two runs, however often the connection is lost. */
  send(content: Content, options?: SendOptions): Promise<SendData>;
  /** Ask a run to end; its terminal event is the outcome. */
  cancel(run: string, options?: CommandOptions): Promise<CancelData>;
  /** Answer a wait of a run; the first answer wins, another is refused with `conflict`. */
  answer(run: string, wait: string, value: unknown, options?: CommandOptions): Promise<AnswerData>;
  /** Start a new run with the message of one that has ended; never starts two, however often it is asked for. */
  retry(run: string, options?: RetryOptions): Promise<Omit<SendData, "after">>;
  events(thread: string, options?: EventsOptions): Reader;
  /** `start` (default) replays the thread; `snapshot` begins with its messages and runs as they stand. */
  view(thread: string, options?: { from?: "start" | "snapshot" }): LiveView;
  /** Bring a fresh token in band: this one, or what `getToken` returns. */
  refresh(token?: string): Promise<RefreshData>;
  /** Try at once instead of waiting, but not before the time that the server asked for. */
  reconnectNow(): void;
  /** Close for good: what waits for a reply is refused with `closed`, readers end. */
  close(): void;
}

/** Connect to a server and stay connected until `close()`. Returns at once; commands wait for the connection. */
export function connect(options: ConnectOptions): Client;

/** Why something was refused, or came to an end. */
export class RunwireError extends Error {
  constructor(code: string, message: string, more?: { field?: string | null; retryAfterS?: number | null; closeCode?: number | null });
  /** The server's (PROTOCOL §3), or `closed`, `stopped`, `log_reset`, `bad_frame`. */
  readonly code: string;
  readonly field: string | null;
  readonly retryAfterS: number | null;
  readonly closeCode: number | null;
}

// ── the pure parts ───────────────────────────────────────────────────────────────────────────────────────

export type SubscriptionAction =
  | { do: "apply"; event: Event | OpaqueEvent }
  | { do: "ask"; frame: Subscribe }
  | { do: "dropView"; reason: string }
  | { do: "notSubscribed"; error: ErrorBody }
  | { do: "ended"; reason: "asked" | "deleted" };

/** The apply rule for one thread: what was applied, and what to do with each frame. */
export class Subscription {
  constructor(thread: string, options: { newId: () => string; view?: "all" | "lifecycle"; shown?: ThreadView | null });
  readonly thread: string;
  view: "all" | "lifecycle";
  last: number | null;
  log: string | null;
  shown: ThreadView | null;
  readonly isAsking: boolean;
  readonly isSubscribed: boolean;
  subscribe(after?: number): SubscriptionAction[];
  restart(position?: { after?: number; log?: string | null; view?: "all" | "lifecycle" | null }): SubscriptionAction[];
  disconnect(): void;
  sent(data: Pick<SendData, "after" | "log">): SubscriptionAction[];
  receive(frame: ServerFrame | OpaqueEvent | { op: string }): SubscriptionAction[];
}

/** A message as `GET /v1/threads/{id}` has it. */
export interface MessageSnapshot {
  message: string;
  role: string;
  content: unknown;
  run: string;
  seq: number;
  complete: boolean;
  /** The sub-agent that said it. */
  span?: string;
}

/** A run as `GET /v1/threads/{id}` has it. */
export interface RunSnapshot {
  run: string;
  agent: string | null;
  status: string;
  attempt: number;
  error: Record<string, unknown> | null;
  steps: { call: string; name: string; args: unknown; ok: boolean | null; result: unknown; error: { code: string; message: string } | null }[];
  waits: { wait: string; kind: string | null; prompt: unknown; call: string | null; due_at: number | null; value: unknown; by: string | null }[];
}

export interface ShownMessage {
  readonly id: string;
  readonly role: string;
  readonly content: unknown;
  readonly run: string;
  readonly seq: number;
  readonly complete: boolean;
  readonly span: string | null;
}

export interface ShownThought {
  readonly id: string | null;
  readonly seq: number;
  readonly text: unknown;
  readonly complete: boolean;
}

export interface ShownStep {
  readonly call: string;
  readonly name: string;
  readonly args: unknown;
  readonly seq: number;
  /** Null: it is under way. */
  readonly ok: boolean | null;
  readonly result: unknown;
  readonly error: { code: string; message: string } | null;
  /** False: the try was cut off or will be repeated. */
  readonly final: boolean | null;
  readonly duration_ms: number | null;
  readonly span: string | null;
}

export interface ShownWait {
  readonly wait: string;
  readonly kind: string | null;
  readonly prompt: unknown;
  readonly call: string | null;
  readonly due_at: number | null;
  readonly value: unknown;
  /** Null: still open. */
  readonly by: string | null;
}

export interface ShownSpan {
  readonly span: string;
  readonly agent: string | null;
  readonly parent: string | null;
  readonly ok: boolean | null;
  readonly output: unknown;
  readonly error: { code: string; message: string } | null;
}

export interface ShownRun {
  readonly id: string;
  readonly agent: string | null;
  readonly status: "queued" | "running" | "waiting" | "completed" | "failed" | "cancelled";
  readonly attempt: number;
  readonly error: Record<string, unknown> | null;
  readonly output: unknown;
  readonly usage: Record<string, unknown> | null;
  readonly duration_ms: number | null;
  readonly cancelled: { by: string; reason?: string } | null;
  readonly isEnded: boolean;
  readonly steps: ReadonlyMap<string, ShownStep>;
  readonly waits: ReadonlyMap<string, ShownWait>;
  /** By stream, or by seq of a whole thought. */
  readonly thinking: ReadonlyMap<string | number, ShownThought>;
  readonly spans: ReadonlyMap<string, ShownSpan>;
  /** `custom` events and those of a newer server, by seq. */
  readonly opaque: ReadonlyMap<number, { seq: number; type: string; name: string | null; value: unknown }>;
  /** Arguments that are being streamed, by call. */
  readonly args: ReadonlyMap<string, { readonly text: string }>;
}

/** Messages and runs as the events of a thread tell them. Feed it each event once, in order. */
export class ThreadView {
  static fromSnapshot(snapshot: { seq?: number; messages: MessageSnapshot[]; runs: RunSnapshot[] }): ThreadView;
  seq: number;
  readonly messages: ReadonlyMap<string, ShownMessage>;
  readonly runs: ReadonlyMap<string, ShownRun>;
  /** False: a delta beyond the end of a stream that began in this view; it was not applied. */
  apply(event: AnyEvent): boolean;
  /** Take a delta that did not fit twice: from here on its stream waits for its completing event. */
  passOver(event: AnyEvent): void;
  toSnapshot(): { messages: MessageSnapshot[]; runs: RunSnapshot[] };
  clear(): void;
}

/** Read one WebSocket message of a server; throws `bad_frame`. */
export function readFrames(text: string): (ServerFrame | OpaqueEvent | { op: string })[];

/** What to do after a close code: the range says it. */
export function afterClose(code: number): "reconnect" | "refresh" | "stop";

/** Milliseconds to wait before connection attempt `attempt` (from 1): full jitter, never before `afterS`. */
export function reconnectDelay(attempt: number, options: { random: number; afterS?: number; baseMs?: number; capMs?: number }): number;

/** How many Unicode code points a text has: what offsets of the protocol count. */
export function codePoints(text: string): number;
