"""The agent's side of an attempt: what its Context says goes through here, in the agent's loop.

Here it waits: for room in the buffer, for the commit before a step, for the lease, for people and times. What is said,
and that nothing is said too late, is the `Transcript`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVarTuple

import msgspec

from runwire.agents.attempt import Begun, Place, Used
from runwire.agents.failures import RunEnded
from runwire.agents.payload import is_ref
from runwire.agents.steps import LEFT
from runwire.agents.tracing import UNTRACED, RunTrace
from runwire.errors import Fenced, RunFailed, RunwireError
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import (
    AgentResumed,
)
from runwire.protocol.replay import Emit, Replay, Step, Wait
from runwire.runtime.clock import now_ms
from runwire.runtime.endings import Ending, Failure, Park
from runwire.runtime.journal import Past, when_available
from runwire.runtime.lease import Lease
from runwire.runtime.leaves import Leaves
from runwire.runtime.outbox import Buffer
from runwire.runtime.transcript import OVER, Transcript, leave_wait
from runwire.storage.base import Answer, CancelRequest, Claim, EventLog

__all__ = ["HandOver", "Park", "Speaker", "Stop"]

Ts = TypeVarTuple("Ts")

# Of its deadline each attempt has at least this share: silence and a time in which nobody ran it look the same in
# the log, and a server that was down for an hour must not end every run. So a run that hangs and is lost each time
# meets its end within twice its deadline (`max_attempts` is five).
_LEAST_SHARE: Final = 0.2
_EVENTS_PER_TURN: Final = 32  # then the loop's other agents get their turn, and a cancel its chance


def _nothing(_used: Used) -> None:
    return


class HandOver(msgspec.Struct, frozen=True):
    """Another worker, or this one in another thread, is to go on with the run: no loss, whatever the reason."""

    reason: Literal["drained", "deploy"]


Stop = CancelRequest | Failure | HandOver | Park


class Speaker:
    """Says what one attempt says. The methods of `agents.attempt.Attempt` are for the agent's own tasks only.

    It may be made in any thread: reading a long log takes a while.

    Args:
        claim: the run.
        past: what the attempt starts from.
        buffer: takes the events.
        events: the log, for values that were put aside.
        lease: without it no step is executed, and the buffer stores nothing, so that none begins.
        stop: asks the control loop to stop the run; any thread.
        is_allowed: whether the person may still use tools; must be quick and callable from any thread.
        is_stopping: whether the control loop is ending the run, so that cancellations are its own; any thread.
        on_waiting: told whether every branch waits for a person or a time, when that changes; any thread.
        on_used: told what the code reports to have used; any thread.
        trace: learns of what is executed.
    """

    def __init__(
        self,
        claim: Claim,
        past: Past,
        *,
        buffer: Buffer,
        events: EventLog,
        lease: Lease,
        stop: Callable[[Stop], None],
        is_allowed: Callable[[str], bool],
        is_stopping: Callable[[], bool],
        on_waiting: Callable[[bool], None],
        on_used: Callable[[Used], None] = _nothing,
        trace: RunTrace = UNTRACED,
    ) -> None:
        self.trace = trace
        self._claim = claim
        self._buffer = buffer
        self._events = events
        self._lease = lease
        self._stop = stop
        self._has_asked_to_stop = False
        self._is_allowed = is_allowed
        self._is_run_stopping = is_stopping
        self._on_waiting = on_waiting
        self._on_used = on_used
        self._usage: dict[str, float] = {}  # in all, as the code has reported it
        self._leaves = Leaves(self._on_idle)
        self._loop: asyncio.AbstractEventLoop | None = None  # the agent's
        self._is_draining = False
        self._said = 0
        self._began_s = time.monotonic()
        self._past = past
        self._transcript = Transcript(claim, past, buffer)
        self._answers: dict[str, asyncio.Future[AgentResumed]] = {}  # that tasks wait for
        self._unheard: set[str] = set()  # of those, what was answered and has not reached its task
        self._at_boundary = 0  # leaves that wait to be handed over, and for nobody

    @property
    def places(self) -> Mapping[asyncio.Task[Any] | None, Place]:
        """Return the tasks that may speak, each with its place."""
        return self._leaves.places

    @property
    def duration_ms(self) -> int:
        """Return the run's running time, earlier attempts included."""
        return round((self._past.used_s + self._running_s()) * 1000)

    @property
    def is_stopping(self) -> bool:
        """Return whether the code is being unwound by us: then a cancellation is no word of its author's."""
        return self._transcript.is_over or self._has_asked_to_stop or self._buffer.is_closed or self._is_run_stopping()

    def seconds_left(self) -> float:
        """Return how long the run may still run; the time in which every branch waits does not count."""
        deadline_s = self._past.pinned.deadline_s
        left_s = max(deadline_s - self._past.charged_s, deadline_s * _LEAST_SHARE)
        return left_s - self._running_s()

    # ── control loop ─────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Say that the attempt begins.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        self._transcript.start()

    def drain(self) -> None:
        """Hand the run over when all its branches have come to a step boundary, or wait. Any thread."""
        self._is_draining = True

    def silence(self) -> None:
        """Take the word from the code: from now on its Context raises. Any thread."""
        self._transcript.silence()

    def conclude(self, ending: Ending) -> Ending:
        """Say the last words, after which nothing is said; return how the run really ends.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        return self._transcript.conclude(ending, duration_ms=self.duration_ms, usage=dict(self._usage))

    def open_waits(self) -> dict[str, int | None]:
        """Return the waits that nothing has ended, and when each is due (ms UTC). Any thread."""
        return self._transcript.open_waits()

    def park(self) -> list[str] | None:
        """Take the word from the code if all of it waits, and return the open waits; None: some of it goes on."""
        return self._transcript.park(lambda: self._leaves.is_idle and not self._unheard and not self._at_boundary)

    def resume(self, answer: Answer) -> None:
        """Learn how a wait ended; who waits for it goes on. Any thread; again or too late it does nothing."""
        ended = self._transcript.resume(answer, self._expect)
        if ended is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was replaced: nobody waits there
                self._loop.call_soon_threadsafe(self._wake, ended)

    def closing(self) -> list[Emit]:
        """Return what closes all that is open, if the run is cancelled while it is parked. Any thread."""
        return self._transcript.closing()

    def part(self) -> None:
        """Let go of what knows this, for the run is over here. What still calls it is refused."""
        self._leaves.part()

    # ── agent loop ───────────────────────────────────────────────────────────────────────────────────────

    def enter(self) -> None:
        """Give the word to the running task, the agent's own."""
        self._loop = asyncio.get_running_loop()
        self._leaves.enter()

    def fork(self, places: Mapping[asyncio.Task[Any], Place]) -> None:
        """Give the word to branches of the running task until they end."""
        self._leaves.fork(places)

    def report(self, used: Used) -> None:
        """Add what the code has used to the run's sum, and tell of it if it is new."""
        for name in ("input_tokens", "output_tokens", "cost"):
            self._usage[name] = self._usage.get(name, 0) + getattr(used, name)
        if used.is_new:
            self._on_used(used)
            self.trace.used(used)

    def stray(self) -> RunwireError:
        """Return what to raise in a task that has no place."""
        if self._transcript.is_over:
            return RunEnded(OVER)
        error = RunFailed(
            "The Context was used from another task (create_task, gather, TaskGroup or wait_for). Use it in the "
            "agent's own task, or in branches of ctx.gather; for a time limit use asyncio.timeout.",
            code=RunFailure.PARALLEL_WITHOUT_GATHER,
        )
        self._ask_to_stop(Failure(code=error.code, message=error.message))
        return error

    async def say(
        self, speech: Callable[[Replay, *Ts], list[Emit]], *args: *Ts, blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Emit what the speech adds to the log; waits only for room in the buffer."""
        try:
            if self._must_wait():
                await self._turn()
            self._transcript.speak(speech, args, blobs)
        except (Fenced, RunFailed) as error:
            if isinstance(error, RunFailed):  # for good: the code may swallow the exception, the run still fails
                self._ask_to_stop(Failure(code=error.code, message=error.message))
            # Code that tries again on any error would block its loop: here its cancellation reaches it.
            await asyncio.sleep(0)
            raise

    async def begin(self, speech: Callable[[Replay], Begun], *, blobs: Mapping[str, bytes] | None = None) -> Begun:
        """Emit the beginning of a sub-agent or of branches; return what the speech returned."""
        begun: list[Begun] = []
        await self.say(_keeping(speech, begun), blobs=blobs)
        return begun[0]

    async def begin_step(
        self,
        speech: Callable[[Replay], Step],
        *,
        blobs: Mapping[str, bytes] | None = None,
        pause_s: float | None = None,
    ) -> Step:
        """Begin a step, or after a pause its next try; its beginning is committed when this returns."""
        begun: list[Step] = []
        keeping = _keeping(speech, begun)
        try:
            if pause_s is not None:
                await asyncio.sleep(pause_s)
            await self._boundary()
            await self.say(keeping, blobs=blobs)
            if begun[0].recorded is None and begun[0].lost is None:
                # Committed before the call: a crash can never hide that a side effect may have happened.
                await self._buffer.flushed()
                await self._lease.wait_valid()
        except asyncio.CancelledError:
            # Also of a step that waited for its turn: a replay, which may not wait there, must come to the same limit.
            self.cut(lambda replay: [*([] if begun else keeping(replay)), *_left(replay, begun[0])], blobs)
            raise
        return begun[0]

    async def end_step(
        self, speech: Callable[[Replay], list[Emit]], *, blobs: Mapping[str, bytes] | None = None, is_final: bool = True
    ) -> None:
        """Emit the end of a step or sub-agent; a run that is drained is handed over here."""
        if not is_final:
            await self._buffer.flushed()  # what it said is taken back by its seqs
        await self.say(speech, blobs=blobs)
        if self._is_draining and self._leaves.is_alone:
            # Else it goes on to its next step: nobody's time limit may come between a result and who gets it.
            await self._boundary()

    def cut(self, speech: Callable[[Replay], list[Emit]], blobs: Mapping[str, bytes] | None = None) -> None:
        """Emit the end of what the agent stopped waiting for, unless the run is being unwound.

        Never waits: whoever cancels the agent may do so again at each point where it would.
        """
        if self.is_stopping:  # who ends the run closes it, or the next attempt enters it again
            return
        try:
            self._transcript.speak(speech, (), blobs)
        except Fenced:
            return  # it was stopped meanwhile
        except RunFailed as error:
            self._ask_to_stop(Failure(code=error.code, message=error.message))

    async def wait(
        self,
        scope: str,
        kind: Literal["approval", "input", "timer"],
        *,
        prompt: Any = None,
        call: str | None = None,
        after_s: float | None = None,
        blobs: Mapping[str, bytes] | None = None,
    ) -> AgentResumed:
        """Wait for a person or a time; return how it ended."""
        answer: asyncio.Future[AgentResumed] = asyncio.get_running_loop().create_future()
        due_at = None if after_s is None else now_ms() + round(after_s * 1000)
        begun: list[Wait] = []

        def begin(replay: Replay) -> list[Emit]:
            wait = replay.begin_wait(scope, kind, prompt=prompt, call=call, due_at=due_at)
            begun.append(wait)
            if wait.recorded is None and not self._transcript.was_left(wait.id):
                self._answers[wait.id] = answer  # under the lock: the answer may come as soon as it is let go
            return wait.emits

        try:
            await self.say(begin, blobs=blobs)
        except asyncio.CancelledError:
            # It waited for its turn. A replay, which may not wait there, must come to the same limit.
            self.cut(lambda replay: [*([] if begun else begin(replay)), *leave_wait(replay, scope, begun[0])], blobs)
            for left in begun:  # nobody waits for it: an answer would count as a task that goes on
                self._answers.pop(left.id, None)
            raise
        wait = begun[0]
        recorded = wait.recorded
        if recorded is not None and recorded.by != "ended" and not self._transcript.was_left(wait.id):
            return recorded
        try:
            if wait.id not in self._answers:
                # The agent did not have the answer then: it waits until the same limit ends that.
                await asyncio.get_running_loop().create_future()
            return await self._answered(wait.id, answer)
        except asyncio.CancelledError:
            self.cut(lambda replay: leave_wait(replay, scope, wait))
            raise

    def derive(self, scope: str, what: str) -> str:
        """Return 64 hex digits that are the same whenever the run is replayed."""
        return self._transcript.derive(scope, what)

    async def resolve(self, value: Any) -> Any:
        """Return a recorded field as it was given."""
        if not is_ref(value):
            return value
        stored = await when_available(lambda: self._events.run_blob(self._claim.run, value["$ref"]))
        return msgspec.json.decode(stored)

    async def _answered(self, wait: str, answer: asyncio.Future[AgentResumed]) -> AgentResumed:
        self._leaves.pause()
        try:
            return await answer
        finally:
            del self._answers[wait]
            if answer.cancelled() or not answer.done():  # else who woke us has counted
                self._leaves.go_on()

    def _expect(self, wait: str) -> None:
        if wait in self._answers:
            self._unheard.add(wait)

    def _wake(self, ended: AgentResumed) -> None:
        answer = self._answers.get(ended.wait)
        if answer is not None and not answer.done():
            answer.set_result(ended)
            self._leaves.go_on()
        self._unheard.discard(ended.wait)  # only now: before, the code is not seen to go on

    def _on_idle(self, is_idle: bool) -> None:
        if is_idle and self._is_draining and self._at_boundary:
            self._ask_to_stop(HandOver("drained"))
        self._on_waiting(is_idle)

    async def _boundary(self) -> None:
        """Go on if the run may begin another step; stop here if not."""
        stopped = asyncio.get_running_loop().create_future()  # never set: until the stop cancels this task
        if not self._is_allowed(self._claim.user):
            self._ask_to_stop(CancelRequest(by="revoked"))
            await stopped
        elif self._is_draining:
            # Handed over when the last branch has come to its boundary; none is cut off in a step for the others.
            self._at_boundary += 1
            self._leaves.pause()
            try:
                await stopped
            finally:  # perhaps by a limit of the author's, and the branch goes on
                self._at_boundary -= 1
                self._leaves.go_on()

    def _must_wait(self) -> bool:
        """Count what is about to be said; return whether others have their turn before it, or it waits for room.

        Before something is said and never after it: between a result that is in the log and the agent that gets it
        nobody's time limit may come, or a replay, which is given the result, would go another way.
        """
        self._said += 1
        return self._said % _EVENTS_PER_TURN == 0 or self._buffer.is_full

    async def _turn(self) -> None:
        if self._transcript.is_over:
            raise RunEnded(OVER)
        await asyncio.sleep(0)
        await self._buffer.room()

    def _running_s(self) -> float:
        return time.monotonic() - self._began_s - self._leaves.idle_s()

    def _ask_to_stop(self, stop: Stop) -> None:
        self._has_asked_to_stop = True
        self._stop(stop)


def _keeping(speech: Callable[[Replay], Begun], begun: list[Begun]) -> Callable[[Replay], list[Emit]]:
    """Make a speech of what begins something, and keep what it returned."""

    def emits(replay: Replay) -> list[Emit]:
        begun.append(speech(replay))
        return begun[0].emits

    return emits


def _left(replay: Replay, step: Step) -> list[Emit]:
    return replay.end_step(step, ok=False, error=LEFT, duration_ms=0)
