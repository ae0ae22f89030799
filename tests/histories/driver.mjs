// Plays recorded histories (README.md of vectors/) through a JavaScript client and says where it differs.
//
//   node driver.mjs <client module> [--first]  < histories.jsonl
//
// One line comes back for each history: {"name", "steps"} when it agrees, else {"name", "step", "what", "expected", "got"};
// with --first nothing is played after that.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

const { Subscription, ThreadView, readFrames } = await import(pathToFileURL(process.argv[2]).href);

const FIELDS = {
  steps: ["name", "args", "seq", "ok", "result", "error", "final", "duration_ms", "span"],
  waits: ["kind", "prompt", "call", "due_at", "value", "by"],
  thinking: ["text", "seq", "complete"],
  spans: ["agent", "parent", "ok", "output", "error"],
  opaque: ["type", "name", "value"],
  args: ["text"],
};
const MESSAGE = ["role", "content", "run", "seq", "complete", "span"];
const RUN = ["agent", "status", "attempt", "error", "output", "usage", "duration_ms", "cancelled"];
const DID = { apply: () => "apply", dropView: () => "reset", notSubscribed: () => "refused", ended: (action) => action.reason };

const pick = (thing, names) => Object.fromEntries(names.map((name) => [name, thing[name]]));

/** The view as a map from `kind key` to its value, in the order of `screen.flat`. */
function flat(view) {
  const entries = new Map();
  for (const [key, message] of view.messages) entries.set(`messages ${key}`, pick(message, MESSAGE));
  for (const run of view.runs.values()) {
    entries.set(`runs ${run.id}`, pick(run, RUN));
    for (const [kind, names] of Object.entries(FIELDS)) {
      for (const [key, part] of run[kind]) entries.set(`${kind} ${key}`, { ...pick(part, names), run: run.id });
    }
  }
  return entries;
}

/** The order that the description of the format promises: messages, runs, and the parts of each run by kind. */
function ordered(entries) {
  const lists = new Map();
  for (const [name, value] of entries) {
    const kind = name.slice(0, name.indexOf(" "));
    const list = kind === "messages" || kind === "runs" ? kind : `${kind} of ${value.run}`;
    if (!lists.has(list)) lists.set(list, []);
    lists.get(list).push(name);
  }
  return lists;
}

class Difference extends Error {
  constructor(what, expected, got) {
    super(what);
    Object.assign(this, { what, expected, got });
  }
}

function agree(what, expected, got) {
  if (!isDeepStrictEqual(got, expected)) throw new Difference(what, expected, got);
}

class Player {
  constructor({ thread, view }) {
    this.id = null; // of the subscribe that is expected now
    this.shown = new ThreadView();
    this.subscription = new Subscription(thread, { view, shown: this.shown, newId: () => this.id ?? "unexpected" });
    this.expected = new Map();
    this.at = [null, null];
  }

  play(step) {
    this.id = step.send?.id ?? null;
    const actions = this.give(step);
    const sent = actions.filter((action) => action.do === "ask").map(({ frame }) => ({ log: null, ...frame }));
    agree("send", step.send ? [step.send] : [], sent);
    const did = actions.filter((action) => action.do !== "ask").map((action) => DID[action.do](action));
    agree("did", step.did ?? [], did);
    this.at = step.at ?? this.at;
    agree("at", this.at, [this.subscription.log, this.subscription.last]);
    if (step.restart || did.includes("reset") || did.includes("deleted")) this.expected.clear();
    for (const [kind, key, value] of step.view ?? []) {
      if (value === null) this.expected.delete(`${kind} ${key}`);
      else this.expected.set(`${kind} ${key}`, value);
    }
    this.look();
  }

  give(step) {
    if ("subscribe" in step) return this.subscription.subscribe(step.subscribe);
    if ("frame" in step) return readFrames(JSON.stringify(step.frame)).flatMap((frame) => this.subscription.receive(frame));
    if ("sent" in step) return this.subscription.sent(step.sent.data);
    if ("disconnect" in step) return this.subscription.disconnect() ?? [];
    this.shown = step.snapshot ? ThreadView.fromSnapshot(step.snapshot) : new ThreadView();
    this.subscription.shown = this.shown;
    return this.subscription.restart(step.restart);
  }

  look() {
    const got = flat(this.shown);
    for (const [name, value] of this.expected) agree(name, value, got.get(name));
    if (got.size !== this.expected.size) throw new Difference("entries", [...this.expected.keys()], [...got.keys()]);
    agree("order", [...ordered(this.expected)].sort(), [...ordered(got)].sort());
  }
}

function judge(line) {
  const history = JSON.parse(line);
  const player = new Player(history);
  for (const [at, step] of history.steps.entries()) {
    try {
      player.play(step);
    } catch (error) {
      const { what = String(error.stack), expected = null, got = null } = error;
      return { name: history.name, step: at, what, expected, got };
    }
  }
  return { name: history.name, steps: history.steps.length };
}

for await (const line of createInterface({ input: process.stdin })) {
  if (!line) continue;
  const verdict = judge(line);
  process.stdout.write(`${JSON.stringify(verdict)}\n`);
  if (process.argv[3] === "--first" && "what" in verdict) break;
}
