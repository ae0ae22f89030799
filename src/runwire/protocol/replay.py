"""The matcher: a run that lost its worker is executed again against its own log.

The agent's code runs from the top. What it says (`voices`) and begins (`acts`) is fed to `Replay`, which returns what
must be appended: nothing where the log has it already, the rest of a text that was cut off, or, at the first
difference, one `superseded` and everything anew. Steps, waits and sub-agents are found by key, in the order of their
scope: what the log has as ended returns its recorded end, what it has as open is entered again without a word.

Every returned list may be cut by a crash between any two of its events; the next attempt reads what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from runwire.protocol.acts import (
    RUN,
    Emit,
    Gather,
    Span,
    Step,
    StepKind,
    Wait,
    WaitKind,
    branch_scope,
    call_id,
    derived,
    span_id,
    step_key,
    wait_id,
)
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import (
    AgentResumed,
    AgentRetrying,
    AgentStarted,
    AgentThinking,
    AgentWaiting,
    Custom,
    EventError,
    StoredEvent,
    SubagentCompleted,
    SubagentStarted,
    TextDelta,
)
from runwire.protocol.journal import CUT_OFF, Journal, LoggedSpan, LoggedStep, LoggedWait, Opened, Try
from runwire.protocol.matching import matched, not_as_approved
from runwire.protocol.progress import lost_attempts_without_progress
from runwire.protocol.sayings import DELTA_CODE_POINTS, Kind, Saying, completion
from runwire.protocol.voices import Voice, Voices

__all__ = [
    "TOOL_CANCELLED",
    "Emit",
    "Gather",
    "Replay",
    "Span",
    "Step",
    "Wait",
    "closers",
    "lost_attempts_without_progress",
    "step_key",
]

TOOL_CANCELLED: Final = "tool_cancelled"
"""Code of a step or sub-agent that its agent stopped waiting for: in a replay it waits again, until the same limit."""

_RAISED: Final = "tool_error"  # of a try that raised with a code of those that a crash leaves


class Replay:
    """Match one attempt of a run against the run's log. Pure; one per attempt.

    Every method returns what to append, in order. Calls of one scope come from one task; a scope is "" for the run,
    else one that a `Step`, `Span` or `Gather` has named. Values are plain JSON (`agents.payload`), large ones already
    a `$ref`.

    Args:
        run: its id; goes into ids of calls, waits and sub-agents.
        attempt: this attempt's number.
        logged: every stored event of the run, in order (`EventLog.read_run`).
        new_id: makes an id from a prefix.
    """

    def __init__(self, *, run: str, attempt: int, logged: Sequence[StoredEvent], new_id: Callable[[str], str]) -> None:
        self._run = run
        self._attempt = attempt
        self._journal = Journal(logged)
        self._voices = Voices(self._journal, new_id)

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self, started: AgentStarted, *, reason: Literal["worker_lost", "drained", "deploy"] | None) -> list[Emit]:
        """Begin the attempt; call this first. Without a reason it goes on after a wait: nothing is said of that.

        A try that was cut off is closed, except when a step, wait or sub-agent began inside it: that one is re-entered
        by `begin_step`, because what began inside is in the journal under its try.
        """
        if not self._journal.has_started:
            return [Emit(started)]
        tries = [each for each in self._journal.open.values() if isinstance(each, Try)]
        emits = [Emit(AgentRetrying(attempt=self._attempt, reason=reason))] if reason else []
        for each in tries:
            if not self._journal.has_begun(each.scope):
                emits += self._close_cut_off(each, final=False, reason=reason or "drained")
            elif each.is_closing:
                # It raised, and only its end is missing: it would not say anew what it said, it would be repeated.
                emits += self._close_try(each, EventError(code=_RAISED, message="The tool raised."), final=False)
        return emits

    def end_scope(self, scope: str) -> list[Emit]:
        """End a scope that returned or raised: what the log has beyond what it said is taken back.

        What an earlier attempt began in it and this one did not stands as it is. A try or sub-agent of those that is
        still open waited to be re-entered; it is closed for good, because another would repeat its steps. One that
        this attempt left open, because it was unwound, ends here: what it said stands. A wait that was left stays
        open until the run ends: it may be answered at any moment.
        """
        voice = self._voices.enter(scope)
        if voice.is_ended:
            return []
        voice.is_ended = True
        emits = [emit for _, scopes in voice.gathers for branch in scopes for emit in self.end_scope(branch)]
        emits += self._voices.end(voice)
        for each in reversed(self._journal.open_inside(scope)):
            emits += self._leave(each) if scope == RUN or not isinstance(each, LoggedWait) else []
        return emits

    def close_all(self, *, code: str, message: str) -> list[Emit]:
        """Close what is open, innermost first, before a terminal event: the run was unwound.

        Nothing is taken back: unwinding ends no scope. Text stands as logged, also where this attempt had
        not come that far. Closed tools and sub-agents fail with `code` and `message`, waits have no answer.
        """
        emits = list[Emit]()
        for closed, emit in list(self._what_closes(EventError(code=code, message=message))):
            emits.append(emit)
            if isinstance(closed, Saying):
                closed.is_ended = True
                if emit.scope in self._voices:
                    self._voices.enter(emit.scope).open = None
            else:
                self._journal.close(closed, emit.data)
        return emits

    def closing(self, *, code: str, message: str) -> list[Emit]:
        """Return what `close_all` would say, and change nothing: for a run that parks."""
        return [emit for _, emit in self._what_closes(EventError(code=code, message=message))]

    @property
    def is_ended(self) -> bool:
        """Return whether the log has the run's terminal event."""
        return self._journal.is_ended

    @property
    def has_message(self) -> bool:
        """Return whether the run or a branch of it has opened a message in this attempt, swallowed or not."""
        return bool(self._voices.texts())

    @property
    def text(self) -> str:
        """Return what the run and its branches have said in messages in this attempt, joined branch after branch."""
        return "".join(self._voices.texts())

    def text_of(self, scope: str) -> str:
        """Return what a sub-agent and its branches have said in messages in this attempt, joined likewise."""
        return "".join(self._voices.texts(scope))

    def learn(self, stored: Iterable[StoredEvent]) -> None:
        """Tell what of this attempt was stored, in order, so that it can be taken back by its seq.

        Only `end_step(…, final=False)` needs this, for the whole thoughts and custom events of that try: nothing
        else takes back what this very attempt said.
        """
        self._voices.learn(stored)

    # ── what a scope says ────────────────────────────────────────────────────────────────────────────────

    def thinking(self, scope: str, text: Any) -> list[Emit]:
        """Say a whole thought."""
        return self._voices.say_whole(scope, Kind.THOUGHT, AgentThinking(text=text))

    def custom(self, scope: str, name: str, value: Any) -> list[Emit]:
        """Say a custom event."""
        return self._voices.say_whole(scope, Kind.CUSTOM, Custom(name=name, value=value))

    def thinking_delta(self, scope: str, text: str) -> list[Emit]:
        """Go on in the scope's open thinking stream, or begin one. Empty text says nothing."""
        return self._voices.say_piece(scope, Kind.STREAM, text)

    def end_thinking(self, scope: str) -> list[Emit]:
        """End the scope's open thinking stream, if it has one."""
        return self._voices.close(self._voices.enter(scope), Kind.STREAM)

    def write(self, scope: str, text: str) -> list[Emit]:
        """Go on in the scope's open message, or open one. Empty text says nothing."""
        return self._voices.say_piece(scope, Kind.MESSAGE, text)

    def close_message(self, scope: str) -> list[Emit]:
        """Complete the scope's open message, if it has one."""
        return self._voices.close(self._voices.enter(scope), Kind.MESSAGE)

    def message(self, scope: str, content: str) -> list[Emit]:
        """Say a whole message, which may be empty. A streamed one of the same text is the same saying."""
        voice = self._voices.enter(scope)
        before = self._voices.close(voice)
        emits = [*self._voices.open(voice, Kind.MESSAGE), *self._voices.go_on(voice, content)]
        if len(content) <= DELTA_CODE_POINTS:
            # Its completion, next in this list, carries the text; a long one's may become a `$ref`.
            emits = [each for each in emits if not isinstance(each.data, TextDelta)]
        return [*before, *emits, *self._voices.close(voice)]

    # ── steps ────────────────────────────────────────────────────────────────────────────────────────────

    def begin_step(
        self,
        scope: str,
        name: str,
        args: Any,
        *,
        kind: StepKind = "tool",
        ident: str | None = None,
        on_crash: Literal["retry", "fail"] = "retry",
        closes: bool = True,
    ) -> Step:
        """Begin the scope's next step: recorded, re-entered, tried again, or new.

        Args:
            scope: that begins it.
            name: of the tool or step.
            args: what it is called with, or a digest of that.
            kind: a "step" is internal: its events are in no client's view.
            ident: a provider's id of the tool call; stands in the key for how many of that name began before.
            on_crash: "fail": if a crash cut off the last try there is no other one; `Step.lost` says so.
            closes: whether it ends the scope's open message, as all do but `ctx.now`.

        Raises:
            RunFailed: `nondeterministic_agent`: the journal has something else here. Nothing has changed.
        """
        voice = self._voices.enter(scope)
        called = (kind, name, ident)
        key = step_key(scope, name, voice.named[called], kind=kind, ident=ident)
        begun = LoggedStep(key=key, kind=kind, name=name, args=args)
        logged = matched(voice, begun)
        emits = self._voices.close(voice) if closes else []
        voice.begin(*called)
        if logged is None:
            return self._begin_try(begun, scope, emits)
        last = logged.last
        if last.is_final or last.is_open:
            return self._step(last, emits)
        if last.cut_off and on_crash == "fail":
            return self._step(last, emits, lost=last.cut_off)
        return self._begin_try(logged, scope, emits)

    def next_try(self, step: Step) -> Step:
        """Begin the next try of a step whose last one ended with `final=False`."""
        last = self._journal.tries[step.scope]
        return self._begin_try(last.step, last.parent, [])

    def end_step(
        self,
        step: Step,
        *,
        ok: bool,
        result: Any = msgspec.UNSET,
        error: EventError | msgspec.UnsetType = msgspec.UNSET,
        duration_ms: int,
        final: bool = True,
    ) -> list[Emit]:
        """End a try and its scope; with `final=False` all it said is taken back, for it will be repeated.

        A recorded step, or one that `close_all` has closed, has nothing to end.
        """
        ended = self._journal.tries[step.scope]
        if not ended.is_open:
            return []
        emits = self.end_scope(step.scope)
        if not final:
            emits += self._voices.take_back_all(ended.scope)
            if error and error.code in CUT_OFF:  # a later attempt would take it for one that a crash cut off
                error = EventError(code=_RAISED, message=error.message)
        completed = ended.completed(ok=ok, final=final, result=result, error=error, duration_ms=duration_ms)
        self._journal.close(ended, completed)
        return [*emits, Emit(completed, ended.parent)]

    # ── waits ────────────────────────────────────────────────────────────────────────────────────────────

    def begin_wait(
        self, scope: str, kind: WaitKind, *, prompt: Any = None, call: str | None = None, due_at: int | None = None
    ) -> Wait:
        """Begin the scope's next wait: recorded, re-entered silently, or new.

        One that the scope had left, for its next step, before it was answered is recorded as "ended": the agent did
        not have the answer then.

        Raises:
            RunFailed: `nondeterministic_agent`: the journal has something else here, or this is an approval that was
                answered after other words than this attempt has said: what was approved is not what would be done.
        """
        voice = self._voices.enter(scope)
        key, wait = wait_id(self._run, scope, kind, voice.named["wait", kind])
        begun = LoggedWait(key=wait, kind=kind, parent=scope, prompt=prompt, call=call, due_at=due_at)
        logged = matched(voice, begun)
        recorded = self._ended(voice, logged) if logged else None
        emits = self._voices.close(voice)
        voice.begin("wait", kind)
        if logged is None:
            self._journal.begin(begun)
            emits.append(Emit(AgentWaiting(wait=wait, kind=kind, prompt=prompt, call=call, due_at=due_at), scope))
        due_at = logged.due_at if logged else due_at
        return Wait(key=key, id=wait, kind=kind, due_at=due_at, emits=emits, recorded=recorded)

    def resume(self, wait: str, value: Any, by: str) -> bool:
        """Learn how a wait ended while the attempt runs; return False if it is not open."""
        if not isinstance(self._journal.open.get(wait), LoggedWait):
            return False
        self._journal.close(self._journal.waits[wait], AgentResumed(wait=wait, value=value, by=by))
        return True

    @property
    def open_waits(self) -> list[str]:
        """Return the ids of the waits that nothing has ended, re-entered or not, in the order they began."""
        return [each.key for each in self._journal.open.values() if isinstance(each, LoggedWait)]

    def has_differed(self, scope: str) -> bool:
        """Return whether the scope, or one around it, has taken back what the log had of it in this attempt."""
        return any(self._voices.enter(each).has_differed for each in self._journal.chain(scope))

    # ── sub-agents, branches, and what is only derived ───────────────────────────────────────────────────

    def begin_span(self, scope: str, agent: str, input: Any) -> Span:
        """Begin the scope's next sub-agent: recorded, re-entered silently, or new.

        Raises:
            RunFailed: `nondeterministic_agent`: the journal has something else here. Nothing has changed.
        """
        voice = self._voices.enter(scope)
        key, span = span_id(self._run, scope, agent, voice.named["span", agent])
        begun = LoggedSpan(key=span, agent=agent, input=input, parent=scope, outer=voice.span)
        logged = matched(voice, begun)
        emits = self._voices.close(voice)
        voice.begin("span", agent)
        if logged is None:
            self._journal.begin(begun)
            emits.append(Emit(SubagentStarted(span=span, agent=agent, parent=voice.span, input=input), scope))
        recorded = logged.completion if logged else None
        if recorded is None:
            self._voices.enter(span)
        return Span(key=key, id=span, scope=span, emits=emits, recorded=recorded)

    def end_span(self, span: Span, *, output: Any = None, error: EventError | None = None) -> list[Emit]:
        """End a sub-agent and its scope; what it said stands. A recorded or closed one has nothing to end."""
        ended = self._journal.spans[span.id]
        if ended.completion is not None:
            return []
        emits = self.end_scope(span.scope)
        completed = ended.failed(error) if error else SubagentCompleted(span=span.id, output=output)
        self._journal.close(ended, completed)
        return [*emits, Emit(completed, ended.parent)]

    def begin_gather(self, scope: str, count: int) -> Gather:
        """Begin branches of a scope; each is a scope of its own, which `end_scope` ends."""
        voice = self._voices.enter(scope)
        emits = self._voices.close(voice)
        scopes = [branch_scope(scope, len(voice.gathers), index) for index in range(count)]
        voice.gathers.append((voice.said, scopes))
        for each in scopes:
            self._voices.enter(each)
        return Gather(scopes=scopes, emits=emits)

    def derive(self, scope: str, what: str) -> str:
        """Return 64 hex digits that are the same in every attempt and try: the n-th of `what` in the scope."""
        named, name = self._voices.enter(scope).named, ("derived", what)
        named[name] += 1
        return derived(self._run, scope, what, named[name] - 1)

    # ── beginning and closing ────────────────────────────────────────────────────────────────────────────

    def _begin_try(self, step: LoggedStep, scope: str, emits: list[Emit]) -> Step:
        number = len(step.tries) + 1
        span = self._voices.enter(scope).span
        begun = Try(step=step, number=number, call=call_id(self._run, step.key, number), parent=scope, span=span)
        self._journal.begin_try(begun)
        return self._step(begun, [*emits, Emit(begun.beginning, scope)])

    def _step(self, begun: Try, emits: list[Emit], *, lost: EventError | None = None) -> Step:
        step = begun.step
        if begun.is_open:
            self._voices.enter(begun.scope)
        return Step(
            key=step.key,
            call=begun.call or call_id(self._run, step.key, begun.number),
            try_=begun.number,
            name=step.name,
            kind=step.kind,
            scope=begun.scope,
            emits=emits,
            recorded=None if lost else begun.completion,
            raised=step.raised,
            lost=lost,
        )

    def _ended(self, voice: Voice, wait: LoggedWait) -> AgentResumed | None:
        """Return how a wait that the log has ended for the scope."""
        # An answer that this attempt learned came after all that was in the log when it began.
        answered_seq = wait.completed_seq or self._journal.last_seq + 1
        after = voice.log.begun[voice.begun + 1 : voice.begun + 2]
        if after and after[0].seq < answered_seq:
            return AgentResumed(wait=wait.key, value=None, by="ended")
        if wait.completion and wait.kind == "approval" and wait.completion.by != "ended":
            self._check_approved(voice.scope, wait.key, answered_seq)
        return wait.completion

    def _check_approved(self, scope: str, wait: str, answered_seq: int) -> None:
        for each in self._journal.chain(scope):
            if not self._voices.enter(each).has_come_as_answered(answered_seq):
                raise not_as_approved(each, wait)

    def _what_closes(self, error: EventError) -> Iterator[tuple[Opened | Saying, Emit]]:
        """Yield all that is open, innermost first, and the event that closes it."""
        for each in reversed(self._journal.open.values()):
            if isinstance(each, LoggedWait):
                yield each, Emit(each.ended(), each.parent)
                continue
            yield from self._what_cuts(each.scope)
            yield each, Emit(each.failed(error), each.parent)
        yield from self._what_cuts(RUN)

    def _what_cuts(self, scope: str) -> Iterator[tuple[Saying, Emit]]:
        for saying, where in self._voices.unfinished(scope):
            yield saying, Emit(completion(saying, complete=False), where)

    def _leave(self, left: Opened) -> list[Emit]:
        """Close what its scope leaves behind."""
        if isinstance(left, LoggedWait):
            self._journal.close(left, left.ended())
            return [Emit(left.ended(), left.parent)]
        if left.scope not in self._voices:
            return self._close_cut_off(left, final=True, reason=RunFailure.WORKER_LOST)
        what = "tool" if isinstance(left, Try) else "sub-agent"
        error = EventError(code=TOOL_CANCELLED, message=f"The agent ended without waiting for the {what}.")
        emits = self.end_scope(left.scope)
        closed = left.failed(error)
        self._journal.close(left, closed)
        return [*emits, Emit(closed, left.parent)]

    def _close_cut_off(self, left: Try | LoggedSpan, *, final: bool, reason: str) -> list[Emit]:
        """Close what an earlier attempt was cut off in and this one does not enter; all it said goes."""
        who = "The worker was lost" if reason == RunFailure.WORKER_LOST else "The run was handed over to another worker"
        what = "tool" if isinstance(left, Try) else "sub-agent"
        error = EventError(code=reason, message=f"{who} while the {what} was running.")
        if isinstance(left, Try):
            return self._close_try(left, error, final=final)
        emits = self._voices.take_back_all(left.scope)
        closed = left.failed(error)
        self._journal.close(left, closed)
        return [*emits, Emit(closed, left.parent)]

    def _close_try(self, left: Try, error: EventError, *, final: bool) -> list[Emit]:
        # Taken back first: after a crash in between, the try is still open and only its end is missing.
        emits = self._voices.take_back_all(left.scope)
        closed = left.completed(ok=False, final=final, error=error)
        self._journal.close(left, closed)
        return [*emits, Emit(closed, left.parent)]


def closers(logged: Sequence[StoredEvent], *, code: str, message: str) -> list[Emit]:
    """Return what closes everything open in a run that ends without being replayed."""
    return Replay(run="", attempt=0, logged=logged, new_id=str).close_all(code=code, message=message)
