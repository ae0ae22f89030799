"""The matcher: a run that lost its worker is executed again against its own log.

The agent's code runs from the top. What it says and does is fed to `Replay`, which returns what must be
appended: nothing where the log has it already, the rest of a text that was cut off, or, at the first
difference, one `superseded` and everything anew. One position per scope is all the state::

    sayings of a scope   A  B  C│ D  E       `said` = 3: this attempt has said A B C
                                └ address 3: what it says next is compared with D

    D again   swallowed          anything else   superseded{D, E}, then that under a new id
    nothing   the scope ends: superseded{D, E}

Every returned list may be cut by a crash between any two of its events; the next attempt reads what is there.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from runwire.errors import RunFailed
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import (
    AgentResumed,
    AgentRetrying,
    AgentStarted,
    AgentThinking,
    Custom,
    EventData,
    EventError,
    EventType,
    MessageStarted,
    StepCompleted,
    StoredEvent,
    SubagentCompleted,
    SubagentFailed,
    TextDelta,
    ToolCompleted,
    decode_data,
)
from runwire.protocol.journal import Journal, LoggedStep, ScopeLog, Try
from runwire.protocol.progress import lost_attempts_without_progress
from runwire.protocol.sayings import (
    DELTA_CODE_POINTS,
    Kind,
    Saying,
    completion,
    deltas,
    same_json,
    same_words,
    superseded,
)

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
"""Code of a step that its agent stopped waiting for: in a replay it waits again, until the same limit ends that."""

_RUN: Final = ""  # the scope of the run itself


class Emit(msgspec.Struct, frozen=True, gc=False):
    """What must be appended: the shell adds `ts` and encodes."""

    data: EventData
    scope: str = _RUN


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A try of a step that the agent has begun."""

    key: str
    call: str
    try_: int
    name: str
    scope: str  # of what this try says
    emits: list[Emit]  # append and commit these before the step's code is called
    kind: Literal["tool", "step"] = "tool"  # shown to people, or internal
    recorded: ToolCompleted | StepCompleted | None = None  # set: do not execute, return (or raise) this
    raised: int = 0  # how many tries before this one raised; those that a crash cut off are not counted
    lost: EventError | None = None  # set: a crash cut off the last try and `on_crash` is "fail"; there is no new one


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A wait that the agent has begun."""

    key: str
    id: str
    kind: Literal["approval", "input", "timer"]
    due_at: int | None  # ms, UTC; of a wait that is re-entered the logged one
    emits: list[Emit]
    recorded: AgentResumed | None = None  # set: it has ended; `by` "ended" is no answer


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A sub-agent that the agent has begun."""

    key: str
    id: str
    scope: str  # of what the sub-agent says
    emits: list[Emit]
    recorded: SubagentCompleted | SubagentFailed | None = None  # set: do not execute, return (or raise) this


class Gather(msgspec.Struct, frozen=True, kw_only=True):
    """Branches that the agent has begun; they have no events of their own."""

    scopes: list[str]  # of the branches, in order; `Replay.end_scope` each when it returned or raised
    emits: list[Emit]  # the end of an open message


@dataclass(slots=True, eq=False)
class _Voice:
    """How far this attempt has come in a scope."""

    scope: str
    log: ScopeLog
    said: int = 0  # how many sayings of `log` this attempt has said, or begun
    open: Saying | None = None  # the message or stream it is in: the last of those
    at: int = 0  # how many code points of `open` it has said
    begun: int = 0  # how many steps of `log` it has begun
    named: Counter[str] = field(default_factory=Counter)  # the same, by name

    @property
    def logged(self) -> Saying | None:
        """Return what the log has at the next address."""
        return self.log.sayings[self.said] if self.said < len(self.log.sayings) else None

    def say(self, saying: Saying) -> None:
        """Move past the next address; the saying is the one there, or a new one."""
        if self.said == len(self.log.sayings):
            self.log.sayings.append(saying)
        self.said += 1


