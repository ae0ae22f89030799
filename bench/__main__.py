"""`make bench`: what the log costs per event, beside the same bytes written to SQLite by hand.

CPU of this process, interleaved rounds, medians. The baseline keeps the bytes and the fsync and leaves out what makes
it a log: fence, seq, run status.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import statistics
import tempfile
from pathlib import Path

from runwire.protocol.events import AgentStarted, Custom, EmittedEvent, emitted, pack
from runwire.storage.base import Batch, Claim, IncomingMessage, Storage
from runwire.storage.open import open_storage

RUNS, COMMITS, ROUNDS = 200, 20, 3
TEXT = "x" * 180  # about 250 bytes as an event


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def events(size: int) -> tuple[EmittedEvent, ...]:
    return tuple(emitted(Custom(name="bench", value=TEXT), ts=1) for _ in range(size))


class Log:
    """RUNS claimed runs of a Runwire database; each commit appends to all of them."""

    def __init__(self, storage: Storage, claims: list[Claim]) -> None:
        self.storage = storage
        self.claims = claims
        self.ordinals = dict.fromkeys((claim.run for claim in claims), 0)

    @classmethod
    async def open(cls, folder: Path) -> Log:
        storage = await open_storage(f"sqlite:///{folder}/log.db")
        for n in range(RUNS):
            await storage.runs.send(IncomingMessage(user=f"usr_{n}", thread=None, agent="a", content="hi"))
        log = cls(storage, await storage.runs.claim("bench", agents=["a"], limit=RUNS, user_limit=1))
        await log.append((emitted(AgentStarted(agent="a", message="m"), ts=1),))
        return log

    async def append(self, said: tuple[EmittedEvent, ...]) -> None:
        batches = []
        for claim in self.claims:
            ordinal = self.ordinals[claim.run]
            batches.append(Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=said))
            self.ordinals[claim.run] = ordinal + len(said)
        await self.storage.events.append(batches)


def by_hand(db: sqlite3.Connection, said: tuple[EmittedEvent, ...]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO packed VALUES (?, ?)", [(run, pack(said)) for run in range(RUNS)])
    db.execute("COMMIT")


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = await Log.open(folder)
        db = sqlite3.connect(folder / "hand.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE packed (run INTEGER, events BLOB)")
        print("| events per run and commit | log, µs CPU per event | by hand | ratio |\n|---|---|---|---|")
        for size in (1, 10):
            said, ours, theirs = events(size), [], []
            for _ in range(ROUNDS):
                for take, into in ((log.append, ours), (None, theirs)):
                    began = cpu_s()
                    for _ in range(COMMITS):
                        if take:
                            await take(said)
                        else:
                            by_hand(db, said)
                    into.append((cpu_s() - began) / (COMMITS * RUNS * size) * 1e6)
            mine, hand = statistics.median(ours), statistics.median(theirs)
            print(f"| {size} | {mine:.1f} | {hand:.1f} | {mine / hand:.1f} |")
        db.close()
        await log.storage.close()


asyncio.run(main())
