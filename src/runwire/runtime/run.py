"""One attempt of one run, seen from the control loop: start the code, wait, end it visibly.

::

    begin ─▶ the code runs in the agents' loop ─┬─ it ends ───────────────────────────▶ last words ─▶ committed
                                                ├─ cancel, deadline ─ cancelled, grace ─▶ last words ─▶ committed
                                                ├─ its loop is blocked ────────────────▶ last words ─▶ committed
                                                ├─ hand-over ─ silenced, grace, flushed ▶ released
                                                ├─ it waits ── silenced, grace, flushed ▶ parked
                                                └─ fenced ─────────────────────────────▶ stopped, silently

The attempt says its first word before its code begins, and without the agents' loop: so the log always tells why
it began, by a loss or by a hand-over, also if that loop is blocked and it never comes to do anything.

There is one place where a terminal event is written, `_conclude`, and it is reached once. A fault of ours before
or in it leaves no run behind: then the run ends from its log alone, and if that cannot be read, without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

import structlog

from runwire.agents.attempt import Used
from runwire.agents.context import Context, User
from runwire.agents.load import Agents
from runwire.agents.payload import plain
from runwire.agents.plain import Agent
from runwire.agents.tracing import UNTRACED, RunTrace
from runwire.errors import Fenced, PayloadError, RunFailed
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import AgentStarted, EventType, StoredEvent, decode_data, emitted
from runwire.protocol.ids import new_id
from runwire.protocol.replay import Emit, Replay, lost_attempts_without_progress
from runwire.resilience.breakers import Breakers, Kind
from runwire.runtime.clock import now_ms
from runwire.runtime.code import Code
from runwire.runtime.endings import Ending, Failure, Park, Returned, failure_of, last_words
from runwire.runtime.journal import Past, is_short, read_past, when_available
from runwire.runtime.lease import Lease
from runwire.runtime.limits import WorkerSettings
from runwire.runtime.loop_thread import LoopThread
from runwire.runtime.outbox import Buffer, Lost, Outbox
from runwire.runtime.speech import HandOver, Speaker, Stop
from runwire.runtime.spending import MICRO, Spending
from runwire.storage import base
from runwire.storage.base import CancelRequest, Claim, OpenedWait, Signal, Storage

__all__ = ["Run"]

_log = structlog.get_logger(__name__)


class Run:
    """An attempt that this worker holds. Made and supervised on the control loop.

    Args:
        claim: what was claimed.
        agents: what this worker has; the run's own is found by its name, and so are sub-agents.
        user: who started it, as known now; the first attempt pins it.
        thread: where the code runs.
        outbox: takes what it says.
        storage: the database.
        settings: limits and times.
        is_allowed: whether a user may still use tools; called in the agent's loop.
        lease: on the run, since it was claimed.
        on_due: told when a wait of the run is due (ms UTC), as soon as it has begun.
        breakers: of what agents ask.
        spending: told what they use.
        trace: of this attempt.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        agents: Agents,
        user: User,
        thread: LoopThread,
        outbox: Outbox,
        storage: Storage,
        settings: WorkerSettings,
        is_allowed: Callable[[str], bool],
        lease: Lease,
        on_due: Callable[[int], None],
        breakers: Breakers,
        spending: Spending,
        trace: RunTrace = UNTRACED,
    ) -> None:
        self.claim = claim
        self.lease = lease
        self.is_late = False  # it is past its deadline
        self.has_left = False  # it was handed over or parked: another worker may go on with it at once
        self.waits: dict[str, int | None] = {}  # that are in the log and open, as far as is known; when each is due
        self._is_own = claim.agent.startswith(base.RESERVED)  # of the process itself, and nobody's figure
        self._on_due = on_due
        self._breakers = breakers
        self._spending = spending
        self._trace = trace
        self._code = Code(self, thread, grace_s=settings.grace_s, on_over=self._learn)
        self._agents = agents
        self._user = user
        self._outbox = outbox
        self._storage = storage
        self._settings = settings
        self._is_allowed = is_allowed
        self._control = asyncio.get_running_loop()
        self._overtaken = asyncio.Event()  # a wait was answered before the run's end closed it
        self._buffer = self._open_buffer(claim.ordinal)
        self._speaker: Speaker | None = None  # from when the code begins until the run is over here
        self._is_draining = False
        self._lost: Lost | None = None
        self._stop: Stop | None = None
        self._parked_waits: list[str] = []  # what it waits for when it parks
        self._is_leaving = False  # what ends this attempt is on its way to the database: its outcome alone decides
        self._news = asyncio.Event()  # stopped, lost, or the code has ended
        self._deadline: asyncio.TimerHandle | None = None
        self._parking: asyncio.TimerHandle | None = None
        self._fault = "The server could not run this."  # said if bringing the run to its end fails

    # ── control loop ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def thread(self) -> LoopThread:
        """Return where the code runs, or is to run."""
        return self._code.thread

    @thread.setter
    def thread(self, thread: LoopThread) -> None:
        assert not self.has_begun, "code cannot move"
        self._code.thread = thread

    @property
    def abandoned(self) -> int:
        """Return how much code and how many blocking calls of it go on although the run has ended."""
        return self._code.abandoned

    @property
    def is_lost(self) -> bool:
        """Return whether the run is known not to be this attempt's any more."""
        return self._lost is not None

    @property
    def is_held(self) -> bool:
        """Return whether anything can still be told to the run: it is neither leaving this worker nor lost."""
        return not self._lost and not self._is_leaving and not isinstance(self._stop, HandOver | Park)

    @property
    def has_begun(self) -> bool:
        """Return whether the code was given to its loop."""
        return self._code.has_begun

    def stop(self, stop: Stop) -> None:
        """End the run this way, unless it is ending already: the first word counts."""
        if self._stop is None and not self._code.is_over:
            self._stop = stop
            self._news.set()

    def block(self) -> None:
        """Fail the run because it blocks its loop, at once: its code cannot be told."""
        message = "The agent blocked its event loop. Use await, or run blocking code as a plain function with ctx.tool."
        if not self._code.is_over and not isinstance(self._stop, CancelRequest | HandOver | Park):
            self._stop = Failure(code=RunFailure.LOOP_BLOCKED, message=message)
        self._news.set()
        self._code.block()

    def lose(self, lost: Lost) -> None:
        """Stop silently: the run is another attempt's now, or the database cannot hold what it says."""
        self._lost = self._lost or lost
        self._buffer.close()
        self._news.set()

    def drain(self) -> None:
        """Hand the run over at its next step boundary; one that waits is put aside at once."""
        self._is_draining = True
        if not self._put_aside() and self._speaker:
            self._speaker.drain()

    def move(self) -> None:
        """Let the run go on elsewhere: nobody was lost."""
        if not self._put_aside():
            self.stop(HandOver("drained"))

    def hear(self, signal: Signal) -> None:
        """Learn what others want of the run that is not lost."""
        if not self.is_held:
            return  # it left when this was asked
        for answer in signal.answers:
            if answer.wait in self.waits and self._speaker:
                del self.waits[answer.wait]
                self._speaker.resume(answer)
        if signal.cancel:
            self.stop(signal.cancel)

    def renew(self, sent_s: float) -> None:
        """Learn that its lease was renewed by a call that was sent then."""
        was_valid = self.lease.is_valid
        self.lease.renew(sent_s)
        if not was_valid:
            self._outbox.notify(self._buffer)  # it may have held back what it has

    async def supervise(self) -> None:
        """Run the attempt to its end: the run is ended, handed over or lost when this returns. Raises nothing."""
        try:
            for work in (self._attempt, self._end_broken, self._end_bare):
                if await self._is_done(work):
                    return
        finally:
            self._clear_timers()
            self._buffer.close()
            self._part()

    async def _is_done(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do what brings the run to its end; return whether it did."""
        claim = self.claim
        try:
            await work()
        except Fenced:
            if not isinstance(self._lost, base.Unstorable):
                _log.info("run_fenced", run=claim.run, attempt=claim.attempt)
                return True
            _log.error("run_unstorable", run=claim.run, attempt=claim.attempt, reason=self._lost.reason)
            self._fault = "What the agent said could not be stored."
            self._lost = None
            self._buffer = self._open_buffer(self._buffer.ordinal)
            return False
        except Exception:  # the top of the run: a fault of ours
            _log.exception("run_supervision_failed", run=claim.run, attempt=claim.attempt)
            return False
        return True

    async def _attempt(self) -> None:
        if self.claim.cancel:
            await self._end_unplayed(self.claim.cancel)
        elif (agent := self._agents.get(self.claim.agent)) is None:
            message = f"No worker has the agent {self.claim.agent!r}."
            await self._end_unplayed(Failure(code=RunFailure.AGENT_UNAVAILABLE, message=message))
        else:
            await self._play(agent)

    async def _end_broken(self) -> None:
        """End the run from its log, because bringing it to its end failed."""
        await self._let_go()
        await self._buffer.flushed()
        await self._end_unplayed(Failure(code=RunFailure.INTERNAL, message=self._fault))

    async def _end_bare(self) -> None:
        """End the run without its log, which cannot be read or continued: what is open there stays open."""
        ending = Failure(code=RunFailure.INTERNAL, message=self._fault)
        words = last_words(ending, Replay(run="", attempt=0, logged=(), new_id=new_id), duration_ms=0)
        self._is_leaving = True
        self._buffer.put(words.emits, end=words.end)
        await self._buffer.flushed()
        self._log_end(ending)

    async def _play(self, agent: Agent) -> None:
        fenced: Fenced | None = None
        self._set_deadline(self._settings.deadline_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                beginning = tasks.create_task(self._begin(agent))
                await self._news.wait()
                beginning.cancel()  # told to stop before the code began; else it is over already
            self._clear_timers()
            if self._lost:
                pass
            elif isinstance(self._stop, HandOver):
                await self._hand_over(self._stop)
            elif isinstance(self._stop, Park):
                await self._park()
            else:
                await self._end()
        except Fenced as error:
            fenced = error
        await self._let_go()
        if fenced or self._lost:
            raise fenced or Fenced("the run was lost")

    async def _end(self) -> None:
        """End the run: as its code did, or as it was told to."""
        if self._stop is not None:
            await self._code.unwind()
        ending = self._stop or self._code.result  # looked at again: it may have been found to block its loop
        assert not isinstance(ending, HandOver | Park), "ended elsewhere"
        if ending is None:
            sentence = "The agent's task was cancelled from inside."
            ending = Failure(code=RunFailure.AGENT_ERROR, message=sentence, is_raised=True)
        await self._conclude(ending)

    async def _conclude(self, ending: Ending) -> None:
        if self._speaker is None:  # the code has not begun
            await self._end_unplayed(ending)
            return
        self._is_leaving = True
        real = self._speaker.conclude(ending)
        await self._ended()
        self._log_end(real)

    async def _ended(self) -> None:
        """Wait until the run's last words are committed."""
        if not self._buffer.is_closing_waits:
            await self._buffer.flushed()
            return
        fenced: Fenced | None = None
        async with asyncio.TaskGroup() as tasks:
            mending = tasks.create_task(self._leave_out_answered())
            try:
                await self._buffer.flushed()
            except Fenced as error:  # out of the group it would come in a group
                fenced = error
            mending.cancel()
        if fenced:
            raise fenced

    async def _leave_out_answered(self) -> None:
        """Close only the waits that are open, whenever an answer came before the end that would have closed it."""
        while True:
            await self._overtaken.wait()
            self._overtaken.clear()
            logged = await when_available(lambda: self._storage.events.read_run(self.claim.run))
            self._buffer.leave_out(
                {decode_data(event).wait for event in logged if event.type == EventType.AGENT_RESUMED}
            )

    async def _hand_over(self, stop: HandOver) -> None:
        """Let somebody else go on: what was said is committed, nothing is closed or taken back."""
        self._silence()
        await self._code.leave()
        await self._buffer.flushed()
        claim = self.claim
        await when_available(lambda: self._storage.runs.release(claim.run, claim.attempt, reason=stop.reason))
        self.has_left = True
        self._trace.end("handed_over")
        _log.info("run_handed_over", run=claim.run, attempt=claim.attempt, reason=stop.reason)

    async def _park(self) -> None:
        """Put the run aside until somebody answers or a time comes; nothing is closed or taken back.

        An answer that comes meanwhile is not lost: the parking write finds its wait closed, and the run goes on.
        """
        speaker, claim = self._speaker, self.claim
        assert speaker is not None, "only its code can wait"
        waits = self._parked_waits
        await self._code.leave()
        await self._buffer.flushed()
        now = now_ms()
        closing = [emitted(emit.data, ts=now, scope=emit.scope) for emit in speaker.closing()]
        ordinal = self._buffer.ordinal
        is_parked = await when_available(
            lambda: self._storage.runs.park(claim.run, claim.attempt, ordinal=ordinal, waits=waits, closing=closing)
        )
        if not is_parked:
            raise Fenced("this attempt does not own the run any more")
        self.has_left = True
        self._trace.end("parked")
        _log.info("run_parked", run=claim.run, attempt=claim.attempt, waits=len(waits))

    async def _let_go(self) -> None:
        """Make sure that the code has ended, or count it as abandoned; its Context is dead already."""
        self._silence()
        await self._code.let_go()
        if self.abandoned:
            _log.warning("agent_abandoned", run=self.claim.run, agent=self.claim.agent, calls=self._code.calls)

    async def _end_unplayed(self, ending: Ending) -> None:
        """End the run from its log alone, without executing its code."""
        logged = await when_available(lambda: self._storage.events.read_run(self.claim.run))
        replay = Replay(run=self.claim.run, attempt=self.claim.attempt, logged=logged, new_id=new_id)
        if replay.is_ended:  # by words of ours whose commit was not seen
            return
        emits: list[Emit] = []
        if not _has_started(logged):
            # DESIGN §6: agent_started comes first if any worker ever appended, and this one does.
            started = AgentStarted(agent=self.claim.agent, message=self.claim.message)
            emits = replay.start(started, reason="worker_lost")
        if isinstance(ending, Failure) and ending.is_raised:
            ending = Failure(code=ending.code, message=ending.message, error_id=ending.error_id)
        words = last_words(ending, replay, duration_ms=0)
        self._is_leaving = True
        self._buffer.put([*emits, *words.emits], blobs=words.blobs, end=words.end)
        await self._ended()
        self._log_end(words.ending)

    async def _begin(self, agent: Agent) -> None:
        """Read what the attempt starts from, say its first word, and start its code."""
        claim, settings = self.claim, self._settings
        past = await read_past(
            self._storage, claim, user=self._user, deadline_s=settings.deadline_s, version=self._agents.version
        )
        try:
            if is_short(past.logged):  # it goes through the whole log of the run
                speaker = self._make_speaker(past)
            else:
                speaker = await asyncio.to_thread(self._make_speaker, past)
            await self.lease.wait_valid()  # claimed by a call that took longer than the lease
            speaker.start()
        except RunFailed as error:
            self.stop(Failure(code=error.code, message=error.message))
            return
        except Fenced:
            return  # `lose` has said so
        if self._is_draining:
            speaker.drain()
        self._speaker = speaker
        self._trace.begin(past.message, past.logged)
        self._expect(speaker.open_waits())
        self._set_deadline(speaker.seconds_left())
        context = Context(
            speaker,
            run=claim.run,
            thread=claim.thread,
            user=past.user,
            history=past.history,
            agents=self._agents.get,
            breakers=self._breakers,
        )
        self._code.start(partial(self._execute, speaker, agent, context, past.message))

    def _make_speaker(self, past: Past) -> Speaker:
        """Make what speaks for the code, if there is to be another attempt. Any thread."""
        claim, limit = self.claim, self._settings.max_attempts
        if len(claim.lost) >= limit:
            lost = lost_attempts_without_progress(past.logged, claim.attempt, claim.lost)
            if lost >= limit:
                message = f"The server was lost {lost} times while running this, without progress."
                raise RunFailed(message, code=RunFailure.WORKER_LOST)
        return Speaker(
            claim,
            past,
            buffer=self._buffer,
            events=self._storage.events,
            lease=self.lease,
            stop=self._request_stop,
            is_allowed=self._is_allowed,
            is_stopping=lambda: self._stop is not None or self._lost is not None,
            on_waiting=self._report_waiting,
            on_used=self._report_used,
            trace=self._trace,
        )

    def _silence(self) -> None:
        if self._speaker:
            self._speaker.silence()

    def _part(self) -> None:
        """Let go of what knows this run, so that it is freed when nobody holds it any more.

        It and what speaks for it know each other. Left to the garbage collector, which rarely comes by, hundreds of
        ended runs would lie there with all that they have read of their logs. Code that goes on although the run has
        ended keeps what speaks for it, and hears from it that the run is over.
        """
        if self._speaker:
            self._speaker.part()
        self._speaker = None
        self._code.part()

    def _set_deadline(self, left_s: float) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._control.call_later(max(left_s, 0), self._meet_deadline)

    def _meet_deadline(self) -> None:
        self.is_late = True
        message = "The run took longer than its deadline."
        self.stop(Failure(code=RunFailure.DEADLINE_EXCEEDED, message=message))

    def _wait(self, is_waiting: bool) -> None:
        """Learn whether every branch of the code waits: such time is not running time."""
        if self._stop is not None or self._lost or self._speaker is None:
            return
        self._clear_timers()
        if not is_waiting:
            self._set_deadline(self._speaker.seconds_left())
        elif self._is_draining:
            self._put_aside()
        else:
            self._parking = self._control.call_later(self._settings.park_after_s, self._put_aside)

    def _put_aside(self) -> bool:
        """Park the run if all of its code waits; return whether it did."""
        if self._stop is not None or self._lost or self._code.is_over or self._speaker is None:
            return False
        waits = self._speaker.park()
        if waits is None:
            return False
        self._parked_waits = waits
        self.stop(Park())
        return True

    def _expect(self, waits: dict[str, int | None]) -> None:
        """Learn of waits that are in the log."""
        self.waits |= waits
        for due_at in waits.values():
            if due_at is not None:
                self._on_due(due_at)

    def _open(self, waits: Sequence[OpenedWait]) -> None:
        self._expect({wait.wait: wait.due_at for wait in waits})

    def _clear_timers(self) -> None:
        for timer in (self._deadline, self._parking):
            if timer:
                timer.cancel()
        self._deadline = self._parking = None

    def _open_buffer(self, ordinal: int) -> Buffer:
        buffer = self._outbox.open(
            self.claim, ordinal=ordinal, lease=self.lease, on_lost=self.lose, on_overtaken=self._overtaken.set
        )
        buffer.on_waits = self._open
        return buffer

    def _learn(self) -> None:
        self._news.set()

    def _log_end(self, ending: Ending) -> None:
        claim = self.claim
        if isinstance(ending, Failure):
            self._trace.end("failed", error=ending.code)
            _log.warning(
                "run_failed",
                run=claim.run,
                agent=claim.agent,
                attempt=claim.attempt,
                code=ending.code,
                error_id=ending.error_id,
            )
            return
        if isinstance(ending, Returned):
            self._trace.end("completed", output=ending.output)
        else:
            self._trace.end("cancelled")
        event: Literal["run_cancelled", "run_completed"]
        event = "run_cancelled" if isinstance(ending, CancelRequest) else "run_completed"
        say = _log.debug if self._is_own else _log.info
        say(event, run=claim.run, agent=claim.agent, attempt=claim.attempt)

    # ── agent loop ───────────────────────────────────────────────────────────────────────────────────────

    async def _execute(self, speaker: Speaker, agent: Agent, context: Context, message: str) -> None:
        """Run the user's code and tell the control loop how it ended, whatever it does."""
        speaker.enter()
        result: Ending | None = None
        breaker = None if self._is_own else self._breakers.set_for(Kind.AGENT, self.claim.agent)
        try:
            with self._trace.code(), breaker.acquire() if breaker else contextlib.nullcontext():
                result = await _call(agent, context, message)
        except (asyncio.CancelledError, Fenced):
            result = None  # unwound; a stop says why, or the code cancelled itself
        except BaseException as raised:  # the user's code; its SystemExit must not end our thread
            result = failure_of(raised)
            if not isinstance(raised, RunFailed):  # of ours, the sentence says all
                _log.warning("agent_raised", run=self.claim.run, error_id=result.error_id, exc_info=raised)
        finally:
            with contextlib.suppress(RuntimeError):  # the control loop has ended
                self._control.call_soon_threadsafe(self._code.finish, result)

    def _request_stop(self, stop: Stop) -> None:
        self._control.call_soon_threadsafe(self.stop, stop)

    def _report_used(self, used: Used) -> None:
        tokens, micros = used.input_tokens + used.output_tokens, math.ceil(used.cost * MICRO)
        self._spending.note(self.claim.user, tokens=tokens, micros=micros, stop=self.stop)

    def _report_waiting(self, is_waiting: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the control loop has ended
            self._control.call_soon_threadsafe(self._wait, is_waiting)


async def _call(agent: Agent, context: Context, message: str) -> Ending:
    output = await agent(context, message)
    try:
        return Returned(output=plain(output))
    except PayloadError as error:
        code = error.code if error.code == RunFailure.PAYLOAD_TOO_LARGE else RunFailure.NO_RESULT
        sentence = f"What the agent returned cannot be stored: {error.message}"
        return Failure(code=code, message=sentence, is_raised=True)


def _has_started(logged: list[StoredEvent]) -> bool:
    return any(event.type == "agent_started" for event in logged)
