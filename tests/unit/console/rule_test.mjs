// Tests of the pure parts of the client module: the apply rule, the reducer, when to come back.

import assert from "node:assert/strict";
import { test } from "node:test";

import { RunwireError, Subscription, ThreadView, afterClose, codePoints, readFrames, reconnectDelay } from "./runwire.js";

const event = (seq, prev = seq - 1, more = {}) => ({ op: "event", thread: "th_1", seq, prev, run: "run_1", attempt: 1, ts: seq, type: "custom", data: {}, ...more });
const kinds = (actions) => actions.map((action) => action.do);

function make(options = {}) {
  let ids = 0;
  return new Subscription("th_1", { newId: () => String((ids += 1)), ...options });
}

/** A subscription whose first subscribe, with id 1, was answered. */
function subscribed(after = 0, log = "k1", options = {}) {
  const sub = make(options);
  sub.subscribe(after);
  assert.deepEqual(sub.receive({ op: "subscribed", id: "1", thread: "th_1", log, view: "all", after, head: after }), []);
  assert.equal(sub.isSubscribed, true);
  return sub;
}

test("everything of the thread is dropped until the own subscribe is answered", () => {
  const sub = make();
  assert.deepEqual(sub.subscribe(2), [{ do: "ask", frame: { op: "subscribe", id: "1", thread: "th_1", after: 2, view: "all" } }]);
  assert.deepEqual(sub.subscribe(), [], "one at a time");
  assert.deepEqual(sub.receive(event(3)), []);
  assert.deepEqual(sub.receive({ op: "position", thread: "th_1", seq: 9 }), []);
  assert.deepEqual(sub.receive({ op: "reset", thread: "th_1", from: 3, log: "k2", reason: "trimmed" }), []);
  assert.deepEqual(sub.receive({ op: "subscribed", id: "0", thread: "th_1", log: "k1", after: 5, head: 5 }), []);
  assert.equal(sub.isAsking, true);
  assert.deepEqual(sub.receive({ op: "subscribed", id: "1", thread: "th_1", log: "k1", after: 2, head: 5 }), []);
  assert.deepEqual([sub.last, sub.log, sub.isAsking], [2, "k1", false]);
});

test("from now on: the position is what the server resolved", () => {
  const sub = make();
  assert.equal(sub.subscribe(-1)[0].frame.after, -1);
  sub.receive({ op: "subscribed", id: "1", thread: "th_1", log: "k1", after: 41, head: 41 });
  assert.deepEqual(kinds(sub.receive(event(42))), ["apply"]);
});

test("from now on, while a send's reply gave a position: the gap is closed", () => {
  const sub = make();
  sub.subscribe(-1);
  sub.sent({ after: 4, log: "k1" });
  const [{ frame }] = sub.receive({ op: "subscribed", id: "1", thread: "th_1", log: "k1", after: 9, head: 9 });
  assert.deepEqual([frame.after, frame.log], [4, "k1"]);
});

test("a refused subscribe leaves the older subscription under its position", () => {
  const sub = subscribed(4);
  sub.restart({ after: 4, log: "k1" });
  assert.deepEqual(sub.receive({ op: "reply", id: "9", ok: false, error: { code: "x" } }), [], "somebody else's");
  assert.deepEqual(kinds(sub.receive({ op: "reply", id: "2", ok: false, error: { code: "x" } })), ["notSubscribed"]);
  assert.deepEqual(kinds(sub.receive(event(5))), ["apply"]);
});

test("a duplicate is dropped, the next is applied, a gap is neither applied nor forgotten", () => {
  const sub = subscribed(3);
  assert.deepEqual(sub.receive(event(3)), []);
  assert.deepEqual(kinds(sub.receive(event(6, 3))), ["apply"], "views skip numbers");
  assert.deepEqual(sub.receive(event(9, 8)), [{ do: "ask", frame: { op: "subscribe", id: "2", thread: "th_1", after: 6, view: "all", log: "k1" } }]);
  assert.equal(sub.last, 6);
  assert.deepEqual(sub.receive(event(7, 6)), [], "of the older subscription");
});

test("an event may be applied whose prev lies before the position", () => {
  const sub = subscribed(5);
  assert.deepEqual(kinds(sub.receive(event(8, 3))), ["apply"]);
  assert.equal(sub.last, 8);
});

test("a position beyond what was applied is a gap", () => {
  const sub = subscribed(5);
  assert.deepEqual(sub.receive({ op: "position", thread: "th_1", seq: 5 }), []);
  assert.deepEqual(kinds(sub.receive({ op: "position", thread: "th_1", seq: 6 })), ["ask"]);
});

