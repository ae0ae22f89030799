// J: Node and its package `ws`, JSON.stringify by hand. Nothing is stored.
//
//     node node_ws.mjs FOLDER-WITH-node_modules EVENT-FILL
import { createRequire } from "node:module";
import { setImmediate as giveWay, setTimeout as sleep } from "node:timers/promises";

const [folder, fill] = process.argv.slice(2);
const { WebSocketServer } = createRequire(`${folder}/`)("ws");
const thread = "th_" + "0".repeat(32);
const run = "run_" + "0".repeat(32);

async function agent(socket, work) {
  if (work.pause_s) await sleep(Math.random() * work.pause_s * 1000);
  for (let seq = 1; seq <= work.events && socket.readyState === socket.OPEN; seq++) {
    const value = work.kind === "clock" ? Number(process.hrtime.bigint()) : fill;
    socket.send(
      JSON.stringify({
        op: "event", thread, seq, prev: seq - 1, run, attempt: 1, ts: Date.now(), type: "custom",
        data: { name: "bench", value },
      }),
    );
    if (work.pause_s) await sleep(work.pause_s * 1000);
    else await giveWay();
  }
}

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false, backlog: 2048 });
server.on("listening", () => console.log(`ready http://127.0.0.1:${server.address().port}`));
server.on("connection", (socket) => {
  socket.on("error", () => {}); // the client went away
  socket.on("message", (text) => agent(socket, JSON.parse(JSON.parse(text).content)));
});
