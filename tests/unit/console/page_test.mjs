// Tests of what the page makes of a thread's state; run by test_client_js.py with node's own test runner.

import assert from "node:assert/strict";
import { test } from "node:test";

import { safeLink, slug, splitBlocks } from "./markdown.js";
import { ThreadView } from "./runwire.js";
import { Rows, stopHint, titleOf, waitOutcome, waitTitle } from "./view.js";

// ---- rows of a thread's state

let seqs = 0;
/** Let the state apply an event and tell the rows, as the page does. */
function play(rows, type, data, run = "run_1") {
  seqs += 1;
  const made = { op: "event", thread: "th_1", seq: seqs, prev: seqs - 1, run, attempt: 1, ts: 1000 * seqs, type, data };
  if (rows.state.apply(made)) rows.take([made]);
  return made;
}
const begin = () => new Rows(new ThreadView());
const rowOf = (rows, key) => rows.rows.find((row) => row.key === key);
const kinds = (view) => view.rows.map((row) => row.kind);

test("a run becomes one row per step", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_1", content: "Hello" });
  assert.equal(view.activeRun.status, "queued");
  play(view, "agent_started", { agent: "guide", message: "msg_1" });
  play(view, "agent_thinking", { text: "Hm" });
  play(view, "tool_executing", { call: "c1", step: "s", try: 1, name: "search", args: {} });
  play(view, "tool_completed", { call: "c1", step: "s", try: 1, name: "search", ok: true, final: true, result: [1], duration_ms: 5 });
  play(view, "message_started", { message: "msg_2", role: "assistant" });
  play(view, "text_delta", { message: "msg_2", offset: 0, text: "Hi " });
  play(view, "text_delta", { message: "msg_2", offset: 3, text: "there" });
  assert.equal(rowOf(view, "m:msg_2").text, "Hi there");
  play(view, "message_completed", { message: "msg_2", content: "Hi there!", complete: true });
  play(view, "agent_completed", { output: "Hi there!", duration_ms: 7 });
  assert.deepEqual(kinds(view), ["user", "run", "thinking", "tool", "message", "end"]);
  assert.equal(rowOf(view, "m:msg_2").text, "Hi there!");
  assert.equal(view.rows.at(-1).output, undefined, "said already");
  assert.equal(view.activeRun, null);
});

test("a completion whose beginning was not seen is shown whole", () => {
  const view = begin();
  play(view, "message_completed", { message: "m", content: "All of it", complete: true });
  play(view, "tool_completed", { call: "c", step: "s", try: 1, name: "search", ok: false, final: true, error: { code: "x", message: "y" }, duration_ms: 1 });
  assert.deepEqual(view.rows.map((row) => row.text ?? row.status), ["All of it", "failed"]);
});

test("superseded takes rows away and says so", () => {
  const view = begin();
  play(view, "agent_thinking", { text: "one" });
  const thought = seqs;
  play(view, "thinking_delta", { thinking: "t1", offset: 0, text: "two" });
  play(view, "message_started", { message: "m1", role: "assistant" });
  play(view, "text_delta", { message: "m1", offset: 0, text: "three" });
  play(view, "superseded", { messages: ["m1"], thinking: ["t1"], events: [thought], reason: "differs" });
  assert.deepEqual(kinds(view), ["note"]);
  play(view, "text_delta", { message: "m1", offset: 5, text: "x" });
  assert.deepEqual(kinds(view), ["note"]);
});

test("failure, cancel and a returned value are shown", () => {
  const view = begin();
  play(view, "agent_failed", { code: "agent_error", message: "It broke.", error_id: "err_1", retryable: true });
  play(view, "message_started", { message: "m", role: "assistant" }, "run_2");
  play(view, "agent_cancelled", { by: "user" }, "run_2");
  play(view, "agent_completed", { output: { n: 1 }, duration_ms: 1 }, "run_3");
  const [failed, open, cancelled, done] = view.rows;
  assert.deepEqual([failed.status, failed.errorId], ["failed", "err_1"]);
  assert.equal(open.isOpen, false);
  assert.equal(cancelled.status, "cancelled");
  assert.deepEqual(done.output, { n: 1 });
});

