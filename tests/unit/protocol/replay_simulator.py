"""Random agents, crashed before every append and again after that, against the replay matcher.

A program is a tuple of acts. One attempt executes it whole against the log so far, as agent code and runtime
would, and yields the events it stores; a crash is a cut of that list, so a lost batch of any size is one too.
What must be on the screen is told by two things that know nothing of the matcher: the agent, which notes what
it said, and `Screen`, which shows events as a client does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.unit.protocol.replay_programs import Act, Author, Message, Program, Show, Think, ThinkAloud, Tool, Write

from runwire.protocol import replay
from runwire.protocol.events import (
    AgentCancelled,
    AgentCompleted,
    AgentFailed,
    AgentStarted,
    EventError,
    EventType,
    StoredEvent,
    Superseded,
    TextDelta,
    ToolExecuting,
    UserMessage,
    decode_data,
    emitted,
)
from runwire.protocol.lifecycle import RunOrder

Said = tuple[str, Any]  # ("message" | "stream" | "thought" | "custom", what)
_RUN = ""


# ── what a person sees ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Shown:
    scope: str
    began: int
    kind: str
    what: Any
    is_ended: bool = False


@dataclass(frozen=True)
class Tried:
    parent: str
    number: int  # of its tool
    began: int
    is_open: bool = True


class Screen:
    """Shows the events of one run as a client does: texts by offset, nothing that was taken back."""

    def __init__(self) -> None:
        self.shown: dict[str | int, Shown] = {}  # by id of message or stream, else by seq
        self.tries: dict[str, Tried] = {}  # by scope
        self.reasons: list[str] = []

    def copy(self) -> Screen:
        twin = Screen()
        twin.shown = {key: replace(shown) for key, shown in self.shown.items()}
        twin.tries, twin.reasons = dict(self.tries), list(self.reasons)
        return twin

    def apply(self, event: StoredEvent) -> None:
        data = decode_data(event)
        match event.type:
            case EventType.SUPERSEDED:
                self.take_back(event, data)
            case EventType.TOOL_EXECUTING:
                scope = f"{data.step}/{data.try_}"
                self.tries[scope] = Tried(parent=event.scope, number=data.args["number"], began=event.seq)
            case EventType.TOOL_COMPLETED:
                tried = self.tries[f"{data.step}/{data.try_}"]
                assert tried.is_open, "a tool ends twice"
                self.tries[f"{data.step}/{data.try_}"] = replace(tried, is_open=False)
            case EventType.CUSTOM:
                self.shown[event.seq] = Shown(event.scope, event.seq, "custom", data.value, is_ended=True)
            case EventType.AGENT_THINKING | EventType.THINKING_DELTA:
                self.think(event, data)
            case EventType.MESSAGE_STARTED | EventType.TEXT_DELTA | EventType.MESSAGE_COMPLETED:
                self.write(event, data)

    def take_back(self, event: StoredEvent, data: Superseded) -> None:
        self.reasons.append(data.reason)
        keys: list[str | int] = [*data.messages, *data.thinking, *data.events]
        taken = [self.shown.pop(key) for key in keys]  # a KeyError: it takes back what is not there
        assert taken, "it takes back nothing"
        if data.reason == "differs":
            first = min(shown.began for shown in taken)
            left = [shown for shown in self.shown.values() if shown.began > first]
            assert not any(self.must_go(shown.scope, event.scope, first) for shown in left), "not all taken back"

    def must_go(self, scope: str, differing: str, first: int) -> bool:
        """Return whether a difference takes back what a scope said after it began."""
        if scope == differing:
            return True
        is_cut_off = scope != _RUN and self.tries[scope].is_open and self.tries[scope].began > first
        return is_cut_off and differing in self.outside(scope)

    def outside(self, scope: str) -> list[str]:
        around = []
        while scope:
            scope = self.tries[scope].parent
            around.append(scope)
        return around

    @property
    def open_calls(self) -> int:
        return sum(tried.is_open for tried in self.tries.values())

    def think(self, event: StoredEvent, data: Any) -> None:
        if event.type == EventType.THINKING_DELTA:
            self.shown.setdefault(data.thinking, Shown(event.scope, event.seq, "stream", ""))
            self.put(data.thinking, data)
        elif data.thinking is not None:
            self.end(data.thinking, data.text)
        else:
            self.shown[event.seq] = Shown(event.scope, event.seq, "thought", data.text, is_ended=True)

    def write(self, event: StoredEvent, data: Any) -> None:
        if event.type == EventType.MESSAGE_STARTED:
            assert data.message not in self.shown, "a message begins twice"
            self.shown[data.message] = Shown(event.scope, event.seq, "message", "")
        elif event.type == EventType.TEXT_DELTA:
            self.put(data.message, data)
        else:
            self.end(data.message, data.content)

    def put(self, key: str, data: Any) -> None:
        text = self.shown[key].what
        assert not self.shown[key].is_ended, "a text goes on after its end"
        assert data.offset <= len(text), "an offset beyond the end"
        self.shown[key].what = text[: data.offset] + data.text

    def end(self, key: str, content: Any) -> None:
        assert not self.shown[key].is_ended, "a text ends twice"
        assert content.startswith(self.shown[key].what), "a text ends as another one"
        self.shown[key].what, self.shown[key].is_ended = content, True

    def standing(self) -> dict[int, list[Said]]:
        """Return what stands, by tool (0: the run), all tries of a tool together."""
        standing: dict[int, list[Said]] = {}
        for shown in self.shown.values():
            owner = self.tries[shown.scope].number if shown.scope else 0
            standing.setdefault(owner, []).append((shown.kind, shown.what))
        return standing

    def texts(self) -> list[Any]:
        return [shown.what for shown in self.shown.values()]

    def passages(self) -> Counter[str]:
        text = "\n".join(map(str, self.texts()))
        return Counter(re.findall("⟦[^⟧]*⟧", text))


# ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────


class _Unwound(BaseException):
    """The run is called off inside the agent's code."""


