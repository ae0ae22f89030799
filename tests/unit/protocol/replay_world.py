"""Agents of `replay_agents` executed against the matcher and a list as log, lost, parked, answered and called off.

One attempt executes its agent whole, its branches in random turns, as agent code and runtime would; a crash is a cut
of the events it stored. What must be on the screen in the end is told by the agents, who note what they said.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.unit.protocol.replay_agents import (
    Act,
    Agent,
    Author,
    Await,
    Call,
    Delegate,
    Derive,
    Now,
    Parallel,
    Say,
)
from tests.unit.protocol.replay_screen import Said, Screen

from runwire.errors import RunFailed
from runwire.protocol import replay
from runwire.protocol.events import (
    AgentCancelled,
    AgentCompleted,
    AgentFailed,
    AgentResumed,
    AgentRetrying,
    AgentStarted,
    EventData,
    EventError,
    EventType,
    StepStarted,
    StoredEvent,
    ToolExecuting,
    UserMessage,
    decode_data,
    emitted,
)
from runwire.protocol.lifecycle import RunOrder

_RUN = ""
_ERROR = EventError(code="tool_error", message="no")


@dataclass(slots=True)
class History:
    """What is stored of a run, and what those said that finished in it."""

    log: list[StoredEvent] = field(default_factory=list)
    screen: Screen = field(default_factory=Screen)
    finished: dict[str, list[Said]] = field(default_factory=dict)  # by scope
    has_lost: bool = False  # a step that is not tried again after a crash: the agent goes another way than uncrashed

    @property
    def next_seq(self) -> int:
        return self.log[-1].seq + 1 if self.log else 1

    def copy(self) -> History:
        return History(list(self.log), self.screen.copy(), dict(self.finished), self.has_lost)

    def resume(self, wait: str, attempt: int) -> AgentResumed:
        """Append an answer, as a gateway or a timer does."""
        resumed = answer(wait, self.screen.answers[wait])
        self.append(stored(resumed, self.next_seq, attempt))
        return resumed

    def append(self, event: StoredEvent, *, is_closing: bool = False) -> None:
        self.log.append(event)
        self.screen.apply(event, is_closing=is_closing)


class _CalledOff(BaseException):
    """The run is called off inside the agent's code."""


class _Parked(BaseException):
    """Every branch waits."""


@dataclass(slots=True)
class Place:
    """Where an act stands: its scope, what was said there, and how it is told apart."""

    scope: str
    path: str = ""  # the tries around it, counted by how many of them raised
    last: Any = "nothing"  # result
    is_writing: bool = False  # the last saying is a message that may go on


