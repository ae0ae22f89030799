"""What all adapters say alike about an answer: what a wait takes, and which second answer is the first one again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.protocol.events import AgentResumed, emitted, pack
from runwire.storage.base_log import WaitKind

__all__ = ["check_answer", "check_repeated", "encoded", "is_same_json", "no_wait", "resumed"]


def check_answer(kind: WaitKind, value: Any) -> None:
    """Refuse what such a wait does not take. Raises ProtocolError."""
    if kind == "timer":
        raise ProtocolError("This run waits for a time, not for an answer.", field="wait")
    if kind == "approval" and not isinstance(value, bool):
        raise ProtocolError("An approval is answered with true or false.", field="value")


def check_repeated(user: str, value: Any, *, by: str, stored: bytes | None) -> None:
    """Accept the answer that closed a wait when its sender gives it again. Raises Conflict.

    Args:
        user: who answers now.
        value: with what.
        by: who closed the wait.
        stored: with what, encoded.
    """
    if by == "timer":
        raise Conflict("The time to answer this was over.", field="wait")
    if by == "ended":
        raise Conflict("The run has ended: nothing waits for this answer any more.", field="wait")
    if by != user or stored is None or not is_same_json(value, msgspec.json.decode(stored)):
        raise Conflict(f"{by} has answered this otherwise.", field="wait")


def encoded(value: Any) -> bytes:
    """Return an answer as a database keeps it."""
    return msgspec.json.encode(value)


def resumed(wait: str, value: Any, *, by: str, now: int) -> bytes:
    """Return the packed event of an answer, or of a time that has come."""
    return pack([emitted(AgentResumed(wait=wait, value=value, by=by), ts=now)])


def no_wait() -> NotFound:
    """Return the error that says that a run has no such wait."""
    return NotFound("This run has no such wait.", field="wait")


def is_same_json(one: Any, other: Any) -> bool:
    """Compare as JSON does: 1 and 1.0 are one number, true is none, and members have no order."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same_json(value, other[name]) for name, value in one.items())
    return bool(one == other)
