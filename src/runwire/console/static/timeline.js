// Rows as DOM: each row is made once and changed in place.

import { renderBlock, splitBlocks } from "./markdown.js";
import { contentText, isReference, waitOutcome, waitTitle } from "./view.js";

const CLIPPED_CHARS = 4000;
const DEPTHS = 4; // sub-agents inside each other that are drawn further and further in
const STATUS_WORD = {
  preparing: "preparing", running: "running", ok: "done", failed: "failed", repeated: "cut off, will be repeated",
};

/** Make an element: `make("p", {class: "x", text: "…"}, child, …)`. */
export function make(tag, { class: className, text, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  Object.assign(element, properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** `1.2 s`, `340 ms`, `2 min 5 s`. */
export function duration(ms) {
  if (ms === null || ms === undefined || ms < 0) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
}

export class Timeline {
  /**
   * @param {HTMLElement} list where rows go
   * @param {{link: (href: string) => string|null, blob: (ref: string) => Promise<unknown>, cancel: (run: string) => void,
   *   answer: (run: string, wait: string, value: unknown) => void, retry: (run: string) => void}} services
   */
  constructor(list, services) {
    this.list = list;
    this.services = services;
    this.drawn = new Map(); // key -> {element, rev, update}
    this.clock = null; // while a wait has an end to count down to
  }

  /** Bring the list up to date with the rows. */
  draw(rows) {
    const gone = new Set(this.drawn.keys());
    let before = null;
    for (const row of rows) {
      gone.delete(row.key);
      let drawn = this.drawn.get(row.key);
      if (drawn && drawn.kind !== row.kind) {
        drawn.element.remove();
        drawn = undefined;
      }
      if (!drawn) {
        drawn = { kind: row.kind, row: null, rev: -1, ...this.#row(row) };
        this.drawn.set(row.key, drawn);
      }
      const place = before ? before.nextSibling : this.list.firstChild;
      if (drawn.element !== place) this.list.insertBefore(drawn.element, place);
      // Rows of a view that was begun anew are others, under the same keys.
      if (drawn.row !== row || drawn.rev !== row.rev) {
        drawn.row = row;
        drawn.rev = row.rev;
        drawn.update(row);
      }
      before = drawn.element;
    }
    for (const key of gone) {
      this.drawn.get(key).element.remove();
      this.drawn.delete(key);
    }
    this.#count(rows.some((row) => row.kind === "wait" && row.isOpen && row.dueAt !== null));
  }

  /** Have the time that is left told anew each second, as long as there is any. */
  #count(isNeeded) {
    if (isNeeded && this.clock === null) this.clock = setInterval(() => this.#tick(), 1000);
    if (isNeeded || this.clock === null) return;
    clearInterval(this.clock);
    this.clock = null;
  }

  #tick() {
    for (const { row, update } of this.drawn.values()) if (row.kind === "wait" && row.isOpen && row.dueAt !== null) update(row);
  }

  #row(row) {
    const element = make("li", { class: `row row-${row.kind}` });
    element.append(make("span", { class: "seq", text: `${row.seq}`, title: `seq ${row.seq}` }), make("span", { class: "node", ariaHidden: "true" }));
    const body = make("div", { class: "body" });
    element.append(body);
    const parts = { element, body };
    const update = {
      user: userRow, run: runRow, thinking: thinkingRow, tool: toolRow, message: messageRow, wait: waitRow, span: spanRow, note: noteRow,
      custom: customRow, end: endRow,
    }[row.kind](parts, this.services);
    if (row.depth) element.dataset.depth = Math.min(row.depth, DEPTHS);
    return { element, update };
  }
}

function userRow({ element, body }, services) {
  const text = make("p", { class: "said", dir: "auto" });
  const state = make("span");
  const cancel = make("button", { type: "button", class: "more", text: "Cancel" });
  const foot = make("p", { class: "waits", hidden: true }, state, " ", cancel);
  const who = make("span", { class: "who", text: "You" });
  body.append(who, text, foot);
  return (row) => {
    text.textContent = row.text;
    who.textContent = row.isRetry ? "You, tried again" : "You";
    who.classList.toggle("is-shown", row.isRetry === true);
    element.classList.toggle("is-waiting", Boolean(row.waiting));
    foot.hidden = !row.waiting;
    state.textContent = row.waiting === "stopping" ? "Being cancelled" : "Waits for its turn";
    cancel.hidden = row.waiting !== "turn";
    cancel.onclick = () => services.cancel(row.run);
  };
}

function runRow({ body }) {
  const name = make("strong");
  body.append(make("p", { class: "line" }, name, " started"));
  return (row) => { name.textContent = row.agent; };
}

function thinkingRow({ element, body }) {
  const label = make("span", { class: "label" });
  const text = make("div", { class: "thought", dir: "auto" });
  const details = make("details", { open: true }, make("summary", {}, label), text);
  let isTouched = false;
  details.querySelector("summary").addEventListener("click", () => { isTouched = true; });
  body.append(details);
  return (row) => {
    element.classList.toggle("is-open", row.isOpen === true);
    label.textContent = row.isOpen ? "Thinking" : row.durationMs > 50 ? `Thought for ${duration(row.durationMs)}` : "Thought";
    text.textContent = row.text;
    if (!isTouched && !row.isOpen && row.text.length > 240) details.open = false;
  };
}

function toolRow({ element, body }, services) {
  const name = make("code", { class: "tool-name" });
  const status = make("span", { class: "tool-status" });
  const time = make("span", { class: "tool-time" });
  const brief = make("span", { class: "tool-brief" });
  const inside = make("div", { class: "tool-inside" });
  const details = make("details", { class: "tool" }, make("summary", {}, name, brief, status, time), inside);
  body.append(details);
  return (row) => {
    element.dataset.status = row.status;
    name.textContent = row.name;
    status.textContent = STATUS_WORD[row.status] ?? row.status;
    time.textContent = duration(row.durationMs);
    brief.textContent = row.args === undefined ? "" : briefly(row.args);
    const parts = [];
    if (row.args !== undefined) parts.push(value("Arguments", row.args, services));
    else if (row.argsText) parts.push(value("Arguments", row.argsText, services));
    if (row.error) parts.push(make("p", { class: "error", text: `${row.error.code}: ${row.error.message}` }));
    if (row.hasResult) parts.push(value("Result", row.result, services));
    inside.replaceChildren(...parts);
  };
}

function messageRow({ element, body }, services) {
  const speaker = make("p", { class: "speaker", hidden: true });
  const text = make("div", { class: "prose", dir: "auto" });
  const foot = make("div", { class: "message-foot" });
  body.append(speaker, text, foot);
  let drawn = [];
  let whole = null; // a large content that was fetched
  return function update(row) {
    element.classList.toggle("is-open", row.isOpen === true);
    speaker.hidden = !row.speaker;
    speaker.textContent = row.speaker ?? "";
    const blocks = splitBlocks(whole ?? row.text);
    let same = 0;
    while (same < blocks.length && same < drawn.length && blocks[same] === drawn[same]) same += 1;
    while (text.childNodes.length > same) text.lastChild.remove();
    for (const block of blocks.slice(same)) text.append(renderBlock(block, services.link));
    drawn = blocks;
    foot.replaceChildren();
    if (!row.isOpen && row.isComplete === false) foot.append(make("span", { class: "cut", text: "The run ended inside this message." }));
    if (row.reference && whole === null) {
      foot.append(more(`Show all (${row.reference.bytes} bytes)`, async () => {
        const content = await services.blob(row.reference.$ref);
        if (content === null) return false;
        whole = contentText(content);
        return update(row);
      }));
    }
    if (!row.isOpen && row.text) foot.append(copyButton(() => whole ?? row.text));
  };
}

/** A sub-agent: what it does stands below, further in. */
function spanRow({ element, body }, services) {
  const name = make("strong");
  const state = make("span");
  const more = make("div", { class: "span-more" });
  body.append(make("p", { class: "line" }, name, " ", state), more);
  return (row) => {
    element.dataset.status = row.status;
    name.textContent = row.name;
    state.textContent = { running: "is at work", ok: "is done", failed: "failed" }[row.status];
    const parts = [];
    if (row.error) parts.push(make("p", { class: "error", text: `${row.error.code}: ${row.error.message}` }));
    if (row.output !== undefined && typeof row.output !== "string") parts.push(value("Result", row.output, services));
    more.replaceChildren(...parts);
  };
}

/** What the run waits for: a card that asks as long as it is open, and says afterwards how it ended. */
function waitRow({ element, body }, services) {
  const title = make("h3", { class: "wait-title" });
  const prompt = make("div", { class: "wait-prompt", dir: "auto" });
  const due = make("p", { class: "wait-due" });
  const form = make("form", { class: "wait-form" });
  const outcome = make("p", { class: "wait-outcome", tabIndex: -1 });
  const card = make("section", { class: "wait" }, title, prompt, due, form, outcome);
  body.append(card);
  let shown; // the prompt that stands there
  let fields = null; // of the form, made once: what is typed stays
  let held = null; // what had the focus when the answer was given: what is disabled loses it
  return (row) => {
    if (form.contains(document.activeElement)) held = document.activeElement;
    else if (document.activeElement !== document.body) held = null;
    element.dataset.status = row.isOpen ? "open" : row.by === "ended" || row.by === "timer" ? "over" : "answered";
    element.dataset.wait = row.waitKind;
    title.textContent = waitTitle(row);
    card.ariaLabel = title.textContent;
    if (shown !== row.prompt) {
      shown = row.prompt;
      prompt.replaceChildren(...promptParts(row.prompt, services));
    }
    due.hidden = !row.isOpen || row.dueAt === null;
    due.textContent = due.hidden ? "" : untilText(row);
    if (row.isOpen && row.waitKind !== "timer") {
      fields ??= (row.waitKind === "approval" ? approval : input)(form, (given) => services.answer(row.run, row.wait, given));
      for (const field of fields) field.disabled = row.isSending;
    }
    form.hidden = !row.isOpen || row.waitKind === "timer";
    form.ariaBusy = String(row.isSending);
    outcome.hidden = row.isOpen && !row.isSending;
    outcome.textContent = row.isOpen ? (row.isSending ? "Sending your answer" : "") : waitOutcome(row);
    if (held === null || row.isSending) return;
    // Who uses the keyboard goes on from here: the button is gone, or the answer was refused.
    if (form.hidden) outcome.focus();
    else held.focus();
    held = null;
  };
}

function approval(form, answer) {
  const approve = make("button", { type: "button", class: "send", text: "Approve" });
  const reject = make("button", { type: "button", class: "stop", text: "Reject" });
  approve.addEventListener("click", () => answer(true));
  reject.addEventListener("click", () => answer(false));
  form.append(approve, reject);
  form.addEventListener("submit", (event) => event.preventDefault());
  return [approve, reject];
}

function input(form, answer) {
  const field = make("textarea", { rows: 2, maxLength: 60000, ariaLabel: "Your answer", name: "answer" });
  const give = make("button", { type: "submit", class: "send", text: "Answer" });
  form.append(field, give);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    answer(field.value);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return [field, give];
}

function promptParts(prompt, services) {
  if (prompt === null) return [];
  if (typeof prompt === "string") return [make("p", { text: prompt })];
  return [value("What is asked", prompt, services)];
}

function untilText({ waitKind, dueAt }) {
  const leftS = Math.max(0, Math.ceil((dueAt - Date.now()) / 1000));
  const time = new Date(dueAt).toLocaleTimeString([], { hour12: false });
  const left = leftS === 0 ? "now" : leftS < 90 ? `in ${leftS} s` : leftS < 5400 ? `in ${Math.round(leftS / 60)} min` : `in ${Math.round(leftS / 3600)} h`;
  return waitKind === "timer" ? `Until ${time}, ${left}` : `An answer is taken until ${time}, ${left}`;
}

function noteRow({ body }) {
  const text = make("p", { class: "line" });
  body.append(text);
  return (row) => { text.textContent = row.text; };
}

function customRow({ body }, services) {
  const inside = make("div");
  body.append(inside);
  return (row) => inside.replaceChildren(value(row.name, row.value, services));
}

function endRow({ element, body }, services) {
  return (row) => {
    element.dataset.status = row.status;
    const parts = [];
    if (row.status === "completed") {
      parts.push(make("p", { class: "line", text: `Completed${row.durationMs === null ? "" : ` in ${duration(row.durationMs)}`}` }));
      if (row.output !== undefined && row.output !== null) parts.push(value("Output", row.output, services));
    } else if (row.status === "cancelled") {
      const by = { user: "by you", operator: "by an operator", policy: "by a rule", revoked: "because access was withdrawn" }[row.by] ?? "";
      parts.push(make("p", { class: "line", text: `Cancelled ${by}${row.message ? `: ${row.message}` : ""}` }));
    } else {
      parts.push(make("p", { class: "line failed", text: row.message ?? "The run failed." }));
      const facts = make("p", { class: "facts" }, make("code", { text: row.code ?? "failed" }));
      if (row.errorId) facts.append(" · error id ", make("code", { text: row.errorId }));
      parts.push(facts);
      if (row.retry === "done") parts.push(make("p", { class: "facts", text: "Tried again below." }));
      else if (row.retry !== null) {
        const again = make("button", { type: "button", class: "again", text: row.retry === "asked" ? "Trying again" : "Try again", disabled: row.retry === "asked" });
        again.addEventListener("click", () => services.retry(row.run));
        parts.push(again);
      }
    }
    body.replaceChildren(...parts);
  };
}

/** A labelled JSON value; a long one is clipped, one that was put aside is fetched when asked for. */
function value(label, content, services) {
  const pre = make("pre", { tabIndex: 0 });
  const box = make("div", { class: "value" }, make("span", { class: "value-label", text: label }), pre);
  const show = (shown) => {
    const text = typeof shown === "string" ? shown : JSON.stringify(shown, null, 2) ?? "null";
    pre.textContent = text.length > CLIPPED_CHARS ? `${text.slice(0, CLIPPED_CHARS)}…` : text;
    if (text.length > CLIPPED_CHARS) box.append(more("Show all", () => { pre.textContent = text; }));
  };
  if (isReference(content)) {
    pre.textContent = `${content.head}…`;
    box.append(more(`Show all (${content.bytes} bytes)`, async () => {
      const whole = await services.blob(content.$ref);
      return whole === null ? false : show(whole);
    }));
  } else show(content);
  return box;
}

/** A button that goes once it has done its work; if `act` returns false (no network), it may be tried again. */
function more(label, act) {
  const button = make("button", { type: "button", class: "more", text: label });
  button.addEventListener("click", async () => {
    button.disabled = true;
    if ((await act()) === false) button.disabled = false;
    else button.remove();
  });
  return button;
}

function copyButton(text) {
  const button = make("button", { type: "button", class: "quiet copy-answer", text: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

function briefly(args) {
  if (isReference(args)) return "…";
  if (typeof args !== "object" || args === null) return contentText(args);
  return Object.entries(args).map(([name, given]) => `${name}: ${typeof given === "string" ? given : JSON.stringify(given)}`).join(", ");
}