@dataclass
class History:
    """What is stored of a run, and what its finished tools said."""

    log: list[StoredEvent] = field(default_factory=list)
    screen: Screen = field(default_factory=Screen)
    finished: dict[int, list[Said]] = field(default_factory=dict)

    @property
    def next_seq(self) -> int:
        return self.log[-1].seq + 1 if self.log else 1


class Attempt:
    """Agent and runtime of one attempt, against what is stored."""

    def __init__(self, history: History, number: int, program: Program, *, unwound_at: int | None = None) -> None:
        self.history = history
        self.number = number
        self.program = program
        self.unwound_at = unwound_at
        self.events: list[StoredEvent] = []
        self.said: list[Said] = []  # in the run's own scope
        self.finished: list[tuple[int, int, list[Said]]] = []  # (events before the completion, tool, what it said)
        self.last_result: Any = "nothing"
        self.closed_from = 0  # where an unwinding began
        self.ids = 0
        # Looked up late: a mutant may have taken its place.
        self.replay = replay.Replay(run="run_1", attempt=number, logged=history.log, new_id=self.new_id)

    def new_id(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}_{self.number}_{self.ids}"

    def run(self) -> None:
        reason: Any = "drained" if self.number % 3 == 0 else "worker_lost"
        try:
            self.tell(self.replay.start(AgentStarted(agent="a", message="msg_u"), reason=reason))
            self.perform(self.program.acts, _RUN, self.said)
            if self.program.end == "answers" and not self.replay.has_message:
                self.tell(self.replay.message(_RUN, "⟦answer⟧"))
                self.said.append(("message", "⟦answer⟧"))
            self.tell(self.replay.end_scope(_RUN))
        except _Unwound:
            self.call_off(self.replay.close_all(code="cancelled", message="Called off."))
            return
        assert self.replay.text == "".join(what for kind, what in self.said if kind == "message")
        if self.program.end == "raises":
            self.store(AgentFailed(code="agent_error", message="m", error_id="e", retryable=False), _RUN)
        else:
            self.store(AgentCompleted(output=self.replay.text, duration_ms=1), _RUN)

    def call_off(self, closing: Sequence[replay.Emit]) -> None:
        self.closed_from = len(self.events)
        for emit in closing:
            self.store(emit.data, emit.scope)
        self.store(AgentCancelled(by="user"), _RUN)

    def tell(self, emits: Sequence[replay.Emit]) -> None:
        self.replay.learn([self.store(emit.data, emit.scope) for emit in emits])
        if self.unwound_at is not None and len(self.events) >= self.unwound_at:
            self.unwound_at = None
            raise _Unwound

    def store(self, data: Any, scope: str) -> StoredEvent:
        last = self.events[-1] if self.events else None
        seq = last.seq + 1 if last else self.history.next_seq
        merged = merge(last, data) if last and seq % 3 == 0 else None
        if merged:
            # The outbox merges adjacent deltas of a text, so their borders are not the agent's.
            seq = self.events.pop().seq
        else:
            seq += seq % 5 == 0  # as if the gateway had written to the thread
        new = emitted(merged or data, ts=seq * 10, scope=scope)
        event = StoredEvent(
            seq=seq, run="run_1", attempt=self.number, type=new.type, ts=new.ts, data=new.data, scope=scope
        )
        self.events.append(event)
        return event

    def perform(self, acts: Sequence[Act], scope: str, said: list[Said]) -> None:
        is_writing = False  # whether the scope's last saying is a message that may go on
        for act in acts:
            if isinstance(act, Tool):
                self.call(act, scope)
                is_writing = False
                continue
            kind, what = self.say(act, scope)
            if isinstance(act, Write) and is_writing:
                said[-1] = (kind, said[-1][1] + what)
            elif what or isinstance(act, Message):  # an empty stream says nothing
                said.append((kind, what))
                is_writing = isinstance(act, Write)
            if isinstance(act, Write) and act.closes:
                self.tell(self.replay.close_message(scope))
                is_writing = False

    def say(self, act: Act, scope: str) -> Said:
        match act:
            case Think(text):
                self.tell(self.replay.thinking(scope, self.fill(text)))
                return "thought", self.fill(text)
            case Message(text):
                self.tell(self.replay.message(scope, self.fill(text)))
                return "message", self.fill(text)
            case Write(chunks):
                return "message", self.stream(chunks, lambda piece: self.replay.write(scope, piece))
            case ThinkAloud(chunks):
                text = self.stream(chunks, lambda piece: self.replay.thinking_delta(scope, piece))
                self.tell(self.replay.end_thinking(scope))
                return "stream", text
            case Show(value):
                self.tell(self.replay.custom(scope, "show", value))
                return "custom", value
            case Tool():
                raise AssertionError("a tool says nothing itself")

    def stream(self, chunks: Sequence[str], say: Callable[[str], list[replay.Emit]]) -> str:
        whole = "".join(chunks)
        # A place to be filled may lie across two chunks.
        pieces = chunks if self.fill(whole) == whole else [self.fill(whole)]
        for piece in pieces:
            self.tell(say(piece))
        return "".join(pieces)

    def fill(self, text: str) -> str:
        return text.replace("{last}", str(self.last_result))

    def call(self, tool: Tool, scope: str) -> None:
        step = self.replay.begin_step(scope, tool.name, {"number": tool.number, "q": [1.0, "x"]})
        self.tell(step.emits)
        if step.recorded is None and not any(isinstance(emit.data, ToolExecuting) for emit in step.emits):
            inside = [event for event in self.history.log if event.scope == step.scope]
            assert any(event.type == EventType.TOOL_EXECUTING for event in inside), "a try without a step is re-entered"
        while step.recorded is None:
            said: list[Said] = []
            self.perform(tool.body, step.scope, said)
            if step.try_ >= tool.good_try:
                self.last_result = self.finish(tool, step, said)
                return
            failed = EventError(code="tool_error", message="again")
            self.tell(self.replay.end_step(step, ok=False, error=failed, duration_ms=1, final=False))
            step = self.replay.next_try(step)
            self.tell(step.emits)
        assert step.recorded.final, "a result that is not final is returned"
        assert self.replay.end_step(step, ok=True, duration_ms=1) == []
        self.last_result = step.recorded.result if step.recorded.ok else "failed"

    def finish(self, tool: Tool, step: replay.Step, said: list[Said]) -> Any:
        result = f"r{self.number}" if self.program.has_fresh_results else f"r{tool.number}"
        if tool.ok:
            emits = self.replay.end_step(step, ok=True, result=result, duration_ms=1)
        else:
            emits = self.replay.end_step(step, ok=False, error=EventError(code="c", message="m"), duration_ms=1)
        self.tell(emits)
        self.finished.append((len(self.events), tool.number, said))
        return result if tool.ok else "failed"


