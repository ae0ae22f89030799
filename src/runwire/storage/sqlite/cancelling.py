"""Ending runs that nobody executes, and asking the holders of the others: used by send, cancel and delete."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from runwire.protocol.events import AgentCancelled, emitted, pack
from runwire.storage.base import CancelRequest, Committed, RunStatus
from runwire.storage.batches import FLAG_TERMINAL
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


def call_off(
    connection: sqlite3.Connection, log: str, runs: Sequence[Unfinished], request: CancelRequest
) -> list[Committed]:
    """End runs that are queued or parked, in order, and flag those that are running."""
    now = now_ms()
    packed = pack([emitted(AgentCancelled(by=request.by, reason=request.reason), ts=now)])
    connection.executemany(_SQL["flag_cancel"], [(run.key, request.by, request.reason) for run in runs])
    idle = [run for run in runs if run.status in ("queued", "waiting")]
    stretches = [Stretch(run.thread_key, run.key, run.run, run.attempt, None, 1, FLAG_TERMINAL, packed) for run in idle]
    all_committed = extend(connection, log, stretches)
    for run, committed in zip(idle, all_committed, strict=True):
        connection.execute(_SQL["end_run"], (run.key, "cancelled", committed.last_seq, None, now))
    return all_committed
