"""A worker whose clock is wrong makes nobody wait longer, or not at all: waits end by the database's clock."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from tests.contract.adapters import append, claim_one, send, started
from tests.postgres import PostgresServer

from runwire.protocol.events import AgentWaiting, emitted
from runwire.storage import clock
from runwire.storage.base import Batch, OpenedWait, Stored
from runwire.storage.postgres.storage import PostgresStorage

HOUR_MS = 3_600_000


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
async def test_a_wait_is_as_long_as_was_asked_for_whatever_the_workers_clock_says(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    url = await postgres_server.lend()
    storage = await PostgresStorage.open(url)
    await send(storage)
    claim = await claim_one(storage)
    wrong = SimpleNamespace(time_ns=lambda: time.time_ns() + jump_ms * 1_000_000)
    monkeypatch.setattr(clock, "time", wrong)
    await append(storage, claim, started(), ordinal=0)
    dues = [clock.now_ms() + 5_000, None, clock.now_ms() + 60_000]
    waits = tuple(OpenedWait(wait=f"w{n}", kind="input", due_at=due) for n, due in enumerate(dues))
    events = tuple(emitted(AgentWaiting(wait=w.wait, kind=w.kind, prompt="?", due_at=w.due_at), ts=1) for w in waits)
    batch = Batch(run=claim.run, attempt=claim.attempt, ordinal=1, events=events, waits=waits)
    (outcome,) = await storage.events.append([batch])
    assert isinstance(outcome, Stored), outcome
    rows = await storage.database.fetch("SELECT due_at - runwire_now() FROM wait ORDER BY id")
    await storage.close()
    await postgres_server.take_back(url)
    left = [row[0] for row in rows]
    assert left[1] is None
    assert 0 < left[0] <= 5_000
    assert 50_000 < left[2] <= 60_000
