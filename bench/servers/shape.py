"""What all servers say and when: one event of 243 bytes on the wire, so many of them, with such a pause.

The client sends every server the same frame; what is to be done is its `content`, as JSON.
"""

from __future__ import annotations

import json
import random
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["EVENT_BYTES", "FILL", "TOKEN", "Kind", "Work", "encoded", "event", "listen", "read_work"]

EVENT_BYTES: Final = 243
Kind = Literal["custom", "text", "clock"]

# What brings an event of Runwire with ids of its usual lengths to EVENT_BYTES; a test holds the bench to it.
FILL: Final = "x" * 35
TOKEN: Final = "t" * 22
_THREAD: Final = "th_" + "0" * 32
_RUN: Final = "run_" + "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an agent is to do."""

    events: int  # how many events
    pause_s: float  # between two of them; 0: only give way
    kind: Kind  # custom: cannot be merged; text: deltas, which can; clock: custom with the monotonic time in ns

    @property
    def first_pause_s(self) -> float:
        """Return a random part of a pause: agents in step would measure their own queue (reference/performance §4b)."""
        return random.random() * self.pause_s


def read_work(content: str) -> Work:
    """Read the message that starts an agent."""
    return Work(**json.loads(content))


def event(seq: int, work: Work) -> dict[str, Any]:
    """Return an event as a server without a log would build it: the same fields as Runwire's."""
    value: str | int = time.monotonic_ns() if work.kind == "clock" else FILL
    return {
        "op": "event",
        "thread": _THREAD,
        "seq": seq,
        "prev": seq - 1,
        "run": _RUN,
        "attempt": 1,
        "ts": time.time_ns() // 1_000_000,
        "type": "custom",
        "data": {"name": "bench", "value": value},
    }


def encoded() -> bytes:
    """Return one event as it goes over the wire."""
    return json.dumps(event(100, Work(events=1, pause_s=0, kind="custom")), separators=(",", ":")).encode()


def listen() -> socket.socket:
    """Return a listening socket on a free port, and say where: whoever started this process reads it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2_048)
    listener.setblocking(False)
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    return listener
