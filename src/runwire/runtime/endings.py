"""How a run ends, and the last words it takes: pure, so that there is one place where a terminal event is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from runwire.agents.failures import CallFailed
from runwire.agents.payload import put_aside, told
from runwire.agents.steps import type_name
from runwire.errors import PayloadError, RunFailed, RunwireError
from runwire.protocol.codes import RETRYABLE, RunFailure
from runwire.protocol.events import (
    AgentCancelled,
    AgentCompleted,
    AgentFailed,
    MessageCompleted,
)
from runwire.protocol.ids import new_id
from runwire.protocol.replay import Emit, Replay
from runwire.resilience.breaker import CircuitOpen
from runwire.storage.base import CancelRequest, RunEnd

__all__ = ["Ending", "Failure", "LastWords", "Park", "Returned", "failure_of", "last_words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The code returned: a plain value, or None for what it wrote."""

    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The run fails. `message` is for the person; what the code raised stays in the server's log."""

    code: str
    message: str
    error_id: str = field(default_factory=lambda: new_id("err"))
    retry_after_s: float | None = None
    is_raised: bool = False  # the code itself ended: its scope ends with it; else it was unwound


Ending = Returned | Failure | CancelRequest


class Park(msgspec.Struct, frozen=True):
    """The run waits for people or times: it is put aside without a worker, and nothing is said of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """The last events of a run, the terminal one last, and what commits with them."""

    emits: list[Emit]
    ending: Ending  # the real one: what was returned may turn out to be no result
    end: RunEnd
    blobs: Mapping[str, bytes] = field(default_factory=dict)


def last_words(
    ending: Ending, replay: Replay, *, duration_ms: int, usage: Mapping[str, float] | None = None
) -> LastWords:
    """Return what ends the run: what is open is closed, then one terminal event."""
    if isinstance(ending, CancelRequest):
        emits = replay.close_all(code="cancelled", message="The run was cancelled.")
        cancelled = AgentCancelled(by=ending.by, reason=ending.reason)
        return LastWords(emits=[*emits, Emit(cancelled)], ending=ending, end=RunEnd(status="cancelled"))
    if isinstance(ending, Failure):
        return _failed(ending, replay)
    return _returned(ending, replay, duration_ms, usage)


def _returned(ending: Returned, replay: Replay, duration_ms: int, usage: Mapping[str, float] | None) -> LastWords:
    output = ending.output
    if output is None and not replay.has_message:
        message = "The agent returned nothing and wrote no message. Return a value or yield text."
        return _failed(Failure(code=RunFailure.NO_RESULT, message=message, is_raised=True), replay)
    emits: list[Emit] = []
    if isinstance(output, str) and not replay.has_message:
        emits += replay.message("", output)
    emits += replay.end_scope("")
    blobs: dict[str, bytes] = {}
    try:
        shown = put_aside(replay.text if output is None else output, blobs)
    except PayloadError as error:
        failed = _failed(Failure(code=error.code, message=error.message, is_raised=True), replay)
        return dataclasses.replace(failed, emits=[*emits, *failed.emits])
    told_usage = dict(usage) if usage else msgspec.UNSET
    return LastWords(
        emits=[*emits, Emit(AgentCompleted(output=shown, duration_ms=duration_ms, usage=told_usage))],
        ending=ending,
        end=RunEnd(status="completed"),
        blobs=blobs,
    )


def _failed(ending: Failure, replay: Replay) -> LastWords:
    emits = _cut(replay.end_scope("")) if ending.is_raised else []
    emits += replay.close_all(code=ending.code, message=ending.message)
    failed = AgentFailed(
        code=ending.code,
        message=ending.message,
        error_id=ending.error_id,
        retryable=ending.code in RETRYABLE,
        retry_after_s=ending.retry_after_s,
    )
    error = {"code": ending.code, "message": ending.message}
    return LastWords(emits=[*emits, Emit(failed)], ending=ending, end=RunEnd(status="failed", error=error))


def _cut(emits: list[Emit]) -> list[Emit]:
    """Say of a message that the code raised in its middle that it is not complete."""
    if emits and isinstance(emits[-1].data, MessageCompleted):
        emits[-1] = Emit(msgspec.structs.replace(emits[-1].data, complete=False), emits[-1].scope)
    return emits


def failure_of(raised: BaseException) -> Failure:
    """Return how a run ends whose code raised this; of a foreign exception only the type's name is shown."""
    error_id = new_id("err")
    raised = _first_of(raised)
    retry_after_s = _seconds(getattr(raised, "retry_after_s", None)) if isinstance(raised, RunwireError) else None
    code, message = str(RunFailure.AGENT_ERROR), f"The agent failed ({type_name(raised)})."
    if isinstance(raised, RunFailed | PayloadError | CallFailed | CircuitOpen):
        code = told(raised.code)
        # Its author may have given anything as text, or have made a class that keeps none.
        message = told(getattr(raised, "message", raised))
    if code not in set(RunFailure):
        code = RunFailure.AGENT_ERROR
    return Failure(code=code, message=message, error_id=error_id, retry_after_s=retry_after_s, is_raised=True)


def _seconds(given: object) -> float | None:
    """Return a time to wait as an author may have given it; None if it is none."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if is_number and 0 <= given < math.inf else None  # type: ignore[operator, arg-type] # a number


def _first_of(raised: BaseException) -> BaseException:
    """Look into the groups that a TaskGroup raises."""
    while isinstance(raised, BaseExceptionGroup):
        raised = raised.exceptions[0]
    return raised
