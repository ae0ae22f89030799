"""The smallest server that keeps PROTOCOL: in memory, one process, plain `websockets`, GET routes beside the socket.

It is written from the wire contract alone and shares no code with the product, so that the checker and the client are
tested against a second opinion. Faulty servers are this one with one method replaced (`faulty_servers.py`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Frame = dict[str, Any]
Emit = Callable[[str, Frame], Awaitable[None]]
Agent = Callable[[str, Emit], Awaitable[Any]]

SUBPROTOCOL = Subprotocol("runwire.v1")
TERMINAL = {"agent_completed", "agent_failed", "agent_cancelled"}
DELTAS = {"text_delta", "thinking_delta", "tool_args_delta"}
LIMITS = {"frame_bytes": 65536, "subscriptions": 64, "commands_in_flight": 32, "replay_events": 20000}


def fresh(prefix: str) -> str:
    """Return a new id."""
    return f"{prefix}_{secrets.token_hex(12)}"


def now_ms() -> int:
    """Return the time as the wire has it."""
    return int(datetime.now(tz=UTC).timestamp() * 1000)


async def with_tool(content: str, emit: Emit) -> str:
    """Think, count the letters with a tool, answer in a few pieces."""
    await emit("agent_thinking", {"text": f"How long is {len(content.split())} words?"})
    call = {"call": fresh("call"), "step": "count:1", "try": 1, "name": "count"}
    await emit("tool_executing", {**call, "args": {"text": content}})
    await emit("tool_completed", {**call, "ok": True, "final": True, "result": len(content), "duration_ms": 1})
    return await say(f"That is {len(content)} letters: {content}", emit)


async def without_tools(content: str, emit: Emit) -> str:
    """Answer at once."""
    return await say(f"You said: {content}", emit)


async def say(text: str, emit: Emit) -> str:
    """Stream a message in pieces of eight code points."""
    message = fresh("msg")
    await emit("message_started", {"message": message, "role": "assistant"})
    for offset in range(0, len(text), 8):
        await emit("text_delta", {"message": message, "offset": offset, "text": text[offset : offset + 8]})
    await emit("message_completed", {"message": message, "content": text, "complete": True})
    return text


@dataclass
class Run:
    """One execution of the agent."""

    run: str
    thread: Thread
    user: str
    content: str
    message: str
    status: str = "queued"
    task: asyncio.Task[None] | None = None


@dataclass
class Thread:
    """A thread's log; the k-th event has seq k + 1."""

    thread: str
    user: str
    log: str
    events: list[Frame] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def head(self) -> int:
        """Return the last seq."""
        return len(self.events)

    def wake(self) -> None:
        """Let everybody who waits for events look again."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class Subscription:
    """A cursor of one socket over one thread."""

    thread: Thread
    view: str
    last: int


class Connection:
    """One socket: answers first in, first out; then events of each subscription from its cursor."""

    def __init__(self, socket: ServerConnection, user: str) -> None:
        self.socket = socket
        self.user = user
        self.subscriptions: dict[str, Subscription] = {}
        self.out: list[Frame] = []
        self.wake = asyncio.Event()
        self.state: Frame = {}  # for faulty servers

    def put(self, frame: Frame) -> None:
        """Queue a frame behind those that wait; the test's peer reads fast, so no limit."""
        self.out.append(frame)
        self.wake.set()


