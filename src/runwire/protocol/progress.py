"""Whether a run that keeps losing its worker still gets anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from runwire.protocol.events import EventType, StoredEvent, decode_data
from runwire.protocol.journal import Journal

__all__ = ["lost_attempts_without_progress"]


def lost_attempts_without_progress(
    logged: Sequence[StoredEvent], attempt: int, lost: Sequence[int] | None = None, *, handed_over: bool = False
) -> int:
    """Count the attempts just before `attempt` that were lost and got the run nowhere.

    An attempt got somewhere if it completed a step, or left more sayings or more text standing than every
    earlier one. One that wrote nothing was lost. Those handed over (drained, deploy) are passed over.

    Args:
        logged: every stored event of the run, in order.
        attempt: the one that now begins, from 1.
        lost: the attempts whose worker was lost (`Claim.lost`).
        handed_over: whether the attempt before it was handed over; the log does not say so yet.
    """
    journal, best = Journal(), (0, 0, 0)
    useful, given_back = {0}, {attempt - 1} if handed_over else set[int]()
    for number, events in groupby(logged, key=lambda event: event.attempt):
        for event in events:
            journal.add(event)
            if event.type == EventType.AGENT_RETRYING and decode_data(event).reason != "worker_lost":
                given_back.add(number - 1)
        left = _standing(journal)
        if any(now > before for now, before in zip(left, best, strict=True)):
            useful.add(number)
        best = (max(left[0], best[0]), max(left[1], best[1]), max(left[2], best[2]))
    since = max(number for number in useful if number < attempt)
    if lost is not None:
        return sum(since < number < attempt for number in lost)
    return sum(number not in given_back for number in range(since + 1, attempt))


def _standing(journal: Journal) -> tuple[int, int, int]:
    """Return how many steps are completed (sub-agents and waits too), and how many sayings and code points stand."""
    sayings = [each for scope in journal.scopes.values() for each in scope.sayings]
    finished = sum(each.is_final for each in journal.tries.values())
    finished += sum(each.completion is not None for each in journal.spans.values())
    finished += sum(each.completion is not None for each in journal.waits.values())
    return finished, len(sayings), sum(each.length for each in sayings)
