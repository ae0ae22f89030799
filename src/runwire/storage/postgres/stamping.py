"""Events that the database writes for a gateway: packed in two pieces, between which its clock puts their time."""

from __future__ import annotations

from typing import NamedTuple

from runwire.protocol.events import AgentCancelled, AgentResumed, EventData, emitted, pack
from runwire.storage.base import CancelRequest

__all__ = ["Halves", "cancelled", "halves", "resumed"]


class Halves(NamedTuple):
    """A packed event without its time."""

    before: bytes
    behind: bytes


def halves(data: EventData) -> Halves:
    """Pack one event as `events.pack` does, and take its time out."""
    event = emitted(data, ts=0)
    packed = pack([event])
    before = f'[[0,"{event.type}",'.encode()
    behind = packed.removeprefix(before)
    assert behind != packed  # as `pack` writes it: offset, type, time
    return Halves(before, behind.removeprefix(b"0"))


def cancelled(request: CancelRequest) -> Halves:
    """Pack the terminal event of a run that is called off."""
    return halves(AgentCancelled(by=request.by, reason=request.reason))


def resumed(wait: str, value: object, *, by: str) -> Halves:
    """Pack the event of an answer, or of a time that has come."""
    return halves(AgentResumed(wait=wait, value=value, by=by))
