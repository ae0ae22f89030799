"""Compaction, retention and figures of a SQLite file.

Events are read and packed again in a reader thread; the writer thread gets short jobs, each whole by itself. A
process killed between two of them leaves work for the next call, and nothing that a reader could notice.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from runwire.protocol.compaction import Compaction, Condensed, Piece
from runwire.storage.base_upkeep import BackedUp, Compacted, Stats, Trimmed
from runwire.storage.clock import now_ms
from runwire.storage.retention import RunSpan, clean_cut
from runwire.storage.sql import load
from runwire.storage.sqlite.backup import back_up
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.jobs import unavailable
from runwire.storage.sqlite.prepare import connect_reader

__all__ = ["SqliteUpkeep"]

_SQL: Final = load("sqlite.sql")
_log: Final = structlog.get_logger(__name__)

READ_BYTES: Final = 262_144  # of segments in one read: a few ms of a reader thread
WRITE_PIECES: Final = 500  # segments replaced or deleted by one job: a few ms of the writer thread
WRITE_BYTES: Final = 1_048_576  # likewise
BLOB_BYTES: Final = 4_194_304  # of blobs deleted by one job
LOOK_RUNS: Final = 5_000  # rows that one call of `trim` looks at in search of something to do


class _Ended(NamedTuple):
    """A run whose deltas wait to be deleted."""

    key: int
    run: str
    thread_key: int
    first_seq: int
    last_seq: int


class _Gone(NamedTuple):
    """What a job deleted."""

    is_done: bool  # nothing is left below the floor
    floor: int  # of the thread, after it
    runs: int = 0
    freed_bytes: int = 0


class _Changed(Exception):
    """The segments are not those that were read: somebody else was here."""


class SqliteUpkeep:
    """The work that nobody waits for, in one SQLite file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._looked_at = 0  # key of the run up to which this pass of `trim` has looked

    async def compact(self, *, ended_before: int, runs: int = 20) -> Compacted:
        """Delete the deltas of runs that ended before a time; see `Upkeep.compact`."""

        def work(connection: sqlite3.Connection) -> list[_Ended]:
            return [_Ended(*row) for row in connection.execute(_SQL["runs_to_compact"], (ended_before, runs + 1))]

        found = await self._database.read(work)
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
        purged = await self._database.read(
            lambda connection: connection.execute(_SQL["threads_to_purge"], (deleted_before, runs + 1)).fetchall()
        )
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
        """Return figures, over a connection of their own: nobody waits for a reader meanwhile."""
        return await asyncio.to_thread(_stats, self._database.path, self._database.log)

    async def backup(self, path: Path) -> BackedUp:
        """Copy the whole database; see `Upkeep.backup`."""
        return await back_up(self._database, path)

    # ── compaction ──────────────────────────────────────────────────────────────────────────────────────

    async def _compact(self, run: _Ended) -> tuple[int, int]:
        """Compact one run, and say how many deltas and bytes went; the last of its writes says that it is done."""
        compaction = Compaction()
        deltas = freed_bytes = 0
        try:
            at: int | None = run.first_seq
            while at is not None:
                at = await self._database.read(_surveying(run, at, compaction))
            stretches = list(compaction.stretches(pieces=WRITE_PIECES, size_bytes=WRITE_BYTES))
            for first_seq, last_seq, surveyed in stretches:
                count = surveyed
                if count > WRITE_PIECES:
                    count, freed = await self._merge(run, compaction, first_seq, last_seq)
                    freed_bytes += freed
                condensed = await self._condense(run, compaction, first_seq, last_seq)
                is_last = last_seq == stretches[-1][1]
                if is_last or condensed.deltas or len(condensed.pieces) < count:
                    await self._database.write(_replacing(run, condensed, first_seq, last_seq, count, is_last=is_last))
                deltas += condensed.deltas
                freed_bytes += condensed.freed_bytes
        except msgspec.MsgspecError as error:
            # No reader can read it either. It stays as it is, and must not keep the others waiting.
            _log.error("compaction_skipped", run=run.run, error=type(error).__name__)
            stretches = []
        if not stretches:
            await self._database.write(lambda connection: _mark(connection, run))
        return deltas, freed_bytes

    async def _merge(self, run: _Ended, compaction: Compaction, first_seq: int, last_seq: int) -> tuple[int, int]:
        """Put a long stretch together, in short writes; return how many pieces it has now, and the bytes that went.

        Deltas of one stream go in one write, and one of 100,000 commits would hold up the writer for as many rows.
        """

        def read(at: int) -> Callable[[sqlite3.Connection], tuple[int, Condensed, int]]:
            def work(connection: sqlite3.Connection) -> tuple[int, Condensed, int]:
                rows = connection.execute(_SQL["run_pieces"], (run.thread_key, run.key, at, last_seq))
                pieces = [Piece(*row) for row in islice(rows, WRITE_PIECES)]
                end = pieces[-1].last_seq if pieces else last_seq
                return len(pieces), compaction.merge(pieces, run=run.run), end

            return work

        left, freed_bytes, at = 0, 0, first_seq
        while at <= last_seq:
            count, merged, end = await self._database.read(read(at))
            if len(merged.pieces) < count:
                await self._database.write(_replacing(run, merged, at, end, count, is_last=False))
            left += len(merged.pieces)
            freed_bytes += merged.freed_bytes
            at = end + 1
        return left, freed_bytes

    async def _condense(self, run: _Ended, compaction: Compaction, first_seq: int, last_seq: int) -> Condensed:
        def work(connection: sqlite3.Connection) -> Condensed:
            rows = connection.execute(_SQL["run_pieces"], (run.thread_key, run.key, first_seq, last_seq))
            return compaction.condense([Piece(*row) for row in rows], run=run.run)

        return await self._database.read(work)

    # ── retention ───────────────────────────────────────────────────────────────────────────────────────

    async def _find_old(self, ended_before: int, limit: int) -> tuple[list[tuple[int, str, int]], bool]:
        """Return (thread key, thread, cut) of threads with something to go, and whether this pass goes on."""
        after = self._looked_at

        def work(connection: sqlite3.Connection) -> tuple[list[tuple[int, str, int]], int]:
            next_run = connection.execute(_SQL["next_run"], (after,)).fetchone()
            if next_run is None or next_run[1] >= ended_before:
                return [], 0  # later runs ended later, too
            found: list[tuple[int, str, int]] = []
            first, looked_at = next_run[0], next_run[0] + LOOK_RUNS
            rows = connection.execute(_SQL["threads_to_trim"], (first, looked_at, ended_before)).fetchall()
            for key, thread_key, thread, floor in rows:
                spans = connection.execute(_SQL["spans_of_thread"], (thread_key,))
                cut = clean_cut((RunSpan(*row) for row in spans), ended_before=ended_before, limit=limit)
                if cut > 0:
                    # There may be more to go of this thread: its next first run comes after this one.
                    looked_at = min(looked_at, key)
                    found.append((thread_key, thread, max(cut, floor)))
                if len(found) == limit:
                    break
            return found, looked_at

        found, self._looked_at = await self._database.read(work)
        return found, self._looked_at > 0

    async def _delete(self, thread_key: int, *, through: int) -> list[_Gone]:
        """Raise a thread's floor and delete what is below it; nothing, if a run of the thread goes on."""
        gone: list[_Gone] = []
        while not gone or not gone[-1].is_done:
            # Runs are deleted after all that refers to them.
            one = await self._database.write(_deleting(thread_key, through), checks_references=False)
            if one is None:
                break
            gone.append(one)
        return gone


