// Tests of the page's pure parts; run by test_client_js.py with node's own test runner.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Subscription, afterClose, reconnectDelay } from "./client.js";
import { safeLink, slug, splitBlocks } from "./markdown.js";
import { View, codePoints, stopHint, titleOf } from "./view.js";

const event = (seq, prev = seq - 1, more = {}) => ({ op: "event", thread: "th_1", seq, prev, run: "run_1", ts: seq, type: "custom", data: {}, ...more });

function subscribed(after = 0, log = "k1") {
  const sub = new Subscription("th_1");
  sub.subscribe("1");
  assert.equal(sub.receive({ op: "subscribed", id: "1", thread: "th_1", log, after, head: after }), "begun");
  return sub;
}

test("everything of the thread is dropped until the own subscribe is answered", () => {
  const sub = new Subscription("th_1");
  sub.subscribe("7");
  assert.equal(sub.receive(event(1)), "drop");
  assert.equal(sub.receive({ op: "position", thread: "th_1", seq: 9 }), "drop");
  assert.equal(sub.receive({ op: "reset", thread: "th_1", from: 3, log: "k2" }), "drop");
  assert.equal(sub.receive({ op: "subscribed", id: "6", thread: "th_1", log: "k1", after: 5, head: 5 }), "drop");
  assert.equal(sub.receive({ op: "subscribed", id: "7", thread: "th_1", log: "k1", after: 2, head: 5 }), "begun");
  assert.deepEqual([sub.last, sub.log], [2, "k1"]);
});

test("events of the older subscription are dropped while a new one is awaited", () => {
  const sub = subscribed(5);
  sub.subscribe("2");
  assert.equal(sub.receive(event(6)), "drop");
  assert.equal(sub.receive({ op: "subscribed", id: "2", thread: "th_1", log: "k1", after: 5, head: 6 }), "begun");
  assert.equal(sub.receive(event(6)), "apply");
});

test("a refused subscribe leaves the older subscription under its position", () => {
  const sub = subscribed(4);
  sub.subscribe("2");
  assert.equal(sub.receive({ op: "reply", id: "2", ok: false, error: {} }), "refused");
  assert.equal(sub.receive(event(5)), "apply");
});

test("a duplicate is dropped, the next is applied, a gap is neither applied nor forgotten", () => {
  const sub = subscribed(3);
  assert.equal(sub.receive(event(3)), "drop");
  assert.equal(sub.receive(event(6, 3)), "apply", "views skip numbers");
  assert.equal(sub.receive(event(9, 8)), "resubscribe");
  assert.equal(sub.last, 6);
  assert.deepEqual(sub.subscribe("2"), { op: "subscribe", id: "2", thread: "th_1", after: 6, view: "all", log: "k1" });
});

test("an event may be applied whose prev lies before the position", () => {
  const sub = subscribed(5);
  assert.equal(sub.receive(event(8, 3)), "apply");
  assert.equal(sub.last, 8);
});

test("a position beyond what was applied is a gap", () => {
  const sub = subscribed(5);
  assert.equal(sub.receive({ op: "position", thread: "th_1", seq: 5 }), "drop");
  assert.equal(sub.receive({ op: "position", thread: "th_1", seq: 6 }), "resubscribe");
});

test("a reset moves position and log, and ordinary events follow", () => {
  const sub = subscribed(90);
  assert.equal(sub.receive({ op: "reset", thread: "th_1", from: 10, log: "k2", reason: "log_changed" }), "reset");
  assert.equal(sub.receive(event(11)), "apply");
  assert.equal(sub.subscribe("3").log, "k2");
});

test("a cut between subscribed and its reset leaves the position in the old log", () => {
  const sub = subscribed(5);
  sub.disconnected();
  sub.subscribe("2");
  assert.equal(sub.receive({ op: "subscribed", id: "2", thread: "th_1", log: "k2", after: 5, head: 9 }), "begun");
  assert.equal(sub.receive({ op: "event", thread: "th_1", seq: 6, prev: 5, type: "custom" }), "drop");
  sub.disconnected();
  assert.equal(sub.subscribe("3").log, "k1");
});

test("a send answered from another log counts for nothing until the reset", () => {
  const sub = subscribed(5);
  assert.equal(sub.sent({ after: 9, log: "k9" }), "resubscribe");
  sub.subscribe("4");
  assert.equal(sub.receive({ op: "reply", id: "4", thread: "th_1", ok: false }), "refused");
  assert.equal(sub.receive({ op: "event", thread: "th_1", seq: 6, prev: 5, type: "custom" }), "drop");
});

test("unsubscribed keeps the position if asked, and drops it with the thread", () => {
  const sub = subscribed(5);
  assert.equal(sub.receive({ op: "unsubscribed", thread: "th_1", reason: "asked" }), "ended");
  assert.equal(sub.last, 5);
  assert.equal(sub.receive({ op: "unsubscribed", thread: "th_1", reason: "deleted" }), "deleted");
  assert.equal(sub.last, null);
});