class MinimalServer:
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
        self.tokens = tokens or {"good-token": "usr_1"}
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

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on a free port; yields the URL."""
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            async with serve(
                self.socket,
                "127.0.0.1",
                port,
                process_request=self.http,
                select_subprotocol=lambda _, offered: SUBPROTOCOL if SUBPROTOCOL in offered else None,
                compression=None,
                ping_interval=None,
                close_timeout=0.2,
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
        return self.tokens.get(headers.get("Authorization", "").removeprefix("Bearer "))

    # --- the socket

    async def socket(self, socket: ServerConnection) -> None:
        """Serve one socket from sign-in to close."""
        self.accepted += 1
        assert socket.request
        user = self.user_of(socket.request.headers)
        early: list[Frame] = []
        try:
            if user is None and "Authorization" not in socket.request.headers:
                async with asyncio.timeout(5):
                    hello, *early = self.parse(await socket.recv())
                user = self.tokens.get(hello.get("token", "")) if hello["op"] == "hello" else None
            if user is None:
                await self.bye(socket, 4501, "sign in with a token of this server")
                return
            await self.serve_user(Connection(socket, user), early)
        except (ConnectionClosed, TimeoutError):
            return

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
                        for frame in self.parse(text):
                            self.command(connection, frame)
                except (ConnectionClosed, ValueError):
                    pass
                writer.cancel()
                pinger.cancel()
        finally:
            self.connections.discard(connection)

    def welcome(self, connection: Connection) -> None:
        """Say who the socket is and what holds."""
        connection.put({
            "op": "welcome", "protocol": 1, "server": "minimal/1", "connection": fresh("cn"), "user": connection.user,
            "log": self.log, "ping_s": self.ping_s, "pong_s": 10, "expires_at": now_ms() + 3_600_000, "limits": LIMITS,
        })  # fmt: skip

    def parse(self, text: str | bytes) -> list[Frame]:
        """Return the frames of a message: one, or an array."""
        found = json.loads(text)
        return found if isinstance(found, list) else [found]

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
                        await connection.socket.send(json.dumps(written, ensure_ascii=False))
                if not frames:
                    await connection.wake.wait()
        except ConnectionClosed:
            return

    def pull(self, sub: Subscription) -> list[Frame]:
        """Return what a cursor has not seen and move it; `prev` is where it stood."""
        frames = []
        for event in self.history(sub):
            frames.append({"op": "event", "thread": sub.thread.thread, **event, "prev": sub.last})
            sub.last = event["seq"]
        return frames

    def history(self, sub: Subscription) -> list[Frame]:
        """Return the events after a cursor in its view."""
        return [e for e in sub.thread.events[sub.last :] if sub.view == "all" or e["type"] not in DELTAS]

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        """Return what is written for a frame; faulty servers change it."""
        return [frame]

    # --- commands

    def command(self, connection: Connection, frame: Frame) -> None:
        """Carry out one client frame."""
        op = frame.get("op")
        if op == "pong":
            return
        handler = {
            "subscribe": self.subscribe,
            "unsubscribe": self.unsubscribe,
            "send": self.send,
            "cancel": self.cancel,
            "refresh": self.refresh,
        }.get(op or "")
        if handler is None or "id" not in frame:
            self.refuse(connection, frame, "bad_request", field="op" if handler is None else "id")
        else:
            handler(connection, frame)

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
        after = thread.head if frame["after"] == -1 else frame["after"]
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
        if self.tokens.get(frame["token"]) != connection.user:
            self.refuse(connection, frame, "forbidden", "token")
            return
        self.reply(connection, frame, {"expires_at": now_ms() + 3_600_000})

    def cancel(self, connection: Connection, frame: Frame) -> None:
        """Ask a run to end."""
        run = self.runs.get(frame["run"])
        if run is None or run.user != connection.user:
            self.refuse(connection, frame, "not_found", "run")
            return
        self.reply(connection, frame, {"run": run.run, "status": run.status})
        if run.task:
            run.task.cancel()

    def send(self, connection: Connection, frame: Frame) -> None:
        """Start a run for a message, once per key."""
        content = frame.get("content")
        if not isinstance(content, str) or not content.strip():
            self.refuse(connection, frame, "bad_request", "content")
            return
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
            data = self.start(thread, connection.user, content)
            if frame.get("key"):
                self.keys[connection.user, frame["key"]] = (body, data)
        thread = self.threads[data["thread"]]
        self.reply(connection, frame, data)
        connection.subscriptions.setdefault(thread.thread, self.subscription(thread, "all", data["after"]))

    def known(self, user: str, frame: Frame, body: str) -> Any:
        """Return the first answer to this key, False for another body, None for a new key."""
        before = self.keys.get((user, frame.get("key") or ""))
        return None if before is None else before[0] == body and before[1]

    def new_thread(self, user: str) -> Thread:
        """Create a thread."""
        thread = Thread(fresh("th"), user, self.log)
        self.threads[thread.thread] = thread
        return thread

    def start(self, thread: Thread, user: str, content: str) -> Frame:
        """Store the message and begin its run."""
        run = Run(fresh("run"), thread, user, content, fresh("msg"))
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

    # --- runs

    def append(self, run: Run, kind: str, data: Frame, *, attempt: int = 1) -> None:
        """Give an event its seq and wake the sockets that follow the thread."""
        run.thread.events.append({"seq": run.thread.head + 1, "run": run.run, "attempt": attempt, "ts": now_ms(),
                                  "type": kind, "data": data})  # fmt: skip
        run.thread.wake()
        for connection in self.connections:
            if run.thread.thread in connection.subscriptions:
                connection.wake.set()

    async def execute(self, run: Run) -> None:
        """Run the agent after the runs before it; exactly one terminal event."""
        while any(r.status in ("queued", "running") for r in run.thread.runs[: run.thread.runs.index(run)]):
            await run.thread.changed.wait()
        began = now_ms()

        async def emit(kind: str, data: Frame) -> None:
            self.emitted(run, kind, data)
            await asyncio.sleep(self.pace_s)

        run.status = "running"
        await emit("agent_started", {"agent": "minimal", "message": run.message})
        try:
            output = await self.agent(run.content, emit)
            run.status = "completed"
            self.end(run, "agent_completed", {"output": output, "duration_ms": now_ms() - began})
        except asyncio.CancelledError:
            run.status = "cancelled"
            self.end(run, "agent_cancelled", {"by": "user"})

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        """Store what an agent emits; faulty servers change it."""
        self.append(run, kind, data)

    def end(self, run: Run, kind: str, data: Frame) -> None:
        """Store the terminal event; faulty servers change it."""
        self.append(run, kind, data)

    # --- HTTP

    async def http(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer the GET routes; None lets the upgrade go on."""
        target = urlsplit(request.path)
        if target.path == "/v1/ws":
            return None
        user = self.user_of(request.headers)
        if user is None:
            return self.problem(HTTPStatus.UNAUTHORIZED, "unauthenticated")
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        match target.path.strip("/").split("/"):
            case ["v1", "agents"]:
                return self.json({"items": [{"agent": "minimal"}], "next_cursor": None})
            case ["v1", "runs", run] if run in self.runs and self.runs[run].user == user:
                return self.json(self.run_of(self.runs[run]))
            case ["v1", "threads", name, *rest] if thread := self.own(user, name):
                return await self.thread_route(thread, rest, query, request.headers)
        return self.problem(HTTPStatus.NOT_FOUND, "not_found")

    async def thread_route(self, thread: Thread, rest: list[str], query: dict[str, str], headers: Headers) -> Response:
        """Answer a route below a thread."""
        match rest:
            case []:
                return self.json(self.snapshot(thread))
            case ["messages"]:
                return self.json({"items": self.messages(thread), "next_cursor": None})
            case ["events"] if "text/event-stream" in headers.get("Accept", ""):
                return await self.sse(thread, query, headers)
            case ["events"]:
                sub = Subscription(thread, query.get("view", "all"), int(query.get("after", 0)))
                page = {"thread": thread.thread, "log": self.log, "after": sub.last, "events": self.pull(sub)}
                return self.json({**page, "through": thread.head})
        return self.problem(HTTPStatus.NOT_FOUND, "not_found")

    async def sse(self, thread: Thread, query: dict[str, str], headers: Headers) -> Response:
        """Answer a finite stream: until the terminal event of `until`, or what is there."""
        after = int(headers.get("Last-Event-ID", f":{query.get('after', 0)}").partition(":")[2])
        until = query.get("until")
        while until and not any(e["run"] == until and e["type"] in TERMINAL for e in thread.events):
            await thread.changed.wait()
        sub = Subscription(thread, query.get("view", "all"), after)
        frames = self.pull(sub)
        for at, frame in enumerate(frames):
            if frame["run"] == until and frame["type"] in TERMINAL:
                frames = frames[: at + 1]
                break
        if not frames and until:
            return Response(204, "No Content", Headers())
        text = "".join(f"id: {self.log}:{f['seq']}\ndata: {json.dumps(f, ensure_ascii=False)}\n\n" for f in frames)
        return self.respond(HTTPStatus.OK, text, "text/event-stream")

    def snapshot(self, thread: Thread) -> Frame:
        """Return the thread as a person sees it, exact at `seq`."""
        return {"thread": thread.thread, "title": None, "log": self.log, "seq": thread.head,
                "messages": self.messages(thread), "runs": [self.run_of(run) for run in thread.runs]}  # fmt: skip

    def run_of(self, run: Run) -> Frame:
        """Return a run with its steps."""
        done = {e["data"]["call"]: e["data"] for e in run.thread.events if e["type"] == "tool_completed"}
        begun = [e["data"] for e in run.thread.events if e["type"] == "tool_executing" and e["run"] == run.run]
        steps = [{"call": c["call"], "name": c["name"], "args": c["args"], "ok": done.get(c["call"], {}).get("ok"),
                  "result": done.get(c["call"], {}).get("result"), "error": None} for c in begun]  # fmt: skip
        return {"run": run.run, "thread": run.thread.thread, "agent": "minimal", "status": run.status, "attempt": 1,
                "error": None, "steps": steps, "waits": []}  # fmt: skip

    def messages(self, thread: Thread) -> list[Frame]:
        """Return the messages, open ones included."""
        found: dict[str, Frame] = {}
        for event in thread.events:
            data = event["data"]
            if event["type"] == "user_message":
                found[data["message"]] = {"message": data["message"], "role": "user", "content": data["content"],
                                          "run": event["run"], "seq": event["seq"], "complete": True}  # fmt: skip
            elif event["type"] == "message_started":
                found[data["message"]] = {"message": data["message"], "role": "assistant", "content": "",
                                          "run": event["run"], "seq": event["seq"], "complete": False}  # fmt: skip
            elif event["type"] == "text_delta":
                found[data["message"]]["content"] = found[data["message"]]["content"][: data["offset"]] + data["text"]
            elif event["type"] == "message_completed":
                found[data["message"]].update(content=data["content"], complete=data["complete"])
        return list(found.values())

    def json(self, body: Frame) -> Response:
        """Answer with JSON."""
        return self.respond(HTTPStatus.OK, json.dumps(body), "application/json")

    def problem(self, status: HTTPStatus, code: str) -> Response:
        """Answer with a problem (RFC 9457)."""
        body = {"title": status.phrase, "status": int(status), "code": code, "field": None, "retry_after_s": None}
        return self.respond(status, json.dumps(body), "application/problem+json")

    def respond(self, status: HTTPStatus, text: str, kind: str) -> Response:
        """Answer with a body and end the connection, as `websockets` needs it."""
        body = text.encode()
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
        return Response(int(status), status.phrase, headers, body)
