"""Processes that break one promise each, to show that the campaign sees it. `FLEET_MUTANT` names one at their start."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

__all__ = ["MUTANTS", "install"]

_EACH = 40  # deliveries between two that go wrong


def _delivers(change: Callable[[list[bytes]], list[bytes]]) -> None:
    from runwire.protocol.connection import Connection

    deliver, numbers = Connection.deliver, itertools.count(1)

    @functools.wraps(deliver)
    def changed(self: Connection, thread: str, encoded: Sequence[bytes], *, position: int) -> None:
        frames = list(encoded)
        if frames and next(numbers) % _EACH == 0:
            frames = change(frames)
        deliver(self, thread, frames, position=position)

    Connection.deliver = changed  # type: ignore[method-assign]


def _doubles() -> None:
    """Send an event twice."""
    _delivers(lambda frames: [frames[0], *frames])


def _loses() -> None:
    """Leave an event out."""
    _delivers(lambda frames: frames[1:])


def _crosses() -> None:
    """Send what was somebody else's last."""
    held: list[bytes] = []

    def change(frames: list[bytes]) -> list[bytes]:
        others, held[:] = held[:], frames[-1:]
        return [*others, *frames]

    _delivers(change)


def _forgets_results() -> None:
    """Execute again what has a recorded result."""
    from runwire.protocol.replay import Replay

    begin = Replay.begin_step

    @functools.wraps(begin)
    def begin_step(self: Any, *args: Any, **named: Any) -> Any:
        step = begin(self, *args, **named)
        return msgspec.structs.replace(step, recorded=None) if step.recorded is not None else step

    Replay.begin_step = begin_step  # type: ignore[method-assign]


def _forgets_runs() -> None:
    """Leave the runs of a lost worker to nobody."""
    from runwire.storage.postgres.runs import PostgresRuns

    claim = PostgresRuns.claim

    @functools.wraps(claim)
    async def without_lost(self: Any, *args: Any, **named: Any) -> Any:
        return await claim(self, *args, **{**named, "take_lost": False})

    PostgresRuns.claim = without_lost  # type: ignore[method-assign]


def _says_otherwise() -> None:
    """Store something else than the agent has said."""
    from runwire.protocol.replay import Replay

    custom = Replay.custom

    @functools.wraps(custom)
    def changed(self: Any, scope: Any, name: str, value: Any, *args: Any, **named: Any) -> Any:
        return custom(self, scope, name, {**value, "text": f"{value['text']}!"}, *args, **named)

    Replay.custom = changed  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "doubles": _doubles,
    "loses": _loses,
    "crosses": _crosses,
    "forgets results": _forgets_results,
    "forgets runs": _forgets_runs,
    "says otherwise": _says_otherwise,
}


def install(name: str) -> None:
    """Break this process in that way."""
    if name:
        MUTANTS[name]()
