// Tests of the connection: what is sent when, on sockets and clocks that the test moves.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { connect } from "./runwire.js";

/** A socket of the test: what the client sent, and what the server says. */
class FakeSocket {
  static all = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, readyState: 0, sent: [], isClosed: false });
    FakeSocket.all.push(this);
  }

  static get last() {
    return FakeSocket.all.at(-1);
  }

  /** Sockets that the client has not let go of. */
  static get open() {
    return FakeSocket.all.filter((socket) => !socket.isClosed);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.isClosed = true;
  }

  say(...frames) {
    this.onmessage?.({ data: JSON.stringify(frames) });
  }

  welcome(more = {}) {
    this.readyState = 1;
    this.onopen?.();
    this.say({ op: "welcome", protocol: 1, server: "s", connection: "cn", user: "usr", log: "k1", ping_s: 25, pong_s: 10, ...more });
  }

  die(code = 1006) {
    this.isClosed = true;
    this.onclose?.({ code, reason: "" });
  }

  /** Commands of one kind so far. */
  commands(op) {
    return this.sent.filter((frame) => frame.op === op);
  }
}

const clock = mock.timers;
beforeEach(() => {
  clock.reset();
  clock.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
  FakeSocket.all = [];
});

/** Let promises settle: they are chains of a few steps. */
async function settle() {
  for (let step = 0; step < 20; step += 1) await Promise.resolve();
}

async function begin(options = {}) {
  const states = [];
  const errors = [];
  const client = connect({
    url: "http://host/prefix", token: "t", WebSocket: FakeSocket, random: () => 0.5, storage: null,
    onState: (state) => states.push(state), onError: (error) => errors.push(error), ...options,
  });
  await settle();
  return { client, states, errors };
}

async function live(options = {}, welcome = {}) {
  const made = await begin(options);
  FakeSocket.last.welcome(welcome);
  await settle();
  return made;
}

async function tick(ms) {
  clock.tick(ms);
  await settle();
}

const event = (seq, prev = seq - 1, more = {}) => ({ op: "event", thread: "th_1", seq, prev, run: "run_1", attempt: 1, ts: seq, type: "custom", data: { name: "n", value: seq }, ...more });
const answer = (frame, more = {}) => ({ op: "subscribed", id: frame.id, thread: frame.thread, log: "k1", view: "all", after: frame.after, head: frame.after, ...more });
const sent = (id) => ({ op: "reply", id, ok: true, data: { thread: "th_1", log: "k1", after: 0, run: "run_1", message: "msg_1", seq: 1 } });

/** Answer the newest subscribe of a socket. */
function subscribe(socket, more = {}) {
  const frame = socket.commands("subscribe").at(-1);
  socket.say(answer(frame, more));
  return frame;
}

test("the token goes into the first frame, commands wait for the welcome", async () => {
  const { client } = await begin();
  client.send("hello").catch(() => {}); // closed below
  const socket = FakeSocket.last;
  assert.equal(socket.url, "ws://host/prefix/v1/ws");
  assert.deepEqual(socket.protocols, ["runwire.v1"]);
  socket.readyState = 1;
  socket.onopen();
  assert.deepEqual(socket.sent, [{ op: "hello", token: "t", client: "runwire-js/0.1" }]);
  socket.welcome();
  await settle();
  assert.equal(socket.commands("send").length, 1);
  client.close();
});

test("a send always has a key, and is repeated with it on the next socket until its reply", async () => {
  const { client } = await live();
  const sending = client.send("hello", { onActive: "reject", metadata: { a: 1 } });
  await settle();
  const [first] = FakeSocket.last.commands("send");
  assert.match(first.key, /^[0-9a-f]{32}$/);
  assert.deepEqual([first.on_active, first.metadata, first.thread, first.agent], ["reject", { a: 1 }, null, null]);
  FakeSocket.last.die();
  await tick(400);
  FakeSocket.last.welcome();
  assert.deepEqual(FakeSocket.last.commands("send"), [first]);
  FakeSocket.last.say(sent(first.id));
  assert.equal((await sending).run, "run_1");
  FakeSocket.last.die();
  await tick(2000);
  FakeSocket.last.welcome();
  assert.equal(FakeSocket.last.commands("send").length, 0, "it has its reply");
  client.close();
});

