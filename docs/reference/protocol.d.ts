// Runwire wire protocol, version 1. Made by `python -m runwire.protocol.schema --write`: do not edit.

/** A value too large for an event: `GET /v1/blobs/{$ref}` has all of it. */
export interface Ref { $ref: string; bytes: number; head: string }
export type Content = string | TextPart[];

/** The run was called off. */
export interface AgentCancelled {
  by: "operator" | "policy" | "revoked" | "user";
  reason?: string | null;
}

/** The run ended well. */
export interface AgentCompleted {
  output: unknown;
  duration_ms: number;
  usage?: Record<string, unknown>;
}

/** The run ended badly, visibly. */
export interface AgentFailed {
  code: string;
  message: string;
  error_id: string;
  retryable: boolean;
  retry_after_s?: number | null;
}

/** A wait ended; `by` is a user id, `timer` or `ended`. */
export interface AgentResumed {
  wait: string;
  value: unknown;
  by: string;
}

/** A later attempt goes on with the run. */
export interface AgentRetrying {
  attempt: number;
  reason: "deploy" | "drained" | "worker_lost";
}

/** A worker began the run; first and once. */
export interface AgentStarted {
  agent: string;
  message: string;
  version?: string | null;
}

/** A thought; with `thinking` it completes that stream of deltas. */
export interface AgentThinking {
  text?: string | Ref;
  thinking?: string | null;
}

/** The run waits for a person or a time. */
export interface AgentWaiting {
  wait: string;
  kind: "approval" | "input" | "timer";
  prompt?: unknown;
  call?: string | null;
  due_at?: number | null;
}

/** Answer a wait of a run. */
export interface Answer {
  op: "answer";
  wait: string;
  value: unknown;
  id: string;
  run: string;
}

/** The answer to a wait, as `POST /v1/runs/{id}/answers` takes it. `value` must be there, null is a value. */
export interface AnswerBody {
  wait: string;
  value: unknown;
}

/** `reply.data` of `answer`. */
export interface AnswerData {
  run: string;
  wait: string;
}

/** The close that follows, in words; best effort. */
export interface Bye {
  op: "bye";
  code: number;
  reconnect: boolean;
  after_s?: number | null;
  reason?: string;
}

/** Ask a run to end. */
export interface Cancel {
  op: "cancel";
  id: string;
  run: string;
}

/** `reply.data` of `cancel`: the status is what was found, the terminal event is the outcome. */
export interface CancelData {
  run: string;
  status: string;
}

/** Whatever the agent's author wants to show. */
export interface Custom {
  name: string;
  value: unknown;
}

/** Why a command was refused. */
export interface ErrorBody {
  code: string;
  message: string;
  field?: string | null;
  retry_after_s?: number | null;
}

/** Why a tool or a run failed, in words fit for the person who started it. */
export interface EventError {
  code: string;
  message: string;
  retry_after_s?: number | null;
}

/** The first frame of a browser. Unknown fields are ignored here and nowhere else. */
export interface Hello {
  op: "hello";
  token: string;
  client?: string | null;
}

/** What a connection may use at most. */
export interface Limits {
  frame_bytes?: number;
  subscriptions?: number;
  commands_in_flight?: number;
  replay_events?: number;
}

/** A person's message, as `POST /v1/threads/{id}/messages` takes it; `send` adds key and thread. */
export interface MessageBody {
  content: string | TextPart[];
  agent?: string | null;
  on_active?: "enqueue" | "interrupt" | "reject";
  metadata?: Record<string, unknown> | null;
}

/** The message's full content; `complete=False` if the run ended inside it. */
export interface MessageCompleted {
  message: string;
  content: string | Ref;
  complete?: boolean;
}

/** The agent opened a message. */
export interface MessageStarted {
  message: string;
  role?: string;
  span?: string;
}

/** A hint that is never stored and has no seq. */
export interface Notice {
  op: "notice";
  kind: "draining" | "stalled" | "token_expiring";
  thread?: string | null;
  data?: Record<string, unknown>;
}

/** Ask for a sign of life. */
export interface Ping {
  op: "ping";
}

/** A sign of life. */
export interface Pong {
  op: "pong";
}

/** The last event that was written in this subscription. */
export interface Position {
  op: "position";
  thread: string;
  seq: number;
}

/** Bring a fresh token of the same user. */
export interface Refresh {
  op: "refresh";
  id: string;
  token: string;
}

/** `reply.data` of `refresh`. */
export interface RefreshData {
  expires_at: number | null;
}

/** The answer to a command: `data` when ok, else `error`. */
export interface Reply {
  op: "reply";
  id: string | null;
  ok: boolean;
  data?: unknown;
  error?: ErrorBody;
}

/** The history that was asked for is not to be had; what follows begins after `from`. */
export interface Reset {
  op: "reset";
  thread: string;
  log: string;
  from: number;
  reason: "log_changed" | "too_far_behind" | "trimmed";
}

/** What `POST /v1/runs/{id}/retry` takes: the message is that of the run. */
export interface RetryBody {
  on_active?: "enqueue" | "interrupt" | "reject";
}

/** Say something to an agent; starts a run. */
export interface Send {
  op: "send";
  content: string | TextPart[];
  agent?: string | null;
  on_active?: "enqueue" | "interrupt" | "reject";
  metadata?: Record<string, unknown> | null;
  id: string;
  key?: string | null;
  thread?: string | null;
}

/** `reply.data` of `send`. */
export interface SendData {
  thread: string;
  log: string;
  after: number;
  run: string;
  message: string;
  seq: number;
}

/** The span ended well. */
export interface SubagentCompleted {
  span: string;
  output?: unknown;
}

