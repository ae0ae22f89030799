"""A client written from PROTOCOL alone, with plain `websockets` and `json`; it shares no code with Runwire.

It is stricter than a client must be: an event that has to be dropped, or a gap, is an error, because on one
machine a correct server gives no reason for either.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import websockets

TERMINAL = {"agent_completed", "agent_failed", "agent_cancelled"}
FIVE = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]


class Broken(AssertionError):
    """The server broke PROTOCOL."""


class Dismissed(Exception):
    """The server said `bye` in place of `welcome`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Outside:
    """One person's client. `events[thread]` is what its screen has applied, over all its connections."""

    def __init__(self, url: str, token: str) -> None:
        self.ws_url = url.replace("http", "ws", 1) + "/v1/ws"
        self.url = url
        self.token = token
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.last: dict[str, int] = {}
        self.log: dict[str, str] = {}
        self.seen_text: list[str] = []  # every raw message, for canaries
        self._ids = itertools.count(1)
        self._socket: websockets.ClientConnection | None = None
        self._pending: list[dict[str, Any]] = []

    @property
    def socket(self) -> websockets.ClientConnection:
        assert self._socket is not None, "not connected"
        return self._socket

    @asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[dict[str, Any]]:
        """Connect with the Authorization header; give the `welcome`. Leaving cuts the TCP connection hard."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with asyncio.timeout(10):
            self._socket = await websockets.connect(
                self.ws_url,
                additional_headers=headers,
                subprotocols=[websockets.Subprotocol("runwire.v1")],
                max_size=None,
                **options,
            )
        self._pending = []
        try:
            welcome = await self.frame()
            if welcome["op"] == "bye":
                raise Dismissed(welcome["code"], welcome["reason"])
            if welcome["op"] != "welcome":
                raise Broken(f"expected welcome, got {welcome}")
            yield welcome
        finally:
            self.socket.transport.abort()  # no close handshake: as a pulled cable
            self._socket = None

    async def frame(self, *, timeout_s: float = 15) -> dict[str, Any]:
        """Give the next server frame, whether it came alone or in an array; answer pings."""
        while True:
            while not self._pending:
                async with asyncio.timeout(timeout_s):
                    raw = await self.socket.recv()
                if not isinstance(raw, str):
                    raise Broken("the server sent a binary message")
                self.seen_text.append(raw)
                message = json.loads(raw)
                self._pending = message if isinstance(message, list) else [message]
            frame = self._pending.pop(0)
            if frame["op"] == "ping":
                await self.socket.send('{"op":"pong"}')
            else:
                return frame

    async def command(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a command and give its answer; events that come before it are applied.

        But for those of a thread whose `subscribe` has no answer yet: they belong to what it replaces.
        """
        ident = f"c{next(self._ids)}"
        await self.socket.send(json.dumps({"op": op, "id": ident, **fields}))
        while True:
            frame = await self.frame()
            if frame.get("id") == ident:
                return frame
            if op != "subscribe" or frame.get("thread") != fields.get("thread"):
                self.apply(frame)

    async def send(self, content: str, **fields: Any) -> dict[str, Any]:
        """Send a message; give the reply's data."""
        reply = await self.command("send", content=content, **fields)
        if not reply["ok"]:
            raise Broken(f"send refused: {reply}")
        data: dict[str, Any] = reply["data"]
        if data["thread"] not in self.last:
            self.last[data["thread"]], self.log[data["thread"]] = data["after"], data["log"]
        return data

    async def subscribe(self, thread: str, **fields: Any) -> dict[str, Any]:
        """Subscribe from where this screen stands."""
        fields.setdefault("after", self.last.get(thread, 0))
        if fields["after"] > 0:
            fields.setdefault("log", self.log.get(thread))
        answer = await self.command("subscribe", thread=thread, **fields)
        if answer["op"] == "subscribed":
            self.last[thread], self.log[thread] = answer["after"], answer["log"]
        return answer

    async def subscribe_again(self, thread: str, **fields: Any) -> None:
        """Subscribe as a screen does that comes back to what it follows, whatever has become of the server.

        Raises:
            TimeoutError: the database is away just now, the one good reason to refuse it: come back once more.
        """
        answer = await self.subscribe(thread, **fields)
        if answer["op"] != "subscribed":
            if answer["error"]["code"] != "unavailable":
                raise Broken(f"a subscription that stood was refused: {answer}")
            raise TimeoutError(answer["error"]["message"])

    def apply(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """Apply one frame by the rule; give the event if it was one."""
        match frame["op"]:
            case "event":
                thread, last = frame["thread"], self.last.get(frame["thread"], 0)
                if frame["seq"] <= last:
                    raise Broken(f"doubled: {frame['seq']} after {last}")
                if frame["prev"] > last:
                    raise Broken(f"gap: {frame['seq']} has prev {frame['prev']}, held {last}")
                self.last[thread] = frame["seq"]
                self.events.setdefault(thread, []).append(frame)
                return frame
            case "position":
                if frame["seq"] > self.last.get(frame["thread"], 0):
                    raise Broken(f"lost the tail: position {frame['seq']}, held {self.last.get(frame['thread'])}")
            case "reset":
                self.last[frame["thread"]], self.log[frame["thread"]] = frame["from"], frame["log"]
                self.events[frame["thread"]] = []
        return None

    async def until(
        self, done: Callable[[dict[str, Any]], bool], *, timeout_s: float = 30, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Apply events until one satisfies `done` (or `limit` were applied); give them."""
        got: list[dict[str, Any]] = []
        async with asyncio.timeout(timeout_s):
            while limit is None or len(got) < limit:
                event = self.apply(await self.frame(timeout_s=timeout_s))
                if event is not None:
                    got.append(event)
                    if done(event):
                        break
        return got

    async def until_end(self, run: str, *, timeout_s: float = 30) -> list[dict[str, Any]]:
        """Apply events until the run's terminal event."""
        return await self.until(lambda e: e["run"] == run and e["type"] in TERMINAL, timeout_s=timeout_s)

    def http(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Make one HTTP request with the standard library; give status and decoded body."""
        return http(method, self.url + path, body, token=self.token, **headers)


def http(method: str, url: str, body: Any = None, *, token: str | None = None, **headers: str) -> tuple[int, Any]:
    """Make one HTTP request with the standard library; give status and decoded body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if data is not None:
        request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            raw, status = response.read(), response.status
    except urllib.error.HTTPError as error:
        raw, status = error.read(), error.code
    return status, json.loads(raw) if raw else None


def text_of(events: list[dict[str, Any]], run: str) -> str:
    """Fold a run's messages as a screen would, `superseded` honoured."""
    texts: dict[str, str] = {}
    for event in events:
        if event["run"] != run:
            continue
        data = event["data"]
        match event["type"]:
            case "message_started":
                texts[data["message"]] = ""
            case "text_delta":
                held = texts[data["message"]]
                if data["offset"] > len(held):
                    raise Broken(f"offset {data['offset']} beyond {len(held)}")
                texts[data["message"]] = held[: data["offset"]] + data["text"]
            case "message_completed":
                texts[data["message"]] = data["content"]
            case "superseded":
                for message in data["messages"]:
                    texts.pop(message, None)
    return "".join(texts.values())


def assert_one_run(events: list[dict[str, Any]], run: str) -> None:
    """Assert that the events of a run are whole: started first, one terminal last, tools paired."""
    mine = [e for e in events if e["run"] == run and e["type"] != "user_message"]
    kinds = [e["type"] for e in mine]
    assert kinds[0] == "agent_started", kinds
    assert kinds.count("agent_started") == 1, kinds
    assert [k for k in kinds if k in TERMINAL] == [kinds[-1]], kinds
    begun = [e["data"]["call"] for e in mine if e["type"] == "tool_executing"]
    ended = [e["data"]["call"] for e in mine if e["type"] == "tool_completed"]
    assert sorted(begun) == sorted(ended), (begun, ended)
    assert len(set(begun)) == len(begun), begun