test("a refused command has the server's code, and is not repeated", async () => {
  const { client } = await live();
  const sending = client.send("hello");
  await settle();
  FakeSocket.last.say({ op: "reply", id: "1", ok: false, error: { code: "run_active", message: "Busy.", field: null, retry_after_s: 3 } });
  await assert.rejects(sending, { code: "run_active", retryAfterS: 3 });
  client.close();
});

test("as many commands are under way as the server takes, 1,000 wait, the next is refused", async () => {
  const { client } = await live({}, { limits: { commands_in_flight: 2 } });
  const cancels = Array.from({ length: 1002 }, (_, n) => client.cancel(`run_${n}`));
  const refused = client.cancel("run_x");
  await assert.rejects(refused, { code: "unavailable" });
  assert.equal(FakeSocket.last.commands("cancel").length, 2);
  FakeSocket.last.say({ op: "reply", id: "1", ok: true, data: { run: "run_0", status: "requested" } });
  assert.deepEqual(await cancels[0], { run: "run_0", status: "requested" });
  assert.equal(FakeSocket.last.commands("cancel").length, 3);
  client.close();
  for (const cancel of cancels.slice(1)) await assert.rejects(cancel, { code: "closed" });
});

test("who stops waiting gets the reason, and the command is not repeated", async () => {
  const { client } = await live();
  const waiting = client.send("hello", { signal: AbortSignal.abort(new Error("never mind")) });
  await assert.rejects(waiting, /never mind/);
  const controller = new AbortController();
  const later = client.send("hello", { signal: controller.signal });
  await settle();
  controller.abort(new Error("too late"));
  await assert.rejects(later, /too late/);
  FakeSocket.last.die();
  await tick(400);
  FakeSocket.last.welcome();
  assert.equal(FakeSocket.last.commands("send").length, 0);
  client.close();
});

test("a resume asks from the position, and each event comes once", async () => {
  const { client } = await live();
  const got = [];
  client.events("th_1").subscribe((items) => got.push(...items.map((item) => item.seq)));
  const first = FakeSocket.last;
  subscribe(first);
  first.say(event(1), event(2), event(2), event(3));
  await tick(0);
  first.die();
  await tick(200);
  const second = FakeSocket.last;
  second.welcome();
  assert.deepEqual(second.commands("subscribe").map(({ after, log }) => [after, log]), [[3, "k1"]]);
  second.say(event(9, 8)); // of nobody: the answer is awaited
  subscribe(second);
  first.say(event(4)); // an old socket has nothing to say
  second.say(event(4));
  await tick(0);
  assert.deepEqual(got, [1, 2, 3, 4]);
  client.close();
});

test("a gap is asked for again at once, one at a time, and gaps that go on become slow", async () => {
  const { client } = await live();
  client.view("th_1");
  const socket = FakeSocket.last;
  let asked = 0;
  const before = [];
  for (let second = 0; second < 30; second += 1) {
    // A server whose every answer leaves a gap, as fast as it can.
    for (let round = 0; round < 50; round += 1) {
      const frames = socket.commands("subscribe");
      if (frames.length > asked) {
        asked = frames.length;
        socket.say(answer(frames.at(-1)), event(9, 8), event(10, 9), { op: "position", thread: "th_1", seq: 10 });
      }
    }
    before.push(asked);
    await tick(1000);
  }
  assert.ok(before[0] <= 6, `at once: ${before[0]}`);
  assert.ok(asked >= 10 && asked <= 40, `in 30 s: ${asked}`);
  client.close();
});