class Attempt:
    """Agent and runtime of one attempt, against what is stored."""

    def __init__(
        self, history: History, number: int, agent: Agent, chance: random.Random, *, reason: Any, off_at: int = -1
    ) -> None:
        self.start = history
        self.now = history.copy()
        self.number = number
        self.agent = agent
        self.chance = chance
        self.reason = reason
        self.off_at = off_at  # so many events after which it is called off
        self.stored = 0
        self.last_batch = -1  # events before those that commit with the terminal one
        self.is_parked = False
        self.has_failed = False
        self.said: dict[str, list[Said]] = {}  # by scope
        self.now.screen.entered = self.said
        self.done: list[tuple[int, str]] = []  # events before an end, and what ended
        self.ids = 0
        self.learned: dict[str, AgentResumed] = {}  # answers by wait
        # Looked up late: a mutant may have taken its place.
        self.replay = replay.Replay(run="run_1", attempt=number, logged=history.log, new_id=self.new_id)

    def new_id(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}_{self.number}_{self.ids}"

    # ── the runtime ──────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        place = Place(_RUN)
        self.said[_RUN] = []
        try:
            self.begin()
            self.drive(self.perform(self.agent.acts, place))
        except _CalledOff:
            self.call_off()
        except _Parked:
            self.is_parked = True
        except RunFailed as failed:
            self.has_failed = True
            self.close(AgentFailed(code=failed.code, message="m", error_id="e", retryable=False))
        else:
            self.begin_last_batch()
            self.tell(self.replay.end_scope(_RUN))
            texts = [what for _, what in self.texts(_RUN)]
            assert (self.replay.has_message, len(self.replay.text)) == (bool(texts), len("".join(texts)))
            if self.agent.end == "raises":
                self.store(AgentFailed(code="agent_error", message="m", error_id="e", retryable=False), _RUN)
            else:
                self.store(AgentCompleted(output=self.replay.text, duration_ms=1), _RUN)

    def begin(self) -> None:
        emits = self.replay.start(AgentStarted(agent="a", message="msg_u"), reason=self.reason)
        has_started = any(event.type == EventType.AGENT_STARTED for event in self.start.log)
        is_told = any(isinstance(emit.data, AgentRetrying) for emit in emits)
        assert is_told == (has_started and self.reason is not None), "who goes on after a wait says nothing of it"
        self.tell(emits)

    def texts(self, scope: str) -> list[Said]:
        """Return the messages of the run and its branches."""
        inside = [said for key, said in self.said.items() if key == scope or key.startswith(f"{scope}|")]
        return [each for said in inside for each in said if each[0] == "message"]

    def call_off(self) -> None:
        before = self.now.screen.copy()
        self.close(AgentCancelled(by="user"))
        texts = [shown.what for shown in self.now.screen.shown.values()]
        assert texts == [shown.what for shown in before.shown.values()], "an unwinding changes what is shown"

    def begin_last_batch(self) -> None:
        """What commits with the terminal event is refused if a wait that it closes has been answered."""
        self.last_batch, self.off_at = self.stored, -1
        for wait in set(self.learned) & set(self.replay.open_waits):
            self.replay.resume(wait, self.learned[wait].value, self.learned[wait].by)

    def close(self, terminal: EventData) -> None:
        self.begin_last_batch()
        told = self.replay.closing(code="cancelled", message="m")
        assert told == self.replay.close_all(code="cancelled", message="m"), "closing says something else"
        assert self.replay.closing(code="cancelled", message="m") == []
        for emit in told:
            self.store(emit.data, emit.scope, is_closing=True)
        self.store(terminal, _RUN)
        assert self.now.screen.is_over, "left open"

    def drive(self, code: Iterator[bool]) -> None:
        """Give the code its turns, and let people answer at any time, mostly when all branches wait."""
        for is_waiting in code:
            waits = self.replay.open_waits
            assert set(waits) - set(self.learned) == set(self.now.screen.answers) - set(self.learned)
            for wait in [each for each in self.learned if each in waits]:
                if is_waiting or self.chance.random() < 0.5:  # the poll takes its time
                    resumed = self.learned[wait]
                    assert self.replay.resume(wait, resumed.value, resumed.by)
                    assert not self.replay.resume(wait, "another", "usr_2")
                    is_waiting = False
            open_waits = list(self.now.screen.answers)
            assert open_waits or not is_waiting, "it waits for nothing"
            if is_waiting and self.chance.random() < 0.2:
                self.park()
            if open_waits and (is_waiting or self.chance.random() < 0.03):
                self.answer(self.chance.choice(open_waits))

    def answer(self, wait: str) -> None:
        self.learned[wait] = self.now.resume(wait, self.number)
        self.stored += 1

    def park(self) -> None:
        """Store nothing; but what a cancel would append must be right."""
        after = self.now.copy()
        for emit in [*self.replay.closing(code="cancelled", message="m"), replay.Emit(AgentCancelled(by="user"))]:
            after.append(stored(emit.data, after.next_seq, self.number, emit.scope), is_closing=True)
        assert after.screen.is_over, "left open"
        check_order(after.log)
        raise _Parked

    def tell(self, emits: Sequence[replay.Emit]) -> None:
        self.replay.learn([self.store(emit.data, emit.scope) for emit in emits])
        if 0 <= self.off_at <= self.stored:
            raise _CalledOff

    def store(self, data: EventData, scope: str, *, is_closing: bool = False) -> StoredEvent:
        event = stored(data, self.now.next_seq + (self.now.next_seq % 5 == 0), self.number, scope)
        self.now.append(event, is_closing=is_closing)
        self.stored += 1
        return event

    def finish(self, key: str) -> None:
        self.done.append((self.stored, key))

    # ── the agent; yields when others may have their turn, true if it waits ──────────────────────────────

    def perform(self, acts: Sequence[Act], place: Place) -> Iterator[bool]:
        for act in acts:
            if isinstance(act, Say):
                yield from self.say(act, place)
                continue
            place.is_writing = place.is_writing and isinstance(act, Now)
            match act:
                case Call():
                    yield from self.call(act, place)
                case Delegate():
                    yield from self.delegate(act, place)
                case Parallel():
                    yield from self.parallel(act, place)
                case Await():
                    yield from self.wait(act, place)
                case Now():
                    step = self.replay.begin_step(place.scope, "now", None, kind="step", closes=False)
                    self.tell(step.emits)
                    self.tell(self.replay.end_step(step, ok=True, result=1, duration_ms=0))
                case Derive():
                    derived = self.replay.derive(place.scope, "uuid")
                    self.note(place, "custom", derived)
                    self.tell(self.replay.custom(place.scope, "show", derived))
            yield False

    def fill(self, text: str, place: Place) -> str:
        return text.replace("{last}", str(place.last)).replace("@", f"@{place.path}")

    def note(self, place: Place, kind: str, what: Any) -> None:
        said = self.said[place.scope]
        if kind == "write":
            if place.is_writing:
                said[-1] = ("message", said[-1][1] + what)
            elif what:
                said.append(("message", what))
            place.is_writing = place.is_writing or bool(what)
        elif what or kind != "stream":
            said.append((kind, what))
            place.is_writing = False

    def say(self, act: Say, place: Place) -> Iterator[bool]:
        text, scope = self.fill(act.text, place), place.scope
        cuts = (0, *(min(cut, len(text)) for cut in act.cuts), len(text))
        chunks = [text[at:to] for at, to in pairwise(cuts)]
        self.note(place, act.kind, text)
        match act.kind:
            case "thought":
                self.tell(self.replay.thinking(scope, text))
            case "custom":
                self.tell(self.replay.custom(scope, "show", text))
            case "message":
                self.tell(self.replay.message(scope, text))
            case "write":
                for chunk in chunks:
                    self.tell(self.replay.write(scope, chunk))
                    yield False
                if act.closes:
                    place.is_writing = False
                    self.tell(self.replay.close_message(scope))
            case "stream":
                for chunk in chunks:
                    self.tell(self.replay.thinking_delta(scope, chunk))
                    yield False
                self.tell(self.replay.end_thinking(scope))

    def result(self, number: int) -> str:
        return f"r{number}.{self.number}" if self.agent.has_fresh_results else f"r{number}"

    def call(self, act: Call, place: Place) -> Iterator[bool]:
        given = {"number": act.number, "q": [1.0, "x"]}
        ident = f"id_{act.number}" if act.has_ident else None
        step = self.replay.begin_step(place.scope, act.name, given, kind=act.kind, ident=ident, on_crash=act.on_crash)
        self.check_begun(act, step)
        self.tell(step.emits)
        if step.lost:
            self.now.has_lost = True
            place.last = "unknown"
            return
        while step.recorded is None:
            yield False
            self.said[step.scope] = []
            yield from self.perform(act.body, Place(step.scope, f"{place.path}/{step.raised}"))
            if step.raised >= act.raises:
                yield from self.return_(act, step)
                place.last = self.result(act.number) if act.is_ok else "failed"
                return
            self.tell(self.replay.end_step(step, ok=False, error=self.raised(), duration_ms=1, final=False))
            for scope in [each for each in self.said if each.partition("|")[0] == step.scope]:
                self.said[scope] = []
            step = self.replay.next_try(step)
            self.tell(step.emits)
        assert self.replay.end_step(step, ok=True, duration_ms=1) == []
        place.last = step.recorded.result if step.recorded.ok else "failed"

    def raised(self) -> EventError:
        """Return an error of the tool's own making, whatever it calls it."""
        return EventError(code=self.chance.choice(("tool_error", "worker_lost")), message="no")

    def return_(self, act: Call, step: replay.Step) -> Iterator[bool]:
        result = {"result": self.result(act.number)} if act.is_ok else {"error": _ERROR}
        emits = self.replay.end_step(step, ok=act.is_ok, duration_ms=1, **result)
        self.tell(emits)
        self.finish(step.scope)
        yield False

    def check_begun(self, act: Call, step: replay.Step) -> None:
        """A finished step is not executed again, and one that was cut off only if it may be."""
        screen = self.now.screen
        is_new = any(isinstance(emit.data, ToolExecuting | StepStarted) for emit in step.emits)
        tries = {key: begun for key, begun in screen.begun.items() if key.startswith(f"{step.key}/")}
        if any(begun.is_final for begun in tries.values()):
            assert step.recorded is not None, "a finished step is executed again"
        elif screen.lost.get(step.key) and act.on_crash == "fail":
            assert step.lost, "a step that a crash cut off is tried again"
        if step.recorded is not None or step.lost:
            assert not is_new, "begins what is not executed"
        elif not is_new:
            inside = [begun for begun in screen.begun.values() if screen.is_inside(begun.parent, step.scope)]
            assert inside, "a try in which nothing began is re-entered"

    def delegate(self, act: Delegate, place: Place) -> Iterator[bool]:
        span = self.replay.begin_span(place.scope, act.agent, {"number": act.number})
        finished = span.id in self.start.screen.begun and not self.start.screen.begun[span.id].is_open
        assert finished == (span.recorded is not None), "a finished sub-agent is executed again"
        self.tell(span.emits)
        if span.recorded is None:
            yield False
            self.said[span.scope] = []
            yield from self.perform(act.body, Place(span.scope, place.path))
            if act.is_ok:
                self.tell(self.replay.end_span(span, output=self.result(act.number)))
            else:
                self.tell(self.replay.end_span(span, error=_ERROR))
            self.finish(span.scope)
            place.last = self.result(act.number) if act.is_ok else "failed"
        else:
            assert self.replay.end_span(span, output="another") == []
            place.last = getattr(span.recorded, "output", "failed")

    def parallel(self, act: Parallel, place: Place) -> Iterator[bool]:
        gather = self.replay.begin_gather(place.scope, len(act.branches))
        self.tell(gather.emits)
        for scope in gather.scopes:
            self.said[scope] = []
        branches = [
            self.branch(acts, Place(scope, place.path, place.last))
            for acts, scope in zip(act.branches, gather.scopes, strict=True)
        ]
        waiting: set[int] = set()
        running = dict(enumerate(branches))
        while running:
            number = self.chance.choice(list(running))
            try:
                is_waiting = next(running[number])
            except StopIteration:
                del running[number]
                waiting.discard(number)
                continue
            waiting = waiting | {number} if is_waiting else set()
            yield len(waiting) == len(running)
        place.last = "gathered"

    def branch(self, acts: Sequence[Act], place: Place) -> Iterator[bool]:
        yield from self.perform(acts, place)
        self.tell(self.replay.end_scope(place.scope))

    def wait(self, act: Await, place: Place) -> Iterator[bool]:
        prompt = None if act.kind == "timer" else {"number": act.number, "left": act.is_left}
        wait = self.replay.begin_wait(place.scope, act.kind, prompt=prompt, due_at=1000 * self.number)
        self.tell(wait.emits)
        if act.is_left:
            return
        resumed = wait.recorded
        if resumed and act.kind == "approval":
            approved = self.now.screen.approved[wait.id]
            for scope, said in approved.items():
                assert self.said[scope] == said, "approved after other words"
        while resumed is None:
            yield True
            resumed = self.learned.get(wait.id) if wait.id not in self.replay.open_waits else None
        assert resumed == answer(wait.id, prompt), "another answer"
        place.last = resumed.value


