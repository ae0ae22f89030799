"""What both adapters say alike about a batch before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from runwire.protocol.events import TERMINAL_TYPES, EventType, pack, unpack
from runwire.storage.base import MAX_BATCH_EVENTS, Batch, Unstorable

__all__ = ["FLAG_STARTED", "FLAG_TERMINAL", "Frozen", "distinct", "freeze", "packed_size"]

FLAG_STARTED: Final = 1  # of `segment.flags`: the run's `agent_started` is in it
FLAG_TERMINAL: Final = 2  # the run's terminal event is in it


class Frozen(NamedTuple):
    """A batch with its events packed: what can be done in the caller's thread before the writer's."""

    batch: Batch
    size: int
    flags: int
    packed: bytes


def distinct(batches: Sequence[Batch]) -> Sequence[Batch]:
    """Return the batches of one append, if there is at most one per run.

    Raises:
        ValueError: the caller's fault: of two batches of a run the second would depend on the first's outcome.
    """
    if len({batch.run for batch in batches}) != len(batches):
        raise ValueError("an append takes at most one batch per run")
    return batches


def freeze(batch: Batch) -> Frozen | Unstorable:
    """Pack a batch's events, or say why no database can hold it."""
    types = [event.type for event in batch.events]
    if not 1 <= len(types) <= MAX_BATCH_EVENTS:
        return Unstorable(reason=f"a batch has 1..{MAX_BATCH_EVENTS} events, this one {len(types)}")
    is_last = types[-1] in TERMINAL_TYPES
    if is_last != (batch.end is not None) or not TERMINAL_TYPES.isdisjoint(types[:-1]):
        return Unstorable(reason="a terminal event is the last of its batch and comes with the run's end, once")
    if (types.count(EventType.AGENT_WAITING), types.count(EventType.AGENT_RESUMED)) != (
        len(batch.waits),
        len(batch.closes),
    ):
        return Unstorable(reason="each wait that it begins or closes is named beside its events")
    try:
        packed = pack(batch.events)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return Unstorable(reason=f"its events cannot be packed ({type(error).__name__})")
    started = FLAG_STARTED if types[0] == EventType.AGENT_STARTED else 0
    return Frozen(batch, len(types), started | (FLAG_TERMINAL if is_last else 0), packed)


def packed_size(packed: bytes) -> int:
    """Return how many events are packed there; of a stretch that was never compacted."""
    return sum(1 for _ in unpack(packed, first_seq=1, run="", attempt=0))