test("readers that begin earlier are served without another one getting anything twice", async () => {
  const { client } = await live();
  const late = [];
  const all = [];
  const socket = FakeSocket.last;
  client.events("th_1", { after: 5, log: "k1" }).subscribe((items) => late.push(...items.map((item) => item.seq)));
  subscribe(socket);
  socket.say(event(6), event(7));
  client.events("th_1").subscribe((items) => all.push(...items.map((item) => item.seq)));
  assert.equal(socket.commands("subscribe").at(-1).after, 0);
  subscribe(socket);
  socket.say(...[1, 2, 3, 4, 5, 6, 7, 8].map((seq) => event(seq)));
  await tick(0);
  assert.deepEqual(late, [6, 7, 8]);
  assert.deepEqual(all, [1, 2, 3, 4, 5, 6, 7, 8]);
  client.close();
});

test("who iterates slowly is not given more than 4,096 items to hold, and misses nothing", async () => {
  const { client } = await live();
  const socket = FakeSocket.last;
  const reader = client.events("th_1");
  subscribe(socket);
  for (let seq = 1; seq <= 10000; seq += 1) socket.say(event(seq));
  const got = [];
  let asked = 1;
  for await (const item of reader) {
    got.push(item.seq);
    if (got.length === 10000) break;
    const frames = socket.commands("subscribe");
    if (frames.length > asked) {
      asked = frames.length;
      assert.ok(frames.at(-1).after - got.length <= 4096);
      socket.say(answer(frames.at(-1)));
      for (let seq = frames.at(-1).after + 1; seq <= 10000; seq += 1) socket.say(event(seq));
    }
  }
  assert.deepEqual(got, Array.from({ length: 10000 }, (_, at) => at + 1));
  assert.ok(asked > 2);
  client.close();
});

test("who is called back gets a list at once when 4,096 items wait, else once per frame", async () => {
  const { client } = await live();
  const socket = FakeSocket.last;
  const calls = [];
  client.events("th_1").subscribe((items) => calls.push(items.length));
  subscribe(socket);
  for (let seq = 1; seq <= 5000; seq += 1) socket.say(event(seq));
  assert.deepEqual(calls, [4096]);
  await tick(0);
  assert.deepEqual(calls, [4096, 904]);
  client.close();
});

test("a view has the state, tells what changed, and is cleared by a reset", async () => {
  const { client } = await live();
  const socket = FakeSocket.last;
  const view = client.view("th_1");
  const calls = [];
  view.onChange((items) => calls.push(items.map((item) => item.op)));
  subscribe(socket, { head: 2 });
  socket.say(event(1), event(2));
  await tick(0);
  assert.deepEqual(calls, [["subscribed", "event", "event"]]);
  assert.deepEqual(view.position, { log: "k1", seq: 2 });
  socket.say({ op: "reset", thread: "th_1", log: "k2", from: 7, reason: "log_changed" }, event(8, 7, { run: "run_2" }));
  await tick(0);
  assert.deepEqual(calls[1], ["reset", "event"]);
  assert.deepEqual([...view.state.runs.keys()], ["run_2"]);
  assert.deepEqual(view.position, { log: "k2", seq: 8 });
  socket.say({ op: "unsubscribed", id: null, thread: "th_1", reason: "deleted" });
  await tick(0);
  assert.equal(view.error.code, "not_found");
  client.close();
});

test("a delta that does not fit is asked for again once, and does not stop the view", async () => {
  const { client } = await live();
  const socket = FakeSocket.last;
  const view = client.view("th_1");
  subscribe(socket);
  const unfit = event(2, 1, { type: "text_delta", data: { message: "m", offset: 7, text: "x" } });
  socket.say(event(1, 0, { type: "message_started", data: { message: "m", role: "assistant" } }), unfit);
  assert.equal(socket.commands("subscribe").at(-1).after, 1);
  subscribe(socket);
  socket.say(unfit, event(3));
  assert.equal(view.state.seq, 3);
  assert.equal(socket.commands("subscribe").length, 2);
  client.close();
});

