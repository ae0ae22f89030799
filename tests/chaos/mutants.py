"""The server, broken on purpose: each promise left out once, to show that the campaign sees it.

CHAOS_MUTANT=name[,name]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
from tests.chaos import failpoints

from runwire.storage.bus_local import LocalBus
from runwire.storage.sqlite import cancelling, log, runs

__all__ = ["MUTANTS", "install"]


def _publish_before_commit() -> None:
    """Show events that are not committed."""
    buses: list[LocalBus] = []
    made, extended = LocalBus.__init__, log.extend

    def make(bus: LocalBus) -> None:
        made(bus)
        buses.append(bus)

    def extend(*args: Any) -> Any:
        all_committed = extended(*args)
        for committed in all_committed:
            for bus in buses:
                bus.publish(committed)
        return all_committed

    LocalBus.__init__ = make  # type: ignore[assignment, method-assign]
    for module in (log, runs, cancelling):
        vars(module)["extend"] = extend


def _in_sql(block: str, old: str, new: str) -> None:
    for module in (log, runs):
        sql = dict(vars(module)["_SQL"])
        assert old in sql[block], f"{block} does not say {old!r} any more"
        sql[block] = sql[block].replace(old, new)
        vars(module)["_SQL"] = sql
        failpoints.NAMES[sql[block]] = block  # its points are where they were


def _no_fence() -> None:
    """Let any attempt append."""
    _in_sql("take_ordinals", "AND run.attempt = batch.attempt ", "")
    _in_sql("take_ordinals", "AND run.owner = ?2", "AND ?2 > 0")


def _no_ordinal() -> None:
    """Take what comes again after a lost reply as new."""
    _in_sql("take_ordinals", "AND run.ordinal = batch.expected", "")


def _no_key() -> None:
    """Forget that a message was stored."""
    send = runs.SqliteRuns.send

    @functools.wraps(send)
    async def keyless(self: Any, message: Any) -> Any:
        return await send(self, msgspec.structs.replace(message, key=None))

    runs.SqliteRuns.send = keyless  # type: ignore[method-assign]


def _no_offer() -> None:
    """Keep a run from its worker whose claim was stored and not answered."""
    claim = runs.SqliteRuns.claim

    @functools.wraps(claim)
    async def bare(self: Any, *args: Any, **named: Any) -> Any:
        return await claim(self, *args, **{**named, "holding": None})

    runs.SqliteRuns.claim = bare  # type: ignore[method-assign]


def _call_before_commit() -> None:
    """Call tools whose beginning is not in the log."""
    from runwire.runtime.outbox import Buffer

    async def flushed(self: Buffer) -> None:
        if self._end is not None:
            await wait(self)

    wait = Buffer.flushed
    Buffer.flushed = flushed  # type: ignore[method-assign]


def _no_takeover() -> None:
    """Leave lost runs to nobody."""
    _in_sql("lost_runs", "WHERE status = 'running'", "WHERE status = 'running' AND 0")


def _deaf() -> None:
    """Take every lease as good and listen to nobody who says that a run is another's."""
    from runwire.runtime.lease import Lease
    from runwire.runtime.renewal import Renewal

    def lose(self: Renewal, run: Any) -> None: ...

    Lease.is_valid = property(lambda _lease: True)  # type: ignore[assignment, method-assign]
    Renewal.lose = lose  # type: ignore[method-assign]


def _forgetful() -> None:
    """Execute again what has a recorded result."""
    from runwire.protocol.replay import Replay

    begin = Replay.begin_step

    @functools.wraps(begin)
    def begin_step(self: Any, *args: Any, **named: Any) -> Any:
        step = begin(self, *args, **named)
        return msgspec.structs.replace(step, recorded=None)

    Replay.begin_step = begin_step  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "publish_before_commit": _publish_before_commit,
    "no_fence": _no_fence,
    "no_ordinal": _no_ordinal,
    "no_key": _no_key,
    "no_offer": _no_offer,
    "call_before_commit": _call_before_commit,
    "no_takeover": _no_takeover,
    "deaf": _deaf,
    "forgetful": _forgetful,
}


def install(names: str) -> None:
    """Break the server in these ways."""
    for name in filter(None, names.split(",")):
        MUTANTS[name]()