/** The span ended badly. */
export interface SubagentFailed {
  span: string;
  code: string;
  message: string;
}

/** A span of another agent inside the run. */
export interface SubagentStarted {
  span: string;
  agent: string;
  parent?: string | null;
  input?: unknown;
}

/** Ask for a thread's events after a position. */
export interface Subscribe {
  op: "subscribe";
  id: string;
  thread: string;
  after?: number;
  log?: string | null;
  view?: "all" | "lifecycle";
}

/** A subscription begins: everything after `after` follows. */
export interface Subscribed {
  op: "subscribed";
  id: string;
  thread: string;
  log: string;
  view: "all" | "lifecycle";
  after: number;
  head: number;
}

/** The view drops what is named; history and output never contain it. */
export interface Superseded {
  messages: string[];
  thinking: string[];
  events: number[];
  reason: "differs" | "try_closed";
}

/** Apply as `text[:offset] + text`; offset counts Unicode code points. */
export interface TextDelta {
  message: string;
  offset: number;
  text: string;
}

/** A part of a message: `{"type":"text","text":"…"}`. */
export interface TextPart {
  type: "text";
  text: string;
}

/** A piece of a thought being streamed. */
export interface ThinkingDelta {
  thinking: string;
  offset: number;
  text: string;
}

/** A piece of a tool call's arguments being streamed by the model. */
export interface ToolArgsDelta {
  call: string;
  offset: number;
  text: string;
}

/** A tool call ended; `final=False` closes a try that will be repeated or was cut off. */
export interface ToolCompleted {
  call: string;
  step: string;
  try: number;
  name: string;
  ok: boolean;
  final: boolean;
  duration_ms: number;
  result?: unknown;
  error?: EventError;
  span?: string;
}

/** A tool is about to be called; committed before the call. */
export interface ToolExecuting {
  call: string;
  step: string;
  try: number;
  name: string;
  args: unknown;
  span?: string | null;
}

/** Ask for no more of a thread. */
export interface Unsubscribe {
  op: "unsubscribe";
  id: string;
  thread: string;
}

/** Nothing more of this thread comes. */
export interface Unsubscribed {
  op: "unsubscribed";
  id: string | null;
  thread: string;
  reason: "asked" | "deleted";
}

/** A person's message; carries the run it starts, with attempt 0. */
export interface UserMessage {
  message: string;
  content: Content | Ref;
  metadata?: Record<string, unknown> | null;
  retry_of?: string | null;
}

/** The connection is signed in. */
export interface Welcome {
  op: "welcome";
  protocol: number;
  server: string;
  connection: string;
  user: string;
  log: string;
  ping_s: number;
  pong_s: number;
  expires_at?: number | null;
  limits?: Limits;
}

/** The data of each type of event that clients see. */
export interface EventDataByType {
  user_message: UserMessage;
  agent_started: AgentStarted;
  agent_thinking: AgentThinking;
  tool_executing: ToolExecuting;
  tool_completed: ToolCompleted;
  message_started: MessageStarted;
  message_completed: MessageCompleted;
  agent_completed: AgentCompleted;
  agent_failed: AgentFailed;
  agent_cancelled: AgentCancelled;
  agent_waiting: AgentWaiting;
  agent_resumed: AgentResumed;
  agent_retrying: AgentRetrying;
  superseded: Superseded;
  subagent_started: SubagentStarted;
  subagent_completed: SubagentCompleted;
  subagent_failed: SubagentFailed;
  custom: Custom;
  text_delta: TextDelta;
  thinking_delta: ThinkingDelta;
  tool_args_delta: ToolArgsDelta;
}

/** One event of a thread; `prev` is the event before it in this view. */
export interface EventOf<T extends keyof EventDataByType> {
  op: "event";
  thread: string;
  seq: number;
  prev: number;
  run: string;
  attempt: number;
  ts: number;
  type: T;
  data: EventDataByType[T];
}

export type Event = { [T in keyof EventDataByType]: EventOf<T> }[keyof EventDataByType];

export type ClientFrame = Hello | Subscribe | Unsubscribe | Send | Cancel | Answer | Refresh | Pong;

export type ServerFrame = Welcome | Subscribed | Reply | Event | Position | Reset | Unsubscribed | Notice | Ping | Bye;

export type ErrorCode = "bad_request" | "unauthenticated" | "forbidden" | "not_found" | "conflict" | "run_active" | "rate_limited" | "too_large" | "unavailable" | "circuit_open" | "deadline" | "unsupported" | "internal";

export type RunFailure = "agent_error" | "deadline_exceeded" | "no_result" | "circuit_open" | "provider_unavailable" | "worker_lost" | "nondeterministic_agent" | "parallel_without_gather" | "payload_too_large" | "loop_blocked" | "quota_exceeded" | "agent_unavailable" | "internal";

/** `GET /v1/threads/{id}` */
export interface ThreadSnapshot {
  thread: string; title: string | null; log: string; seq: number;
  messages: SnapshotMessage[]; runs: SnapshotRun[];
}
export interface SnapshotMessage {
  message: string; role: string; content: Content | Ref; run: string; seq: number; complete: boolean;
}
export interface SnapshotRun {
  run: string; agent: string | null;
  status: "queued" | "running" | "waiting" | "completed" | "failed" | "cancelled";
  attempt: number; error: AgentFailed | null; steps: SnapshotStep[]; waits: SnapshotWait[];
}
export interface SnapshotStep {
  call: string; name: string; args: unknown; ok: boolean | null; result: unknown; error: EventError | null;
}
export interface SnapshotWait {
  wait: string; kind: string | null; prompt: unknown; call: string | null; due_at: number | null;
  value: unknown; by: string | null;
}
