"""The caretaker: keeps the database small beside everything else that the process does.

Every call to the storage is bounded, and after each it rests nine times as long as that took. So it takes at most a
tenth of the database's time, and less of a busy one, where calls take longer because others' work comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from runwire.errors import Unavailable
from runwire.runtime.clock import now_ms
from runwire.storage.base import Compacted, Trimmed, Upkeep

__all__ = ["Caretaker", "UpkeepSettings"]

_RUNS: Final = 5  # looked at by one call: some ms each
_CALLS: Final = 200  # of one turn: then it is told what was done, and the next turn goes on
_REST: Final = 9.0  # times as long as a call took
_SHORTEST_REST_S: Final = 0.02
_AFTER_ERROR_S: Final = (1.0, 60.0)  # the first pause, doubled with each failure, and the longest
_DAY_S: Final = 86_400.0

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepSettings:
    """What is kept for how long."""

    compact_after_s: float = 60.0  # deltas, after their run has ended; quick reconnects get them all (PROTOCOL §2)
    retention_days: float | None = None  # runs, after they have ended; None: for ever
    purge_deleted_s: float = 86_400.0  # what a deleted thread leaves

    @property
    def look_s(self) -> float:
        """Return how often it looks for runs to compact."""
        return min(max(self.compact_after_s / 4, 0.1), 5.0)

    @property
    def trim_s(self) -> float:
        """Return how often it looks for runs to delete."""
        shortest_s = min(self.purge_deleted_s, (self.retention_days or float("inf")) * _DAY_S)
        return min(max(shortest_s / 100, 0.2), 600.0)


class Caretaker:
    """Compacts ended runs and deletes old ones, a little at a time.

    Args:
        upkeep: of the database.
        settings: what is kept for how long.
        registry: gets its figures; None: nobody asks for them.
    """

    def __init__(self, upkeep: Upkeep, settings: UpkeepSettings, *, registry: CollectorRegistry | None = None) -> None:
        self._upkeep = upkeep
        self._settings = settings
        self._trim_at_s = 0.0  # on the loop's clock
        self._compacted = Counter("runtime_compacted_events", "Deltas of ended runs deleted.", registry=registry)
        self._trimmed = Counter("runtime_trimmed_runs", "Old runs deleted.", registry=registry)
        self._freed = Counter(
            "runtime_freed_bytes", "Bytes of events and blobs that compaction and trimming deleted.", registry=registry
        )

    async def run(self) -> None:
        """Look after the database until cancelled; a call that is cut off is done or not done."""
        failures = 0
        while True:
            pause_s = self._settings.look_s
            try:
                await self._turn()
                failures = 0
            except Exception as error:  # top of a worker loop
                first_s, longest_s = _AFTER_ERROR_S
                pause_s = min(first_s * 2**failures, longest_s)
                failures = min(failures + 1, 10)
                if isinstance(error, Unavailable):
                    _log.warning("upkeep_unavailable", reason=error.message, pause_s=pause_s)
                else:
                    _log.exception("upkeep_failed", pause_s=pause_s)
            # Jitter, so that several processes of one database do not look in step.
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, no secret

    async def _turn(self) -> None:
        """Do what there is to do, and say so in one line."""
        with _told() as done:
            for _ in range(_CALLS):
                if not await self._compact(done):
                    break
            if asyncio.get_running_loop().time() >= self._trim_at_s:
                for _ in range(_CALLS):
                    if not await self._trim(done):
                        # Only now: a turn that was cut off goes on with the next.
                        self._trim_at_s = asyncio.get_running_loop().time() + self._settings.trim_s
                        break

    async def _compact(self, done: _Done) -> bool:
        async with _resting():
            ended_before = now_ms() - round(self._settings.compact_after_s * 1000)
            compacted = await self._upkeep.compact(ended_before=ended_before, runs=_RUNS)
            done.add(compacted)
            self._compacted.inc(compacted.events)
            self._freed.inc(compacted.freed_bytes)
        return compacted.has_more

    async def _trim(self, done: _Done) -> bool:
        days = self._settings.retention_days
        async with _resting():
            trimmed = await self._upkeep.trim(
                ended_before=None if days is None else now_ms() - round(days * _DAY_S * 1000),
                deleted_before=now_ms() - round(self._settings.purge_deleted_s * 1000),
                runs=_RUNS,
            )
            done.add(trimmed)
            self._trimmed.inc(trimmed.runs)
            self._freed.inc(trimmed.freed_bytes)
        return trimmed.has_more


@dataclass(slots=True)
class _Done:
    """What one turn did."""

    compacted_runs: int = 0
    compacted_events: int = 0
    trimmed_runs: int = 0
    trimmed_threads: int = 0
    freed_bytes: int = 0

    def add(self, one: Compacted | Trimmed) -> None:
        """Count what a call did."""
        self.freed_bytes += one.freed_bytes
        if isinstance(one, Compacted):
            self.compacted_runs += one.runs
            self.compacted_events += one.events
        else:
            self.trimmed_runs += one.runs
            self.trimmed_threads += len(one.threads)


@contextlib.contextmanager
def _told() -> Iterator[_Done]:
    """Log what was done, also when it was cut off; runs without deltas are not worth a line."""
    done = _Done()
    try:
        yield done
    finally:
        if done.compacted_events or done.trimmed_runs:
            _log.info(
                "upkeep_done",
                compacted_runs=done.compacted_runs,
                compacted_events=done.compacted_events,
                trimmed_runs=done.trimmed_runs,
                trimmed_threads=done.trimmed_threads,
                freed_bytes=done.freed_bytes,
            )


@contextlib.asynccontextmanager
async def _resting() -> AsyncIterator[None]:
    """Rest after a call, in proportion to how long it took."""
    clock = asyncio.get_running_loop().time
    began_s = clock()
    yield
    await asyncio.sleep(max(_SHORTEST_REST_S, (clock() - began_s) * _REST))