def _surveying(run: _Ended, at: int, compaction: Compaction) -> Callable[[sqlite3.Connection], int | None]:
    """Make the work that surveys the next pieces of a run, and returns where those after them begin."""

    def work(connection: sqlite3.Connection) -> int | None:
        size = 0
        for row in connection.execute(_SQL["run_pieces"], (run.thread_key, run.key, at, run.last_seq)):
            piece = Piece(*row)
            if size >= READ_BYTES:
                return piece.first_seq
            compaction.survey(piece, run=run.run)
            size += len(piece.packed)
        return None

    return work


def _replacing(
    run: _Ended, condensed: Condensed, first_seq: int, last_seq: int, count: int, *, is_last: bool
) -> Callable[[sqlite3.Connection], None]:
    rows = [
        (run.thread_key, piece.first_seq, piece.last_seq, run.key, piece.attempt, None, piece.flags, piece.packed)
        for piece in condensed.pieces
    ]

    def work(connection: sqlite3.Connection) -> None:
        if condensed.deltas or len(rows) < count:
            dropped = connection.execute(_SQL["drop_pieces"], (run.thread_key, run.key, first_seq, last_seq)).rowcount
            if dropped != count:
                raise _Changed
            connection.executemany(_SQL["add_segment"], rows)
        if is_last:
            _mark(connection, run)

    return work


