"""Compaction, retention and figures of a PostgreSQL database.

Several processes may do this work at once: each write is one call of a function that looks first whether things still
are as they were read, and that waits for nobody's lock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from runwire.errors import ConfigurationError
from runwire.protocol.compaction import Compaction, Condensed, Piece
from runwire.storage.base_upkeep import BackedUp, Compacted, Stats, Trimmed
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.retention import RunSpan, clean_cut
from runwire.storage.sql import load

__all__ = ["PostgresUpkeep"]

_SQL: Final = load("postgres_upkeep.sql")
_log: Final = structlog.get_logger(__name__)

READ_PIECES: Final = 500  # read at once: 32 MiB at the very most, mostly far less
WRITE_PIECES: Final = 2_000  # replaced by one write; most runs are one write (measured: 7 ms for so many)
WRITE_BYTES: Final = 4_194_304  # likewise
DROP_ROWS: Final = 500  # of each table, deleted by one write
DROP_BYTES: Final = 4_194_304  # likewise
LOOK_RUNS: Final = 5_000  # rows that one call of `trim` looks at in search of something to do
LOOK_SPANS: Final = 5_000  # runs of one thread; a cut beyond them is found later
_STATS_S: Final = 60.0


class _Ended(NamedTuple):
    """A run whose deltas wait to be deleted."""

    key: int
    run: str
    thread_key: int
    first_seq: int
    last_seq: int


class _Gone(NamedTuple):
    """What one write deleted."""

    is_done: bool  # nothing is left below the floor
    floor: int  # of the thread, after it
    runs: int
    freed_bytes: int


class _Changed(Exception):
    """The segments are not those that were read, or somebody is at them: a later call looks again."""


class PostgresUpkeep:
    """The work that nobody waits for, in one PostgreSQL database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._looked_at = 0  # key of the run up to which this pass of `trim` has looked

    async def compact(self, *, ended_before: int, runs: int = 20) -> Compacted:
        """Delete the deltas of runs that ended before a time; see `Upkeep.compact`."""
        found = [_Ended(*row) for row in await self._database.fetch(_SQL["runs_to_compact"], ended_before, runs + 1)]
        events = freed_bytes = done = 0
        for run in found[:runs]:
            try:
                deltas, freed = await self._compact(run)
            except _Changed:
                continue
            events += deltas
            freed_bytes += freed
            done += 1
        return Compacted(runs=done, events=events, freed_bytes=freed_bytes, has_more=done < len(found))

    async def trim(self, *, ended_before: int | None, deleted_before: int, runs: int = 20) -> Trimmed:
        """Delete old runs and what deleted threads left; see `Upkeep.trim`."""
        gone: list[_Gone] = []
        floors: dict[str, int] = {}
        purged = await self._database.fetch(_SQL["threads_to_purge"], deleted_before, runs + 1)
        has_more = len(purged) > runs
        for key, _, head in purged[:runs]:
            gone += await self._delete(key, through=head)
        if ended_before is not None and not has_more:
            found, has_more = await self._find_old(ended_before, runs)
            for key, thread, cut in found:
                done = await self._delete(key, through=cut)
                gone += done
                if done:
                    floors[thread] = done[-1].floor
        return Trimmed(
            runs=sum(one.runs for one in gone),
            freed_bytes=sum(one.freed_bytes for one in gone),
            threads=tuple(floors.items()),
            has_more=has_more,
        )

    async def stats(self) -> Stats:
        """Return figures, over a connection of their own; `free_bytes` is 0, as the server does not count them."""
        async with self._database.alone(statement_timeout_s=_STATS_S) as connection:
            row = await connection.fetchrow(_SQL["stats"])
        assert row is not None  # one row, whatever there is
        names = ("users", "threads", "deleted_threads", "runs", "unfinished_runs", "segments", "blobs")
        return Stats(
            log=self._database.log,
            size_bytes=row["size_bytes"],
            free_bytes=0,
            counts={name: row[name] for name in names},
            event_bytes=row["event_bytes"],
            blob_bytes=row["blob_bytes"],
            compactable_runs=row["compactable_runs"],
            oldest_run_at=row["oldest_run_at"],
        )

    async def backup(self, path: Path) -> BackedUp:
        """Refuse: PostgreSQL's own means copy it. Raises ConfigurationError."""
        raise ConfigurationError(
            [
                "A PostgreSQL database is backed up with its own tools, pg_dump or continuous archiving; restore it"
                " into a new database, so that clients learn that it is another history. How: Deploy with PostgreSQL."
            ]
        )

    # ── compaction ──────────────────────────────────────────────────────────────────────────────────────

    async def _compact(self, run: _Ended) -> tuple[int, int]:
        """Compact one run, and say how many deltas and bytes went; the last of its writes says that it is done."""
        compaction = Compaction()
        deltas = freed_bytes = 0
        try:
            at = run.first_seq
            while pieces := await self._pieces(run, at, run.last_seq, limit=READ_PIECES):
                for piece in pieces:
                    compaction.survey(piece, run=run.run)
                at = pieces[-1].last_seq + 1
            stretches = list(compaction.stretches(pieces=WRITE_PIECES, size_bytes=WRITE_BYTES))
            for first_seq, last_seq, surveyed in stretches:
                if surveyed > WRITE_PIECES:
                    freed_bytes += await self._merge(run, compaction, first_seq, last_seq)
                before = await self._pieces(run, first_seq, last_seq)
                condensed = compaction.condense(before, run=run.run)
                await self._replace(run, before, condensed, is_last=last_seq == stretches[-1][1])
                deltas += condensed.deltas
                freed_bytes += condensed.freed_bytes
        except msgspec.MsgspecError as error:
            # No reader can read it either. It stays as it is, and must not keep the others waiting.
            _log.error("compaction_skipped", run=run.run, error=type(error).__name__)
            stretches = []
        if not stretches:
            await self._replace(run, [], Condensed([], 0, 0), is_last=True)
        return deltas, freed_bytes

    async def _merge(self, run: _Ended, compaction: Compaction, first_seq: int, last_seq: int) -> int:
        """Put a long stretch together, in short writes; return the bytes that went.

        Deltas of one stream go in one write, and one of 100,000 commits would take longer than a statement may.
        """
        freed_bytes, at = 0, first_seq
        while before := await self._pieces(run, at, last_seq, limit=WRITE_PIECES):
            merged = compaction.merge(before, run=run.run)
            await self._replace(run, before, merged, is_last=False)
            freed_bytes += merged.freed_bytes
            at = before[-1].last_seq + 1
        return freed_bytes

    async def _pieces(self, run: _Ended, first_seq: int, last_seq: int, *, limit: int | None = None) -> list[Piece]:
        values = (run.thread_key, run.key, first_seq, last_seq, limit)
        return [Piece(*row) for row in await self._database.fetch(_SQL["run_pieces"], *values)]

    async def _replace(self, run: _Ended, before: list[Piece], after: Condensed, *, is_last: bool) -> None:
        """Write what a stretch has become, if it is still what was read; nothing, if nothing has changed."""
        is_changed = bool(after.deltas) or len(after.pieces) < len(before)
        if not is_changed and not is_last:
            return
        first_seq, last_seq = (before[0].first_seq, before[-1].last_seq) if before else (0, 0)
        size_bytes = sum(len(piece.packed) for piece in before)
        pieces = after.pieces if is_changed else []
        columns = [[piece[at] for piece in pieces] for at in range(5)]
        values = (run.run, first_seq, last_seq, len(before), size_bytes, is_changed, is_last)
        if not await self._database.fetchval(_SQL["replace"], *values, *columns):
            raise _Changed

    # ── retention ───────────────────────────────────────────────────────────────────────────────────────

    async def _find_old(self, ended_before: int, limit: int) -> tuple[list[tuple[int, str, int]], bool]:
        """Return (thread key, thread, cut) of threads with something to go, and whether this pass goes on."""
        next_run = await self._database.fetchrow(_SQL["next_run"], self._looked_at)
        if next_run is None or next_run["created_at"] >= ended_before:
            self._looked_at = 0  # later runs ended later, too
            return [], False
        found: list[tuple[int, str, int]] = []
        first = next_run["key"]
        looked_at = first + LOOK_RUNS
        for key, thread_key, thread, floor in await self._database.fetch(
            _SQL["threads_to_trim"], first, looked_at, ended_before
        ):
            spans = await self._database.fetch(_SQL["spans_of_thread"], thread_key, LOOK_SPANS)
            cut = clean_cut((RunSpan(*row) for row in spans), ended_before=ended_before, limit=limit)
            if cut > 0:
                # There may be more to go of this thread: its next first run comes after this one.
                looked_at = min(looked_at, key)
                found.append((thread_key, thread, max(cut, floor)))
            if len(found) == limit:
                break
        self._looked_at = looked_at
        return found, True

    async def _delete(self, thread_key: int, *, through: int) -> list[_Gone]:
        """Raise a thread's floor and delete what is below it; nothing, if somebody is at it or a run of it goes on."""
        gone: list[_Gone] = []
        while not gone or not gone[-1].is_done:
            row = await self._database.fetchrow(_SQL["trim"], thread_key, through, DROP_ROWS, DROP_BYTES)
            if row is None:
                break
            gone.append(_Gone(*row))
        return gone
