"""Compaction and retention on PostgreSQL beside appends: short calls that stop nobody, and figures that are right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.postgres import PostgresServer

from runwire.protocol.events import (
    AgentCompleted,
    AgentStarted,
    MessageCompleted,
    MessageStarted,
    TextDelta,
    emitted,
)
from runwire.storage.base import Batch, Claim, IncomingMessage, RunEnd
from runwire.storage.clock import now_ms
from runwire.storage.postgres.storage import PostgresStorage

PIECES = 25  # commits of a run
DELTAS = 20  # of a commit
LIVE = 20  # runs that go on beside the upkeep
CALL_S = 3.0  # that one call may take; measured: 0.27 s at most, at 1,000,000 events
APPEND_S = 1.0  # that an append may take beside it; measured: p99 25 ms, as without
WORD = "lorem ipsum "


@pytest.fixture
async def storage(postgres_server: PostgresServer) -> AsyncIterator[PostgresStorage]:
    url = await postgres_server.create_database()
    opened = await PostgresStorage.open(url)
    yield opened
    await opened.close()
    await postgres_server.drop_database(url)


def piece(claim: Claim, ordinal: int, deltas: int, *, is_last: bool = False) -> Batch:
    """Return what a run says next, all of it in one message."""
    message = f"msg_{claim.run}"
    said: list[Any] = []
    if ordinal == 0:
        said += [AgentStarted(agent="a", message=claim.message), MessageStarted(message=message)]
    offset = max(0, ordinal - 2) * len(WORD)
    said += [TextDelta(message=message, offset=offset + n * len(WORD), text=WORD) for n in range(deltas)]
    if is_last:
        said += [
            MessageCompleted(message=message, content=WORD * (max(0, ordinal - 2) + deltas)),
            AgentCompleted(output="done", duration_ms=1),
        ]
    events = tuple(emitted(data, ts=5) for data in said)
    end = RunEnd(status="completed") if is_last else None
    return Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=events, end=end)


async def fill(storage: PostgresStorage, runs: int) -> None:
    """Have that many runs end, ten in each thread."""
    threads: dict[int, str] = {}
    for _ in range(10):  # a message after the run before it, so that a thread can be cut between them
        for user in range(runs // 10):
            message = IncomingMessage(user=f"u{user}", thread=threads.get(user), agent="a", content="x")
            threads[user] = (await storage.runs.send(message)).thread
        while claims := await storage.runs.claim("w", agents=["a"], limit=100, user_limit=9):
            ordinals = dict.fromkeys((claim.run for claim in claims), 0)
            for at in range(PIECES):
                batches = [piece(claim, ordinals[claim.run], DELTAS, is_last=at == PIECES - 1) for claim in claims]
                await storage.events.append(batches)
                for batch in batches:
                    ordinals[batch.run] += len(batch.events)


async def beside_appends(
    storage: PostgresStorage, work: Callable[[], Awaitable[bool]]
) -> tuple[list[float], list[float]]:
    """Call something until nothing is left to do, while runs go on; return how long each call and each append took."""
    calls_s: list[float] = []
    appends_s: list[float] = []
    claims: list[Claim] = []
    for n in range(LIVE):
        await storage.runs.send(IncomingMessage(user=f"live{n}", thread=None, agent="b", content="x"))
    while len(claims) < LIVE:
        claims += await storage.runs.claim("live", agents=["b"], limit=LIVE, user_limit=9)

    async def go_on() -> None:
        ordinals = dict.fromkeys((claim.run for claim in claims), 0)
        while True:
            is_last = bool(calls_s) and calls_s[-1] < 0
            batches = [piece(claim, ordinals[claim.run], 5, is_last=is_last) for claim in claims]
            begun_s = time.perf_counter()
            await storage.events.append(batches)
            appends_s.append(time.perf_counter() - begun_s)
            for batch in batches:
                ordinals[batch.run] += len(batch.events)
            if is_last:
                return
            await asyncio.sleep(0.02)  # as agents do

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        has_more = True
        while has_more:
            begun_s = time.perf_counter()
            has_more = await work()
            calls_s.append(time.perf_counter() - begun_s)
        calls_s.append(-1.0)  # it is over
    return calls_s[:-1], appends_s


def quantiles(taken_s: list[float]) -> str:
    ordered = sorted(taken_s)
    return " / ".join(
        f"{ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000:.0f}" for part in (0.5, 0.99, 1)
    )


async def keep(storage: PostgresStorage, runs: int) -> None:
    await fill(storage, runs)
    before = await storage.upkeep.stats()
    assert (before.counts["runs"], before.compactable_runs, before.counts["unfinished_runs"]) == (runs, runs, 0)
    assert before.counts["segments"] == runs * (PIECES + 1)
    deltas = 0

    async def compact() -> bool:
        nonlocal deltas
        done = await storage.upkeep.compact(ended_before=until)
        deltas += done.events
        return done.has_more

    until = now_ms()
    calls_s, appends_s = await beside_appends(storage, compact)
    print(f"compaction: calls {quantiles(calls_s)} ms, appends {quantiles(appends_s)} ms (p50 / p99 / longest)")
    assert deltas == runs * PIECES * DELTAS
    assert (max(calls_s) < CALL_S, max(appends_s) < APPEND_S) == (True, True)
    after = await storage.upkeep.stats()
    assert (after.compactable_runs, after.counts["runs"]) == (LIVE, runs + LIVE)
    assert after.event_bytes < before.event_bytes
    gone = 0

    async def trim() -> bool:
        nonlocal gone
        done = await storage.upkeep.trim(ended_before=until, deleted_before=0)
        gone += done.runs
        return done.has_more

    calls_s, appends_s = await beside_appends(storage, trim)
    print(f"retention: calls {quantiles(calls_s)} ms, appends {quantiles(appends_s)} ms (p50 / p99 / longest)")
    assert gone == runs - runs // 10, "the last of each thread stays"
    assert (max(calls_s) < CALL_S, max(appends_s) < APPEND_S) == (True, True)
    assert (await storage.upkeep.stats()).counts["runs"] == runs - gone + 2 * LIVE


@pytest.mark.timeout(60)
async def test_upkeep_is_done_in_short_calls_beside_appends(storage: PostgresStorage) -> None:
    await keep(storage, 60)


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_upkeep_of_a_million_events_is_done_in_short_calls_beside_appends(storage: PostgresStorage) -> None:
    await keep(storage, 2_000)
