"""`python -m tests.e2e.broken_server dev …`: the server, broken as the file that BROKEN_AS names says at each moment.

An empty file mends it. Tries of the self-check end sooner here, so that many faults can be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from runwire.__main__ import main
from runwire.app import self_check
from runwire.errors import Unavailable
from runwire.gateway.subscription import Subscription
from runwire.gateway.tail import Tail
from runwire.runtime.loop_thread import LoopThread
from runwire.storage.sqlite.log import SqliteEventLog
from runwire.storage.sqlite.runs import SqliteRuns

_PLACE: Final = Path(os.environ["BROKEN_AS"])  # noqa: TID251 - how the test speaks to it
_TRY_S: Final = float(os.environ.get("BROKEN_TRY_S", "1"))  # noqa: TID251 - likewise
_Frames = list[dict[str, Any]]


def is_broken_as(fault: str) -> bool:
    return _PLACE.read_text(encoding="utf-8").strip() == fault


def break_async(owner: type, name: str, fault: str, instead: Callable[..., Any]) -> None:
    whole = getattr(owner, name)

    async def method(self: Any, *args: Any, **named: Any) -> Any:
        return await instead() if is_broken_as(fault) else await whole(self, *args, **named)

    setattr(owner, name, method)


def break_sync(owner: type, name: str, fault: str, instead: Any) -> None:
    whole = getattr(owner, name)

    def method(self: Any, *args: Any, **named: Any) -> Any:
        return instead if is_broken_as(fault) else whole(self, *args, **named)

    setattr(owner, name, method)


async def refuses() -> Any:
    raise Unavailable("Nothing can be stored.")


async def finds_none() -> list[Any]:
    return []


FRAMES: Final[dict[str, Callable[[_Frames], _Frames]]] = {
    "doubles": lambda frames: [frame for frame in frames for _ in range(2)],
    "loses": lambda frames: [frame for frame in frames if frame["type"] != "tool_executing"],
    "wrong prev": lambda frames: [{**frame, "prev": frame["prev"] + 1} for frame in frames],
    "wrong order": lambda frames: frames[::-1],
    "of another run": lambda frames: [{**frame, "run": "run_1"} for frame in frames],
    "of another thread": lambda frames: [{**frame, "thread": "th_1"} for frame in frames],
    "another answer": lambda frames: [
        {**frame, "data": {**frame["data"], "output": "hello"}} if frame["type"] == "agent_completed" else frame
        for frame in frames
    ],
}


def break_frames() -> None:
    take = Subscription.take

    async def changed(self: Subscription, *, size_bytes: int) -> Any:
        taken = await take(self, size_bytes=size_bytes)
        change = FRAMES.get(_PLACE.read_text(encoding="utf-8").strip())
        if taken is None or change is None:
            return taken
        frames = change([msgspec.json.decode(frame) for frame in taken.encoded])
        return msgspec.structs.replace(taken, encoded=[msgspec.json.encode(frame) for frame in frames])

    Subscription.take = changed  # type: ignore[method-assign]


def break_all() -> None:
    self_check._TRY_S = _TRY_S  # type: ignore[misc]
    self_check._AGAIN_S = (0.05,)  # type: ignore[misc,assignment]
    break_async(SqliteRuns, "send", "stores no message", refuses)
    break_async(SqliteRuns, "claim", "claims nothing", finds_none)
    break_sync(LoopThread, "start", "runs no code", None)
    break_async(SqliteEventLog, "append", "appends nothing", refuses)
    break_frames()
    # Neither the bus nor the look at the log, which finds whatever a bus has lost.
    break_sync(Tail, "hear", "hears nothing", None)
    more = Subscription.has_more
    Subscription.has_more = property(  # type: ignore[method-assign,assignment]
        lambda self: not is_broken_as("hears nothing") and more.fget(self)  # type: ignore[attr-defined]
    )


if __name__ == "__main__":
    break_all()
    main()