test("a refusal for now is tried again, one for good ends the reader", async () => {
  const { client, errors } = await live();
  const socket = FakeSocket.last;
  const view = client.view("th_1");
  const [frame] = socket.commands("subscribe");
  socket.say({ op: "reply", id: frame.id, ok: false, error: { code: "unavailable", message: "Later.", retry_after_s: 2 } });
  assert.equal(errors[0].code, "unavailable");
  await tick(1999);
  assert.equal(socket.commands("subscribe").length, 1);
  await tick(4000);
  const again = socket.commands("subscribe").at(-1);
  assert.notEqual(again.id, frame.id);
  socket.say({ op: "reply", id: again.id, ok: false, error: { code: "forbidden", message: "No." } });
  assert.equal(view.error.code, "forbidden");
  client.close();
});

test("a gap that is closed while a refusal rests does not make the refused reader wait for ever", async () => {
  const { client } = await live();
  const socket = FakeSocket.last;
  client.events("th_1", { after: 5, log: "k1" });
  subscribe(socket);
  const got = [];
  client.events("th_1").subscribe((items) => got.push(...items.map((item) => item.seq)));
  const refused = socket.commands("subscribe").at(-1);
  assert.equal(refused.after, 0);
  socket.say({ op: "reply", id: refused.id, ok: false, error: { code: "unavailable", message: "Later." } });
  socket.say(event(6)); // for the other reader, not for one that still lacks what comes before
  await tick(0);
  assert.deepEqual(got, []);
  socket.say(event(8, 7));
  const asked = socket.commands("subscribe").at(-1);
  assert.equal(asked.after, 6);
  socket.say(answer(asked));
  await tick(10000);
  assert.equal(socket.commands("subscribe").at(-1).after, 0);
  subscribe(socket);
  socket.say(event(1));
  await tick(0);
  assert.deepEqual(got, [1]);
  client.close();
});

test("a thread that nobody reads any more is left, after a moment", async () => {
  const { client } = await live();
  const socket = FakeSocket.last;
  client.send("hello").catch(assert.fail);
  await settle();
  socket.say(sent("1"));
  await tick(900);
  assert.equal(socket.commands("unsubscribe").length, 0);
  const reader = client.events("th_1");
  await tick(5000);
  assert.equal(socket.commands("unsubscribe").length, 0);
  reader.close();
  await tick(1000);
  assert.equal(socket.commands("unsubscribe").length, 1);
  client.close();
});

test("without life for ping_s + pong_s the socket is left; any frame is life", async () => {
  const { client, states } = await live();
  const socket = FakeSocket.last;
  await tick(34000);
  socket.say({ op: "ping" });
  assert.deepEqual(socket.sent.at(-1), { op: "pong" });
  await tick(34000);
  assert.equal(states.at(-1).name, "live");
  await tick(6000);
  assert.deepEqual([states.at(-1).name, states.at(-1).code], ["reconnecting", 4012]);
  assert.equal(socket.isClosed, true);
  client.close();
});

test("a server that accepts and says nothing is left after 15 s", async () => {
  const { client, states } = await begin();
  await tick(20000);
  assert.equal(states.some(({ code }) => code === 4012), true);
  client.close();
});

test("attempts are spread by full jitter that grows, until a connection lived for 5 s; one socket at a time", async () => {
  const { client, states } = await begin();
  const waits = [];
  for (let attempt = 0; attempt < 8; attempt += 1) {
    FakeSocket.last.die();
    waits.push(states.at(-1).retryAt - Date.now());
    await tick(waits.at(-1) - 1);
    assert.equal(FakeSocket.all.length, attempt + 1);
    await tick(1);
    assert.equal(FakeSocket.all.length, attempt + 2);
    assert.equal(FakeSocket.open.length, 1);
  }
  assert.deepEqual(waits, [200, 400, 800, 1600, 3200, 6400, 7500, 7500]);
  FakeSocket.last.welcome();
  FakeSocket.last.die();
  assert.equal(states.at(-1).attempt, 9, "it did not last");
  await tick(7500);
  FakeSocket.last.welcome();
  await tick(5000);
  FakeSocket.last.die();
  assert.equal(states.at(-1).attempt, 1);
  client.close();
});

