"""Compaction, retention and figures of a database in memory."""

from __future__ import annotations

from pathlib import Path

from runwire.errors import Unavailable
from runwire.protocol.compaction import Compaction, Piece
from runwire.storage.base_upkeep import BackedUp, Compacted, Stats, Trimmed
from runwire.storage.memory.state import UNFINISHED, Run, Segment, State, Thread
from runwire.storage.retention import RunSpan, clean_cut

__all__ = ["MemoryUpkeep"]


class MemoryUpkeep:
    """The work that nobody waits for, in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def compact(self, *, ended_before: int, runs: int = 20) -> Compacted:
        """Delete the deltas of runs that ended before a time; see `Upkeep.compact`."""
        with self._state.lock:
            waiting = sorted(
                (run.ended_at, run.place, run)
                for run in self._state.runs.values()
                if not run.is_compacted and run.ended_at is not None and run.ended_at < ended_before
            )
            gone = [_compact(run) for _, _, run in waiting[:runs]]
        return Compacted(
            runs=len(gone),
            events=sum(deltas for deltas, _ in gone),
            freed_bytes=sum(freed for _, freed in gone),
            has_more=len(waiting) > runs,
        )

    async def trim(self, *, ended_before: int | None, deleted_before: int, runs: int = 20) -> Trimmed:
        """Delete old runs and what deleted threads left; see `Upkeep.trim`."""
        gone = freed_bytes = 0
        floors: list[tuple[str, int]] = []
        with self._state.lock:
            for thread in self._state.threads.values():
                cut = _cut(thread, ended_before=ended_before, deleted_before=deleted_before, limit=runs)
                if not cut:
                    continue
                if gone >= runs:
                    return Trimmed(runs=gone, freed_bytes=freed_bytes, threads=tuple(floors), has_more=True)
                deleted, freed = self._delete(thread, through=cut)
                gone += deleted
                freed_bytes += freed
                if not thread.is_deleted:
                    floors.append((thread.id, thread.floor))
        # Of a long thread only a part may have gone.
        return Trimmed(runs=gone, freed_bytes=freed_bytes, threads=tuple(floors), has_more=gone > 0)

    async def stats(self) -> Stats:
        """Return figures."""
        with self._state.lock:
            threads, runs = self._state.threads.values(), self._state.runs.values()
            segments = [segment for thread in threads for segment in thread.segments]
            blobs = [data for run in runs for data in run.blobs.values()]
            event_bytes = sum(len(segment.packed) for segment in segments)
            blob_bytes = sum(map(len, blobs))
            return Stats(
                log=self._state.log,
                size_bytes=event_bytes + blob_bytes,
                free_bytes=0,
                counts={
                    "users": len(self._state.users),
                    "threads": sum(not thread.is_deleted for thread in threads),
                    "deleted_threads": sum(thread.is_deleted for thread in threads),
                    "runs": len(runs),
                    "unfinished_runs": sum(run.status in UNFINISHED for run in runs),
                    "segments": len(segments),
                    "blobs": len(blobs),
                },
                event_bytes=event_bytes,
                blob_bytes=blob_bytes,
                compactable_runs=sum(run.ended_at is not None and not run.is_compacted for run in runs),
                oldest_run_at=min((run.created_at for run in runs), default=None),
            )

    async def backup(self, path: Path) -> BackedUp:
        """Refuse: there is nothing to be kept of a database in memory."""
        raise Unavailable("A database in memory cannot be copied.", code="unsupported")

    def _delete(self, thread: Thread, *, through: int) -> tuple[int, int]:
        """Delete what is below a seq; return how many runs that were, and their bytes."""
        runs = [run for run in thread.runs if run.terminal_seq is not None and run.terminal_seq <= through]
        segments = [segment for segment in thread.segments if segment.first_seq <= through]
        thread.floor = through
        thread.segments = thread.segments[len(segments) :]
        thread.runs = thread.runs[len(runs) :]
        for run in runs:
            del self._state.runs[run.id]
            for wait in run.waits:
                del self._state.waits[wait]
            if run.key is not None:
                del self._state.users[run.user].keys[run.key]
        blobs = [data for run in runs for data in run.blobs.values()]
        return len(runs), sum(len(segment.packed) for segment in segments) + sum(map(len, blobs))


def _compact(run: Run) -> tuple[int, int]:
    """Compact one run; return how many deltas and bytes went."""
    thread = run.thread
    own = [
        Piece(one.first_seq, one.last_seq, one.attempt, 0, one.packed)
        for one in thread.segments
        if one.run == run.id and one.first_seq != run.seq
    ]
    compaction = Compaction()
    for piece in own:
        compaction.survey(piece, run=run.id)
    condensed = compaction.condense(own, run=run.id)
    run.is_compacted = True
    if condensed.deltas or len(condensed.pieces) < len(own):
        kept = [one for one in thread.segments if one.run != run.id or one.first_seq == run.seq]
        made = [Segment(one.first_seq, one.last_seq, run.id, one.attempt, None, one.packed) for one in condensed.pieces]
        thread.segments = sorted([*kept, *made])
    return condensed.deltas, condensed.freed_bytes


def _cut(thread: Thread, *, ended_before: int | None, deleted_before: int, limit: int) -> int:
    """Return the seq up to which a thread may go; 0: nothing may, or nothing is there."""
    if thread.deleted_at is not None:
        is_over = all(run.status not in UNFINISHED for run in thread.runs)
        return thread.head if is_over and thread.deleted_at < deleted_before and thread.floor < thread.head else 0
    if ended_before is None or any(run.status in ("running", "waiting") for run in thread.runs):
        return 0
    spans = [RunSpan(run.seq, run.terminal_seq, run.ended_at) for run in thread.runs]
    return clean_cut(spans, ended_before=ended_before, limit=limit)
