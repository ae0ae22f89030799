"""A run's log and the attempt that writes to it, for tests of the matcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runwire.protocol.events import AgentStarted, EventData, StoredEvent, Superseded, UserMessage, emitted
from runwire.protocol.replay import Emit, Replay, Step

STARTED = AgentStarted(agent="a", message="msg_u")
RUN = ""


class Run:
    """A run's log, and the attempt that now writes to it."""

    def __init__(self) -> None:
        self.log: list[StoredEvent] = []
        self.number = 0
        self.ids = 0
        self.attempt: Replay

    def new_id(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}_{self.ids}"

    def take_over(self, reason: Any = "worker_lost") -> list[EventData]:
        """Begin the next attempt; return what it said first."""
        self.number += 1
        self.attempt = Replay(run="run_1", attempt=self.number, logged=self.log, new_id=self.new_id)
        return self.store(self.attempt.start(STARTED, reason=reason))

    def store(self, emits: Sequence[Emit]) -> list[EventData]:
        """Append, and return the data of what was appended."""
        for emit in emits:
            self.append(emit.data, emit.scope)
        return [emit.data for emit in emits]

    def append(self, data: EventData, scope: str = RUN) -> StoredEvent:
        seq = len(self.log) + 1
        new = emitted(data, ts=seq * 10, scope=scope)
        event = StoredEvent(
            seq=seq, run="run_1", attempt=self.number, type=new.type, ts=new.ts, data=new.data, scope=scope
        )
        self.log.append(event)
        return event

    def begin(self, name: str = "search", args: Any = None, scope: str = RUN) -> Step:
        step = self.attempt.begin_step(scope, name, args)
        self.store(step.emits)
        return step

    def end(self, step: Step, result: Any = "found") -> list[EventData]:
        return self.store(self.attempt.end_step(step, ok=True, result=result, duration_ms=7))

    def say(self, *thoughts: str, scope: str = RUN) -> list[EventData]:
        return [data for text in thoughts for data in self.store(self.attempt.thinking(scope, text))]

    def write(self, *chunks: str, scope: str = RUN) -> list[EventData]:
        return [data for text in chunks for data in self.store(self.attempt.write(scope, text))]


def begun() -> Run:
    """Return a run that was sent and begun."""
    run = Run()
    run.append(UserMessage(message="msg_u", content="hello"))
    run.take_over()
    return run


def taken_back(data: EventData) -> tuple[list[str], list[str], list[int], str]:
    assert isinstance(data, Superseded)
    return data.messages, data.thinking, data.events, data.reason
