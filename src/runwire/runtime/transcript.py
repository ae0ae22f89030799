"""What an attempt has said so far: the matcher, the order that its events must keep, and its open waits.

All of it is under one lock, inside which nothing waits, so that the control loop can take the word from code that is
stuck, and end its run, at any moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVarTuple

import msgspec

from runwire.agents.failures import RunEnded
from runwire.errors import ProtocolError, RunFailed
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import (
    DELTA_TYPES,
    EVENT_DATA,
    AgentResumed,
    AgentStarted,
    AgentWaiting,
    EmittedEvent,
    EventData,
    EventType,
    StepStarted,
    StoredEvent,
    decode_data,
)
from runwire.protocol.ids import new_id
from runwire.protocol.lifecycle import RunOrder
from runwire.protocol.replay import Emit, Replay, Wait
from runwire.runtime.endings import Ending, last_words
from runwire.runtime.journal import Past
from runwire.runtime.outbox import Buffer
from runwire.storage.base import Answer, Claim

__all__ = ["OVER", "Transcript", "leave_wait"]

Ts = TypeVarTuple("Ts")

OVER: Final = "this run is over; nothing more can be said in it"

_TYPE_OF: Final[Mapping[type[EventData], EventType]] = {data: kind for kind, data in EVENT_DATA.items()}
# By class and not by type: the hash of an enum's member is computed in Python, at each delta.
_DELTAS: Final = frozenset(EVENT_DATA[kind] for kind in DELTA_TYPES)
_TAKEN_BACK_BY_SEQ: Final = frozenset({EventType.AGENT_THINKING, EventType.CUSTOM})
_LEFT_WAIT: Final = "ctx.left"  # name of the steps that keep which waits the agent stopped waiting for


class Transcript:
    """What one attempt says, on its way into the buffer. Any thread may call.

    It may be made in any thread: reading a long log takes a while.

    Args:
        claim: the run.
        past: what the attempt starts from.
        buffer: takes the events.
    """

    def __init__(self, claim: Claim, past: Past, buffer: Buffer) -> None:
        self._claim = claim
        self._past = past
        self._buffer = buffer
        self._lock = threading.Lock()
        self.is_over = False  # the code has no word any more
        self._replay = Replay(run=claim.run, attempt=claim.attempt, logged=past.logged, new_id=new_id)
        self._order = RunOrder()
        self._due: dict[str, int | None] = {}  # of every wait that has begun, ended or not
        self._left: set[str] = set()  # waits that the agent stopped waiting for in an earlier attempt
        for event in past.logged:
            if event.type not in DELTA_TYPES:
                self._remember(event, decode_data(event))

    def start(self) -> None:
        """Say that the attempt begins.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        claim, pinned = self._claim, self._past.pinned
        started = AgentStarted(agent=claim.agent, message=claim.message, version=pinned.version)
        reason: Any = None if claim.is_resumed else claim.handed_over or "worker_lost"
        with self._lock:
            emits = self._replay.start(started, reason=reason)
            self._check(emits)
            self._buffer.on_stored = self._learn
            self._buffer.put(emits, pinned=msgspec.json.encode(pinned) if claim.pinned is None else None)

    def speak(
        self, speech: Callable[[Replay, *Ts], list[Emit]], args: tuple[*Ts], blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Put what the speech adds to the log. Never waits.

        Raises:
            RunEnded: the code has no word any more.
            Fenced: the attempt does not own the run any more.
            RunFailed: the run differs where it may not.
        """
        with self._lock:
            if self.is_over:
                raise RunEnded(OVER)
            emits = speech(self._replay, *args)
            self._check(emits)
            self._buffer.put(emits, blobs=blobs)

    def derive(self, scope: str, what: str) -> str:
        """Return 64 hex digits that are the same whenever the run is replayed. Raises RunEnded."""
        with self._lock:
            if self.is_over:
                raise RunEnded(OVER)
            return self._replay.derive(scope, what)

    def silence(self) -> None:
        """Take the word from the code."""
        with self._lock:
            self.is_over = True

    def conclude(self, ending: Ending, *, duration_ms: int, usage: Mapping[str, float] | None = None) -> Ending:
        """Say the last words, after which nothing is said; return how the run really ends.

        Args:
            ending: how it ends, as far as is known.
            duration_ms: how long it ran.
            usage: what it used; empty or None: nothing was reported.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        with self._lock:
            self.is_over = True
            words = last_words(ending, self._replay, duration_ms=duration_ms, usage=usage)
            self._buffer.put(words.emits, blobs=words.blobs, end=words.end)
            return words.ending

    def open_waits(self) -> dict[str, int | None]:
        """Return the waits that nothing has ended, and when each is due (ms UTC)."""
        with self._lock:
            return {wait: self._due[wait] for wait in self._replay.open_waits}

    def was_left(self, wait: str) -> bool:
        """Return whether the agent stopped waiting for this in an earlier attempt: then it has no answer for it."""
        return wait in self._left

    def park(self, may_park: Callable[[], bool]) -> list[str] | None:
        """Take the word from the code, if it may be put aside, and return the open waits; None: it goes on.

        Decided in one moment with `resume`: what was answered before it is either heard, so that the code goes on, or
        still open for the database, which then finds the answer.
        """
        with self._lock:
            if self.is_over or not may_park():
                return None
            self.is_over = True
            return self._replay.open_waits

    def resume(self, answer: Answer, hear: Callable[[str], None]) -> AgentResumed | None:
        """Learn how a wait ended; None if it is not open.

        Also for code that has no word any more: the wait must not be closed again at the end.

        Args:
            answer: how.
            hear: told of the wait in the same moment.
        """
        ended = AgentResumed(wait=answer.wait, value=answer.value, by=answer.by)
        with self._lock:
            if not self._replay.resume(answer.wait, answer.value, answer.by):
                return None
            self._check([Emit(ended)])
            hear(answer.wait)
        return ended

    def closing(self) -> list[Emit]:
        """Return what closes all that is open, if the run is cancelled while it is parked."""
        with self._lock:
            return self._replay.closing(code="cancelled", message="The run was cancelled.")

    def _learn(self, stored: Sequence[EmittedEvent], first_seq: int) -> None:
        """Tell the matcher the seqs of what it may have to take back by them."""
        learned = [
            StoredEvent(
                seq=seq,
                run=self._claim.run,
                attempt=self._claim.attempt,
                ts=event.ts,
                type=event.type,
                data=event.data,
                scope=event.scope,
            )
            for seq, event in enumerate(stored, start=first_seq)
            if event.type in _TAKEN_BACK_BY_SEQ
        ]
        if learned:
            with self._lock:
                self._replay.learn(learned)

    def _check(self, emits: Iterable[Emit]) -> None:
        """Let nothing illegal out: that would be a fault of ours, and the run ends before it shows."""
        try:
            for emit in emits:
                # A delta only goes on with what is open, at the offset that the matcher counted; to look at each
                # one would cost a fifth of its way to the log (measured), and its completion is looked at.
                if type(emit.data) not in _DELTAS:
                    self._order.accept(_TYPE_OF[type(emit.data)], emit.data, self._claim.attempt)
                    if isinstance(emit.data, AgentWaiting):
                        self._due[emit.data.wait] = emit.data.due_at
        except ProtocolError as error:
            sentence = f"The server would have written an illegal event: {error.message}"
            raise RunFailed(sentence, code=RunFailure.INTERNAL) from error

    def _remember(self, event: StoredEvent, data: Any) -> None:
        self._order.accept(event.type, data, event.attempt)
        if isinstance(data, AgentWaiting):
            self._due[data.wait] = data.due_at
        elif isinstance(data, StepStarted) and data.name == _LEFT_WAIT and isinstance(data.args, str):
            self._left.add(data.args)  # of an author's step of that name the arguments are a list


def leave_wait(replay: Replay, scope: str, wait: Wait) -> list[Emit]:
    """Keep that the agent stopped waiting: the answer may still come, and a replay must go the same way without it."""
    step = replay.begin_step(scope, _LEFT_WAIT, wait.id, kind="step", closes=False)
    if step.recorded is not None:
        return step.emits
    return [*step.emits, *replay.end_step(step, ok=True, result=None, duration_ms=0)]