test("not before the time that the server asked for, not even when asked to try at once", async () => {
  const { client, states } = await live();
  FakeSocket.last.say({ op: "bye", code: 4029, reconnect: true, after_s: 20, reason: "Slower." });
  FakeSocket.last.die(1006);
  assert.deepEqual([states.at(-1).code, states.at(-1).reason, states.at(-1).retryAt - Date.now()], [4029, "Slower.", 20200]);
  client.reconnectNow();
  await tick(19999);
  assert.equal(FakeSocket.all.length, 1);
  await tick(1);
  assert.equal(FakeSocket.all.length, 2);
  client.close();
});

test("codes that mean stop end the client, with what waits", async () => {
  for (const [code, name] of [[4501, "expired"], [4507, "expired"], [4503, "stopped"], [4504, "stopped"], [1009, "stopped"]]) {
    const { client, states } = await live();
    const waiting = client.cancel("run_1");
    const view = client.view("th_1");
    FakeSocket.last.die(code);
    await assert.rejects(waiting, { closeCode: code });
    assert.equal(states.at(-1).name, name);
    assert.equal(view.error.closeCode, code);
    await assert.rejects(client.send("x"), { code: "closed" });
    const sockets = FakeSocket.all.length;
    await tick(60000);
    assert.equal(FakeSocket.all.length, sockets);
  }
});

test("an expired token is replaced before the next socket, and by none the session is over", async () => {
  const asked = [];
  const tokens = ["one", "two", null];
  const { states } = await live({ token: undefined, getToken: ({ fresh }) => { asked.push(fresh); return tokens.shift(); } });
  FakeSocket.last.die(4005);
  await tick(200);
  FakeSocket.last.welcome();
  assert.equal(FakeSocket.last.sent[0].token, "two");
  FakeSocket.last.die(4005);
  await tick(1000);
  assert.deepEqual(asked, [false, true, true]);
  assert.equal(states.at(-1).name, "expired");
});

test("a fresh token is brought in band: in time, when the server says so, and again where it cannot be had", async () => {
  let count = 0;
  const { client, errors } = await live(
    { token: undefined, getToken: () => { count += 1; if (count === 3) throw new Error("offline"); return `t${count}`; } },
    { expires_at: 1_000_000 + 300_000 },
  );
  const socket = FakeSocket.last;
  await tick(30000);
  socket.say({ op: "notice", kind: "token_expiring", thread: null, data: {} });
  socket.say({ op: "notice", kind: "token_expiring", thread: null, data: {} });
  await settle();
  assert.deepEqual(socket.commands("refresh").map(({ token }) => token), ["t2"]);
  assert.equal(count, 2, "asked for once");
  const reply = (seconds) => socket.say({ op: "reply", id: socket.commands("refresh").at(-1).id, ok: true, data: { expires_at: Date.now() + seconds * 1000 } });
  reply(40);
  await settle();
  for (let second = 0; second < 36; second += 1) {
    socket.say({ op: "ping" });
    await tick(1000);
  }
  assert.equal(errors.at(-1).message, "offline");
  assert.deepEqual(socket.commands("refresh").map(({ token }) => token), ["t2", "t4"]);
  client.close();
});

test("a token that does not come, or cannot be had, is asked for again", async () => {
  const answers = [new Promise(() => {}), Promise.reject(new Error("no network")), "t"];
  const { client, states } = await begin({ token: undefined, getToken: () => answers.shift() });
  await tick(30000);
  assert.deepEqual([states.at(-1).name, FakeSocket.all.length], ["reconnecting", 0]);
  await tick(200);
  assert.match(states.at(-1).reason, /no network/);
  await tick(400);
  FakeSocket.last.welcome();
  assert.equal(FakeSocket.last.sent[0].token, "t");
  client.close();
});

test("what no frame may look like is told, and the socket is left for another one", async () => {
  for (const text of ["{", "[1]", '{"op":"event","thread":"th_1"}', '{"op":"welcome"}']) {
    const { client, errors, states } = await live();
    const view = client.view("th_1");
    subscribe(FakeSocket.last);
    FakeSocket.last.onmessage({ data: text });
    assert.equal(errors[0].code, "bad_frame", text);
    assert.equal(states.at(-1).name, "reconnecting");
    await tick(200);
    FakeSocket.last.welcome();
    subscribe(FakeSocket.last);
    FakeSocket.last.say(event(1));
    assert.equal(view.state.seq, 1);
    client.close();
  }
});