test("what happens to a run is noted where it happened, and events of a newer server do no harm", () => {
  const view = begin();
  play(view, "agent_retrying", { attempt: 2, reason: "worker_lost" });
  play(view, "custom", { name: "n", value: 1 });
  const shown = ["The worker was lost; attempt 2 goes on.", "n"];
  assert.deepEqual(view.rows.map((row) => row.text ?? row.name), shown);
  play(view, "something_new", { a: 1 });
  play(view, "agent_waiting", { kind: "a shape of a newer version" });
  play(view, "text_delta", null);
  assert.deepEqual(view.rows.map((row) => row.text ?? row.name), shown);
});

test("a wait is a card that says how it ended", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_1", content: "Delete it" });
  play(view, "agent_started", { agent: "a", message: "msg_1" });
  play(view, "tool_executing", { call: "c1", step: "s", try: 1, name: "delete", args: {} });
  play(view, "agent_waiting", { wait: "w1", kind: "approval", prompt: "Sure?", call: "c1" });
  play(view, "agent_waiting", { wait: "w2", kind: "input" });
  play(view, "agent_waiting", { wait: "w3", kind: "timer", due_at: 9000 });
  const card = (wait) => rowOf(view, `w:${wait}`);
  assert.deepEqual(["w1", "w2", "w3"].map((wait) => waitTitle(card(wait))), ["Approve delete?", "The agent asks", "Sleeping"]);
  assert.deepEqual(view.openWaits.map(({ wait, run }) => [wait, run]), [["w1", "run_1"], ["w2", "run_1"]]);
  assert.equal(stopHint(view), "Waits for you: “Delete it”; Stop (Esc) ends it");
  const { rev } = card("w1");
  view.answering("run_1", "w1");
  assert.deepEqual([card("w1").isSending, card("w1").rev], [true, rev + 1]);
  view.answering("run_1", "w1", false); // refused
  assert.deepEqual([card("w1").isSending, card("w1").isOpen], [false, true]);
  view.answering("run_1", "w1");
  play(view, "agent_resumed", { wait: "w1", value: false, by: "usr_1" });
  assert.deepEqual([card("w1").isSending, card("w1").isOpen, waitOutcome(card("w1"))], [false, false, "You rejected this."]);
  play(view, "agent_resumed", { wait: "w2", value: { city: "Ulm" }, by: "usr_1" });
  assert.match(waitOutcome(card("w2")), /^You answered: .*Ulm/s);
  assert.equal(stopHint(view), "Sleeps: “Delete it”; Stop (Esc) ends it");
  play(view, "agent_resumed", { wait: "w3", value: null, by: "timer" });
  assert.equal(waitOutcome(card("w3")), "The time has come.");
  assert.equal(stopHint(view), "Stop (Esc) ends “Delete it”");
  play(view, "agent_waiting", { wait: "w4", kind: "input", due_at: 1 });
  play(view, "agent_resumed", { wait: "w4", value: null, by: "timer" });
  assert.equal(waitOutcome(card("w4")), "Nobody answered in time.");
  play(view, "agent_waiting", { wait: "w5", kind: "approval" });
  play(view, "agent_resumed", { wait: "w5", value: null, by: "ended" });
  play(view, "agent_cancelled", { by: "user" });
  assert.deepEqual([waitOutcome(card("w5")), view.openWaits], ["The run ended before this was answered.", []]);
  assert.deepEqual(kinds(view), ["user", "run", "tool", "wait", "wait", "wait", "wait", "wait", "end"]);
});

