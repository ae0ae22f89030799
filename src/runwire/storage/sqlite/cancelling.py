"""Ending runs that nobody executes, and asking the holders of the others: used by send, cancel and delete."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from runwire.protocol.events import AgentCancelled, new_event, pack
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
    connection: sqlite3.Connection, log: str, runs: Iterable[Unfinished], request: CancelRequest
) -> list[Committed]:
    """End runs that are queued or parked, in order, and flag those that are running."""
    now = now_ms()
    packed = pack([new_event(AgentCancelled(by=request.by, reason=request.reason), ts=now)])
    all_committed: list[Committed] = []
    for run in runs:
        connection.execute(_SQL["flag_cancel"], (run.key, request.by, request.reason))
        if run.status in ("queued", "waiting"):
            stretch = Stretch(run.thread_key, run.key, run.run, run.attempt, None, 1, FLAG_TERMINAL, packed)
            (committed,) = extend(connection, log, [stretch])
            connection.execute(_SQL["end_run"], (run.key, "cancelled", committed.last_seq, None, now))
            all_committed.append(committed)
    return all_committed