test("a reset drops the view, moves position and log, and ordinary events follow", () => {
  const shown = new ThreadView();
  const sub = subscribed(90, "k1", { shown });
  shown.apply(event(90));
  assert.deepEqual(sub.receive({ op: "reset", thread: "th_1", from: 10, log: "k2", reason: "log_changed" }), [{ do: "dropView", reason: "log_changed" }]);
  assert.equal(shown.runs.size, 0);
  assert.deepEqual(kinds(sub.receive(event(11))), ["apply"]);
  assert.equal(sub.subscribe()[0].frame.log, "k2");
});

test("a cut between subscribed and its reset leaves the position in the old log", () => {
  const sub = subscribed(5);
  sub.disconnect();
  sub.subscribe();
  assert.deepEqual(sub.receive({ op: "subscribed", id: "2", thread: "th_1", log: "k2", after: 5, head: 9 }), []);
  assert.deepEqual(sub.receive(event(6)), []);
  assert.deepEqual(sub.receive({ op: "position", thread: "th_1", seq: 9 }), []);
  sub.disconnect();
  assert.equal(sub.subscribe()[0].frame.log, "k1");
});

test("a send answered from another log counts for nothing until the reset", () => {
  const sub = subscribed(5);
  assert.deepEqual(kinds(sub.sent({ after: 9, log: "k9" })), ["ask"]);
  sub.receive({ op: "reply", id: "2", ok: false, error: { code: "x" } });
  assert.deepEqual(sub.receive(event(6)), []);
});

test("unsubscribed keeps the position if asked, and drops it with the thread", () => {
  const sub = subscribed(5);
  assert.deepEqual(sub.receive({ op: "unsubscribed", id: "7", thread: "th_1", reason: "asked" }), [{ do: "ended", reason: "asked" }]);
  assert.equal(sub.last, 5);
  assert.deepEqual(sub.receive({ op: "unsubscribed", id: null, thread: "th_1", reason: "deleted" }), [{ do: "ended", reason: "deleted" }]);
  assert.deepEqual([sub.last, sub.log], [null, null]);
});

test("the reply to send gives the position only to who holds none", () => {
  const fresh = make();
  assert.deepEqual(fresh.sent({ after: 0, log: "k1" }), []);
  assert.deepEqual([fresh.last, fresh.log], [0, "k1"]);
  const held = subscribed(5);
  assert.deepEqual(held.sent({ after: 9, log: "k1" }), []);
  assert.equal(held.last, 5, "the gap will show itself");
});

test("a delta that does not fit is asked for again, once", () => {
  const shown = new ThreadView();
  const sub = subscribed(0, "k1", { shown });
  sub.receive(event(1, 0, { type: "message_started", data: { message: "m", role: "assistant" } }));
  const unfit = event(2, 1, { type: "text_delta", data: { message: "m", offset: 4, text: "x" } });
  assert.deepEqual(kinds(sub.receive(unfit)), ["ask"]);
  assert.equal(sub.last, 1);
  sub.receive({ op: "subscribed", id: "2", thread: "th_1", log: "k1", after: 1, head: 2 });
  assert.deepEqual(kinds(sub.receive(unfit)), ["apply"]);
  assert.equal(sub.last, 2);
});

test("frames of other threads, of commands and of newer servers mean nothing", () => {
  const sub = subscribed(5);
  for (const frame of [event(6, 5, { thread: "th_2" }), { op: "reply", id: "1", ok: true }, { op: "notice", kind: "x" }, { op: "newer" }])
    assert.deepEqual(sub.receive(frame), []);
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
    const sub = make();
    let at = 0; // the server's cursor into `view`
    const act = (actions) => {
      for (const action of actions) {
        if (action.do === "apply") applied.push(action.event.seq);
        if (action.do === "ask") answer(action.frame);
      }
    };
    const answer = (frame) => {
      at = view.findIndex((seq) => seq > frame.after);
      if (at < 0) at = view.length;
      // Frames of the older subscription may still be under way.
      if (random() < 0.3 && view.length) act(sub.receive(event(view.at(-1), 0)));
      act(sub.receive({ op: "subscribed", id: frame.id, thread: "th_1", log: "k", after: frame.after, head: view.at(-1) ?? 0 }));
    };
    act(sub.subscribe());
    for (let step = 0; step < 2000 && applied.length < view.length; step += 1) {
      const dice = random();
      if (dice < 0.04) {
        sub.disconnect();
        act(sub.subscribe());
      } else if (at >= view.length) {
        act(sub.receive({ op: "position", thread: "th_1", seq: view.at(-1) ?? 0 }));
      } else {
        const frame = event(view[at], at ? view[at - 1] : 0);
        at += 1;
        if (dice < 0.12) continue; // lost
        act(sub.receive(frame));
        if (dice > 0.9) act(sub.receive(frame));
      }
    }
    assert.deepEqual(applied, view);
  }
});