# ── histories ────────────────────────────────────────────────────────────────────────────────────────────


class World:
    """One program, crashed in every way; counts the histories it has checked to their end."""

    def __init__(self, seed: int, *, is_deterministic: bool) -> None:
        self.author = Author(seed)
        self.is_deterministic = is_deterministic
        self.program = self.author.program()
        self.versions: dict[int, Program] = {1: self.program}
        self.clean: dict[int, list[Said]] | None = None
        self.checked = 0

    def version(self, attempt: int) -> Program:
        if attempt not in self.versions:
            change = self.author.same if self.is_deterministic else self.author.other
            self.versions[attempt] = change(self.program)
        return self.versions[attempt]

    def explore(self, *, again: int | None) -> None:
        """Check it uncrashed and crashed before every append.

        Args:
            again: at how many points each later attempt is crashed again, and a third time; None: everywhere,
                and a third time at two.
        """
        new = emitted(UserMessage(message="msg_u", content="hello"), ts=0)
        asked = StoredEvent(seq=3, run="run_1", attempt=0, type=new.type, ts=0, data=new.data)
        history = History(log=[asked])
        clean = self.attempt(history, 1)
        after = self.after(history, clean, len(clean.events))
        if self.is_deterministic and not self.program.has_fresh_results:
            self.clean = after.screen.standing()
        self.check_end(after, clean)
        self.crash(history, clean, points=[None, again, 2 if again is None else 1])

    def crash(self, history: History, cut: Attempt, *, points: Sequence[int | None]) -> None:
        """Lose the worker of `cut` before each of its appends (or at so many of them), and go on from there."""
        number, everywhere = cut.number + 1, range(len(cut.events))
        some = points[0]
        for point in everywhere if some is None else self.author.random.sample(everywhere, min(some, len(everywhere))):
            before = self.after(history, cut, point)
            latest = self.attempt(before, number)
            self.check_end(self.after(before, latest, len(latest.events)), latest)
            self.check_unwound(before, number, len(latest.events))
            if points[1:]:
                self.crash(before, latest, points=points[1:])

    def attempt(self, history: History, number: int) -> Attempt:
        attempt = Attempt(history, number, self.version(number))
        attempt.run()
        self.check_each_state(history, attempt)
        return attempt

    def after(self, history: History, attempt: Attempt, stored: int) -> History:
        """Return what is there when the first `stored` events of the attempt were stored and the rest lost."""
        screen = history.screen.copy()
        for event in attempt.events[:stored]:
            screen.apply(event)
        done = {tool: said for end, tool, said in attempt.finished if end <= stored}
        return History([*history.log, *attempt.events[:stored]], screen, {**history.finished, **done})

    def check_each_state(self, history: History, attempt: Attempt) -> None:
        screen = history.screen.copy()
        for event in attempt.events:
            screen.apply(event)
            twice = [passage for passage, times in screen.passages().items() if times > 1]
            assert not twice, f"shown twice: {twice}"
            if self.clean is not None and event.type != EventType.AGENT_STARTED:
                self.check_on_the_way(screen)

    def check_on_the_way(self, screen: Screen) -> None:
        """A deterministic agent never shows anything but a beginning of what it shows in the end."""
        assert self.clean is not None
        for owner, said in screen.standing().items():
            whole = self.clean.get(owner, [])
            assert said[:-1] == whole[: len(said) - 1], "out of order"
            kind, what = said[-1]
            assert len(said) <= len(whole), "more than there is to say"
            assert kind == whole[len(said) - 1][0], "another kind of saying"
            if kind in ("message", "stream"):
                assert whole[len(said) - 1][1].startswith(what), "another text"
            else:
                assert whole[len(said) - 1][1] == what, "another saying"

    def check_end(self, after: History, latest: Attempt) -> None:
        """The screen shows one coherent run: what the last attempt said, and what finished tools said."""
        self.checked += 1
        expected = {owner: said for owner, said in {**after.finished, 0: latest.said}.items() if said}
        assert after.screen.standing() == expected, "not what was said"
        assert all(shown.is_ended for shown in after.screen.shown.values()), "left open"
        assert not after.screen.open_calls, "a tool without its end"
        check_order(after.log)
        if self.is_deterministic:
            assert "differs" not in after.screen.reasons, "a deterministic agent differs"
        if self.clean is not None:
            assert after.screen.standing() == self.clean, "not as uncrashed"

    def check_unwound(self, history: History, number: int, length: int) -> None:
        """Calling a run off, in its code or after its worker died, closes what is open and takes nothing back."""
        self.checked += 1
        alive = Attempt(history, number, self.version(number), unwound_at=self.author.random.randint(1, length - 1))
        alive.run()
        self.check_called_off(history, alive)
        dead = Attempt(history, number, self.program)
        dead.call_off(replay.closers(history.log, code="cancelled", message="Called off."))
        self.check_called_off(history, dead)

    def check_called_off(self, history: History, attempt: Attempt) -> None:
        before = self.after(history, attempt, attempt.closed_from)
        after = self.after(history, attempt, len(attempt.events))
        assert after.screen.texts() == before.screen.texts(), "an unwinding changes what is shown"
        assert all(shown.is_ended for shown in after.screen.shown.values()), "left open"
        assert not after.screen.open_calls, "a tool without its end"
        check_order(after.log)


def merge(last: StoredEvent, data: Any) -> TextDelta | None:
    """Return one delta for two that follow each other in a message."""
    if last.type != EventType.TEXT_DELTA or not isinstance(data, TextDelta):
        return None
    first: TextDelta = decode_data(last)
    if first.message != data.message:
        return None
    return TextDelta(message=first.message, offset=first.offset, text=first.text + data.text)


def check_order(log: Sequence[StoredEvent]) -> None:
    order = RunOrder()
    for event in log:
        order.accept(event.type, decode_data(event), event.attempt)


def campaign(seeds: Iterable[int], *, again: int | None = 2) -> Counter[str]:
    """Check the program of each seed, even ones deterministic; return how many histories of which kind."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed, is_deterministic=seed % 2 == 0)
        world.explore(again=again)
        counts["deterministic" if world.is_deterministic else "other words"] += world.checked
    return counts