test("the reply to send gives the position only to who holds none", () => {
  const fresh = new Subscription("th_1");
  assert.equal(fresh.sent({ after: 0, log: "k1" }), "drop");
  assert.deepEqual([fresh.last, fresh.log], [0, "k1"]);
  const held = subscribed(5);
  assert.equal(held.sent({ after: 9, log: "k1" }), "drop");
  assert.equal(held.last, 5, "the gap will show itself");
  assert.equal(held.sent({ after: 9, log: "k9" }), "resubscribe");
  assert.equal(held.last, 5);
});

test("an offset beyond the end of a stream is a gap and does not move the position", () => {
  const sub = subscribed(5);
  assert.equal(sub.receive(event(6), () => "gap"), "resubscribe");
  assert.equal(sub.last, 5);
  assert.equal(sub.receive(event(6), () => "skip"), "skip");
  assert.equal(sub.last, 6);
});

test("random cuts, lost and doubled frames: every event of the view once and in order", () => {
  let state = 42;
  const random = () => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state / 2147483648;
  };
  for (let round = 0; round < 400; round += 1) {
    const view = [];
    for (let seq = 1; seq <= 60; seq += 1) if (random() < 0.7) view.push(seq);
    const applied = [];
    const sub = new Subscription("th_1");
    let at = 0; // server's cursor into `view`
    let ids = 0;
    const subscribe = () => {
      const frame = sub.subscribe(String((ids += 1)));
      at = view.findIndex((seq) => seq > frame.after);
      if (at < 0) at = view.length;
      const head = view.at(-1) ?? 0;
      // Frames of the older subscription may still be under way.
      if (random() < 0.3 && view.length) sub.receive(event(view.at(-1), 0));
      assert.equal(sub.receive({ op: "subscribed", id: frame.id, thread: "th_1", log: "k", after: frame.after, head }), "begun");
    };
    const take = (frame) => {
      const verdict = sub.receive(frame);
      if (verdict === "apply") applied.push(frame.seq);
      if (verdict === "resubscribe") subscribe();
    };
    subscribe();
    for (let step = 0; step < 2000 && applied.length < view.length; step += 1) {
      const dice = random();
      if (dice < 0.04) {
        sub.disconnected();
        subscribe();
      } else if (at >= view.length) {
        take({ op: "position", thread: "th_1", seq: view.at(-1) ?? 0 });
      } else {
        const frame = event(view[at], at ? view[at - 1] : 0);
        at += 1;
        if (dice < 0.12) continue; // lost
        take(frame);
        if (dice > 0.9) take(frame);
      }
    }
    assert.deepEqual(applied, view);
  }
});

test("the range of a close code says what to do", () => {
  for (const code of [1000, 1001, 1006, 4000, 4001, 4002, 4008, 4012, 4013, 4029, 4499]) assert.equal(afterClose(code), "reconnect");
  assert.equal(afterClose(4005), "refresh");
  for (const code of [4500, 4501, 4503, 4504, 4506, 4507, 4999]) assert.equal(afterClose(code), "stop");
});

test("reconnects use full jitter below a growing ceiling, after what the server asked for", () => {
  assert.equal(reconnectDelay(1, { random: 0 }), 0);
  assert.equal(reconnectDelay(1, { random: 0.5 }), 200);
  assert.equal(reconnectDelay(3, { random: 1 }), 1600);
  assert.equal(reconnectDelay(1000, { random: 1 }), 15000);
  assert.equal(reconnectDelay(1, { random: 0.5, afterS: 2 }), 2200);
});

// ---- the view

let seqs = 0;
function play(view, type, data, run = "run_1") {
  seqs += 1;
  const made = { op: "event", thread: "th_1", seq: seqs, prev: seqs - 1, run, attempt: 1, ts: 1000 * seqs, type, data };
  const fit = view.fits(made);
  if (fit === "apply") view.apply(made);
  return fit;
}
const kinds = (view) => view.rows.map((row) => row.kind);

test("a run becomes one row per step", () => {
  const view = new View();
  play(view, "user_message", { message: "msg_1", content: "Hello" });
  assert.equal(view.activeRun.status, "queued");
  play(view, "agent_started", { agent: "guide", message: "msg_1" });
  play(view, "agent_thinking", { text: "Hm" });
  play(view, "tool_executing", { call: "c1", step: "s", try: 1, name: "search", args: {} });
  play(view, "tool_completed", { call: "c1", step: "s", try: 1, name: "search", ok: true, final: true, result: [1], duration_ms: 5 });
  play(view, "message_started", { message: "msg_2", role: "assistant" });
  play(view, "text_delta", { message: "msg_2", offset: 0, text: "Hi " });
  play(view, "text_delta", { message: "msg_2", offset: 3, text: "there" });
  assert.equal(view.byKey.get("m:msg_2").text, "Hi there");
  play(view, "message_completed", { message: "msg_2", content: "Hi there!", complete: true });
  play(view, "agent_completed", { output: "Hi there!", duration_ms: 7 });
  assert.deepEqual(kinds(view), ["user", "run", "thinking", "tool", "message", "end"]);
  assert.equal(view.byKey.get("m:msg_2").text, "Hi there!");
  assert.equal(view.rows.at(-1).output, undefined, "said already");
  assert.equal(view.activeRun, null);
});