test("what the page's own functions throw is not swallowed and breaks nothing", async () => {
  const thrown = [];
  globalThis.reportError = (error) => thrown.push(error.message); // as browsers have it
  const { client } = await live({ onState: () => { throw new Error("mine"); } });
  const got = [];
  const reader = client.events("th_1");
  reader.subscribe((items) => { got.push(...items); throw new Error("mine too"); });
  subscribe(FakeSocket.last);
  FakeSocket.last.say(event(1));
  await tick(0);
  FakeSocket.last.say(event(2));
  await tick(0);
  assert.deepEqual(got.map(({ seq }) => seq), [1, 2]);
  client.close();
  delete globalThis.reportError;
  assert.ok(thrown.includes("mine") && thrown.includes("mine too"));
});

test("a position is kept of what was handled, of the 100 threads used last, and taken up on request", async () => {
  const kept = new Map();
  const storage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, text) => kept.set(name, text) };
  const first = await live({ storage });
  const reader = first.client.events("th_1", { resume: true });
  const socket = FakeSocket.last;
  subscribe(socket);
  socket.say(event(1), event(2), event(3));
  const items = reader[Symbol.asyncIterator]();
  await items.next();
  await items.next(); // the first one is handled by now, the second is not yet
  assert.deepEqual(JSON.parse([...kept.values()][0]), [["th_1", "k1", 1]]);
  first.client.close();

  const second = await live({ storage });
  second.client.events("th_1", { resume: true });
  second.client.events("th_2");
  const asked = FakeSocket.last.commands("subscribe").map(({ thread, after, log }) => [thread, after, log]);
  assert.deepEqual(asked, [["th_1", 1, "k1"], ["th_2", 0, undefined]]);
  for (let n = 0; n < 120; n += 1) {
    second.client.events(`th_x${n}`, { resume: true }).subscribe(() => {});
    FakeSocket.last.say(answer(FakeSocket.last.commands("subscribe").at(-1)));
    FakeSocket.last.say(event(1, 0, { thread: `th_x${n}` }));
    await tick(0);
  }
  assert.equal(JSON.parse([...kept.values()][0]).length, 100);
  second.client.close();
});

test("closing ends readers and sockets, and is idempotent", async () => {
  const { client, states } = await live();
  const reader = client.events("th_1");
  const reading = (async () => { for await (const item of reader) assert.fail(item); })();
  client.close();
  client.close();
  await assert.rejects(reading, { code: "closed" });
  assert.equal(FakeSocket.open.length, 0);
  assert.equal(states.at(-1).name, "closed");
  assert.equal(states.filter(({ name }) => name === "closed").length, 1);
});

test("tokens that cannot be had are asked for ever more slowly, however long the last connection lived", async () => {
  let isDown = false;
  const { client, states } = await live({ token: undefined, getToken: () => { if (isDown) throw new Error("down"); return "t"; } });
  await tick(10000);
  isDown = true;
  FakeSocket.last.die();
  const waits = [];
  for (let attempt = 0; attempt < 5; attempt += 1) {
    waits.push(states.at(-1).retryAt - Date.now());
    await tick(waits.at(-1));
  }
  assert.deepEqual(waits, [200, 400, 800, 1600, 3200]);
  client.close();
});

test("a token that is refused though it was held to be valid is replaced once, then the session is over", async () => {
  const asked = [];
  const { states } = await begin({ token: undefined, getToken: ({ fresh }) => { asked.push(fresh); return `t${asked.length}`; } });
  FakeSocket.last.die(4501); // a laptop has slept longer than the token lived
  await tick(200);
  assert.deepEqual(asked, [false, true]);
  FakeSocket.last.welcome();
  assert.equal(states.at(-1).name, "live");
  FakeSocket.last.die(4501);
  await tick(1000);
  assert.deepEqual([asked.length, states.at(-1).name], [2, "expired"], "that one was fresh");
});

