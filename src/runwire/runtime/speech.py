"""The agent's side of an attempt: what its Context says goes through here, in the agent's loop.

Everything that touches the replay matcher happens under one lock and never waits inside it, so that the control
loop can take the word from code that is stuck, and end its run, at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVarTuple

import msgspec

from runwire.agents.context import RunEnded
from runwire.agents.payload import is_ref
from runwire.errors import Fenced, ProtocolError, RunFailed
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import DELTA_TYPES, EVENT_DATA, AgentStarted, EventData, EventError, EventType, decode_data
from runwire.protocol.ids import new_id
from runwire.protocol.lifecycle import RunOrder
from runwire.protocol.replay import TOOL_CANCELLED, Emit, Replay, Step
from runwire.runtime.endings import Ending, Failure, last_words
from runwire.runtime.journal import Past, when_available
from runwire.runtime.outbox import Buffer
from runwire.storage.base import CancelRequest, Claim, EventLog

__all__ = ["HandOver", "Speaker", "Stop"]

Ts = TypeVarTuple("Ts")

_TYPE_OF: Final[Mapping[type[EventData], EventType]] = {data: kind for kind, data in EVENT_DATA.items()}
# Of its deadline each attempt has at least this share: silence and a time in which nobody ran it look the same in
# the log, and a server that was down for an hour must not end every run. So a run that hangs and is lost each time
# meets its end within twice its deadline (`max_attempts` is five).
_LEAST_SHARE: Final = 0.2
_EVENTS_PER_TURN: Final = 32  # then the loop's other agents get their turn, and a cancel its chance


class HandOver(msgspec.Struct, frozen=True):
    """Another worker, or this one in another thread, is to go on with the run: no loss, whatever the reason."""

    reason: Literal["drained", "deploy"]


Stop = CancelRequest | Failure | HandOver


class Speaker:
    """Says what one attempt says. The methods of `agents.context.Attempt` are for the agent's own task only.

    It may be made in any thread: reading a long log takes a while.

    Args:
        claim: the run.
        past: what the attempt starts from.
        buffer: takes the events.
        events: the log, for values that were put aside.
        stop: asks the control loop to stop the run; any thread.
        is_allowed: whether the person may still use tools; must be quick and callable from any thread.
        is_stopping: whether the control loop is ending the run, so that cancellations are its own; any thread.
    """

    def __init__(
        self,
        claim: Claim,
        past: Past,
        *,
        buffer: Buffer,
        events: EventLog,
        stop: Callable[[Stop], None],
        is_allowed: Callable[[str], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._claim = claim
        self._buffer = buffer
        self._events = events
        self._stop = stop
        self._has_asked_to_stop = False
        self._is_allowed = is_allowed
        self._is_run_stopping = is_stopping
        self._task: asyncio.Task[object] | None = None  # the agent's own
        self._lock = threading.Lock()
        self._is_over = False
        self._is_draining = False
        self._said = 0
        self._began_s = time.monotonic()
        self._past = past
        self._replay = Replay(run=claim.run, attempt=claim.attempt, logged=past.logged, new_id=new_id)
        self._order = RunOrder()
        for event in past.logged:
            if event.type in DELTA_TYPES:
                continue
            self._order.accept(event.type, decode_data(event), event.attempt)

    @property
    def duration_ms(self) -> int:
        """Return the run's running time, earlier attempts included."""
        return round((self._past.used_s + time.monotonic() - self._began_s) * 1000)

    @property
    def is_stopping(self) -> bool:
        """Return whether the code is being unwound by us: then a cancellation is no word of its author's."""
        return self._is_over or self._has_asked_to_stop or self._buffer.is_closed or self._is_run_stopping()

    def seconds_left(self) -> float:
        """Return how long the run may still run."""
        deadline_s = self._past.pinned.deadline_s
        left_s = max(deadline_s - self._past.charged_s, deadline_s * _LEAST_SHARE)
        return left_s - (time.monotonic() - self._began_s)

    def start(self) -> None:
        """Say that the attempt begins. Control loop.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        pinned = self._past.pinned
        started = AgentStarted(agent=self._claim.agent, message=self._claim.message, version=pinned.version)
        reason: Any = self._claim.handed_over or "worker_lost"
        with self._lock:
            emits = self._replay.start(started, reason=reason)
            self._check(emits)
            is_first = self._claim.pinned is None
            self._buffer.put(emits, pinned=msgspec.json.encode(pinned) if is_first else None)

    def enter(self) -> None:
        """Give the word to the running task, the agent's own."""
        self._task = asyncio.current_task()

    def drain(self) -> None:
        """Hand the run over at its next step boundary. Any thread."""
        self._is_draining = True

    def silence(self) -> None:
        """Take the word from the code: from now on its Context raises. Any thread."""
        with self._lock:
            self._is_over = True

    def conclude(self, ending: Ending) -> Ending:
        """Say the last words, after which nothing is said; return how the run really ends. Control loop.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        with self._lock:
            self._is_over = True
            words = last_words(ending, self._replay, duration_ms=self.duration_ms)
            self._buffer.put(words.emits, blobs=words.blobs, end=words.end)
            return words.ending

    async def say(
        self, speech: Callable[[Replay, *Ts], list[Emit]], *args: *Ts, blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Emit what the speech adds to the log; waits only for room in the buffer."""
        try:
            if self._must_wait():
                await self._turn()
            self._speak(speech, args, blobs)
        except (Fenced, RunFailed):
            await asyncio.sleep(0)  # see `begin_step`
            raise

    async def begin_step(self, scope: str, name: str, args: Any, blobs: Mapping[str, bytes]) -> Step:
        """Begin a step; its beginning is committed when this returns, unless its result is recorded."""
        try:
            return await self._begin_step(scope, name, args, blobs)
        except (Fenced, RunFailed):
            # Code that tries again on any error would block its loop: here its cancellation reaches it.
            await asyncio.sleep(0)
            raise

    async def _begin_step(self, scope: str, name: str, args: Any, blobs: Mapping[str, bytes]) -> Step:
        if self._must_wait():
            await self._turn()
        await self._boundary()
        begun: list[Step] = []

        def begin(replay: Replay) -> list[Emit]:
            begun.append(replay.begin_step(scope, name, args))
            return begun[0].emits

        self._speak(begin, (), blobs)
        if begun[0].recorded is None:
            # Committed before the call: a crash can never hide that a side effect may have happened.
            try:
                await self._buffer.flushed()
            except asyncio.CancelledError:
                self.cut_step(begun[0], duration_ms=0)
                raise
        return begun[0]

    async def end_step(
        self, speech: Callable[[Replay], list[Emit]], *, blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Emit the end of a step; a run that is drained is handed over here."""
        await self.say(speech, blobs=blobs)
        if self._is_draining:
            await self._boundary()

    def cut_step(self, step: Step, *, duration_ms: int) -> None:
        """End a step that the agent stopped waiting for, unless it has ended or the run is being unwound.

        Never waits: whoever cancels the agent may do so again at each point where it would.
        """
        if self.is_stopping:  # who ends the run closes the step, or the next attempt tries it again
            return
        error = EventError(code=TOOL_CANCELLED, message="The agent stopped waiting for the tool.")
        with contextlib.suppress(Fenced):  # it was stopped meanwhile
            self._speak(lambda replay: replay.end_step(step, ok=False, error=error, duration_ms=duration_ms), ())

    async def resolve(self, value: Any) -> Any:
        """Return a recorded field as it was given."""
        if not is_ref(value):
            return value
        stored = await when_available(lambda: self._events.run_blob(self._claim.run, value["$ref"]))
        return msgspec.json.decode(stored)

    async def _boundary(self) -> None:
        """Stop here if the run must not begin another step."""
        if not self._is_allowed(self._claim.user):
            self._ask_to_stop(CancelRequest(by="revoked"))
        elif self._is_draining:
            self._ask_to_stop(HandOver("drained"))
        else:
            return
        await asyncio.get_running_loop().create_future()  # for ever: until the stop cancels this task

    def _must_wait(self) -> bool:
        """Count what is about to be said; return whether others have their turn before it, or it waits for room.

        Before something is said and never after it: between a result that is in the log and the agent that gets it
        nobody's time limit may come, or a replay, which is given the result, would go another way.
        """
        self._check_task()
        self._said += 1
        return self._said % _EVENTS_PER_TURN == 0 or self._buffer.is_full

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        await self._buffer.room()

    def _check_task(self) -> None:
        if self._is_over:
            raise RunEnded("this run is over; nothing more can be said in it")
        if asyncio.current_task() is not self._task:
            self._fail(
                RunFailed(
                    "The Context was used from another task (create_task, gather, TaskGroup or wait_for). Use it in "
                    "the agent's own task; for a time limit use asyncio.timeout.",
                    code=RunFailure.PARALLEL_WITHOUT_GATHER,
                )
            )

    def _speak(
        self, speech: Callable[[Replay, *Ts], list[Emit]], args: tuple[*Ts], blobs: Mapping[str, bytes] | None = None
    ) -> None:
        with self._lock:
            if self._is_over:
                raise RunEnded("this run is over; nothing more can be said in it")
            try:
                emits = speech(self._replay, *args)
                self._check(emits)
            except RunFailed as error:
                self._fail(error)
            self._buffer.put(emits, blobs=blobs)

    def _check(self, emits: list[Emit]) -> None:
        """Let nothing illegal out: that would be a fault of ours, and the run ends before it shows."""
        try:
            for emit in emits:
                kind = _TYPE_OF[type(emit.data)]
                # A delta only goes on with what is open, at the offset that the matcher counted; to look at each
                # one would cost a fifth of its way to the log (measured), and its completion is looked at.
                if kind not in DELTA_TYPES:
                    self._order.accept(kind, emit.data, self._claim.attempt)
        except ProtocolError as error:
            sentence = f"The server would have written an illegal event: {error.message}"
            raise RunFailed(sentence, code=RunFailure.INTERNAL) from error

    def _fail(self, error: RunFailed) -> None:
        """Stop the run for good: the code may swallow the exception, the run still fails."""
        self._ask_to_stop(Failure(code=error.code, message=error.message))
        raise error

    def _ask_to_stop(self, stop: Stop) -> None:
        self._has_asked_to_stop = True
        self._stop(stop)
