"""A screen: it comes back over any gateway, applies events by PROTOCOL's rule, and keeps what it applied, compactly."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import msgspec
from tests.fleet.wire import Wire

__all__ = ["CANARY", "TERMINAL", "Frame", "Listener", "Refused", "Tab", "Unsaid", "checksum"]

TERMINAL: Final = frozenset(("agent_completed", "agent_failed", "agent_cancelled"))
DELTAS: Final = frozenset(("text_delta", "thinking_delta", "tool_args_delta"))
CANARY: Final = b"~ca:"
_ANSWER_S: Final = 12.0  # a server that is stopped or gone gives none
_SILENT_S: Final = 13.0  # longer than `ping_s + pong_s`: without a frame for that long the connection is dead
_WELCOME_S: Final = 6.0
_BACK_S: Final = (0.02, 0.25)  # between two tries to connect; doubled with each failure, up to 2 s
_STOP: Final = 4500


class Unsaid(Exception):
    """The connection went before the answer came: what was asked is done or not done."""


class Refused(Exception):
    """The server said no."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]


class Frame(msgspec.Struct, frozen=True, gc=False):
    """Any server frame, as far as a screen looks."""

    op: str
    id: str | None = None
    thread: str | None = None
    seq: int = 0
    prev: int = 0
    run: str = ""
    attempt: int = 0
    ts: int = 0
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    after: int = 0
    log: str = ""
    head: int = 0
    ok: bool = False
    error: dict[str, Any] | None = None
    from_: int = msgspec.field(name="from", default=0)
    reason: str | None = None
    code: int = 0


_decode: Final = msgspec.json.Decoder(list[Frame] | Frame).decode


def checksum(kind: str, attempt: int, data: bytes) -> int:
    """Return what stands for an event in a tab's history."""
    return zlib.crc32(data, zlib.crc32(f"{kind}/{attempt}".encode()))


class Listener(Protocol):
    """Whom a tab tells what it sees."""

    def saw(self, tab: Tab, frame: Frame, now_s: float) -> None:
        """An event was applied."""

    def broke(self, kind: str, detail: str, run: str) -> None:
        """The server broke a promise."""

    def online(self, tab: Tab, is_online: bool) -> None:
        """A connection is there, or gone."""


@dataclass(slots=True)
class Follow:
    """A thread that the tab shows."""

    last: int = 0
    log: str = ""
    asked: str | None = None  # id of the `subscribe` that has no answer yet
    is_live: bool = False
    is_granted: bool = False  # by a `send`, from its own place, while `subscribe` has no answer yet: asked for again
    behind: int = 0  # up to this seq it is catching up
    resets: int = 0
    base: int = 0  # after a reset: from where
    shown: list[tuple[int, int]] = field(default_factory=list)  # and what it has applied since


@dataclass(slots=True)
class History:
    """What a tab has applied of one run."""

    thread: str = ""
    events: list[tuple[int, int]] = field(default_factory=list)  # (seq, checksum)
    is_over: bool = False
    base: int = 0  # a reset (fail-over) hid what is up to here, perhaps before anything of this run was seen