test("a refresh is not repeated on the next socket, whose hello has a token of its own", async () => {
  const { client } = await live();
  const refreshing = client.refresh("older");
  await settle();
  assert.equal(FakeSocket.last.commands("refresh").length, 1);
  FakeSocket.last.die();
  assert.deepEqual(await refreshing, { expires_at: null });
  await tick(200);
  FakeSocket.last.welcome();
  assert.equal(FakeSocket.last.commands("refresh").length, 0);
  client.close();
});

test("a signal that ends many commands holds none of those that are done", async () => {
  const { client } = await live();
  let held = 0;
  const signal = { throwIfAborted() {}, addEventListener: () => { held += 1; }, removeEventListener: () => { held -= 1; } };
  const done = client.cancel("run_1", { signal });
  await settle();
  FakeSocket.last.say({ op: "reply", id: FakeSocket.last.commands("cancel")[0].id, ok: true, data: {} });
  await done;
  const waiting = client.cancel("run_2", { signal });
  await settle();
  client.close();
  await assert.rejects(waiting, { code: "closed" });
  assert.equal(held, 0);
});

test("who has stopped reading is not called any more, and gets nothing of what was queued", async () => {
  const { client } = await live();
  const calls = [];
  const stop = client.events("th_1").subscribe((items) => calls.push(items.length), () => calls.push("end"));
  const reader = client.events("th_1");
  const iterated = [];
  const reading = (async () => { for await (const item of reader) { iterated.push(item.seq); reader.close(); } })();
  subscribe(FakeSocket.last);
  subscribe(FakeSocket.last); // for the second reader, which came before the answer
  FakeSocket.last.say(event(1), event(2));
  stop();
  await reading;
  await tick(1000);
  client.close();
  await tick(1000);
  assert.deepEqual([calls, iterated], [[], [1]]);
});

test("a server that ends each subscription as soon as it began is not asked as fast as it answers", async () => {
  const { client } = await live();
  client.view("th_1");
  const socket = FakeSocket.last;
  for (let round = 0; round < 200; round += 1) {
    socket.say(answer(socket.commands("subscribe").at(-1)), { op: "unsubscribed", id: null, thread: "th_1", reason: "of_a_newer_server" });
  }
  const asked = socket.commands("subscribe").length;
  assert.ok(asked > 1 && asked <= 7, `at once: ${asked}`);
  client.close();
});

test("a wait of minutes that the server asked for is not cut short by a tab that is shown", async () => {
  const { client } = await live();
  FakeSocket.last.say({ op: "bye", code: 4029, reconnect: true, after_s: 300, reason: "Slower." });
  FakeSocket.last.die();
  client.reconnectNow();
  await tick(299_000);
  assert.equal(FakeSocket.all.length, 1);
  await tick(1000);
  assert.equal(FakeSocket.all.length, 2);
  client.close();
});

/** Answer what the client asks for over HTTP; returns what was asked with. */
function overHttp(t, ...answers) {
  const asked = [];
  const real = globalThis.fetch;
  t.after(() => { globalThis.fetch = real; });
  globalThis.fetch = (url, options) => {
    asked.push(options);
    const next = answers.shift();
    return next === undefined ? new Promise((_, reject) => options.signal?.addEventListener("abort", () => reject(options.signal.reason))) : Promise.resolve(next);
  };
  return asked;
}
const json = (body, status = 200) => ({ ok: status < 400, status, json: async () => body });
const SNAPSHOT = { thread: "th_1", title: null, log: "k1", seq: 4, messages: [], runs: [] };

test("a snapshot that is refused for its token is asked for with a fresh one", async (t) => {
  const asked = overHttp(t, json({}, 401), json(SNAPSHOT));
  const { client } = await live({ token: undefined, getToken: ({ fresh }) => (fresh ? "fresh" : "stale") });
  const view = client.view("th_1", { from: "snapshot" });
  await settle();
  await tick(2000);
  assert.deepEqual(asked.map(({ headers }) => headers.Authorization), ["Bearer stale", "Bearer fresh"]);
  assert.deepEqual(view.position, { log: "k1", seq: 4 });
  client.close();
});

