// Folds histories: a line of standard input is a list of events, a line of standard output what each left behind.

import { createInterface } from "node:readline";

import { ThreadView } from "./runwire.js";

for await (const line of createInterface({ input: process.stdin })) {
  let view = new ThreadView();
  const states = JSON.parse(line).map((event, at) => {
    const applied = view.apply(event);
    const snapshot = view.toSnapshot();
    // Now and then a client comes back with nothing but the snapshot.
    if (at % 7 === 6) view = ThreadView.fromSnapshot({ ...JSON.parse(JSON.stringify(snapshot)), seq: view.seq });
    return [applied, view.seq, snapshot];
  });
  console.log(JSON.stringify(states));
}
