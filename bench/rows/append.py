"""What the log costs per event, beside the same bytes written to the database by hand. In this process, no server."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import asyncpg

from bench import cpu
from bench.figures import Goal, Section, Series, Table, per_event_us, ratios
from bench.stand import Stand
from runwire.protocol.events import AgentStarted, Custom, EmittedEvent, emitted, pack
from runwire.storage.base import Batch, Claim, IncomingMessage, Storage, Stored
from runwire.storage.open import open_storage

__all__ = ["measure"]

_RUNS, _COMMITS = 200, 20
_MUST_US = {10: 3, 1: 10}
_FILL = "x" * 180  # about 250 bytes as an event on the wire
_TEXT = """\
{runs} runs append to one database, all of them in each commit, with an fsync per commit (SQLite: WAL, `FULL`). CPU time
of the whole process (SQLite's writer thread too); on PostgreSQL that is what the client spends, and beside it what all
processes of the server do. *By hand* keeps the bytes and the fsync and leaves out what makes it a log: fence, seq,
status of the run, one outcome per run (SQLite: `executemany`; PostgreSQL: one `INSERT … SELECT unnest`). Events are
encoded before: that is the agents' share."""
_HEAD = ("log, CPU µs per event", "by hand", "ratio", "PostgreSQL's CPU µs, log", "by hand")


def measure(stand: Stand) -> Section:
    """Append 1 and 10 events per run and commit, on SQLite and on PostgreSQL."""
    commits = 3 if stand.is_quick else _COMMITS
    sizes = (1, 10)
    folder = stand.folder / "append"
    folder.mkdir()
    table = Table(("database", "events per run and commit", *_HEAD))
    raw = Table(("database", "events per run and commit", "round", *_HEAD[:2], *_HEAD[3:]))
    goals: list[Goal] = []
    for kind in ("SQLite", "PostgreSQL"):
        found = asyncio.run(_measure(stand, kind, folder, commits, sizes))
        for size in sizes:
            columns = found[size]
            ours, theirs, its, by_hand = (Series(tuple(column)) for column in zip(*columns, strict=True))
            table.add(
                kind,
                size,
                ours.shown(),
                theirs.shown(),
                f"{ratios(ours, theirs).shown()} ×",
                its.shown(),
                by_hand.shown(),
            )
            for number, row in enumerate(columns, 1):
                raw.add(kind, size, number, *(f"{value:.2f}" for value in row))
            if kind == "SQLite":
                name = f"Append, {size} event{'s' * (size > 1)} per run and commit"
                goals.append(Goal(name=name, must=_MUST_US[size], is_floor=False, unit="µs", found=ours))
    goals.reverse()  # the one that most events are part of first
    return Section(name="append", title="Append", text=_TEXT.format(runs=_RUNS), tables=[table], goals=goals, raw=[raw])


class _Log:
    """Claimed runs of a Runwire database; each commit appends to all of them."""

    def __init__(self, storage: Storage, claims: Sequence[Claim]) -> None:
        self.storage = storage
        self.claims = claims
        self.ordinals = dict.fromkeys((claim.run for claim in claims), 0)

    @classmethod
    async def open(cls, url: str) -> _Log:
        storage = await open_storage(url)
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


class _ByHand(Protocol):
    """The same bytes, in one commit, and nothing else."""

    async def append(self, said: tuple[EmittedEvent, ...]) -> None: ...

    async def close(self) -> None: ...


class _Sqlite:
    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE packed (run INTEGER, events BLOB)")

    async def append(self, said: tuple[EmittedEvent, ...]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO packed VALUES (?, ?)", [(run, pack(said)) for run in range(_RUNS)])
        self._db.execute("COMMIT")

    async def close(self) -> None:
        self._db.close()


class _Postgres:
    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str) -> _Postgres:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE packed (run bigint, events bytea)")
        return cls(connection)

    async def append(self, said: tuple[EmittedEvent, ...]) -> None:
        runs = list(range(_RUNS))
        sql = "INSERT INTO packed SELECT * FROM unnest($1::bigint[], $2::bytea[])"
        await self._connection.execute(sql, runs, [pack(said) for _ in runs])

    async def close(self) -> None:
        await self._connection.close()


async def _measure(
    stand: Stand, kind: str, folder: Path, commits: int, sizes: Sequence[int]
) -> dict[int, list[tuple[float, float, float, float]]]:
    """Return by size and round: CPU of the log, by hand, and of PostgreSQL for each, µs per event."""
    is_postgres = kind == "PostgreSQL"
    url = await stand.new_database(kind, folder=folder)
    log = await _Log.open(url)
    hand: _ByHand = await _Postgres.open(url) if is_postgres else _Sqlite(folder / "hand.db")
    server = stand.postgres.pid if is_postgres else None
    found: dict[int, list[tuple[float, float, float, float]]] = {}
    try:
        for size in sizes:
            said = tuple(emitted(Custom(name="bench", value=_FILL), ts=1) for _ in range(size))
            found[size] = []
            await log.append(said)  # warm up
            await hand.append(said)
            for _ in range(stand.rounds):
                mine, its = await _append(log.append, said, commits, server)
                by_hand, its_by_hand = await _append(hand.append, said, commits, server)
                found[size].append((mine, by_hand, its, its_by_hand))
    finally:
        await hand.close()
        await log.storage.close()
    return found


async def _append(
    append: Callable[[tuple[EmittedEvent, ...]], Awaitable[None]],
    said: tuple[EmittedEvent, ...],
    commits: int,
    server: int | None,
) -> tuple[float, float]:
    """Return CPU of this process and of the database server, µs per event."""
    count = commits * _RUNS * len(said)
    its_ns = cpu.cpu_with_ended_ns(server) if server else 0
    began_ns = time.process_time_ns()
    for _ in range(commits):
        await append(said)
    mine = per_event_us(time.process_time_ns() - began_ns, count)
    return mine, (cpu.cpu_with_ended_ns(server) - its_ns) / count / 1000 if server else 0.0