test("a snapshot that a dead network swallows is asked for again", async (t) => {
  const asked = overHttp(t, undefined, json(SNAPSHOT));
  const { client } = await live();
  const view = client.view("th_1", { from: "snapshot" });
  await settle();
  for (let second = 0; second < 40; second += 1) {
    FakeSocket.last.say({ op: "ping" });
    await tick(1000);
  }
  assert.equal(asked.length, 2);
  assert.deepEqual(view.position, { log: "k1", seq: 4 });
  client.close();
});

const ACCEPTED = { thread: "th_1", log: "k1", run: "run_2", message: "msg_2", seq: 9 };

test("a retry is asked for with one key until there is an answer", async (t) => {
  const asked = overHttp(t, json({}, 503), json({}, 401), json(ACCEPTED, 202));
  const { client } = await live({ token: undefined, getToken: ({ fresh }) => (fresh ? "fresh" : "stale") });
  const retried = client.retry("run_1", { onActive: "interrupt" });
  for (let second = 0; second < 6; second += 1) await tick(1000);
  assert.deepEqual(await retried, ACCEPTED);
  assert.deepEqual(asked.map(({ headers }) => headers.Authorization), ["Bearer stale", "Bearer stale", "Bearer fresh"]);
  assert.equal(new Set(asked.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
  assert.ok(asked[0].headers["Idempotency-Key"].length >= 16);
  assert.deepEqual(asked.map(({ method, body }) => [method, body])[2], ["POST", '{"on_active":"interrupt"}']);
  client.close();
});

test("a retry that is refused, called off or without a client ends with its reason", async (t) => {
  const problem = { code: "conflict", detail: "The run has not ended.", field: "run", retry_after_s: null };
  const asked = overHttp(t, json(problem, 409), json({ code: "unsupported" }, 501), json({}, 503), json({}, 503));
  const { client } = await live();
  await assert.rejects(client.retry("run_1"), { code: "conflict", message: "The run has not ended.", field: "run" });
  await assert.rejects(client.retry("run_1"), { code: "unsupported" });
  const abort = new AbortController();
  const called = assert.rejects(client.retry("run_1", { signal: abort.signal }), { name: "AbortError" });
  await settle();
  abort.abort();
  await called;
  const waiting = assert.rejects(client.retry("run_1"), { code: "closed" });
  await settle();
  client.close();
  await tick(60000);
  await waiting;
  await assert.rejects(client.retry("run_1"), { code: "closed" });
  assert.equal(asked.length, 4);
});

test("an answer whose reply is lost is given again on the next socket, in its place", async () => {
  const { client } = await live();
  const done = [client.answer("run_1", "wt_1", null), client.cancel("run_1")];
  await settle();
  FakeSocket.last.die();
  await tick(1000);
  const socket = FakeSocket.last;
  socket.welcome();
  await settle();
  const again = socket.sent.filter(({ op }) => op === "answer" || op === "cancel");
  assert.deepEqual(again.map(({ op }) => op), ["answer", "cancel"]);
  assert.deepEqual({ ...again[0], id: null }, { op: "answer", id: null, run: "run_1", wait: "wt_1", value: null });
  socket.say({ op: "reply", id: again[0].id, ok: true, data: { run: "run_1", wait: "wt_1" } });
  socket.say({ op: "reply", id: again[1].id, ok: false, error: { code: "not_found", message: "no", field: "run", retry_after_s: null } });
  assert.deepEqual(await done[0], { run: "run_1", wait: "wt_1" });
  await assert.rejects(done[1], { code: "not_found" });
  client.close();
});

test("a snapshot that cannot be read ends the view with a reason, and no rejection goes unhandled", async (t) => {
  overHttp(t, json({ messages: [{}] }));
  const { client } = await live();
  const view = client.view("th_1", { from: "snapshot" });
  await settle();
  assert.equal(view.error.code, "bad_frame");
  client.close();
});