// ---- the reducer; `test_reducer_js.py` compares it with the server's

let seqs = 0;
function play(view, type, data, run = "run_1") {
  seqs += 1;
  return view.apply({ seq: seqs, run, attempt: 1, ts: seqs, type, data });
}

test("deltas count code points, are idempotent, and know a gap", () => {
  assert.equal(codePoints("a😀b"), 3);
  assert.equal(codePoints("\ud83d"), 1);
  assert.equal(codePoints("\ud83dx\ude00"), 3);
  const view = new ThreadView();
  play(view, "message_started", { message: "m", role: "assistant" });
  play(view, "text_delta", { message: "m", offset: 0, text: "a😀b" });
  const before = view.seq;
  assert.equal(play(view, "text_delta", { message: "m", offset: 4, text: "x" }), false);
  assert.equal(view.seq, before);
  assert.equal(play(view, "text_delta", { message: "m", offset: 3, text: "c" }), true);
  assert.equal(play(view, "text_delta", { message: "m", offset: 2, text: "B!" }), true);
  assert.equal(view.messages.get("m").content, "a😀B!");
  assert.equal(play(view, "text_delta", { message: "unknown", offset: 7, text: "x" }), true, "of a stream that was not seen to begin");
  assert.equal(view.messages.size, 1);
});

test("a snapshot is taken up where it stands, open messages included", () => {
  const view = new ThreadView();
  play(view, "user_message", { message: "m1", content: "Hello" });
  play(view, "agent_started", { agent: "a", message: "m1" });
  play(view, "tool_executing", { call: "c", step: "s", try: 1, name: "t", args: { a: 1 } });
  play(view, "agent_waiting", { wait: "w", kind: "input", prompt: "Name?", due_at: 5 });
  play(view, "message_started", { message: "m2" });
  play(view, "text_delta", { message: "m2", offset: 0, text: "Hi 😀" });
  const copy = ThreadView.fromSnapshot({ ...JSON.parse(JSON.stringify(view.toSnapshot())), seq: view.seq });
  assert.deepEqual(copy.toSnapshot(), view.toSnapshot());
  assert.equal(copy.seq, view.seq);
  const delta = { message: "m2", offset: 4, text: " there" };
  assert.equal(play(copy, "text_delta", delta), true);
  assert.equal(copy.messages.get("m2").content, "Hi 😀 there");
  copy.clear();
  assert.deepEqual(copy.toSnapshot(), { messages: [], runs: [] });
});

test("names that every object has are ids like others", () => {
  const view = new ThreadView();
  for (const id of ["__proto__", "constructor", "toString"]) {
    play(view, "message_completed", { message: id, content: id, complete: true }, id);
    play(view, id, { a: 1 }, id);
    assert.equal(view.runs.get(id).opaque.size, 1);
  }
  assert.equal(view.messages.get("__proto__").content, "__proto__");
});

// ---- frames and times

test("what a server sends is read leniently, and refused by name if it lacks what it must have", () => {
  assert.deepEqual(readFrames('{"op":"ping","newer":1}').length, 1);
  assert.deepEqual(readFrames('[{"op":"newer"},{"op":"position","thread":"t","seq":1}]').length, 2);
  assert.deepEqual(readFrames("[]"), []);
  for (const text of ["", "{", "1", "null", '"x"', "[1]", "[[]]", "{}", '{"op":1}', '{"op":"event"}', '{"op":"position","thread":"t","seq":"1"}', '{"op":"reset","thread":"t","log":"k"}'])
    assert.throws(() => readFrames(text), (error) => error instanceof RunwireError && error.code === "bad_frame", text);
});

test("the range of a close code says what to do", () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 4000, 4001, 4002, 4008, 4012, 4013, 4029, 4499]) assert.equal(afterClose(code), "reconnect");
  assert.equal(afterClose(4005), "refresh");
  for (const code of [1002, 1007, 1009, 4500, 4501, 4503, 4504, 4506, 4507, 4999]) assert.equal(afterClose(code), "stop");
});

test("reconnects use full jitter below a growing ceiling, after what the server asked for", () => {
  assert.equal(reconnectDelay(1, { random: 0 }), 0);
  assert.equal(reconnectDelay(1, { random: 0.5 }), 200);
  assert.equal(reconnectDelay(3, { random: 1 }), 1600);
  assert.equal(reconnectDelay(1000, { random: 1 }), 15000);
  assert.equal(reconnectDelay(1, { random: 0, afterS: 2 }), 2000);
  assert.equal(reconnectDelay(1, { random: 0.5, afterS: 2 }), 2200);
});
