"""What the log costs per event, beside the same bytes written to SQLite by hand. In this process, no server."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Goal, Section, Series, Table, per_event_us, ratios
from bench.stand import Stand
from runwire.protocol.events import AgentStarted, Custom, EmittedEvent, emitted, pack
from runwire.storage.base import Batch, Claim, IncomingMessage, Storage, Stored
from runwire.storage.open import open_storage

__all__ = ["measure"]

_RUNS, _COMMITS = 200, 20
_FILL = "x" * 180  # about 250 bytes as an event on the wire
_TEXT = """\
{runs} runs append to one SQLite database, all of them in each commit, WAL with an fsync per commit. CPU time of the
whole process (its writer thread too). *By hand* keeps the bytes and the fsync and leaves out what makes it a log:
fence, seq, status of the run, one outcome per run. Events are encoded before: that is the agents' share."""


def measure(stand: Stand) -> Section:
    """Append 1 and 10 events per run and commit."""
    commits = 3 if stand.is_quick else _COMMITS
    sizes = (1, 10)
    folder = stand.folder / "append"
    folder.mkdir()
    found = asyncio.run(_measure(folder, commits, stand.rounds, sizes))
    table = Table(("events per run and commit", "log, CPU µs per event", "by hand", "ratio"))
    raw = Table(("events per run and commit", "round", "log", "by hand"))
    for size in sizes:
        ours, theirs = found[size]
        table.add(size, ours.shown(), theirs.shown(), f"{ratios(ours, theirs).shown()} ×")
        for number, (mine, hand) in enumerate(zip(ours.values, theirs.values, strict=True), 1):
            raw.add(size, number, f"{mine:.2f}", f"{hand:.2f}")
    return Section(
        name="append",
        title="Append",
        text=_TEXT.format(runs=_RUNS),
        tables=[table],
        goals=[
            Goal(name="Append, 10 events per run and commit", must=3, is_floor=False, unit="µs", found=found[10][0]),
            Goal(name="Append, 1 event per run and commit", must=10, is_floor=False, unit="µs", found=found[1][0]),
        ],
        raw=[raw],
    )


class _Log:
    """Claimed runs of a Runwire database; each commit appends to all of them."""

    def __init__(self, storage: Storage, claims: Sequence[Claim]) -> None:
        self.storage = storage
        self.claims = claims
        self.ordinals = dict.fromkeys((claim.run for claim in claims), 0)

    @classmethod
    async def open(cls, folder: Path) -> _Log:
        storage = await open_storage(f"sqlite:///{folder}/log.db")
        for n in range(_RUNS):
            await storage.runs.send(IncomingMessage(user=f"usr_{n}", thread=None, agent="a", content="hi"))
        log = cls(storage, await storage.runs.claim("bench", agents=["a"], limit=_RUNS, user_limit=1))
        await log.append((emitted(AgentStarted(agent="a", message="m"), ts=1),))
        return log

    async def append(self, said: tuple[EmittedEvent, ...]) -> None:
        batches = []
        for claim in self.claims:
            ordinal = self.ordinals[claim.run]
            batches.append(Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=said))
            self.ordinals[claim.run] = ordinal + len(said)
        outcomes = await self.storage.events.append(batches)
        assert all(isinstance(outcome, Stored) for outcome in outcomes), "a refused append is no measurement"


def _by_hand(db: sqlite3.Connection, said: tuple[EmittedEvent, ...]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO packed VALUES (?, ?)", [(run, pack(said)) for run in range(_RUNS)])
    db.execute("COMMIT")


async def _measure(folder: Path, commits: int, rounds: int, sizes: Sequence[int]) -> dict[int, tuple[Series, Series]]:
    log = await _Log.open(folder)
    db = sqlite3.connect(folder / "hand.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE packed (run INTEGER, events BLOB)")
    found = {}
    try:
        for size in sizes:
            said = tuple(emitted(Custom(name="bench", value=_FILL), ts=1) for _ in range(size))
            count = commits * _RUNS * size
            ours, theirs = [], []
            await log.append(said)  # warm up
            _by_hand(db, said)
            for _ in range(rounds):
                began_ns = time.process_time_ns()
                for _ in range(commits):
                    await log.append(said)
                ours.append(per_event_us(time.process_time_ns() - began_ns, count))
                began_ns = time.process_time_ns()
                for _ in range(commits):
                    _by_hand(db, said)
                theirs.append(per_event_us(time.process_time_ns() - began_ns, count))
            found[size] = (Series(tuple(ours)), Series(tuple(theirs)))
    finally:
        db.close()
        await log.storage.close()
    return found