class Replay:
    """Match one attempt of a run against the run's log. Pure; one per attempt.

    Every method returns what to append, in order. Calls of one scope come from one task; a scope is "" for the
    run, `Step.scope` for a try. Values are plain JSON (`agents.payload`), large ones already a `$ref`.

    Args:
        run: its id; goes into call ids.
        attempt: this attempt's number.
        logged: every stored event of the run, in order (`EventLog.read_run`).
        new_id: makes an id from a prefix.
    """

    def __init__(self, *, run: str, attempt: int, logged: Sequence[StoredEvent], new_id: Callable[[str], str]) -> None:
        self._run = run
        self._attempt = attempt
        self._new_id = new_id
        self._journal = Journal(logged)
        self._voices: dict[str, _Voice] = {}
        self._unstored: deque[Saying] = deque()  # whole sayings of this attempt whose seq `learn` will tell

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self, started: AgentStarted, *, reason: Literal["worker_lost", "drained", "deploy"] | None) -> list[Emit]:
        """Begin the attempt; call this first.

        A try that was cut off is closed, except when a step began inside it: that one is re-entered by
        `begin_step`, because what its steps did is in the journal under its try.
        """
        if not self._journal.has_started:
            return [Emit(started)]
        cut_off = [each for each in self._journal.open_tries if not self._journal.scope(each.scope).steps]
        closed = self._close_tries(cut_off, final=False, reason=reason or "drained")
        if reason is None:  # resumed after a wait: nothing extra is said
            return closed
        return [Emit(AgentRetrying(attempt=self._attempt, reason=reason)), *closed]

    def end_scope(self, scope: str) -> list[Emit]:
        """End a scope that returned or raised: what the log has beyond what it said is taken back.

        Steps that an earlier attempt began in it and this one did not stand as they are. A try of them that is
        still open waited to be re-entered; it is closed for good, because another try would repeat its steps.
        A try that this attempt left open, because it was unwound, ends here: what it said stands.
        """
        voice = self._voice(scope)
        emits = self._close(voice)
        if voice.logged:
            emits += self._take_back(voice)
        for each in reversed(self._unfinished(scope)):
            emits += self._leave(each) if each.is_entered else self._close_tries([each], final=True)
        return emits

    def close_all(self, *, code: str, message: str) -> list[Emit]:
        """Close what is open, innermost first, before a terminal event: the run was unwound.

        Nothing is taken back: unwinding ends no scope. Text stands as logged, also where this attempt had
        not come that far. Closed tools fail with `code` and `message`.
        """
        error = EventError(code=code, message=message)
        emits: list[Emit] = []
        for each in reversed(self._journal.open_tries):
            emits += [*self._cut_streams(each.scope), Emit(each.complete(ok=False, error=error), each.parent)]
        return emits + self._cut_streams(_RUN)

    @property
    def is_ended(self) -> bool:
        """Return whether the log has the run's terminal event."""
        return self._journal.is_ended

    @property
    def has_message(self) -> bool:
        """Return whether the run's scope has opened a message in this attempt, swallowed or not."""
        return bool(self._messages())

    @property
    def text(self) -> str:
        """Return what the run's scope has said in messages in this attempt, joined."""
        voice = self._voice(_RUN)
        return "".join(each.text[: voice.at] if each is voice.open else each.text for each in self._messages())

    def learn(self, stored: Iterable[StoredEvent]) -> None:
        """Tell what of this attempt was stored, in order, so that it can be taken back by its seq.

        Only `end_step(…, final=False)` needs this, for the whole thoughts and custom events of that try: nothing
        else takes back what this very attempt said.
        """
        for event in stored:
            is_thought = event.type == EventType.AGENT_THINKING and decode_data(event).thinking is None
            if is_thought or event.type == EventType.CUSTOM:
                self._unstored.popleft().seq = event.seq

    # ── what a scope says ────────────────────────────────────────────────────────────────────────────────

    def thinking(self, scope: str, text: Any) -> list[Emit]:
        """Say a whole thought."""
        return self._say_whole(scope, Kind.THOUGHT, AgentThinking(text=text))

    def custom(self, scope: str, name: str, value: Any) -> list[Emit]:
        """Say a custom event."""
        return self._say_whole(scope, Kind.CUSTOM, Custom(name=name, value=value))

    def thinking_delta(self, scope: str, text: str) -> list[Emit]:
        """Go on in the scope's open thinking stream, or begin one. Empty text says nothing."""
        return self._say_piece(scope, Kind.STREAM, text)

    def end_thinking(self, scope: str) -> list[Emit]:
        """End the scope's open thinking stream, if it has one."""
        return self._close_kind(scope, Kind.STREAM)

    def write(self, scope: str, text: str) -> list[Emit]:
        """Go on in the scope's open message, or open one. Empty text says nothing."""
        return self._say_piece(scope, Kind.MESSAGE, text)

    def close_message(self, scope: str) -> list[Emit]:
        """Complete the scope's open message, if it has one."""
        return self._close_kind(scope, Kind.MESSAGE)

    def message(self, scope: str, content: str) -> list[Emit]:
        """Say a whole message, which may be empty. A streamed one of the same text is the same saying."""
        voice = self._voice(scope)
        before = self._close(voice)
        emits = [*self._open(voice, Kind.MESSAGE), *self._go_on(voice, content)]
        if len(content) <= DELTA_CODE_POINTS:
            # Its completion, next in this list, carries the text; a long one's may become a `$ref`.
            emits = [each for each in emits if not isinstance(each.data, TextDelta)]
        return [*before, *emits, *self._close(voice)]

    # ── steps ────────────────────────────────────────────────────────────────────────────────────────────

    def begin_step(
        self,
        scope: str,
        name: str,
        args: Any,
        *,
        kind: Literal["tool", "step"] = "tool",
        ident: str | None = None,
        on_crash: Literal["retry", "fail"] = "retry",
        closes: bool = True,
    ) -> Step:
        """Begin the scope's next step: recorded, re-entered, tried again, or new.

        Raises:
            RunFailed: `nondeterministic_agent`: the journal has another step here. Nothing has changed.
        """
        if kind != "tool" or ident or on_crash != "retry" or not closes:
            raise NotImplementedError
        voice = self._voice(scope)
        key = step_key(scope, name, voice.named[name])
        logged = voice.log.steps[voice.begun] if voice.begun < len(voice.log.steps) else None
        if logged and not (logged.key == key and same_json(logged.args, args)):
            raise _nondeterministic(voice, logged, name, args)
        emits = self._close(voice)
        voice.begun += 1
        voice.named[name] += 1
        if not logged:
            return self._begin_try(LoggedStep(key=key, name=name, args=args), scope, emits)
        last = logged.tries[-1]
        if last.is_final or last.is_open:
            last.is_entered = last.is_open
            return _step(last, emits)
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
            emits += self._take_back_all(ended)
        completed = ended.complete(ok=ok, final=final, result=result, error=error, duration_ms=duration_ms)
        return [*emits, Emit(completed, ended.parent)]

    # ── waits, sub-agents, branches ──────────────────────────────────────────────────────────────────────────

    def begin_wait(
        self,
        scope: str,
        kind: Literal["approval", "input", "timer"],
        *,
        prompt: Any = None,
        call: str | None = None,
        due_at: int | None = None,
    ) -> Wait:
        """Begin the scope's next wait: recorded, re-entered silently, or new."""
        raise NotImplementedError

    def resume(self, wait: str, value: Any, by: str) -> bool:
        """Learn how a wait ended while the attempt runs; return False if it is not open."""
        raise NotImplementedError

    @property
    def open_waits(self) -> list[str]:
        """Return the ids of the waits that nothing has ended, re-entered or not, in the order they began."""
        return []

    def closing(self, *, code: str, message: str) -> list[Emit]:
        """Return what `close_all` would say, and change nothing: for a run that parks."""
        raise NotImplementedError

    def begin_span(self, scope: str, agent: str, input: Any) -> Span:
        """Begin the scope's next sub-agent: recorded, re-entered silently, or new."""
        raise NotImplementedError

    def end_span(self, span: Span, *, output: Any = None, error: EventError | None = None) -> list[Emit]:
        """End a sub-agent and its scope; what it said stands."""
        raise NotImplementedError

    def begin_gather(self, scope: str, count: int) -> Gather:
        """Begin branches of a scope; each is a scope of its own, which `end_scope` ends."""
        raise NotImplementedError

    def derive(self, scope: str, what: str) -> str:
        """Return 64 hex digits that are the same in every attempt and try: the n-th of `what` in the scope."""
        raise NotImplementedError

    def has_differed(self, scope: str) -> bool:
        """Return whether the scope, or one around it, has said something else than the log in this attempt."""
        raise NotImplementedError

    # ── saying ───────────────────────────────────────────────────────────────────────────────────────────

    def _voice(self, scope: str) -> _Voice:
        voice = self._voices.get(scope)
        if voice is None:
            voice = self._voices[scope] = _Voice(scope, self._journal.scope(scope))
        return voice

    def _messages(self) -> list[Saying]:
        voice = self._voice(_RUN)
        return [each for each in voice.log.sayings[: voice.said] if each.kind is Kind.MESSAGE]

    def _say_whole(self, scope: str, kind: Kind, words: AgentThinking | Custom) -> list[Emit]:
        voice = self._voice(scope)
        emits = self._close(voice) if voice.open else []
        logged = voice.logged
        if logged and same_words(logged.words, words):
            voice.say(logged)
            return emits
        if logged:
            emits += self._take_back(voice)
        saying = Saying(kind=kind, words=words, is_ended=True)
        voice.say(saying)
        self._unstored.append(saying)
        emits.append(Emit(words, scope))
        return emits

    def _say_piece(self, scope: str, kind: Kind, text: str) -> list[Emit]:
        if not text:
            return []
        voice = self._voice(scope)
        if voice.open and voice.open.kind is kind:
            return self._go_on(voice, text)
        return [*self._close(voice), *self._open(voice, kind), *self._go_on(voice, text)]

    def _open(self, voice: _Voice, kind: Kind) -> list[Emit]:
        logged = voice.logged
        if logged and logged.kind is kind:
            voice.say(logged)
            voice.open, voice.at = logged, 0
            return []
        emits = self._take_back(voice) if logged else []
        return [*emits, *self._open_new(voice, kind)]

    def _open_new(self, voice: _Voice, kind: Kind) -> list[Emit]:
        saying = Saying(kind=kind, id=self._new_id("msg" if kind is Kind.MESSAGE else "thk"))
        voice.say(saying)
        voice.open, voice.at = saying, 0
        return [Emit(MessageStarted(message=saying.id), voice.scope)] if kind is Kind.MESSAGE else []

    def _go_on(self, voice: _Voice, text: str) -> list[Emit]:
        saying = voice.open
        assert saying is not None, "only called after _open"
        if not saying.allows(text, at=voice.at):
            return self._say_anew(voice, saying, saying.text[: voice.at] + text)
        new = text[saying.length - voice.at :]
        voice.at += len(text)
        return [Emit(delta, voice.scope) for delta in deltas(saying, new)]

    def _say_anew(self, voice: _Voice, saying: Saying, text: str) -> list[Emit]:
        """Take the open saying back with all after it and say `text`, its part so far, in a new one."""
        voice.said -= 1
        return [*self._take_back(voice), *self._open_new(voice, saying.kind), *self._go_on(voice, text)]

    def _close_kind(self, scope: str, kind: Kind) -> list[Emit]:
        voice = self._voice(scope)
        return self._close(voice) if voice.open and voice.open.kind is kind else []

    def _close(self, voice: _Voice) -> list[Emit]:
        """End what the scope has open. Whatever it begins next does this first, spoken or swallowed."""
        saying, emits = voice.open, list[Emit]()
        if saying and voice.at < saying.length:
            emits = self._say_anew(voice, saying, saying.text[: voice.at])
            saying = voice.open
        voice.open = None
        if saying is None or saying.is_ended:
            return emits
        return [*emits, Emit(completion(saying), voice.scope)]

    # ── taking back and closing ──────────────────────────────────────────────────────────────────────────

    def _take_back(self, voice: _Voice) -> list[Emit]:
        """Take back what the log has from the next address on: in the scope, and in tries begun after it.

        What finished steps said stands: their results are what this attempt goes on with. So does what this
        attempt said itself in tries that it was unwound from.
        """
        unfinished = self._unfinished(voice.scope, after=voice.log.sayings[voice.said].seq)
        begun_after = [each for each in unfinished if not each.is_entered]
        taken = voice.log.sayings[voice.said :]
        del voice.log.sayings[voice.said :]
        for each in begun_after:
            sayings = self._journal.scope(each.scope).sayings
            taken += sayings
            sayings.clear()
        return [Emit(each, voice.scope) for each in superseded(taken, "differs")]

    def _unfinished(self, scope: str, *, after: int = 0) -> list[Try]:
        """Return the open tries inside a scope that began after a seq, in the order they began."""
        tries = self._journal.open_tries
        return [each for each in tries if each.seq >= after and self._journal.is_inside(each.scope, scope)]

    def _take_back_all(self, cut: Try) -> list[Emit]:
        sayings = self._journal.scope(cut.scope).sayings
        taken = list(sayings)
        sayings.clear()
        return [Emit(each, cut.scope) for each in superseded(taken, "try_closed")]

    def _close_tries(self, cut_off: Iterable[Try], *, final: bool, reason: str = "worker_lost") -> list[Emit]:
        is_lost = reason == RunFailure.WORKER_LOST
        what = "The worker was lost" if is_lost else "The run was handed over to another worker"
        error = EventError(code=reason, message=f"{what} while the tool was running.")
        emits: list[Emit] = []
        for each in cut_off:
            # Taken back first: after a crash in between, the try is still open and only its end is missing.
            emits += self._take_back_all(each)
            emits.append(Emit(each.complete(ok=False, final=final, error=error), each.parent))
        return emits

    def _leave(self, left: Try) -> list[Emit]:
        error = EventError(code=TOOL_CANCELLED, message="The agent ended without waiting for the tool.")
        return [*self.end_scope(left.scope), Emit(left.complete(ok=False, error=error), left.parent)]

    def _cut_streams(self, scope: str) -> list[Emit]:
        self._voice(scope).open = None
        cut = [each for each in self._journal.scope(scope).sayings if not each.is_ended]
        return [Emit(completion(each, complete=False), scope) for each in cut]

    def _begin_try(self, step: LoggedStep, scope: str, emits: list[Emit]) -> Step:
        number = len(step.tries) + 1
        call = f"call_{_digest(self._run, step.key, number)}"
        begun = Try(step=step, number=number, call=call, parent=scope, is_entered=True)
        self._journal.begin_try(begun)
        return _step(begun, [*emits, Emit(begun.executing, scope)])


