"""Where a thread may be cut: what both adapters say alike about retention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["RunSpan", "clean_cut"]


class RunSpan(NamedTuple):
    """Where a run lies in its thread's log."""

    seq: int  # of its message
    terminal_seq: int | None
    ended_at: int | None  # ms UTC


def clean_cut(runs: Iterable[RunSpan], *, ended_before: int, limit: int) -> int:
    """Return the seq up to which a thread may go: whole runs that ended before a time, never the last one.

    A message that came while another run went on lies between that run's events. A cut there would take one of
    the two apart, so such runs go together or not at all.

    Args:
        runs: of one thread, oldest first.
        ended_before: runs that ended later stay (ms UTC).
        limit: runs to be cut off at most, unless more of them can only go together.

    Returns:
        The seq of the last event to go; 0: nothing may go.
    """
    cut = end = 0
    for count, run in enumerate(runs):
        if count and run.seq > end:
            if cut and count > limit:
                break
            cut = end  # everything before this message belongs to runs that ended before it came
        if run.terminal_seq is None or run.ended_at is None or run.ended_at >= ended_before:
            break
        end = max(end, run.terminal_seq)
    return cut
