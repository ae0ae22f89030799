"""The caretaker: it finds its work, leaves room for others', survives a database that does not answer, and stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from runwire.errors import Unavailable
from runwire.protocol.events import AgentCompleted, AgentStarted, MessageCompleted, TextDelta, emitted
from runwire.runtime import upkeep
from runwire.runtime.clock import now_ms
from runwire.runtime.upkeep import Caretaker, UpkeepSettings
from runwire.storage.base import Batch, Compacted, IncomingMessage, RunEnd, Storage, Trimmed
from runwire.storage.memory.storage import MemoryStorage

SOON = UpkeepSettings(compact_after_s=0.0, purge_deleted_s=0.0)
NOTHING = Compacted(runs=0, events=0, freed_bytes=0, has_more=False)
MORE = Compacted(runs=1, events=1, freed_bytes=1, has_more=True)


class RecordingUpkeep:
    """Answers as it is told, and remembers when it was asked for what."""

    def __init__(self, answer: Callable[[], Compacted], *, takes_s: float = 0.0) -> None:
        self.compacts: list[tuple[float, int]] = []
        self.trims: list[tuple[int | None, int]] = []
        self._answer = answer
        self._takes_s = takes_s

    async def compact(self, *, ended_before: int, runs: int = 20) -> Compacted:
        self.compacts.append((time.monotonic(), ended_before))
        await asyncio.sleep(self._takes_s)
        return self._answer()

    async def trim(self, *, ended_before: int | None, deleted_before: int, runs: int = 20) -> Trimmed:
        self.trims.append((ended_before, deleted_before))
        return Trimmed(runs=0, freed_bytes=0, threads=(), has_more=len(self.trims) < 3)

    stats = backup = property()  # nobody asks for them here


@asynccontextmanager
async def caring(storage: Any, settings: UpkeepSettings = SOON, **options: Any) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Caretaker(storage, settings, **options).run())
        yield
        task.cancel()


async def eventually(fact: Callable[[], bool]) -> None:
    """Wait until something is so; the deadline is the test's."""
    while not fact():  # noqa: ASYNC110  # what is waited for has no event: it is looked at from outside
        await asyncio.sleep(0.005)


async def spoken(storage: Storage, thread: str | None = None) -> str:
    """Write a run of one message with three deltas; return its thread."""
    sent = await storage.runs.send(IncomingMessage(user="usr_ada", thread=thread, agent="echo", content="hi"))
    (claim,) = await storage.runs.claim("w1", agents=["echo"], limit=1, user_limit=9)
    deltas = [emitted(TextDelta(message="m", offset=at, text="x"), ts=1) for at in range(3)]
    said = (
        emitted(AgentStarted(agent="echo", message=sent.message), ts=1),
        *deltas,
        emitted(MessageCompleted(message="m", content="xxx"), ts=1),
        emitted(AgentCompleted(output="xxx", duration_ms=1), ts=1),
    )
    end = RunEnd(status="completed")
    await storage.events.append([Batch(run=sent.run, attempt=claim.attempt, ordinal=0, events=said, end=end)])
    return sent.thread


async def test_what_ended_is_compacted_and_told_in_one_line_and_in_figures() -> None:
    storage, registry = MemoryStorage(), CollectorRegistry()
    for _ in range(12):
        await spoken(storage)
    last_ended_at = now_ms()
    await eventually(lambda: now_ms() > last_ended_at)  # so that one look finds them all
    with capture_logs() as lines:
        async with caring(storage.upkeep, registry=registry):
            await eventually(lambda: bool(lines))
            await asyncio.sleep(0.3)  # it looks again, and finds nothing worth a line
    (line,) = lines
    assert (line["event"], line["compacted_runs"], line["compacted_events"]) == ("upkeep_done", 12, 36)
    assert registry.get_sample_value("runtime_compacted_events_total") == 36
    assert registry.get_sample_value("runtime_freed_bytes_total") == line["freed_bytes"] > 0
    assert (await storage.upkeep.stats()).compactable_runs == 0


async def test_old_runs_go_when_a_retention_is_set_and_never_without() -> None:
    storage, registry = MemoryStorage(), CollectorRegistry()
    thread = await spoken(storage)
    await spoken(storage, thread)
    async with caring(storage.upkeep):
        await asyncio.sleep(0.4)
        assert (await storage.threads.get("usr_ada", thread)).floor == 0
    async with caring(storage.upkeep, UpkeepSettings(retention_days=0.1 / 86_400), registry=registry):
        await eventually(lambda: registry.get_sample_value("runtime_trimmed_runs_total") == 1)
    assert (await storage.threads.get("usr_ada", thread)).floor == 7


async def test_times_are_those_of_the_settings() -> None:
    recording = RecordingUpkeep(lambda: NOTHING)
    settings = UpkeepSettings(compact_after_s=60.0, retention_days=2.0, purge_deleted_s=3_600.0)
    before = now_ms()
    async with caring(recording, settings):
        await eventually(lambda: len(recording.trims) == 3)
    after = now_ms()
    assert before <= recording.compacts[0][1] + 60_000 <= after
    for ended_before, deleted_before in recording.trims:  # until there was nothing more
        assert ended_before is not None
        assert before <= ended_before + 2 * 86_400_000 <= after
        assert before <= deleted_before + 3_600_000 <= after
    assert (settings.look_s, settings.trim_s) == (5.0, 36.0)
    assert UpkeepSettings().trim_s == 600.0


async def test_it_takes_a_tenth_of_the_time_whatever_there_is_to_do() -> None:
    recording = RecordingUpkeep(lambda: MORE, takes_s=0.02)
    async with caring(recording):
        await eventually(lambda: len(recording.compacts) == 4)
    starts = [at for at, _ in recording.compacts]
    assert all(later - earlier >= 0.2 * 0.95 for earlier, later in pairwise(starts)), starts


async def test_database_that_does_not_answer_is_asked_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_AFTER_ERROR_S", (0.02, 0.08))
    failures = 5

    def answer() -> Compacted:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unavailable("The disk is full.") if failures else RuntimeError("a fault of ours")
        return NOTHING

    recording = RecordingUpkeep(answer)
    with capture_logs() as lines:
        async with caring(recording):
            await eventually(lambda: len(recording.trims) > 0)
    assert [line["pause_s"] for line in lines] == [0.02, 0.04, 0.08, 0.08, 0.08]
    assert [line["event"] for line in lines] == ["upkeep_unavailable"] * 4 + ["upkeep_failed"]
    starts = [at for at, _ in recording.compacts]
    assert starts[3] - starts[2] >= 0.08 * 0.75


async def test_it_stops_at_once_in_the_middle_of_a_call() -> None:
    recording = RecordingUpkeep(lambda: NOTHING, takes_s=1_000.0)
    async with caring(recording):
        await eventually(lambda: len(recording.compacts) == 1)
