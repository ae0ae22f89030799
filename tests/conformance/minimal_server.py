"""The smallest server that keeps PROTOCOL: in memory, one process, plain `websockets`, GET routes beside the socket.

It is written from the wire contract alone and shares no code with the product, so that the checker and the client are
tested against a second opinion. Faulty servers are this one with one method replaced (`faulty_servers.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.conformance.minimal_agents import NAMED, Breakers
from tests.conformance.minimal_http import Front, Http
from tests.conformance.minimal_run import (
    DELTAS,
    TERMINAL,
    Agent,
    Emit,
    Failed,
    Frame,
    Run,
    Thread,
    fresh,
    now_ms,
    say,
    with_tool,
    without_tools,
)
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

__all__ = [
    "DELTAS",
    "TERMINAL",
    "Agent",
    "Connection",
    "Emit",
    "Frame",
    "MinimalServer",
    "Run",
    "Subscription",
    "Thread",
    "fresh",
    "say",
    "with_tool",
    "without_tools",
]

SUBPROTOCOL = Subprotocol("runwire.v1")
LIMITS = {"frame_bytes": 65536, "subscriptions": 64, "commands_in_flight": 32, "replay_events": 20000}
FIELDS: dict[str, dict[str, Any]] = {
    # op → field → whether a value will do; those of `NEEDED` must be there
    "subscribe": {
        "thread": lambda v: isinstance(v, str),
        "after": lambda v: isinstance(v, int) and v >= -1,
        "log": lambda v: v is None or isinstance(v, str),
        "view": lambda v: v in ("all", "lifecycle"),
    },
    "unsubscribe": {"thread": lambda v: isinstance(v, str)},
    "send": {
        "key": lambda v: v is None or isinstance(v, str),
        "thread": lambda v: v is None or isinstance(v, str),
        "agent": lambda v: v is None or isinstance(v, str),
        "content": lambda v: isinstance(v, str) and bool(v.strip()) and not any("\ud800" <= c <= "\udfff" for c in v),
        "on_active": lambda v: v in ("enqueue", "reject", "interrupt"),
        "metadata": lambda v: v is None or isinstance(v, dict),
    },
    "cancel": {"run": lambda v: isinstance(v, str)},
    "answer": {"run": lambda v: isinstance(v, str), "wait": lambda v: isinstance(v, str), "value": lambda v: True},
    "refresh": {"token": lambda v: isinstance(v, str)},
}
NEEDED = {"subscribe": {"thread"}, "unsubscribe": {"thread"}, "send": {"content"}, "cancel": {"run"},
          "answer": {"run", "wait", "value"}, "refresh": {"token"}}  # fmt: skip


@dataclass
class Subscription:
    """A cursor of one socket over one thread."""

    thread: Thread
    view: str
    last: int


class Connection:
    """One socket: answers first in, first out; then events of each subscription from its cursor."""

    def __init__(self, socket: ServerConnection, user: str, token: str = "") -> None:
        self.socket = socket
        self.token = token
        self.user = user
        self.subscriptions: dict[str, Subscription] = {}
        self.out: list[Frame] = []
        self.wake = asyncio.Event()
        self.state: Frame = {}  # for faulty servers

    def put(self, frame: Frame) -> None:
        """Queue a frame behind those that wait; the test's peer reads fast, so no limit."""
        self.out.append(frame)
        self.wake.set()


def _quiet() -> logging.Logger:
    """Return a logger for what `websockets` says of connections that were never sockets."""
    logger = logging.getLogger("tests.conformance.minimal")
    logger.setLevel(logging.CRITICAL)
    return logger