test("deltas count code points, are idempotent, and know a gap", () => {
  const view = new View();
  play(view, "message_started", { message: "m", role: "assistant" });
  play(view, "text_delta", { message: "m", offset: 0, text: "a😀b" });
  assert.equal(codePoints("a😀b"), 3);
  assert.equal(play(view, "text_delta", { message: "m", offset: 4, text: "x" }), "gap");
  assert.equal(play(view, "text_delta", { message: "m", offset: 3, text: "c" }), "apply");
  assert.equal(play(view, "text_delta", { message: "m", offset: 2, text: "B!" }), "apply");
  assert.equal(view.byKey.get("m:m").text, "a😀B!");
  assert.equal(play(view, "text_delta", { message: "unknown", offset: 0, text: "x" }), "skip");
  assert.equal(play(view, "thinking_delta", { thinking: "t", offset: 5, text: "x" }), "skip");
});

test("a completion whose beginning was not seen is shown whole", () => {
  const view = new View();
  play(view, "message_completed", { message: "m", content: "All of it", complete: true });
  play(view, "tool_completed", { call: "c", step: "s", try: 1, name: "search", ok: false, final: true, error: { code: "x", message: "y" }, duration_ms: 1 });
  assert.deepEqual(view.rows.map((row) => row.text ?? row.status), ["All of it", "failed"]);
});

test("superseded takes rows away and says so", () => {
  const view = new View();
  play(view, "agent_thinking", { text: "one" });
  const thought = seqs;
  play(view, "thinking_delta", { thinking: "t1", offset: 0, text: "two" });
  play(view, "message_started", { message: "m1", role: "assistant" });
  play(view, "text_delta", { message: "m1", offset: 0, text: "three" });
  play(view, "superseded", { messages: ["m1"], thinking: ["t1"], events: [thought], reason: "differs" });
  assert.deepEqual(kinds(view), ["note"]);
  assert.equal(play(view, "text_delta", { message: "m1", offset: 5, text: "x" }), "skip");
});

test("failure, cancel and a returned value are shown", () => {
  const view = new View();
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

test("every event type of the protocol is taken, and unknown ones do no harm", () => {
  const view = new View();
  for (const type of ["agent_waiting", "agent_resumed", "agent_retrying", "subagent_started", "subagent_completed", "subagent_failed", "custom"])
    play(view, type, { name: "n", value: 1, kind: "timer", wait: "w", span: "s", agent: "a", attempt: 2, reason: "worker_lost", message: "x" });
  assert.equal(view.rows.length, 7);
  assert.equal(play(view, "something_new", { a: 1 }), "apply");
  assert.equal(view.rows.length, 7);
});

test("older messages go above, and none is shown twice", () => {
  const view = new View();
  play(view, "user_message", { message: "msg_3", content: "third" });
  view.putBefore([
    { message: "msg_1", role: "user", content: "first", run: "run_0", seq: 1, complete: true },
    { message: "msg_3", role: "user", content: "third", run: "run_1", seq: 9, complete: true },
  ]);
  assert.deepEqual(view.rows.map((row) => row.text), ["first", "third"]);
});

test("a run's rows stay together below its message, also when another message came in between", () => {
  const view = new View();
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
  const view = new View();
  play(view, "user_message", { message: "msg_5", content: "later" }, "run_2");
  play(view, "message_completed", { message: "msg_2", content: "Answer", complete: true }, "run_1");
  play(view, "agent_completed", { output: "Answer" }, "run_1");
  assert.deepEqual(view.rows.map((row) => row.run), ["run_1", "run_1", "run_2"]);
  view.putBefore([{ message: "msg_1", role: "user", content: "early", run: "run_1", seq: 1, complete: true }]);
  assert.deepEqual(view.rows.map((row) => row.text ?? row.kind), ["early", "Answer", "end", "later"]);
});

test("a message says that it waits until its run begins or ends", () => {
  const view = new View();
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
  play(view, "agent_completed", { output: null }, "run_1");
  play(view, "agent_started", { agent: "a", message: "msg_2" }, "run_2");
  assert.deepEqual(waiting(), ["", "", ""]);
});

test("stop means the run that goes on, says so, and is not asked for twice", () => {
  const view = new View();
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
  const view = new View();
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
