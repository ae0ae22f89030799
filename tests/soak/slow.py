"""Slow readers: some read a little each second, some stop until they are dropped with 4008, and come back for the rest.

Each reads a thread with much in it from its beginning to its end, over as many connections as that takes; what it has
applied must be all of it, in order and once. Then the thread is deleted and another is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections import Counter
from typing import Any, Final

import httpx2
import msgspec
from tests.fleet.tab import CANARY
from tests.fleet.traces import Traces
from tests.fleet.wire import Wire

__all__ = ["Slow"]

_ROOM_BYTES: Final = 16_384  # of the kernel's buffer: a slow line has no more
_SIP_BYTES: Final = 24_576
_MESSAGES: Final = 40
_MESSAGE_BYTES: Final = 48_000
_STALL_S: Final = 9.0  # `slow_reader_s` (4), two seconds for the close, and some
_ROUND_S: Final = 600.0
_RETRY_S: Final = 1.0
_ENDS: Final = ("agent_completed", "agent_failed", "agent_cancelled")


class Slow:
    """One slow reader.

    Args:
        number: of it.
        key: an API key of somebody who is nobody else.
        ports: of the gateways.
        stops: whether it stops reading wholly, and is dropped.
        counts: what it did is counted there.
        faults: what went wrong is told there.
        traces: what agents wrote about its runs is dropped there.
    """

    def __init__(
        self,
        number: int,
        key: str,
        ports: list[int],
        *,
        stops: bool,
        counts: Counter[str],
        faults: list[str],
        traces: Traces,
    ) -> None:
        self._name = f"slow{number}"
        self._key = key
        self._ports = ports
        self._stops = stops
        self._counts = counts
        self._faults = faults
        self._traces = traces
        self._rng = random.Random(f"slow-{number}")
        self._canary = f"{CANARY.decode()}{self._rng.getrandbits(48):012x}~"
        self._wire: Wire | None = None
        self._gone = asyncio.Event()
        self._thread = self._log = self._ident = ""
        self._last = self._taken_bytes = 0
        self._is_live = False
        self._texts: list[str] = []  # digests of the messages as shown
        self._ended = 0

    async def live(self) -> None:
        """Read one thread after the other until cancelled."""
        while True:
            try:
                await self._round()
            except (httpx2.HTTPError, OSError) as error:
                self._counts[f"slow rounds given up: {type(error).__name__}"] += 1
                await asyncio.sleep(_RETRY_S)
            finally:
                self._leave()

    async def _round(self) -> None:
        port = self._rng.choice(self._ports)
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False, headers=headers
        ) as http:
            texts, runs = await self._write(http)
            self._last, self._log, self._texts, self._ended = 0, "", [], 0
            async with asyncio.timeout(_ROUND_S):
                while self._ended < _MESSAGES:
                    await self._connection()
            if self._texts != texts:
                self._faults.append(f"{self._name}: was shown {len(self._texts)} messages of {len(texts)}, or others")
            for run in runs:
                self._traces.forget(run)
            await http.delete(f"/v1/threads/{self._thread}")
        self._counts["threads read slowly"] += 1

    async def _write(self, http: httpx2.AsyncClient) -> tuple[list[str], list[str]]:
        """Fill a thread; return the digests of its messages, and its runs."""
        made = await http.post("/v1/threads", json={})
        made.raise_for_status()
        self._thread = made.json()["thread"]
        texts, runs = [], []
        for _ in range(_MESSAGES):
            # Short words: the agent searches its message for options, and one long word takes it a minute.
            filling = f"{self._rng.getrandbits(28):07x} " * (_MESSAGE_BYTES // 8)
            text = f"{self._canary} breaks seed=1 size=4 pace=0 {filling}"
            answer = await http.post(f"/v1/threads/{self._thread}/messages", json={"content": text, "agent": "breaks"})
            answer.raise_for_status()
            runs.append(answer.json()["run"])
            texts.append(_digest(text))
        return texts, runs

    async def _connection(self) -> None:
        """Connect, read a while in one's own manner, and lose the connection or come to the end."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        self._gone, self._is_live = asyncio.Event(), False
        try:
            await loop.sock_connect(raw, ("127.0.0.1", self._rng.choice(self._ports)))
            gone = self._gone
            wire = self._wire = Wire(self._key, message=self._take, closed=lambda _why: gone.set())
            await loop.create_connection(lambda: wire, sock=raw)
        except OSError:
            raw.close()
            await asyncio.sleep(_RETRY_S)
            return
        self._counts["slow connections"] += 1
        while not self._gone.is_set() and self._ended < _MESSAGES:
            self._taken_bytes = 0
            wire.thaw()
            while self._taken_bytes < _SIP_BYTES and not self._gone.is_set() and self._ended < _MESSAGES:
                async with asyncio.timeout(30.0):  # pings come each 5 s
                    await self._moved()
            wire.freeze()
            # One that stops is away until it is dropped, and finds out when it looks again.
            await asyncio.sleep(_STALL_S if self._stops and self._rng.random() < 0.2 else 1.0)
        self._leave()
        await asyncio.sleep(self._rng.uniform(0.1, _RETRY_S))

    async def _moved(self) -> None:
        taken = self._taken_bytes
        while taken == self._taken_bytes and not self._gone.is_set():  # noqa: ASYNC110 - either may come first
            await asyncio.sleep(0.02)

    def _leave(self) -> None:
        if self._wire is not None:
            self._wire.abort("left")
            self._wire = None

    def _take(self, raw: bytes) -> None:
        self._taken_bytes += len(raw)
        decoded = msgspec.json.decode(raw)
        for frame in decoded if isinstance(decoded, list) else [decoded]:
            self._frame(frame)

    def _frame(self, frame: dict[str, Any]) -> None:
        match frame["op"]:
            case "welcome":
                self._ident = f"s{self._rng.getrandbits(32)}"
                command = {"op": "subscribe", "id": self._ident, "thread": self._thread, "after": self._last}
                command |= {"view": "lifecycle"} | ({"log": self._log} if self._last else {})
                self._say(command)
            case "subscribed" if frame["id"] == self._ident:
                self._is_live, self._last, self._log = True, frame["after"], frame["log"]
            case "event" if self._is_live:
                self._event(frame)
            case "ping":
                self._say({"op": "pong"})
            case "reset":
                self._faults.append(f"{self._name}: a reset, though nothing was lost: {frame}")
            case "bye":
                self._counts[f"slow: bye {frame['code']}"] += 1

    def _event(self, frame: dict[str, Any]) -> None:
        if frame["seq"] <= self._last or frame["prev"] > self._last:
            self._faults.append(f"{self._name} stands at {self._last} and gets {frame['prev']}-{frame['seq']}")
            return
        self._last = frame["seq"]
        if frame["type"] == "user_message":
            self._texts.append(_digest(_text(frame["data"]["content"])))
        elif frame["type"] in _ENDS:
            self._ended += 1

    def _say(self, command: dict[str, Any]) -> None:
        if self._wire is not None:
            self._wire.send(msgspec.json.encode(command))


def _text(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