test("what a sub-agent does stands further in, below its own row", () => {
  const view = begin();
  play(view, "agent_started", { agent: "a", message: "m" });
  play(view, "subagent_started", { span: "sp_1", agent: "reader", input: "x" });
  play(view, "subagent_started", { span: "sp_2", agent: "counter", parent: "sp_1" });
  play(view, "tool_executing", { call: "c", step: "s", try: 1, name: "count", args: {}, span: "sp_2" });
  play(view, "message_started", { message: "m1", role: "assistant", span: "sp_1" });
  play(view, "message_completed", { message: "m1", content: "Seven", complete: true });
  play(view, "subagent_failed", { span: "sp_2", code: "agent_error", message: "It broke." });
  play(view, "subagent_completed", { span: "sp_1", output: { n: 7 } });
  play(view, "subagent_started", { span: "sp_3", agent: "loop", parent: "sp_3" });
  play(view, "agent_completed", { output: 7, duration_ms: 1 });
  const shown = view.rows.map(({ kind, depth = 0, name, status, speaker }) => [kind, depth, name ?? speaker ?? null, status ?? null]);
  assert.deepEqual(shown, [
    ["run", 0, null, null], ["span", 0, "reader", "ok"], ["span", 1, "counter", "failed"], ["tool", 2, "count", "running"],
    ["message", 1, "reader", null], ["span", 8, "loop", "failed"], ["end", 0, null, "completed"],
  ]);
  assert.equal(view.rows.at(-1).output, 7, "what the helper said is not the run's own answer");
  assert.deepEqual(rowOf(view, "s:sp_2").error, { code: "agent_error", message: "It broke." });
});

test("a failed run may be tried again, once from here", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_1", content: "x" }, "run_1");
  play(view, "agent_failed", { code: "agent_error", message: "It broke.", error_id: "err_1", retryable: true }, "run_1");
  const end = () => rowOf(view, "x:run_1").retry;
  assert.equal(end(), "");
  view.retrying("run_1");
  assert.equal(end(), "asked");
  view.retrying("run_1", false);
  assert.equal(end(), "");
  play(view, "user_message", { message: "msg_2", content: "x", retry_of: "run_1" }, "run_2");
  assert.equal(end(), "done");
  view.retrying("run_1", false);
  assert.equal(end(), "done");
  assert.deepEqual(view.rows.filter((row) => row.kind === "user").map((row) => row.isRetry), [false, true]);
  play(view, "agent_cancelled", { by: "user" }, "run_2");
  assert.equal(rowOf(view, "x:run_2").retry, null);
});

test("a row keeps its place, and moves its `rev` only when it changes", () => {
  const view = begin();
  play(view, "message_started", { message: "m", role: "assistant" });
  const [row] = view.rows;
  const { rev } = row;
  play(view, "thinking_delta", { thinking: "t", offset: 0, text: "Hm" });
  assert.equal(view.rows[0], row);
  assert.equal(row.rev, rev);
  play(view, "text_delta", { message: "m", offset: 0, text: "Hi" });
  assert.equal(view.rows[0], row);
  assert.deepEqual([row.text, row.rev], ["Hi", rev + 1]);
  play(view, "agent_thinking", { thinking: "t", text: "Hm." });
  assert.deepEqual(view.rows.map((other) => [other.kind, other.text, other.durationMs]), [["message", "Hi", undefined], ["thinking", "Hm.", 2000]]);
});

test("arguments that are streamed become the tool's row in its place", () => {
  const view = begin();
  play(view, "tool_args_delta", { call: "c1", offset: 0, text: '{"q"' });
  play(view, "agent_thinking", { text: "and" });
  assert.deepEqual(view.rows.map((row) => row.argsText ?? row.text), ['{"q"', "and"]);
  play(view, "tool_executing", { call: "c1", step: "s", try: 1, name: "search", args: { q: 1 } });
  assert.deepEqual(view.rows.map((row) => row.name ?? row.text), ["search", "and"]);
  assert.deepEqual([view.rows[0].args, view.rows[0].argsText, view.rows[0].status], [{ q: 1 }, undefined, "running"]);
});

test("a reset forgets the rows, and what follows is shown", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_1", content: "first" });
  view.state.clear();
  view.take([{ op: "reset", thread: "th_1", log: "k2", from: 7, reason: "log_changed" }]);
  assert.deepEqual(view.rows, []);
  play(view, "message_completed", { message: "msg_2", content: "Answer", complete: true });
  assert.deepEqual(kinds(view), ["message"]);
});