def _mark(connection: sqlite3.Connection, run: _Ended) -> None:
    connection.execute(_SQL["mark_compacted"], (run.run, now_ms()))


def _deleting(thread_key: int, through: int) -> Callable[[sqlite3.Connection], _Gone | None]:
    """Make the work of one job: raise the floor, then delete below it: events, blobs, runs, as much as fits."""

    def work(connection: sqlite3.Connection) -> _Gone | None:
        connection.execute(_SQL["raise_floor"], (thread_key, through))
        ((floor,),) = connection.execute(_SQL["floor"], (thread_key,)).fetchall()
        if floor < through:
            return None
        is_done, freed_bytes = _drop(connection, "drop_segments", _SQL["segments_below"], (thread_key, floor))
        if not is_done:
            return _Gone(is_done=False, floor=floor, freed_bytes=freed_bytes)
        below = connection.execute(_SQL["runs_below"], (thread_key, floor, WRITE_PIECES))
        runs = [key for key, _ in takewhile(itemgetter(1), below)]
        is_done, blob_bytes = _drop(connection, "drop_blobs", _SQL["blobs_of_runs"], (_text(runs),))
        freed_bytes += blob_bytes
        if not is_done:
            return _Gone(is_done=False, floor=floor, freed_bytes=freed_bytes)
        for block in ("drop_pinned", "drop_waits", "drop_runs") if runs else ():
            connection.execute(_SQL[block], (_text(runs),))
        is_done = len(runs) < WRITE_PIECES
        if is_done:
            connection.execute(_SQL["mark_purged"], (thread_key, now_ms()))
        return _Gone(is_done=is_done, floor=floor, runs=len(runs), freed_bytes=freed_bytes)

    return work


def _drop(connection: sqlite3.Connection, block: str, find: str, values: tuple[object, ...]) -> tuple[bool, int]:
    """Delete rows up to the bounds of a job; return whether these were all, and their bytes."""
    keys: list[int] = []
    size, is_done = 0, True
    for key, size_bytes in connection.execute(find, values):
        if len(keys) == WRITE_PIECES or size >= BLOB_BYTES:
            is_done = False
            break
        keys.append(key)
        size += size_bytes
    if keys:
        connection.execute(_SQL[block], (_text(keys),))
    return is_done, size


def _stats(path: Path, log: str) -> Stats:
    try:
        with closing(connect_reader(path)) as connection:

            def one(block: str) -> tuple[int, ...]:
                row: tuple[int, ...] = connection.execute(_SQL[block]).fetchone()
                return row

            threads, deleted = one("count_threads")
            runs, oldest = one("count_runs")
            segments, event_bytes = one("count_segments")
            blobs, blob_bytes = one("count_blobs")
            counts = {
                "users": one("count_users")[0],
                "threads": threads - deleted,
                "deleted_threads": deleted,
                "runs": runs,
                "unfinished_runs": one("count_unfinished")[0],
                "segments": segments,
                "blobs": blobs,
            }
            files = (path, path.with_name(f"{path.name}-wal"))
            return Stats(
                log=log,
                size_bytes=sum(file.stat().st_size for file in files if file.exists()),
                free_bytes=one("page_size")[0] * one("free_pages")[0],
                counts=counts,
                event_bytes=event_bytes,
                blob_bytes=blob_bytes,
                compactable_runs=one("count_to_compact")[0],
                oldest_run_at=oldest,
            )
    except sqlite3.Error as error:
        raise unavailable(error) from error


def _text(keys: list[int]) -> str:
    """Return JSON for a statement that takes many rows at once."""
    return msgspec.json.encode(keys).decode()
