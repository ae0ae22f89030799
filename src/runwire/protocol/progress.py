"""Whether a run that keeps losing its worker still gets anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from runwire.protocol.events import StoredEvent
from runwire.protocol.journal import Journal

__all__ = ["lost_attempts_without_progress"]


def lost_attempts_without_progress(logged: Sequence[StoredEvent], attempt: int, lost: Sequence[int]) -> int:
    """Count the lost attempts before `attempt` since the last one that got the run anywhere.

    An attempt got somewhere if it completed a step, sub-agent or wait (also by an answer while nobody ran it), or left
    more sayings or more text standing than every earlier one. Those handed over or parked are no loss.

    Args:
        logged: every stored event of the run, in order.
        attempt: the one that now begins, from 1.
        lost: the attempts whose worker was lost (`Claim.lost`).
    """
    journal, best, useful = Journal(), (0, 0, 0), 0
    for number, events in groupby(logged, key=lambda event: event.attempt):
        if number >= attempt:
            break
        for event in events:
            journal.add(event)
        left = _standing(journal)
        if any(now > before for now, before in zip(left, best, strict=True)):
            useful = number
        best = (max(left[0], best[0]), max(left[1], best[1]), max(left[2], best[2]))
    return sum(useful < number < attempt for number in lost)


def _standing(journal: Journal) -> tuple[int, int, int]:
    """Return how many steps are completed (sub-agents and waits too), and how many sayings and code points stand."""
    sayings = [each for scope in journal.scopes.values() for each in scope.sayings]
    finished = sum(each.is_final for each in journal.tries.values())
    finished += sum(each.completion is not None for each in journal.spans.values())
    finished += sum(each.completion is not None for each in journal.waits.values())
    return finished, len(sayings), sum(each.length for each in sayings)