test("older messages go above, and none is shown twice", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_3", content: "third" });
  view.putBefore([
    { message: "msg_1", role: "user", content: "first", run: "run_0", seq: 1, complete: true },
    { message: "msg_3", role: "user", content: "third", run: "run_1", seq: 9, complete: true },
  ]);
  assert.deepEqual(view.rows.map((row) => row.text), ["first", "third"]);
});

test("a run's rows stay together below its message, also when another message came in between", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_1", content: "first" }, "run_1");
  play(view, "agent_started", { agent: "a", message: "msg_1" }, "run_1");
  play(view, "message_started", { message: "msg_2", role: "assistant" }, "run_1");
  play(view, "user_message", { message: "msg_3", content: "second" }, "run_2");
  play(view, "user_message", { message: "msg_4", content: "third" }, "run_3");
  play(view, "text_delta", { message: "msg_2", offset: 0, text: "So" }, "run_1");
  play(view, "agent_thinking", { text: "more" }, "run_1");
  play(view, "agent_cancelled", { by: "user" }, "run_1");
  play(view, "agent_started", { agent: "a", message: "msg_3" }, "run_2");
  const shown = view.rows.map((row) => `${row.run} ${row.kind}`);
  assert.deepEqual(shown, [
    "run_1 user", "run_1 run", "run_1 message", "run_1 thinking", "run_1 end", "run_2 user", "run_2 run", "run_3 user",
  ]);
  const seqsOf = (run) => view.rows.filter((row) => row.run === run).map((row) => row.seq);
  for (const run of ["run_1", "run_2"]) assert.deepEqual(seqsOf(run), seqsOf(run).toSorted((a, b) => a - b));
});

test("a run that is seen from its middle on stands above later messages, and below its own once that is loaded", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_5", content: "later" }, "run_2");
  play(view, "message_completed", { message: "msg_2", content: "Answer", complete: true }, "run_1");
  play(view, "agent_completed", { output: "Answer", duration_ms: 1 }, "run_1");
  assert.deepEqual(view.rows.map((row) => row.run), ["run_1", "run_1", "run_2"]);
  view.putBefore([{ message: "msg_1", role: "user", content: "early", run: "run_1", seq: 1, complete: true }]);
  assert.deepEqual(view.rows.map((row) => row.text ?? row.kind), ["early", "Answer", "end", "later"]);
});

test("a message says that it waits until its run begins or ends", () => {
  const view = begin();
  const waiting = () => view.rows.filter((row) => row.kind === "user").map((row) => row.waiting ?? "");
  play(view, "user_message", { message: "msg_1", content: "first" }, "run_1");
  play(view, "agent_started", { agent: "a", message: "msg_1" }, "run_1");
  play(view, "user_message", { message: "msg_2", content: "second" }, "run_2");
  play(view, "user_message", { message: "msg_3", content: "third" }, "run_3");
  assert.deepEqual(waiting(), ["", "turn", "turn"]);
  view.stopping("run_3");
  assert.deepEqual(waiting(), ["", "turn", "stopping"]);
  play(view, "agent_cancelled", { by: "user" }, "run_3");
  assert.deepEqual(waiting(), ["", "turn", ""]);
  play(view, "agent_completed", { output: null, duration_ms: 1 }, "run_1");
  play(view, "agent_started", { agent: "a", message: "msg_2" }, "run_2");
  assert.deepEqual(waiting(), ["", "", ""]);
});

