"""One attempt of one run, seen from the control loop: start the code, wait, end it visibly.

::

    start ─▶ the code runs in the agents' loop ─┬─ it ends ───────────────────────────▶ last words ─▶ committed
                                                ├─ cancel, deadline ─ cancelled, grace ─▶ last words ─▶ committed
                                                ├─ its loop is blocked ────────────────▶ last words ─▶ committed
                                                ├─ hand-over ─ silenced, flushed ──────▶ released
                                                └─ fenced ─────────────────────────────▶ stopped, silently

There is one place where a terminal event is written, `_conclude`, and it is reached once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Literal

import structlog

from runwire.agents.context import Context, User
from runwire.agents.payload import plain
from runwire.agents.plain import Agent
from runwire.errors import Fenced, PayloadError, RunFailed
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import AgentStarted, StoredEvent
from runwire.protocol.ids import new_id
from runwire.protocol.replay import Emit, Replay, lost_attempts_without_progress
from runwire.runtime.endings import Ending, Failure, Returned, failure_of, last_words
from runwire.runtime.journal import read_past, when_available
from runwire.runtime.limits import WorkerSettings
from runwire.runtime.loop_thread import LoopThread
from runwire.runtime.outbox import Buffer, Lost, Outbox
from runwire.runtime.speech import HandOver, Speaker, Stop
from runwire.storage import base
from runwire.storage.base import CancelRequest, Claim, Storage

__all__ = ["Run"]

_log = structlog.get_logger(__name__)


class Run:
    """An attempt that this worker holds. Made and supervised on the control loop.

    Args:
        claim: what was claimed.
        agent: the code; None: no worker here has it.
        version: of the code, pinned by the first attempt.
        user: who started it, as known now; the first attempt pins it.
        thread: where the code runs.
        outbox: takes what it says.
        storage: the database.
        settings: limits and times.
        is_allowed: whether a user may still use tools; called in the agent's loop.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        agent: Agent | None,
        version: str | None,
        user: User,
        thread: LoopThread,
        outbox: Outbox,
        storage: Storage,
        settings: WorkerSettings,
        is_allowed: Callable[[str], bool],
    ) -> None:
        self.claim = claim
        self.thread = thread
        self.is_abandoned = False  # its code goes on although the run has ended
        self._agent = agent
        self._version = version
        self._user = user
        self._outbox = outbox
        self._storage = storage
        self._settings = settings
        self._is_allowed = is_allowed
        self._control = asyncio.get_running_loop()
        self._buffer = self._open_buffer(claim.ordinal)
        self._lock = threading.Lock()  # of the next two, which both loops touch
        self._speaker: Speaker | None = None
        self._is_closed = False  # the code may not begin to speak any more
        self._is_draining = False
        self._lost: Lost | None = None
        self._stop: Stop | None = None
        self._result: Ending | None = None  # how the code ended by itself
        self._news = asyncio.Event()  # stopped, lost, or the code has ended
        self._unwound = asyncio.Event()  # the code has ended, or is not waited for
        self._is_code_over = False
        self._deadline: asyncio.TimerHandle | None = None
        self._is_blocked = False
        self._has_waited = False  # the code had its grace

    # ── control loop ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_held(self) -> bool:
        """Return whether the run is still this attempt's, as far as is known: neither given back nor lost."""
        return not self._lost and not isinstance(self._stop, HandOver)

    @property
    def is_late(self) -> bool:
        """Return whether the run is past its deadline."""
        return self._deadline is not None and self._control.time() >= self._deadline.when()

    def stop(self, stop: Stop) -> None:
        """End the run this way, unless it is ending already: the first word counts."""
        if self._stop is None and not self._is_code_over:
            self._stop = stop
            self._news.set()

    def block(self) -> None:
        """Fail the run because it blocks its loop, at once: its code cannot be told."""
        message = "The agent blocked its event loop. Use await, or run blocking code as a plain function with ctx.tool."
        if not self._is_code_over and not isinstance(self._stop, CancelRequest | HandOver):
            self._stop = Failure(code=RunFailure.LOOP_BLOCKED, message=message)
        self._is_blocked = True
        self._news.set()
        self._unwound.set()

    def lose(self, lost: Lost) -> None:
        """Stop silently: the run is another attempt's now, or the database cannot hold what it says."""
        self._lost = self._lost or lost
        self._buffer.close()
        self._news.set()

    def drain(self) -> None:
        """Hand the run over at its next step boundary."""
        with self._lock:
            self._is_draining = True
            if self._speaker:
                self._speaker.drain()

    async def supervise(self) -> None:
        """Run the attempt to its end: the run is ended, handed over or lost when this returns."""
        try:
            if self.claim.cancel:
                await self._end_unplayed(self.claim.cancel)
            elif self._agent is None:
                message = f"No worker has the agent {self.claim.agent!r}."
                await self._end_unplayed(Failure(code=RunFailure.AGENT_UNAVAILABLE, message=message))
            else:
                await self._play()
        except Fenced:
            _log.info("run_fenced", run=self.claim.run, attempt=self.claim.attempt)
        finally:
            self._buffer.close()

    async def _play(self) -> None:
        fenced: Fenced | None = None
        self._set_deadline(self._settings.deadline_s)
        self.thread.start(self, self._execute)
        try:
            await self._news.wait()
            if isinstance(self._stop, HandOver) and not self._lost:
                await self._hand_over(self._stop)
            elif not self._lost:
                await self._end()
        except Fenced as error:
            fenced = error
        finally:
            if self._deadline:
                self._deadline.cancel()
        await self._let_go()
        if isinstance(self._lost, base.Unstorable):
            await self._end_unstorable(self._lost)
        elif fenced:
            raise fenced

    async def _end(self) -> None:
        """End the run: as its code did, or as it was told to."""
        if self._stop is not None:
            self.thread.cancel(self)
            await self._grace()
        ending = self._stop or self._result
        assert not isinstance(ending, HandOver), "handed over elsewhere"
        if ending is None:
            sentence = "The agent's task was cancelled from inside."
            ending = Failure(code=RunFailure.AGENT_ERROR, message=sentence, is_raised=True)
        await self._conclude(ending)

    async def _conclude(self, ending: Ending) -> None:
        speaker = self._close()
        if speaker is None:  # the code never came to speak
            await self._end_unplayed(ending)
            return
        speaker.conclude(ending)
        await self._buffer.flushed()
        self._log_end(ending)

    async def _hand_over(self, stop: HandOver) -> None:
        """Let somebody else go on: what was said is committed, nothing is closed or taken back."""
        speaker = self._close()
        if speaker:
            speaker.silence()
        self.thread.cancel(self)
        await self._buffer.flushed()
        claim = self.claim
        await when_available(lambda: self._storage.runs.release(claim.run, claim.attempt, reason=stop.reason))
        _log.info("run_handed_over", run=claim.run, attempt=claim.attempt, reason=stop.reason)

    async def _let_go(self) -> None:
        """Make sure that the code has ended, or count it as abandoned; its Context is dead already."""
        speaker = self._close()
        if speaker:
            speaker.silence()
        if self.thread.is_retired and not self._is_blocked:
            return  # it ends with its thread
        if not self._is_code_over and not self._has_waited:
            self.thread.cancel(self)
            await self._grace()
        self.thread.cancel(self, with_children=True)
        if not self._is_code_over:
            self.is_abandoned = True
            _log.warning("agent_abandoned", run=self.claim.run, agent=self.claim.agent)

    async def _grace(self) -> None:
        self._has_waited = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_s):
                await self._unwound.wait()

    async def _end_unstorable(self, lost: base.Unstorable) -> None:
        """Fail a run whose words the database cannot hold; what it holds of it is closed."""
        ordinal = self._buffer.ordinal
        failure = Failure(code=RunFailure.INTERNAL, message="What the agent said could not be stored.")
        _log.error("run_unstorable", run=self.claim.run, error_id=failure.error_id, reason=lost.reason)
        self._lost = None
        self._buffer = self._open_buffer(ordinal)
        await self._end_unplayed(failure)

    async def _end_unplayed(self, ending: Ending) -> None:
        """End the run from its log alone, without executing its code."""
        logged = await when_available(lambda: self._storage.events.read_run(self.claim.run))
        replay = Replay(run=self.claim.run, attempt=self.claim.attempt, logged=logged, new_id=new_id)
        emits: list[Emit] = []
        if not _has_started(logged):
            # DESIGN §6: agent_started comes first if any worker ever appended, and this one does.
            started = AgentStarted(agent=self.claim.agent, message=self.claim.message)
            emits = replay.start(started, reason="worker_lost")
        if isinstance(ending, Failure) and ending.is_raised:
            ending = Failure(code=ending.code, message=ending.message, error_id=ending.error_id)
        words = last_words(ending, replay, duration_ms=0)
        self._buffer.put([*emits, *words.emits], blobs=words.blobs, end=words.end)
        await self._buffer.flushed()
        self._log_end(ending)

    def _close(self) -> Speaker | None:
        """Let the code not begin to speak any more; return its speaker if it has begun."""
        with self._lock:
            self._is_closed = True
            return self._speaker

    def _set_deadline(self, left_s: float) -> None:
        if self._is_closed:
            return
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._control.call_later(max(left_s, 0), self._meet_deadline)

    def _meet_deadline(self) -> None:
        message = "The run took longer than its deadline."
        self.stop(Failure(code=RunFailure.DEADLINE_EXCEEDED, message=message))

    def _open_buffer(self, ordinal: int) -> Buffer:
        return self._outbox.open(self.claim, ordinal=ordinal, on_lost=self.lose)

    def _finish(self, result: Ending | None) -> None:
        """Learn that the code has ended, and how if by itself."""
        self._is_code_over = True
        self._result = result
        self._unwound.set()
        self._news.set()

    def _log_end(self, ending: Ending) -> None:
        claim = self.claim
        if isinstance(ending, Failure):
            _log.warning(
                "run_failed",
                run=claim.run,
                agent=claim.agent,
                attempt=claim.attempt,
                code=ending.code,
                error_id=ending.error_id,
            )
            return
        event: Literal["run_cancelled", "run_completed"]
        event = "run_cancelled" if isinstance(ending, CancelRequest) else "run_completed"
        _log.info(event, run=claim.run, agent=claim.agent, attempt=claim.attempt)

    # ── agent loop ───────────────────────────────────────────────────────────────────────────────────────

    async def _execute(self) -> None:
        """Run the user's code and tell the control loop how it ended, whatever it does."""
        result: Ending | None = None
        try:
            result = await self._call_agent()
        except (asyncio.CancelledError, Fenced):
            result = None  # unwound; a stop says why, or the code cancelled itself
        except BaseException as raised:  # the user's code; its SystemExit must not end our thread
            result = failure_of(raised)
            if self._speaker is None and not isinstance(raised, RunFailed):  # not the user's code: it has not begun
                sentence = "The server could not begin the run."
                result = Failure(code=RunFailure.INTERNAL, message=sentence, error_id=result.error_id)
            if not isinstance(raised, RunFailed):  # of ours, the sentence says all
                _log.warning("agent_raised", run=self.claim.run, error_id=result.error_id, exc_info=raised)
        finally:
            with contextlib.suppress(RuntimeError):  # the control loop has ended
                self._control.call_soon_threadsafe(self._finish, result)

    async def _call_agent(self) -> Ending:
        assert self._agent is not None, "checked by supervise"
        context, message = await self._begin()
        output = await self._agent(context, message)
        try:
            return Returned(output=plain(output))
        except PayloadError as error:
            code = error.code if error.code == RunFailure.PAYLOAD_TOO_LARGE else RunFailure.NO_RESULT
            sentence = f"What the agent returned cannot be stored: {error.message}"
            return Failure(code=code, message=sentence, is_raised=True)

    async def _begin(self) -> tuple[Context, str]:
        """Read what the attempt starts from and say its first word."""
        claim, settings = self.claim, self._settings
        past = await read_past(
            self._storage, claim, user=self._user, deadline_s=settings.deadline_s, version=self._version
        )
        if claim.attempt > settings.max_attempts:
            lost = lost_attempts_without_progress(past.logged, claim.attempt, handed_over=claim.handed_over is not None)
            if lost >= settings.max_attempts:
                raise RunFailed(
                    f"The server was lost {lost} times while running this, without progress.",
                    code=RunFailure.WORKER_LOST,
                )
        speaker = Speaker(
            claim,
            past,
            buffer=self._buffer,
            events=self._storage.events,
            stop=self._request_stop,
            is_allowed=self._is_allowed,
        )
        with self._lock:
            if self._is_closed:
                raise Fenced("the run was stopped before its code began")
            self._speaker = speaker
            if self._is_draining:
                speaker.drain()
            speaker.start()
        self._control.call_soon_threadsafe(self._set_deadline, speaker.seconds_left())
        context = Context(speaker, run=claim.run, thread=claim.thread, user=past.user, history=past.history)
        return context, past.message

    def _request_stop(self, stop: Stop) -> None:
        self._control.call_soon_threadsafe(self.stop, stop)


def _has_started(logged: list[StoredEvent]) -> bool:
    return any(event.type == "agent_started" for event in logged)
