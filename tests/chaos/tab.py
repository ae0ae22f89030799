"""A screen that comes back: the strict client of `tests.outside`, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable, Collection
from typing import Any

import websockets
from tests.outside import TERMINAL, Broken, Dismissed, Outside

__all__ = ["Refused", "Tab", "Unsaid"]

_ANSWER_S = 20.0  # for the answer to a command; a server that is stopped or gone gives none
_SILENT_S = 40.0  # longer than `ping_s + pong_s`: without a frame for that long, the connection is dead
_BACK_S = (0.01, 0.08)  # between two tries to connect

Frame = dict[str, Any]


class Unsaid(Exception):
    """The connection went before the answer came: what was asked is done or not done."""


class Refused(Exception):
    """The server said no."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]


class Tab(Outside):
    """One screen of one person. `live` is its life; commands may be given by any task meanwhile.

    Args:
        url: of the server, the same over all its lives.
        token: of the person.
        view: of its subscriptions.
        foreign: what must never be in anything that this screen receives.
    """

    def __init__(self, url: str, token: str, *, view: str = "all", foreign: Collection[str] = ()) -> None:
        super().__init__(url, token)
        self.view = view
        self.connections = 0
        self.closes: list[int] = []  # codes of `bye`
        self.ended: dict[str, str] = {}  # run → its terminal event's type, as applied here
        self._foreign = tuple(foreign)
        self._following: dict[str, None] = {}
        self._asked: dict[str, asyncio.Future[Frame]] = {}
        self._numbers = itertools.count(1)
        self._online = asyncio.Event()
        self._changed = asyncio.Event()

    async def live(self) -> None:
        """Stay connected, whatever happens to the server, until cancelled. Raises what breaks PROTOCOL."""
        while True:
            try:
                async with self.connected():
                    self.connections += 1
                    await self._resubscribe()
                    self._online.set()
                    await self._listen()
            except (OSError, websockets.WebSocketException, TimeoutError):
                self._lose()
            except Dismissed as bye:
                self.closes.append(bye.code)
                self._lose()
                if bye.code >= 4500:
                    raise Broken(f"told to stay away: {bye}") from bye
            await asyncio.sleep(random.uniform(*_BACK_S))

    async def ask(self, op: str, **fields: Any) -> Frame:
        """Give a command and return its answer.

        Raises:
            Unsaid: the connection went first.
            Refused: the server said no.
        """
        await self._online.wait()
        ident = f"t{next(self._numbers)}"
        answer = self._asked[ident] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self.socket.send(json.dumps({"op": op, "id": ident, **fields}))
                frame: Frame = await answer
        except (AssertionError, OSError, websockets.WebSocketException, TimeoutError) as error:
            raise Unsaid from error
        finally:
            self._asked.pop(ident, None)
        if frame["op"] == "reply" and not frame["ok"]:
            raise Refused(frame["error"])
        return frame

    async def follow(self, thread: str) -> None:
        """Show a thread from its beginning, over all connections to come."""
        self._following[thread] = None
        await self._online.wait()
        if thread not in self.last:  # else a connection made meanwhile has subscribed
            with contextlib.suppress(Unsaid):  # the next connection subscribes
                await self.ask("subscribe", thread=thread, after=0, view=self.view)

    async def forget(self, thread: str) -> list[Frame]:
        """Close a thread's view and give what it showed."""
        self._following.pop(thread, None)
        with contextlib.suppress(Unsaid):
            await self.ask("unsubscribe", thread=thread)
        self.last.pop(thread, None)
        self.log.pop(thread, None)
        return self.events.pop(thread, [])

    async def until_true(self, done: Callable[[], bool]) -> None:
        """Wait until what was applied here makes it true."""
        while not done():
            self._changed.clear()
            await self._changed.wait()

    def apply(self, frame: Frame) -> Frame | None:
        """Apply a frame by the rule; here nothing may ever be reset."""
        if frame["op"] == "reset":
            raise Broken(f"a reset, though nothing was lost or trimmed: {frame}")
        if frame["op"] == "bye":
            self.closes.append(frame["code"])
        event = super().apply(frame)
        if event is not None:
            if event["type"] in TERMINAL:
                self.ended[event["run"]] = event["type"]
            self._changed.set()
        return event

    async def _resubscribe(self) -> None:
        for thread in tuple(self._following):
            await self.subscribe_again(thread, view=self.view)
            self._search()

    async def _listen(self) -> None:
        while True:
            frame = await self.frame(timeout_s=_SILENT_S)
            self._search()
            asked = self._asked.get(frame.get("id") or "")
            if asked is None:
                self.apply(frame)
                continue
            # What a reply says about a thread holds for the next frame already, not only when its asker wakes up.
            self._learn(frame)
            if not asked.done():
                asked.set_result(frame)

    def _learn(self, frame: Frame) -> None:
        data = frame.get("data") or {}
        if frame["op"] == "subscribed":
            self.last[frame["thread"]], self.log[frame["thread"]] = frame["after"], frame["log"]
        elif frame["op"] == "reply" and frame["ok"] and "after" in data and data["thread"] not in self.last:
            self.last[data["thread"]], self.log[data["thread"]] = data["after"], data["log"]
            self._following[data["thread"]] = None

    def _search(self) -> None:
        """Look for what is not this person's in all that came."""
        for text in self.seen_text:
            for canary in self._foreign:
                if canary in text:
                    raise Broken(f"{canary} reached somebody else: {text[:500]}")
        self.seen_text.clear()

    def _lose(self) -> None:
        self._online.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unsaid())
        self._asked.clear()
