"""Runs that wait, in SQLite: they are put aside, answered, and woken."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from runwire.errors import NotFound
from runwire.storage.answers import check_answer, check_repeated, encoded, no_wait, resumed
from runwire.storage.base import Answer, Answered, Committed, RunStatus
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.log import Stretch, extend

__all__ = ["Parked", "answer", "answers", "due", "fire", "park"]

_SQL: Final = load("sqlite.sql")


class Parked(NamedTuple):
    """What a holder says when it puts its run aside."""

    run: str
    attempt: int
    ordinal: int
    waits: Collection[str]
    closing: bytes  # packed


class _Wait(NamedTuple):
    """A wait as the statements that look for one return it."""

    key: int
    wait: str
    run_key: int
    run: str
    attempt: int
    status: RunStatus
    thread_key: int
    thread: str


def park(connection: sqlite3.Connection, one: Parked, *, owner: int) -> bool:
    """Put a run aside; return whether this attempt has parked it, now or before."""
    waits = msgspec.json.encode([*one.waits]).decode()
    values = (one.run, one.attempt, one.ordinal, owner, one.closing, waits, now_ms())
    if connection.execute(_SQL["park_run"], values).rowcount == 1:
        return True
    return connection.execute(_SQL["is_parked"], (one.run, one.attempt)).fetchone() is not None


def answer(connection: sqlite3.Connection, log: str, *, user: str, run: str, wait: str, value: Any) -> Answered:
    """Answer a wait of this user's run; see `Runs.answer`."""
    row = connection.execute(_SQL["wait_of_user"], (run, user, wait)).fetchone()
    if row is None:
        raise NotFound("There is no such run.", field="run")
    *found, kind, by, stored = row
    if found[0] is None:
        raise no_wait()
    check_answer(kind, value)
    one = _Wait(*found)
    if by is not None:
        check_repeated(user, value, by=by, stored=stored)
        return _answered(one, None)
    (done,) = _resume(connection, log, [one], value, by=user)
    return done


def due(connection: sqlite3.Connection, limit: int) -> bool:
    """Return whether a wait's time has come."""
    return limit > 0 and connection.execute(_SQL["due_waits"], (now_ms(), 1)).fetchone() is not None


def fire(connection: sqlite3.Connection, log: str, limit: int) -> list[Answered]:
    """Resume waits whose time has come; see `Runs.fire_timers`."""
    waits = [_Wait(*row) for row in connection.execute(_SQL["due_waits"], (now_ms(), limit))]
    return _resume(connection, log, waits, None, by="timer")


def answers(connection: sqlite3.Connection, waits: Collection[str]) -> dict[str, list[Answer]]:
    """Return of each run the answers of those of these waits that are not open any more."""
    found: dict[str, list[Answer]] = {}
    if waits:
        for run, wait, by, value in connection.execute(_SQL["answers"], (msgspec.json.encode([*waits]).decode(),)):
            plain = None if value is None else msgspec.json.decode(value)
            found.setdefault(run, []).append(Answer(wait=wait, value=plain, by=by))
    return found


def _resume(connection: sqlite3.Connection, log: str, waits: Sequence[_Wait], value: Any, *, by: str) -> list[Answered]:
    """Close open waits, say so in the log, and have their runs claimed if they are parked."""
    now = now_ms()
    data = None if by == "timer" else encoded(value)
    connection.executemany(_SQL["resume_wait"], [(wait.key, by, data) for wait in waits])
    connection.executemany(_SQL["wake_run"], [(wait.run_key, now) for wait in waits])
    stretches = [
        Stretch(
            wait.thread_key, wait.run_key, wait.run, wait.attempt, None, 1, 0, resumed(wait.wait, value, by=by, now=now)
        )
        for wait in waits
    ]
    return [_answered(*pair) for pair in zip(waits, extend(connection, log, stretches), strict=True)]


def _answered(wait: _Wait, committed: Committed | None) -> Answered:
    return Answered(
        run=wait.run,
        thread=wait.thread,
        wait=wait.wait,
        committed=committed,
        is_parked=wait.status == "waiting",
    )