def closers(logged: Sequence[StoredEvent], *, code: str, message: str) -> list[Emit]:
    """Return what closes a run's open tools, messages and thinking when it ends without being replayed."""
    return Replay(run="", attempt=0, logged=logged, new_id=str).close_all(code=code, message=message)


def step_key(scope: str, name: str, n: int) -> str:
    """Return the key of the n-th step of that name (from 0) in a scope, which names parent key and try."""
    return f"st_{_digest(scope, name, n)}"


def _digest(*parts: str | int) -> str:
    # As a JSON array, so that ("a", "b1") and ("ab", "1") are not the same; 128 bits do for a name.
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _step(begun: Try, emits: list[Emit]) -> Step:
    return Step(
        key=begun.step.key,
        call=begun.call,
        try_=begun.number,
        name=begun.step.name,
        scope=begun.scope,
        emits=emits,
        recorded=begun.completion,
    )


def _nondeterministic(voice: _Voice, logged: LoggedStep, name: str, args: Any) -> RunFailed:
    where = f"try {voice.scope}" if voice.scope else "the run"
    return RunFailed(
        f"Step {voice.begun + 1} of {where} ({logged.key}) was {_call(logged.name, logged.args)} in an earlier attempt "
        f"and is {_call(name, args)} now. Make the agent call the same tools with the same arguments each time.",
        code=RunFailure.NONDETERMINISTIC_AGENT,
        field=logged.key,
    )


def _call(name: str, args: Any) -> str:
    text = msgspec.json.encode(args, order="sorted").decode()
    return f"{name} {text if len(text) <= 200 else text[:200] + '…'}"