test("stop means the run that goes on, says so, and is not asked for twice", () => {
  const view = begin();
  assert.equal(stopHint(view), "");
  play(view, "user_message", { message: "msg_1", content: "first\n question" }, "run_1");
  assert.equal(stopHint(view), "Stop (Esc) withdraws “first question”");
  play(view, "agent_started", { agent: "a", message: "msg_1" }, "run_1");
  assert.equal(stopHint(view), "Stop (Esc) ends “first question”");
  play(view, "user_message", { message: "msg_2", content: "second" }, "run_2");
  assert.equal(view.activeRun.run, "run_1");
  assert.equal(stopHint(view), "Stop (Esc) ends “first question”; 1 more waits");
  view.stopping("run_1");
  assert.equal(view.activeRun.isStopping, true);
  assert.equal(stopHint(view), "Stopping “first question”; 1 more waits");
  play(view, "agent_cancelled", { by: "user" }, "run_1");
  assert.deepEqual([view.activeRun.run, view.activeRun.isStopping], ["run_2", false]);
  view.stopping("run_1");
  assert.equal(stopHint(view), "Stop (Esc) withdraws “second”");
});

test("the run that goes on is stopped, not one that waits and was seen first", () => {
  const view = begin();
  play(view, "user_message", { message: "msg_5", content: "later" }, "run_2");
  play(view, "agent_thinking", { text: "hm" }, "run_1");
  assert.equal(view.activeRun.run, "run_1");
  assert.equal(stopHint(view), "Stop (Esc) ends this message; 1 more waits");
});

test("a title is one line of the first message", () => {
  assert.equal(titleOf(" How does\n\n resume work? "), "How does resume work?");
  assert.equal(titleOf([{ type: "text", text: "parts" }]), "parts");
  assert.equal(titleOf("x".repeat(500)).length, 80);
  assert.equal(titleOf(undefined), "");
});

// ---- Markdown

test("only http, https and relative links are offered", () => {
  const base = "https://example.org/agents/";
  assert.equal(safeLink("https://a.example/x", base), "https://a.example/x");
  assert.equal(safeLink("docs/x#y", base), "https://example.org/agents/docs/x#y");
  for (const bad of ["javascript:alert(1)", " javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\nscript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:https://x/y"])
    assert.equal(safeLink(bad, base), null, bad);
});

test("text is split into blocks, and growing text changes only the last ones", () => {
  const text = "# T\nOne\ntwo\n\n- a\n- b\n\n```py\nx\n\ny\n```\nend";
  assert.deepEqual(splitBlocks(text), ["# T", "One\ntwo", "- a\n- b", "```py\nx\n\ny\n```", "end"]);
  for (let length = 0; length < text.length; length += 1) {
    const before = splitBlocks(text.slice(0, length));
    assert.deepEqual(splitBlocks(text).slice(0, Math.max(0, before.length - 2)), before.slice(0, Math.max(0, before.length - 2)));
  }
});

test("anchors are those of the guide's links", () => {
  assert.equal(slug("What `kill -9` looks like"), "what-kill--9-looks-like");
  assert.equal(slug("ctx.tool"), "ctxtool");
});

test("no line of a text, however long and odd, stops the page", () => {
  const spaces = " ".repeat(60000);
  const before = performance.now();
  for (const line of [`# a${spaces}b`, `# ${"#".repeat(60000)}x`, `-${spaces}x`, `|\n${spaces}x`, `${spaces}x`]) assert.equal(splitBlocks(line).length, 1);
  const ms = performance.now() - before;
  assert.ok(ms < 2000, `${ms} ms`); // it was 20 s
});

test("a thread of thousands of runs, and a run of thousands of calls, are made into rows while they grow", () => {
  const rows = begin();
  const before = performance.now();
  for (let n = 0; n < 2000; n += 1) {
    play(rows, "user_message", { message: `u${n}`, content: "x" }, `run_${n}`);
    play(rows, "message_completed", { message: `m${n}`, content: "y" }, `run_${n}`);
  }
  assert.equal(rows.rows.length, 4000);
  for (let n = 0; n < 5000; n += 1) play(rows, "tool_executing", { call: `c${n}`, step: "s", try: 1, name: "n", args: {} });
  play(rows, "message_started", { message: "m" });
  for (let n = 0; n < 20; n += 1) {
    play(rows, "text_delta", { message: "m", offset: n, text: "x" });
    assert.equal(rows.rows.length, 9001);
  }
  const ms = performance.now() - before;
  assert.ok(ms < 5000, `${ms} ms`);
});