class Tab:
    """One screen of one person. `live` is its life; commands may be given by any task meanwhile."""

    def __init__(
        self,
        name: str,
        token: str,
        canary: bytes,
        ports: list[int],
        *,
        first: int,
        view: Literal["all", "lifecycle"],
        listener: Listener,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.view = view
        self.gateway = first
        self.follows: dict[str, Follow] = {}
        self.histories: dict[str, History] = {}
        self.connections = 0
        self.byes: list[int] = []
        self.may_reset = False
        self.swallows: Callable[[Frame], bool] | None = None  # a mutant of the client
        self._token = token
        self._canary = canary
        self._ports = ports
        self._listener = listener
        self._rng = rng
        self._wire: Wire | None = None
        self._asked: dict[str, asyncio.Future[Frame]] = {}
        self._numbers = itertools.count(1)
        self._online = asyncio.Event()
        self._gone = asyncio.Event()
        self._heard_s = 0.0
        self._acts: dict[str, Callable[[Frame], None]] = {
            "position": self._position,
            "ping": self._pong,
            "subscribed": self._subscribed,
            "reply": self._reply,
            "reset": self._reset,
            "welcome": self._welcome,
            "bye": self._bye,
        }

    @property
    def is_online(self) -> bool:
        return self._online.is_set()

    async def live(self) -> None:
        """Stay connected until cancelled."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            # Its own: what is left of the connection before may still be told of its end.
            ended = self._gone = asyncio.Event()
            began = self.connections
            try:
                async with asyncio.timeout(_WELCOME_S):
                    _, wire = await loop.create_connection(
                        lambda ended=ended: Wire(  # type: ignore[misc]
                            self._token, message=self._message, closed=lambda _why: ended.set()
                        ),
                        "127.0.0.1",
                        self._ports[self.gateway],
                    )
                    self._wire = wire
                    while not (self.is_online or ended.is_set()):  # noqa: ASYNC110 - either may come first
                        await asyncio.sleep(0.02)
                await self._stay()
            except OSError:  # a TimeoutError is one
                pass
            finally:
                self._lose()
            failures = 0 if self.connections > began else failures + 1
            pause_s = min(2.0, self._rng.uniform(*_BACK_S) * 2 ** min(failures, 5))
            self.gateway = self._rng.randrange(len(self._ports))
            await asyncio.sleep(pause_s)

    async def ask(self, op: str, **fields: Any) -> Frame:
        """Give a command and return its answer.

        Raises:
            Unsaid: the connection went first.
            Refused: the server said no.
        """
        ident = f"{op}{next(self._numbers)}"
        answer = self._asked[ident] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._online.wait()
                self._send({"op": op, "id": ident, **fields})
                frame: Frame = await answer
        except TimeoutError as error:
            raise Unsaid from error
        finally:
            self._asked.pop(ident, None)
            answer.cancel()
        if frame.op == "reply" and not frame.ok:
            raise Refused(frame.error or {"code": "?", "message": "no error"})
        return frame

    def follow(self, thread: str) -> None:
        """Show a thread from its beginning, over all connections to come."""
        if thread not in self.follows:
            self.follows[thread] = Follow()
            self._subscribe(thread)

    def forget(self, thread: str) -> None:
        """Close a thread's view."""
        if self.follows.pop(thread, None) is not None and self.is_online:
            self._send({"op": "unsubscribe", "id": f"u{next(self._numbers)}", "thread": thread})

    def freeze(self) -> None:
        """Stop reading what comes."""
        if self._wire is not None:
            self._wire.freeze()

    def thaw(self) -> None:
        """Read on."""
        if self._wire is not None:
            self._wire.thaw()

    def cut(self, *, resets: bool = False) -> None:
        """Lose the connection, also by a RST."""
        if self._wire is not None and resets:
            self._wire.reset()
        elif self._wire is not None:
            self._wire.abort("cut")

    # ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _stay(self) -> None:
        while not self._gone.is_set():
            silent_s = time.monotonic() - self._heard_s
            if silent_s > _SILENT_S or not self.is_online:
                self.cut()
                return
            try:
                async with asyncio.timeout(_SILENT_S - silent_s + 0.1):
                    await self._gone.wait()
            except TimeoutError:
                continue

    def _send(self, command: dict[str, Any]) -> None:
        if self._wire is not None:
            self._wire.send(msgspec.json.encode(command))

    def _subscribe(self, thread: str) -> None:
        follow = self.follows[thread]
        if not self.is_online:
            return
        follow.asked = f"s{next(self._numbers)}"
        command: dict[str, Any] = {"op": "subscribe", "id": follow.asked, "thread": thread, "view": self.view}
        command["after"] = follow.last
        if follow.last > 0:
            command["log"] = follow.log
        self._send(command)

    def _lose(self) -> None:
        if self._wire is not None:
            self._wire.abort("left")
            self._wire = None
        if self.is_online:
            self._online.clear()
            self._listener.online(self, False)
        for follow in self.follows.values():
            follow.asked, follow.is_live, follow.is_granted = None, False, False
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unsaid())

    def _message(self, raw: bytes) -> None:
        now_s = self._heard_s = time.monotonic()
        if raw.count(CANARY) != raw.count(self._canary):
            self._listener.broke("crossed", f"{self.name} received somebody else's bytes: {raw[:600]!r}", "")
        decoded = _decode(raw)
        if type(decoded) is list:
            for frame in decoded:
                self._take(frame, now_s)
        else:
            self._take(decoded, now_s)

    def _take(self, frame: Frame, now_s: float) -> None:
        if self.swallows is not None and self.swallows(frame):
            return
        if frame.op == "event":
            self._event(frame, now_s)
        elif act := self._acts.get(frame.op):
            act(frame)

    def _pong(self, _frame: Frame) -> None:
        self._send({"op": "pong"})

    def _position(self, frame: Frame) -> None:
        follow = self.follows.get(frame.thread or "")
        if follow is not None and follow.asked is None and follow.is_live and frame.seq > follow.last:
            self._gap(frame, follow)

    def _welcome(self, _frame: Frame) -> None:
        self.connections += 1
        self._online.set()
        self._listener.online(self, True)
        for thread in self.follows:
            self._subscribe(thread)

    def _bye(self, frame: Frame) -> None:
        self.byes.append(frame.code)
        if frame.code >= _STOP:
            self._listener.broke("refused", f"{self.name} was told to stay away: {frame.code} {frame.reason}", "")

    def _event(self, frame: Frame, now_s: float) -> None:
        follow = self.follows.get(frame.thread or "")
        if follow is None or follow.asked is not None or follow.is_granted:
            return
        if not follow.is_live:
            self._listener.broke(
                "unasked", f"{self.name}: an event of a thread without a subscription: {frame}", frame.run
            )
            return
        if frame.seq <= follow.last:
            self._listener.broke("doubled", f"{self.name} stands at {follow.last} and gets {_short(frame)}", frame.run)
            return
        if frame.prev > follow.last:
            self._gap(frame, follow)
            return
        follow.last = frame.seq
        history = self.histories.get(frame.run)
        if history is None:
            history = self.histories[frame.run] = History(frame.thread or "", base=follow.base)
        if history.is_over:
            self._listener.broke("after terminal", f"{self.name}: {_short(frame)}", frame.run)
        pair = (frame.seq, checksum(frame.type, frame.attempt, bytes(frame.data)))
        history.events.append(pair)
        if follow.resets:
            follow.shown.append(pair)
        if frame.type in TERMINAL:
            history.is_over = True
        self._listener.saw(self, frame, now_s)

    def _gap(self, frame: Frame, follow: Follow) -> None:
        # The rule heals it; that it came is a fault of the server all the same.
        self._listener.broke("gap", f"{self.name} stands at {follow.last} and gets {_short(frame)}", frame.run)
        self._subscribe(frame.thread or "")

    def _subscribed(self, frame: Frame) -> None:
        follow = self.follows.get(frame.thread or "")
        if follow is None or follow.asked != frame.id:
            return
        follow.asked, follow.is_live, follow.is_granted = None, True, False
        follow.last, follow.log, follow.behind = frame.after, frame.log, frame.head

    def _reply(self, frame: Frame) -> None:
        if frame.id is None:
            return
        if frame.ok and frame.id.startswith("send"):
            self._sent(frame)
        elif not frame.ok and frame.id.startswith("s") and not frame.id.startswith("send"):
            self._unsubscribed(frame)
        answer = self._asked.get(frame.id)
        if answer is not None and not answer.done():
            answer.set_result(frame)

    def _sent(self, frame: Frame) -> None:
        data = msgspec.json.decode(frame.data)
        follow = self.follows.get(data["thread"])
        if follow is None:
            self.follows[data["thread"]] = Follow(last=data["after"], log=data["log"], is_live=True)
        elif follow.asked is None and not follow.is_live:
            # It was held from an earlier connection, and `send` has subscribed from its own place: from ours instead.
            self._subscribe(data["thread"])
        elif follow.asked is not None:
            follow.is_granted = True

    def _unsubscribed(self, frame: Frame) -> None:
        code = (frame.error or {}).get("code")
        asked = [thread for thread, follow in self.follows.items() if follow.asked == frame.id]
        for thread in asked:
            follow = self.follows[thread]
            follow.asked = None
            if code == "not_found" and self.may_reset:
                del self.follows[thread]  # it went with the history that was lost
                continue
            if code not in ("unavailable", "rate_limited", "circuit_open", "deadline"):
                self._listener.broke("refused", f"{self.name}: subscribe {thread} refused: {frame.error}", "")
            asyncio.get_running_loop().call_later(0.3, self._again, thread)

    def _again(self, thread: str) -> None:
        follow = self.follows.get(thread)
        if follow is not None and follow.asked is None and not follow.is_live:
            self._subscribe(thread)

    def _reset(self, frame: Frame) -> None:
        follow = self.follows.get(frame.thread or "")
        if follow is None or follow.asked is not None or follow.is_granted:
            return
        if not self.may_reset:
            self._listener.broke("reset", f"{self.name}: a reset, though nothing was lost or trimmed: {frame}", "")
        follow.last, follow.log = frame.from_, frame.log
        follow.resets += 1
        follow.base, follow.shown = frame.from_, []
        for history in self.histories.values():
            if history.thread == frame.thread:
                history.events, history.is_over, history.base = [], False, frame.from_


def _short(frame: Frame) -> str:
    data = bytes(frame.data)[:200].decode(errors="replace")
    return f"{frame.op} {frame.thread} seq {frame.seq} prev {frame.prev} {frame.run} {frame.type} {data}"