def answer(wait: str, prompt: Any) -> AgentResumed:
    """Return what a person says to a prompt, always the same."""
    if prompt is None:
        return AgentResumed(wait=wait, value=None, by="timer")
    return AgentResumed(wait=wait, value=prompt["number"] % 2 == 0, by="usr_1")


def stored(data: EventData, seq: int, attempt: int, scope: str = _RUN) -> StoredEvent:
    new = emitted(data, ts=seq * 10, scope=scope)
    return StoredEvent(seq=seq, run="run_1", attempt=attempt, type=new.type, ts=new.ts, data=new.data, scope=scope)


def check_order(log: Sequence[StoredEvent]) -> None:
    order = RunOrder()
    for event in log:
        order.accept(event.type, decode_data(event), event.attempt)


# ── histories ────────────────────────────────────────────────────────────────────────────────────────────


class World:
    """One agent and its histories."""

    def __init__(self, seed: int, *, is_deterministic: bool) -> None:
        self.author = Author(seed)
        self.chance = self.author.chance
        self.is_deterministic = is_deterministic
        self.agent = self.author.agent()
        self.counts: Counter[str] = Counter()
        self.clean: dict[str, list[Said]] | None = None
        self.asked = History()
        self.asked.append(stored(UserMessage(message="msg_u", content="hello"), 3, 0))

    def explore(self, *, crashes: int | None) -> None:
        """Check the uncrashed run, and so many with one to three crashes; None: one after each event, and more after.

        A run that parks goes on when something was answered.
        """
        whole = self.live(self.asked.copy(), 1)
        clean = whole[-1].now
        if self.is_deterministic and not self.agent.has_fresh_results:
            self.clean = clean.screen.by_owner()
        if crashes is None:
            for attempt in whole:
                for point in self.points(attempt):
                    self.crash(attempt, point, again=2)
            return
        for _ in range(crashes):
            attempt = self.chance.choice(whole)
            self.crash(attempt, self.chance.choice(self.points(attempt)), again=self.chance.randint(0, 2))

    def points(self, attempt: Attempt) -> list[int]:
        """Return after how many of its events it may be lost: those of the last batch are stored together."""
        end = attempt.last_batch if attempt.last_batch >= 0 else attempt.stored
        return list(range(end + 1))

    def crash(self, attempt: Attempt, point: int, *, again: int) -> None:
        history = self.cut(attempt, point)
        for wait in list(history.screen.answers):
            if self.chance.random() < 0.3:  # somebody answers while nobody runs it
                history.resume(wait, attempt.number)
        number = attempt.number + 1
        if self.chance.random() < 0.2:
            self.check_called_off(history, number)
        lived = self.live(history, number)
        if again:
            latest = self.chance.choice(lived)
            self.crash(latest, self.chance.choice(self.points(latest)), again=again - 1)

    def cut(self, attempt: Attempt, point: int) -> History:
        """Return what is there when the first events of an attempt were stored and the rest was lost."""
        history = attempt.start.copy()
        history.has_lost = attempt.now.has_lost
        history.screen.entered = attempt.said
        for event in attempt.now.log[len(history.log) :][:point]:
            history.append(event)
        self.keep(history, attempt, point)
        return history

    def keep(self, history: History, attempt: Attempt, point: int) -> None:
        for end, scope in attempt.done:
            if end <= point:
                of_it = {key: said for key, said in attempt.said.items() if key.partition("|")[0] == scope}
                history.finished.update(of_it)

    def live(self, history: History, number: int) -> list[Attempt]:
        """Execute the run until it ends, over as many attempts as parking makes of it."""
        lived: list[Attempt] = []
        reason: Any = self.chance.choice(("worker_lost", "worker_lost", "drained", "deploy"))
        while True:
            attempt = Attempt(history, number, self.version(number), self.chance, reason=reason)
            attempt.run()
            lived.append(attempt)
            if not attempt.is_parked:
                self.check_end(attempt)
                return lived
            history = attempt.now.copy()
            self.keep(history, attempt, attempt.stored)
            history.resume(self.chance.choice(list(history.screen.answers)), number)
            number, reason = number + 1, None

    def version(self, number: int) -> Agent:
        change = self.author.same if self.is_deterministic else self.author.other
        acts = self.agent.acts if number == 1 else change(self.agent.acts)
        return Agent(acts, self.agent.end, self.agent.has_fresh_results)

    def check_end(self, attempt: Attempt) -> None:
        """The screen shows one coherent run: what the last attempt said, and what those said that had finished."""
        history = attempt.now
        self.counts["deterministic" if self.is_deterministic else "other words"] += 1
        check_order(history.log)
        assert history.screen.is_over, "left open"
        if attempt.has_failed:
            assert not self.is_deterministic, "a deterministic agent is called nondeterministic"
            self.counts["not what was approved"] += 1
            return
        expected = {scope: said for scope, said in (attempt.start.finished | attempt.said).items() if said}
        assert history.screen.standing() == expected, "not what was said"
        if self.is_deterministic:
            assert "differs" not in history.screen.reasons, "a deterministic agent differs"
            if self.clean is not None and not history.has_lost:
                assert history.screen.by_owner() == self.clean, "not as uncrashed"

    def check_called_off(self, history: History, number: int) -> None:
        """Calling a run off, in its code or after its worker died, closes what is open and takes nothing back."""
        self.counts["called off"] += 1
        off_at = self.chance.randint(1, 12)
        alive = Attempt(history, number, self.version(number), self.chance, reason="worker_lost", off_at=off_at)
        alive.run()
        check_order(alive.now.log)
        dead = history.copy()
        for emit in [
            *replay.closers(history.log, code="cancelled", message="m"),
            replay.Emit(AgentCancelled(by="user")),
        ]:
            dead.append(stored(emit.data, dead.next_seq, number, emit.scope), is_closing=True)
        assert dead.screen.is_over, "left open"
        assert dead.screen.standing() == history.screen.standing(), "an unwinding changes what is shown"
        check_order(dead.log)


def campaign(seeds: Iterable[int], *, crashes: int | None = 2) -> Counter[str]:
    """Check the agent of each seed, even ones deterministic; return how many histories of which kind."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed, is_deterministic=seed % 2 == 0)
        world.explore(crashes=crashes)
        counts += world.counts
    return counts
