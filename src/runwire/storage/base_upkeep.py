"""What keeps a database small and safe: the port of compaction, retention, figures and backup.

Every call is bounded, so that a background job may make it beside a full load; who wants more calls again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

__all__ = ["BackedUp", "Compacted", "Stats", "Trimmed", "Upkeep"]


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable record of this port."""


class Compacted(_Value, frozen=True):
    """What one call of `compact` did."""

    runs: int  # that are done: no call looks at them again
    events: int  # deltas that were deleted
    freed_bytes: int  # of packed events; the file keeps the room for what comes
    has_more: bool  # further runs wait: call again


class Trimmed(_Value, frozen=True):
    """What one call of `trim` did."""

    runs: int  # that are gone, with their events, blobs, pinned values and idempotency keys
    freed_bytes: int  # of packed events and blobs; the file keeps the room for what comes
    threads: tuple[tuple[str, int], ...]  # (thread, its new floor), of threads that are not deleted
    has_more: bool  # there may be more to do: call again


class Stats(_Value, frozen=True):
    """Figures of a database."""

    log: str
    size_bytes: int  # of the file and its write-ahead log
    free_bytes: int  # of the file, to be used again; 0 where the database does not tell
    counts: Mapping[str, int]  # users, threads, deleted_threads, runs, unfinished_runs, segments, blobs
    event_bytes: int  # packed
    blob_bytes: int
    compactable_runs: int  # ended, and their deltas are still there
    oldest_run_at: int | None  # ms UTC


class BackedUp(_Value, frozen=True):
    """A copy that was made."""

    path: str
    size_bytes: int
    log: str  # the history it was taken of; what is restored from it gets another


class Upkeep(Protocol):
    """The work that nobody waits for."""

    async def compact(self, *, ended_before: int, runs: int = 20) -> Compacted:
        """Delete the deltas of runs that ended before a time (ms UTC), longest ended first.

        All deltas of one message, thinking or call go in one write (PROTOCOL §2), and only if what completes them is
        in the log; all other events stay, at their seq. A reader in the middle of the deltas gets what is left, and
        sees no gap. Small segments of a run are put together.

        Args:
            ended_before: runs that ended later are not touched.
            runs: how many runs are looked at, at most.

        Raises:
            Unavailable: some of it is done, or nothing; call again.
        """
        ...

    async def trim(self, *, ended_before: int | None, deleted_before: int, runs: int = 20) -> Trimmed:
        """Delete runs that ended before a time (ms UTC), oldest first, and raise the floor of their threads.

        Of a thread only a stretch from its beginning goes: never a run behind one that is kept, and never its last
        one; runs whose events lie between each other's go together. A thread with a run that goes on is left alone:
        a replay must read the history that the first attempt read. A position below a floor is answered with
        `reset`, `trimmed`, and an idempotency key of a deleted run is as good as new.

        Args:
            ended_before: runs that ended later stay. None: all stay.
            deleted_before: of threads deleted before that, everything goes but the thread's own row.
            runs: how many runs, and how many deleted threads, go at most; more only if they must go together.

        Promises: readers see nothing below a floor from the write on that raises it, which is the first one. One
        pass over all runs takes several calls; it begins anew after a call that returned `has_more=False`.

        Raises:
            Unavailable: some of it is done, or nothing; call again.
        """
        ...

    async def stats(self) -> Stats:
        """Return figures; may take a moment on a large database, and blocks no writer."""
        ...

    async def backup(self, path: Path) -> BackedUp:
        """Copy the whole database as it is at one moment, while it is used.

        The copy is marked: whoever opens it first gives it another log, each restore its own.

        Raises:
            ConfigurationError: the database is backed up by its server's own tools.
            Conflict: there is a file of this name.
            Unavailable: the copy could not be written; nothing is left of it.
        """
        ...
