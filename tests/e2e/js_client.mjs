// The client module as a process of its own: commands come as JSON lines, answers and what it sees go out as JSON lines.
//
//   {"n": 1, "do": "send", "content": "…"}   →   {"n": 1, "ok": …} or {"n": 1, "error": code}
//   unasked                                  →   {"saw": "item" | "state" | "error" | "end", …}

import { createInterface } from "node:readline";

const { connect } = await import(process.argv[2]);
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const views = new Map();
const readers = [];
let client;

async function follow({ thread, label, options }) {
  const reader = client.events(thread, options);
  readers.push(reader);
  try {
    for await (const item of reader) say({ saw: "item", label, item });
    say({ saw: "end", label, error: null });
  } catch (error) {
    say({ saw: "end", label, error: error.code });
  }
}

const verbs = {
  connect({ url, token, session }) {
    const options = session ? { getToken: (asked) => tokenOf(url, session, asked) } : { token };
    client = connect({
      url, ...options,
      onState: (state) => say({ saw: "state", ...state }),
      onError: (error) => say({ saw: "error", message: error.message }),
    });
  },
  send: ({ content, options }) => client.send(content, options),
  cancel: ({ run }) => client.cancel(run),
  answer: ({ run, wait, value }) => client.answer(run, wait, value),
  retry: ({ run, options }) => client.retry(run, options),
  refresh: () => client.refresh(),
  welcome: () => client.welcome,
  follow(command) {
    follow(command);
  },
  listen({ thread, label, options }) {
    const reader = client.events(thread, options);
    reader.subscribe(
      (items) => { for (const item of items) say({ saw: "item", label, item }); },
      (error) => say({ saw: "end", label, error: error?.code ?? null }),
    );
  },
  view: ({ thread, label, from }) => { views.set(label, client.view(thread, { from })); },
  snapshot: ({ label }) => {
    const { state, position, error } = views.get(label);
    return { ...state.toSnapshot(), position, error: error?.code ?? null };
  },
  close: () => client.close(),
};

async function tokenOf(url, session, { fresh }) {
  if (session.access && !fresh) return session.access;
  const answer = await fetch(new URL("auth/token", `${url}/`), {
    method: "POST",
    body: new URLSearchParams({ grant_type: "refresh_token", refresh_token: session.refresh }),
  });
  if (!answer.ok) return null;
  const body = await answer.json();
  Object.assign(session, { access: body.access_token, refresh: body.refresh_token });
  return session.access;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { n, do: verb, ...rest } = JSON.parse(line);
  new Promise((resolve) => { resolve(verbs[verb](rest)); }).then(
    (ok) => say({ n, ok: ok ?? null }),
    (error) => say({ n, error: error.code ?? `${error}` }),
  );
}
client?.close();
