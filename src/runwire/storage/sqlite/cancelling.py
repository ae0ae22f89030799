"""Ending runs that nobody executes, and asking the holders of the others: used by send, cancel and delete."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from runwire.protocol.events import AgentCancelled, emitted, pack
from runwire.storage.base import CancelRequest, Committed, RunStatus
from runwire.storage.batches import FLAG_TERMINAL, packed_size
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.log import Stretch, extend

__all__ = ["Unfinished", "call_off"]

_SQL: Final = load("sqlite.sql")


class Unfinished(NamedTuple):
    """A run as the statements that look for something to cancel return it."""

    key: int
    run: str
    thread_key: int
    status: RunStatus
    attempt: int
    woken_at: int | None
    closing: bytes | None  # packed

    @property
    def is_idle(self) -> bool:
        """Return whether nobody holds it or is about to: whoever calls it off ends it."""
        return self.status == "queued" or (self.status == "waiting" and self.woken_at is None)


def call_off(
    connection: sqlite3.Connection, log: str, runs: Sequence[Unfinished], request: CancelRequest
) -> list[Committed]:
    """End runs that are queued or parked, in order, and flag those that somebody holds or is about to claim."""
    now = now_ms()
    packed = pack([emitted(AgentCancelled(by=request.by, reason=request.reason), ts=now)])
    connection.executemany(_SQL["flag_cancel"], [(run.key, request.by, request.reason) for run in runs])
    stretches: list[Stretch] = []
    for run in runs:
        if not run.is_idle:
            continue
        whose = (run.thread_key, run.key, run.run, run.attempt, None)
        if run.closing is not None and (size := packed_size(run.closing)):
            stretches.append(Stretch(*whose, size, 0, run.closing))
        stretches.append(Stretch(*whose, 1, FLAG_TERMINAL, packed))
    all_committed = extend(connection, log, stretches)
    for stretch, committed in zip(stretches, all_committed, strict=True):
        if stretch.flags & FLAG_TERMINAL:
            connection.execute(_SQL["end_run"], (stretch.run_key, "cancelled", committed.last_seq, None, now))
            connection.execute(_SQL["end_waits"], (stretch.run_key,))
    return all_committed