class MinimalServer(Http):
    """Serve PROTOCOL for the users in `tokens`.

    Args:
        agent: what runs for each message.
        tokens: token → user.
        ping_s: how often a socket is pinged.
        pace_s: how long the agent rests after each event.
    """

    def __init__(
        self,
        agent: Agent = with_tool,
        *,
        tokens: dict[str, str] | None = None,
        ping_s: float = 25,
        pace_s: float = 0.0,
        log: str = "k3x9",
    ) -> None:
        self.agent = agent
        self.tokens = tokens or {"good-token": "usr_1", "other-token": "usr_2"}
        self.tickets: dict[str, str] = {}
        self.ping_s = ping_s
        self.pace_s = pace_s
        self.log = log
        self.threads: dict[str, Thread] = {}
        self.runs: dict[str, Run] = {}
        self.keys: dict[tuple[str, str], tuple[str, Frame]] = {}
        self.connections: set[Connection] = set()
        self.tasks: asyncio.TaskGroup | None = None
        self.url = ""
        self.accepted = 0  # sockets so far
        self.named = dict(NAMED)
        self.max_size: int | None = LIMITS["frame_bytes"]
        self.breakers = Breakers()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on a free port; yields the URL."""
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            front = type("OwnFront", (Front,), {"owner": self})
            async with serve(
                self.socket,
                "127.0.0.1",
                port,
                process_request=self.http,
                select_subprotocol=lambda _, offered: SUBPROTOCOL if SUBPROTOCOL in offered else None,
                create_connection=front,
                compression=None,
                ping_interval=None,
                close_timeout=0.2,
                max_size=self.max_size,
                logger=_quiet(),
            ) as server:
                self.url = f"http://127.0.0.1:{self._port(server)}"
                yield self.url
                for run in self.runs.values():
                    if run.task:
                        run.task.cancel()

    @staticmethod
    def _port(server: Server) -> int:
        return int(next(iter(server.sockets)).getsockname()[1])

    # --- who

    def user_of(self, headers: Headers) -> str | None:
        """Return the user of the Authorization header."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return self.user_by(token) if scheme == "Bearer" else None

    def user_by(self, token: str) -> str | None:
        """Return the user of a token."""
        return self.tokens.get(token)

    def revoke(self, token: str) -> None:
        """Withdraw a token, and end its sockets."""
        self.tokens.pop(token, None)
        assert self.tasks
        for connection in self.connections:
            if connection.token == token:
                self.tasks.create_task(self.bye(connection.socket, 4507, "the sign-in has ended"))

    # --- the socket

    async def socket(self, socket: ServerConnection) -> None:
        """Serve one socket from sign-in to close."""
        self.accepted += 1
        try:
            user, token, early = await self.signed_in(socket)
            if user is None:
                await self.bye(socket, 4501, "sign in with a token of this server")
                return
            await self.serve_user(Connection(socket, user, token), early)
        except (ConnectionClosed, TimeoutError):
            return

    async def signed_in(self, socket: ServerConnection) -> tuple[str | None, str, list[Frame]]:
        """Return who it is, by what, and the frames that came behind a hello."""
        assert socket.request
        headers = socket.request.headers
        if "Authorization" in headers:
            return self.user_of(headers), headers["Authorization"].partition(" ")[2], []
        if "?ticket=" in socket.request.path:
            return self.user_of_ticket(socket.request.path.partition("?ticket=")[2]), "", []
        offered = headers.get("Sec-WebSocket-Protocol", "")
        if "bearer." in offered:
            token = offered.partition("bearer.")[2].split(",")[0].strip()
            return self.user_by(token), token, []
        async with asyncio.timeout(5):
            hello, *early = self.parse(await socket.recv())
        token = hello.get("token", "") if hello.get("op") == "hello" else ""
        return self.user_by(token), token, early

    def user_of_ticket(self, ticket: str) -> str | None:
        """Return the user of a ticket, once."""
        return self.tickets.pop(ticket, None)

    async def serve_user(self, connection: Connection, early: list[Frame]) -> None:
        """Welcome, then read and write until the socket ends."""
        self.connections.add(connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self.write(connection))
                pinger = tasks.create_task(self.pinging(connection))
                self.welcome(connection)
                try:
                    for frame in early:
                        self.command(connection, frame)
                    async for text in connection.socket:
                        self.message(connection, text)
                except ConnectionClosed:
                    pass
                except (ValueError, RecursionError):
                    await self.bye(connection.socket, 4500, "that is no frame")
                writer.cancel()
                pinger.cancel()
        finally:
            self.connections.discard(connection)

    def message(self, connection: Connection, text: str | bytes) -> None:
        """Carry out the frames of one message."""
        for frame in self.parse(text):
            self.command(connection, frame)

    def welcome(self, connection: Connection) -> None:
        """Say who the socket is and what holds."""
        connection.put({
            "op": "welcome", "protocol": 1, "server": "minimal/1", "connection": fresh("cn"), "user": connection.user,
            "log": self.log, "ping_s": self.ping_s, "pong_s": 10, "expires_at": now_ms() + 3_600_000, "limits": LIMITS,
        })  # fmt: skip

    def parse(self, text: str | bytes) -> list[Frame]:
        """Return the frames of a message: one, or an array."""
        if isinstance(text, bytes):
            raise ValueError("binary")  # noqa: TRY004 - as all that is no frame
        value = json.loads(text)
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(frame, dict) for frame in found):
            raise ValueError("no frame")
        return found

    async def bye(self, socket: ServerConnection, code: int, reason: str, after_s: float | None = None) -> None:
        """End a socket."""
        frame = {"op": "bye", "code": code, "reconnect": code < 4500, "after_s": after_s, "reason": reason}
        await socket.send(json.dumps(frame))
        await socket.close(code, reason)

    async def pinging(self, connection: Connection) -> None:
        """Ping, with a position for each subscription behind what was sent."""
        while True:
            await asyncio.sleep(self.ping_s)
            connection.put({"op": "ping"})
            for sub in connection.subscriptions.values():
                connection.put({"op": "position", "thread": sub.thread.thread, "seq": sub.last})

    async def write(self, connection: Connection) -> None:
        """Write answers, then what each cursor has not seen, until the socket ends."""
        try:
            while True:
                # Arm before looking, or what comes in between waits for the next wake-up.
                connection.wake.clear()
                frames, connection.out = connection.out, []
                for sub in list(connection.subscriptions.values()):
                    frames.extend(self.pull(sub))
                for frame in frames:
                    for written in self.outgoing(connection, frame):
                        await self.deliver(connection, json.dumps(written, ensure_ascii=False))
                if not frames:
                    await connection.wake.wait()
        except ConnectionClosed:
            return

    async def deliver(self, connection: Connection, text: str) -> None:
        """Write to a socket; who does not read is waited for, by nobody else."""
        await connection.socket.send(text)

    def pull(self, sub: Subscription) -> list[Frame]:
        """Return what a cursor has not seen and move it; `prev` is where it stood."""
        frames = []
        for event in self.history(sub):
            frames.append({"op": "event", "thread": sub.thread.thread, **event, "prev": sub.last})
            sub.last = event["seq"]
        return frames

    def page(self, thread: Thread, view: str, after: int) -> list[Frame]:
        """Return the events after a position, over HTTP."""
        return MinimalServer.pull(self, Subscription(thread, view, after))

    def history(self, sub: Subscription) -> list[Frame]:
        """Return the events after a cursor in its view."""
        return [e for e in sub.thread.events[sub.last :] if sub.view == "all" or e["type"] not in DELTAS]

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        """Return what is written for a frame; faulty servers change it."""
        return [frame]

    # --- commands

    def command(self, connection: Connection, frame: Frame) -> None:
        """Carry out one client frame."""
        if frame.get("op") == "pong":
            return
        if field := self.fault(frame):
            self.refuse(connection, frame, "bad_request", field)
            return
        getattr(self, frame["op"])(connection, frame)

    def fault(self, frame: Frame) -> str | None:
        """Return the field that is wrong in a command; None: it is sound."""
        op = frame.get("op")
        if not isinstance(op, str) or op not in FIELDS:
            return "op"
        known = FIELDS[op]
        for name, value in frame.items():
            if name not in ("op", "id") and (name not in known or not known[name](value)):
                return name
        return next(iter(sorted(NEEDED[op] - set(frame))), None)

    def refuse(self, connection: Connection, frame: Frame, code: str, field: str | None = None) -> None:
        """Answer a command with an error."""
        error = {"code": code, "message": f"refused: {code}", "field": field, "retry_after_s": None}
        connection.put({"op": "reply", "id": frame.get("id"), "ok": False, "error": error})

    def reply(self, connection: Connection, frame: Frame, data: Frame) -> None:
        """Answer a command."""
        connection.put({"op": "reply", "id": frame["id"], "ok": True, "data": data})

    def own(self, user: str, thread: str) -> Thread | None:
        """Return a user's thread; somebody else's is unknown."""
        found = self.threads.get(thread)
        return found if found and found.user == user else None

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        """Put a cursor over a thread, or reset it."""
        thread = self.own(connection.user, frame["thread"])
        if thread is None:
            self.refuse(connection, frame, "not_found", "thread")
            return
        after = thread.head if frame.get("after") == -1 else frame.get("after", 0)
        view = frame.get("view", "all")
        sub = self.subscription(thread, view, after)
        connection.subscriptions[thread.thread] = sub
        connection.put({"op": "subscribed", "id": frame["id"], "thread": thread.thread, "log": self.log, "view": view,
                        "after": after, "head": thread.head})  # fmt: skip
        if after > thread.head or (frame.get("log") or self.log) != self.log:
            sub.last = self.reset_from(thread)
            connection.put(
                {"op": "reset", "thread": thread.thread, "log": self.log, "from": sub.last, "reason": "log_changed"}
            )

    def subscription(self, thread: Thread, view: str, after: int) -> Subscription:
        """Return a cursor; faulty servers put it elsewhere."""
        return Subscription(thread, view, after)

    def reset_from(self, thread: Thread) -> int:
        """Return the seq before the user_message of the oldest unfinished run, else of the last run."""
        wanted = next((r for r in thread.runs if r.status in ("queued", "running")), thread.runs[-1])
        return next(int(e["seq"]) for e in thread.events if e["run"] == wanted.run) - 1

    def unsubscribe(self, connection: Connection, frame: Frame) -> None:
        """Take a cursor away."""
        connection.subscriptions.pop(frame["thread"], None)
        connection.put({"op": "unsubscribed", "id": frame["id"], "thread": frame["thread"], "reason": "asked"})

    def refresh(self, connection: Connection, frame: Frame) -> None:
        """Take a newer token of the same user."""
        if self.user_by(frame["token"]) != connection.user:
            assert self.tasks
            self.tasks.create_task(self.bye(connection.socket, 4503, "another user's token"))
            return
        self.reply(connection, frame, {"expires_at": now_ms() + 3_600_000})

    def is_old(self, thread: str) -> bool:
        """Return whether a thread has had several runs; for faulty servers."""
        return thread in self.threads and len(self.threads[thread].runs) > 1

    def own_run(self, user: str, run: str) -> Run | None:
        """Return a user's run; somebody else's is unknown."""
        found = self.runs.get(run)
        return found if found and found.user == user else None

    def cancel(self, connection: Connection, frame: Frame) -> None:
        """Ask a run to end."""
        run = self.own_run(connection.user, frame["run"])
        if run is None:
            self.refuse(connection, frame, "not_found", "run")
            return
        self.reply(connection, frame, {"run": run.run, "status": self.call_off(run)})

    def call_off(self, run: Run, by: str = "user") -> str:
        """Ask a run to end, and say what was found."""
        if run.is_over:
            return run.status
        run.by, run.is_called_off = by, True
        assert run.task
        if run.has_begun:
            run.task.cancel()
        return "requested"

    def answer(self, connection: Connection, frame: Frame) -> None:
        """Answer a wait; the first one wins."""
        run = self.own_run(connection.user, frame["run"])
        wait = next((wait for wait in run.waits if wait["wait"] == frame["wait"]), None) if run else None
        if run is None or wait is None:
            self.refuse(connection, frame, "not_found", "run" if run is None else "wait")
            return
        if wait["by"] is not None and wait["value"] != frame["value"]:
            self.refuse(connection, frame, "conflict", "value")
            return
        if wait["by"] is None:
            wait.update(by=connection.user, value=frame["value"])
            self.append(run, "agent_resumed", {"wait": wait["wait"], "value": frame["value"], "by": connection.user})
            run.answered.set()
        self.reply(connection, frame, {"run": run.run, "wait": frame["wait"]})

    def send(self, connection: Connection, frame: Frame) -> None:
        """Start a run for a message, once per key."""
        content = frame["content"]
        if frame.get("thread") and self.own(connection.user, frame["thread"]) is None:
            self.refuse(connection, frame, "not_found", "thread")
            return
        body = json.dumps([frame.get("thread"), content])
        data = self.known(connection.user, frame, body)
        if data is False:
            self.refuse(connection, frame, "conflict", "key")
            return
        if not data:
            thread = self.threads[frame["thread"]] if frame.get("thread") else self.new_thread(connection.user)
            if not self.has_way(thread, frame.get("on_active", "enqueue")):
                self.refuse(connection, frame, "run_active", "thread")
                return
            data = self.start(thread, connection.user, content, frame.get("agent"))
            if frame.get("key"):
                self.keys[connection.user, frame["key"]] = (body, data)
        thread = self.threads[data["thread"]]
        self.reply(connection, frame, data)
        connection.subscriptions.setdefault(thread.thread, self.subscription(thread, "all", data["after"]))

    def has_way(self, thread: Thread, policy: str) -> bool:
        """Return whether a message may come while runs are unfinished; those that it interrupts are called off."""
        active = [run for run in thread.runs if not run.is_over]
        if policy == "interrupt":
            for run in active:
                self.call_off(run, "policy")
        return policy != "reject" or not active

    def known(self, user: str, frame: Frame, body: str) -> Any:
        """Return the first answer to this key, False for another body, None for a new key."""
        before = self.keys.get((user, frame.get("key") or ""))
        return None if before is None else before[0] == body and before[1]

    def new_thread(self, user: str) -> Thread:
        """Create a thread."""
        thread = Thread(fresh("th"), user, self.log)
        self.threads[thread.thread] = thread
        return thread

    def start(self, thread: Thread, user: str, content: str, agent: str | None = None) -> Frame:
        """Store the message and begin its run."""
        run = Run(fresh("run"), thread, user, content, fresh("msg"), agent)
        self.runs[run.run] = run
        thread.runs.append(run)
        after = thread.head
        self.append(run, "user_message", {"message": run.message, "content": content}, attempt=0)
        assert self.tasks
        run.task = self.tasks.create_task(self.execute(run))
        return {
            "thread": thread.thread,
            "log": self.log,
            "after": after,
            "run": run.run,
            "message": run.message,
            "seq": after + 1,
        }

    async def die(self) -> None:
        """Lose all sockets, and go on with unfinished runs in another attempt, as after `kill -9`."""
        for connection in list(self.connections):
            connection.socket.transport.abort()
        for run in self.runs.values():
            if run.status == "running":
                self.take_over(run)

    def take_over(self, run: Run) -> None:
        """Begin another attempt at a run; faulty servers do it otherwise."""
        run.attempt += 1
        self.append(run, "agent_retrying", {"attempt": run.attempt, "reason": "worker_lost"})

    # --- runs

    def append(self, run: Run, kind: str, data: Frame, *, attempt: int | None = None) -> None:
        """Give an event its seq and wake the sockets that follow the thread."""
        tried = run.attempt if attempt is None else attempt
        run.thread.events.append({"seq": run.thread.head + 1, "run": run.run, "attempt": tried, "ts": now_ms(),
                                  "type": kind, "data": data})  # fmt: skip
        run.thread.wake()
        for connection in self.connections:
            if run.thread.thread in connection.subscriptions:
                connection.wake.set()

    async def execute(self, run: Run) -> None:
        """Run the agent after the runs before it; exactly one terminal event."""
        began = now_ms()

        async def emit(kind: str, data: Frame) -> None:
            self.emitted(run, kind, data)
            await asyncio.sleep(self.pace_s)

        run.has_begun = True
        try:
            if not run.is_called_off:
                output = await self.work(run, emit)
        except Failed as error:
            run.status = "failed"
            self.end(run, "agent_failed", error.data)
            return
        except asyncio.CancelledError:
            run.is_called_off = True
        if run.is_called_off:
            run.status = "cancelled"
            self.end(run, "agent_cancelled", {"by": run.by})
        else:
            run.status = "completed"
            self.end(run, "agent_completed", {"output": output, "duration_ms": now_ms() - began})

    async def work(self, run: Run, emit: Emit) -> Any:
        """Wait for its turn, and have the agent answer."""
        await self.turn(run)
        run.status = "running"
        await emit("agent_started", {"agent": run.agent or "minimal", "message": run.message})
        return await self.ask(run, emit)

    async def turn(self, run: Run) -> None:
        """Wait for the runs before it; faulty servers do not."""
        while not all(other.is_over for other in run.thread.runs[: run.thread.runs.index(run)]):
            await run.thread.changed.wait()

    async def ask(self, run: Run, emit: Emit) -> Any:
        """Have the agent answer; faulty servers have another one."""
        if run.agent in self.named:
            return await self.named[run.agent](self.breakers, run, emit)
        return await self.agent(run.content, emit)

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        """Store what an agent emits; faulty servers change it."""
        self.append(run, kind, data)

    def end(self, run: Run, kind: str, data: Frame) -> None:
        """Store the terminal event; faulty servers change it."""
        self.append(run, kind, data)
