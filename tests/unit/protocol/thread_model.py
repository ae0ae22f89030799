"""A thread, its server and a faulty network, for the properties of the apply rule.

`random_history` makes a legal log, `Server` serves it as PROTOCOL §1 says (and compacts it behind the client's
back), `World` puts one client before it and checks, after every single frame, what a person would see.
The expectations come from `Screen`, a reducer that shares no code with the one under test.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from runwire.protocol import frames
from runwire.protocol.events import (
    DELTA_TYPES,
    AgentCompleted,
    AgentFailed,
    AgentRetrying,
    AgentStarted,
    AgentThinking,
    Custom,
    EventData,
    EventError,
    EventType,
    MessageCompleted,
    MessageStarted,
    StepCompleted,
    StepStarted,
    StoredEvent,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolCompleted,
    ToolExecuting,
    UserMessage,
    View,
    decode_data,
    emitted,
    view_has,
)
from runwire.protocol.lifecycle import RunOrder
from runwire.protocol.view import Apply, Ask, Cursor, DropView, Ended, NotSubscribed, ThreadView

THREAD = "th_1"
LETTERS = "abé\u0301😀\n "


# ── a legal log ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class History:
    """The log of one thread and what each stream in it will have said at its end."""

    events: list[StoredEvent] = field(default_factory=list)
    finals: dict[str, str] = field(default_factory=dict)  # of messages and thinking streams, by id

    def say(self, run: str, attempt: int, data: EventData) -> int:
        kind = emitted(data, ts=0)
        self.events.append(
            StoredEvent(seq=len(self.events) + 1, run=run, attempt=attempt, type=kind.type, ts=0, data=kind.data)
        )
        return len(self.events)


class _Teller:
    """Writes one run into a history, one random act after the other."""

    def __init__(self, history: History, run: str, chance: random.Random) -> None:
        self.history, self.run, self.chance = history, run, chance
        self.attempt = 0
        self.open: dict[str, str] = {}  # message or thinking -> its text so far
        self.said: list[str] = []  # streams that may be taken back
        self.whole: list[int] = []  # seqs of thoughts and customs that may be taken back
        self.calls: list[ToolExecuting] = []
        self.ids = (f"{run}_{n}" for n in count())

    def say(self, data: EventData) -> int:
        return self.history.say(self.run, self.attempt, data)

    def tell(self) -> None:
        self.say(UserMessage(message=f"u_{self.run}", content="hi"))
        self.attempt = 1
        self.say(AgentStarted(agent="a", message=f"u_{self.run}"))
        acts = [self.open_message, self.grow, self.grow, self.grow, self.think, self.think_aloud, self.show]
        acts += [self.call, self.return_, self.journal, self.close, self.take_back, self.retry, self.unknown]
        for _ in range(self.chance.randrange(3, 25)):
            self.chance.choice(acts)()
        self.end()

    def open_message(self) -> None:
        message = f"m_{next(self.ids)}"
        self.open[message] = ""
        self.said.append(message)
        self.history.finals[message] = ""
        self.say(MessageStarted(message=message))

    def think_aloud(self) -> None:
        thinking = f"t_{next(self.ids)}"
        self.open[thinking] = ""
        self.said.append(thinking)
        self.grow(thinking)

    def grow(self, stream: str | None = None) -> None:
        if not self.open:
            return
        stream = stream or self.chance.choice(list(self.open))
        text = "".join(self.chance.choices(LETTERS, k=self.chance.randrange(1, 4)))
        offset = len(self.open[stream])
        if offset and self.chance.random() < 0.2:  # as a merged delta does: it says again what was said
            offset, text = offset - 1, self.open[stream][-1] + text
        self.open[stream] = self.open[stream][:offset] + text
        self.history.finals[stream] = self.open[stream]
        if stream.startswith("m_"):
            self.say(TextDelta(message=stream, offset=offset, text=text))
        else:
            self.say(ThinkingDelta(thinking=stream, offset=offset, text=text))

    def close(self, *, complete: bool = True) -> None:
        if not self.open:
            return
        stream = self.chance.choice(list(self.open))
        text = self.open.pop(stream)
        if stream.startswith("m_"):
            self.say(MessageCompleted(message=stream, content=text, complete=complete))
        else:
            self.say(AgentThinking(thinking=stream, text=text))

    def think(self) -> None:
        self.whole.append(self.say(AgentThinking(text="hm")))

    def show(self) -> None:
        self.whole.append(self.say(Custom(name="n", value={"x": 1})))

    def call(self) -> None:
        call = f"c_{next(self.ids)}"
        self.calls.append(ToolExecuting(call=call, step=call, try_=1, name="n", args={"a": 1}))
        self.say(self.calls[-1])

    def return_(self, *, ok: bool | None = None) -> None:
        if not self.calls:
            return
        call = self.calls.pop()
        is_ok = self.chance.random() < 0.7 if ok is None else ok
        outcome: dict[str, Any] = {"result": [1]} if is_ok else {"error": EventError(code="agent_error", message="m")}
        self.say(
            ToolCompleted(
                call=call.call, step=call.step, try_=1, name="n", ok=is_ok, final=True, duration_ms=1, **outcome
            )
        )

    def journal(self) -> None:
        step = f"s_{next(self.ids)}"
        self.say(StepStarted(step=step, try_=1, name="now"))
        self.say(StepCompleted(step=step, try_=1, ok=True, final=True, result=1))

    def take_back(self) -> None:
        streams = [stream for stream in self.said if self.chance.random() < 0.5]
        whole = [seq for seq in self.whole if self.chance.random() < 0.5]
        self.said = [stream for stream in self.said if stream not in streams]
        self.whole = [seq for seq in self.whole if seq not in whole]
        for stream in streams:
            self.open.pop(stream, None)
        self.say(
            Superseded(
                messages=[stream for stream in streams if stream.startswith("m_")],
                thinking=[stream for stream in streams if stream.startswith("t_")],
                events=whole,
                reason="differs",
            )
        )

    def retry(self) -> None:
        if self.chance.random() < 0.3:
            self.attempt += 1
            self.say(AgentRetrying(attempt=self.attempt, reason="worker_lost"))

    def unknown(self) -> None:
        seq = self.say(Custom(name="n", value=1))
        stored = self.history.events[-1]
        self.history.events[-1] = msgspec.structs.replace(stored, type="future", data=msgspec.Raw(b'{"new":true}'))
        self.whole.append(seq)

    def end(self) -> None:
        is_cut = self.chance.random() < 0.4
        while self.calls:
            self.return_(ok=False if is_cut else None)
        while self.open:
            self.close(complete=not is_cut)
        if is_cut:
            self.say(AgentFailed(code="agent_error", message="m", error_id="e", retryable=False))
        else:
            self.say(AgentCompleted(output="x", duration_ms=1))


def random_history(chance: random.Random, *, beginning: History | None = None, runs: str = "r") -> History:
    """Make a log of one to three runs, after a beginning that it shares with another one."""
    history = beginning or History()
    for number in range(chance.randrange(1, 4)):
        _Teller(history, f"{runs}{number}", chance).tell()
    orders: dict[str, RunOrder] = {}
    for event in history.events:
        orders.setdefault(event.run, RunOrder()).accept(event.type, decode_data(event), event.attempt)
    assert all(order.is_ended for order in orders.values())
    return history


# ── what should be on the screen ─────────────────────────────────────────────────────────────────────────


class Screen:
    """A second reducer, naive: what stands after these events were shown, by id."""

    def __init__(self) -> None:
        self.messages: dict[str, tuple[str, bool]] = {}  # text, complete
        self.thoughts: dict[str | int, tuple[str, bool]] = {}
        self.customs: set[int] = set()
        self.tools: dict[str, bool | None] = {}
        self.statuses: dict[str, str] = {}
        self._gone: set[str] = set()

    def show(self, event: Any) -> None:
        data = msgspec.json.decode(event.data)
        status = {
            "user_message": "queued",
            "agent_started": "running",
            "agent_retrying": "running",
            "agent_completed": "completed",
            "agent_failed": "failed",
        }.get(event.type)
        self.statuses[event.run] = status or self.statuses.get(event.run, "running")
        getattr(self, event.type, self._nothing)(event.seq, data)

    def _nothing(self, seq: int, data: Any) -> None:
        pass

    def user_message(self, seq: int, data: Any) -> None:
        self.messages[data["message"]] = (data["content"], True)

    def message_started(self, seq: int, data: Any) -> None:
        self.messages[data["message"]] = ("", False)

    def text_delta(self, seq: int, data: Any) -> None:
        text, complete = self.messages.get(data["message"], ("", True))
        if not complete:
            self.messages[data["message"]] = (text[: data["offset"]] + data["text"], False)

    def message_completed(self, seq: int, data: Any) -> None:
        if data["message"] not in self._gone:
            self.messages[data["message"]] = (data["content"], data["complete"])

    def thinking_delta(self, seq: int, data: Any) -> None:
        key = data["thinking"]
        if key in self.thoughts or data["offset"] == 0:
            text, _ = self.thoughts.get(key, ("", False))
            self.thoughts[key] = (text[: data["offset"]] + data["text"], False)

    def agent_thinking(self, seq: int, data: Any) -> None:
        if data.get("thinking") not in self._gone:
            self.thoughts[data.get("thinking", seq)] = (data["text"], True)

    def custom(self, seq: int, data: Any) -> None:
        self.customs.add(seq)

    def future(self, seq: int, data: Any) -> None:
        self.customs.add(seq)

    def tool_executing(self, seq: int, data: Any) -> None:
        self.tools[data["call"]] = None

    def tool_completed(self, seq: int, data: Any) -> None:
        self.tools[data["call"]] = data["ok"]

    def superseded(self, seq: int, data: Any) -> None:
        self._gone.update(data["messages"], data["thinking"])
        for key in (*data["messages"], *data["thinking"], *data["events"]):
            self.messages.pop(key, None)
            self.thoughts.pop(key, None)
            self.customs.discard(key)

    @classmethod
    def of(cls, shown: ThreadView) -> Screen:
        """Return what the reducer under test shows, in the same words."""
        screen = cls()
        screen.messages = {key: (message.content, message.complete) for key, message in shown.messages.items()}
        for run in shown.runs.values():
            screen.statuses[run.id] = run.status
            screen.thoughts |= {key: (thought.text, thought.complete) for key, thought in run.thinking.items()}
            screen.customs |= run.opaque.keys()
            screen.tools |= {key: step.ok for key, step in run.steps.items()}
        return screen

    def words(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """One thread's log behind one socket. What it sends waits in `wire`, in order."""

    def __init__(self, history: History, chance: random.Random) -> None:
        self.kept = list(history.events)  # what a read finds: compaction takes deltas away
        self.head = 0
        self.log = "log_0"
        self.floor = 0
        self.chance = chance
        self.replay_events = chance.choice([5, 20_000])
        self.wire: deque[frames.ServerFrame] = deque()
        self.view: View | None = None  # of the subscription; None: there is none
        self.at = 0  # the subscription has written everything up to here
        self.written = 0  # what `position` says

    def read(self, view: View, after: int, *, to: int | None = None) -> list[StoredEvent]:
        end = self.head if to is None else to
        return [event for event in self.kept if after < event.seq <= end and view_has(view, event.type)]

    def commit(self, number: int) -> None:
        self.head = min(self.head + number, self.kept[-1].seq)
        self.push()

    def push(self) -> None:
        if self.view is None:
            return
        for event in self.read(self.view, self.at):
            before = self.read(self.view, 0, to=event.seq - 1)
            (frame,) = frames.parse_server_frames(frames.encode_event(THREAD, event, before[-1].seq if before else 0))
            assert isinstance(frame, frames.Event)
            self.wire.append(frame)
            self.written = event.seq
        self.at = self.head

    def hang_up(self) -> None:
        self.wire.clear()
        self.view = None

    def take(self, command: frames.Subscribe | frames.Unsubscribe) -> None:
        if isinstance(command, frames.Unsubscribe):
            self.view = None
            self.wire.append(frames.Unsubscribed(id=command.id, thread=THREAD, reason="asked"))
        elif self.chance.random() < 0.05:
            error = frames.ErrorBody(code="rate_limited", message="m", retry_after_s=1)
            self.wire.append(frames.Reply(id=command.id, ok=False, error=error))
        else:
            self.subscribe(command)

    def subscribe(self, command: frames.Subscribe) -> None:
        after = self.head if command.after == -1 else command.after
        self.view, self.at, self.written = command.view, after, after
        self.wire.append(
            frames.Subscribed(id=command.id, thread=THREAD, log=self.log, view=self.view, after=after, head=self.head)
        )
        reason: Any = None
        if after > self.head or command.log not in (None, self.log):
            reason = "log_changed"
        elif after < self.floor:
            reason = "trimmed"
        elif len(self.read(self.view, after)) > self.replay_events:
            reason = "too_far_behind"
        if reason:
            self.at = self.written = self.reset_from()
            self.wire.append(frames.Reset(thread=THREAD, log=self.log, from_=self.at, reason=reason))
        self.push()

    def reset_from(self) -> int:
        """The seq before the `user_message` of the oldest unfinished run, else of the last one."""
        runs: dict[str, tuple[int, bool]] = {}
        for event in self.kept[: self.head]:
            if event.seq <= self.head:
                first = runs.get(event.run, (event.seq, False))[0]
                runs[event.run] = (first, event.type in ("agent_completed", "agent_failed"))
        unfinished = [first for first, is_ended in runs.values() if not is_ended]
        return (unfinished or [first for first, _ in list(runs.values())[-1:]] or [1])[0] - 1

    def send(self, id_: str) -> None:
        """Commit the `user_message` that is next in the history, as the answer to a `send`."""
        event = next(event for event in self.kept if event.seq > self.head)
        data = decode_data(event)
        self.wire.append(
            frames.reply_ok(
                id_,
                frames.SendData(
                    thread=THREAD, log=self.log, after=self.head, run=event.run, message=data.message, seq=event.seq
                ),
            )
        )
        if self.view is None:
            self.view, self.at, self.written = "all", self.head, self.head
        self.commit(1)

    def ping(self) -> None:
        if self.view is not None:
            self.wire.append(frames.Position(thread=THREAD, seq=self.written))

    def compact(self) -> str:
        """Delete all deltas of a stream that is complete, or merge a stretch of deltas of one that is not."""
        deltas = [event for event in self.kept if event.seq <= self.head and event.type in DELTA_TYPES]
        if not deltas:
            return "no deltas"
        chosen = self.chance.choice(deltas)
        stream = [event for event in deltas if _stream_of(event) == _stream_of(chosen)]
        ends = [
            event
            for event in self.kept
            if event.type in ("message_completed", "agent_thinking") and _stream_of(event) == _stream_of(chosen)
        ]
        if ends and ends[0].seq <= self.head and self.chance.random() < 0.5:
            self.kept = [event for event in self.kept if event not in stream]
            return "compacted"
        end = self.chance.randrange(len(stream))
        start = self.chance.randrange(end + 1)
        first, last = decode_data(stream[start]), stream[end]
        text = ""
        for delta in map(decode_data, stream[start : end + 1]):
            text = text[: delta.offset - first.offset] + delta.text
        merged = msgspec.structs.replace(last, data=emitted(msgspec.structs.replace(first, text=text), ts=0).data)
        self.kept = [merged if event is last else event for event in self.kept if event not in stream[start:end]]
        return "merged"

    def restore(self, history: History) -> History:
        """Come back from a backup: another log. The newest runs never happened, others come instead."""
        self.hang_up()
        ends = [event.seq for event in history.events if event.type in ("agent_completed", "agent_failed")]
        self.head = self.chance.choice([0, *(seq for seq in ends if seq <= self.head)])
        self.log += "'"
        self.floor = 0
        beginning = History(events=history.events[: self.head], finals=dict(history.finals))
        anew = random_history(self.chance, beginning=beginning, runs=f"{self.log}_r")
        self.kept = list(anew.events)
        return anew


def _stream_of(event: StoredEvent) -> str | None:
    data = msgspec.json.decode(event.data)
    stream: str | None = data.get("message") or data.get("thinking")
    return stream


# ── the client before it ─────────────────────────────────────────────────────────────────────────────────

CursorMaker = Callable[..., Cursor]


class World:
    """One client and its server. Everything that is promised is asserted after every frame."""

    def __init__(
        self, seed: int, *, make_cursor: CursorMaker = Cursor, make_view: Callable[[], ThreadView] = ThreadView
    ) -> None:
        self.chance = random.Random(seed)
        first = random_history(self.chance)
        self.server = Server(first, self.chance)
        self.histories = {self.server.log: first}
        self.make_view = make_view
        self.ids = (str(number) for number in count())
        self.cursor = make_cursor(
            THREAD,
            new_id=lambda: next(self.ids),
            view=self.chance.choice(["all", "all", "lifecycle"]),
            shown=make_view(),
        )
        self.commands: deque[frames.Subscribe | frames.Unsubscribe] = deque()
        self.sends: set[str] = set()
        self.asked = 0  # subscribes of this socket without an answer
        self.start: int | None = None  # seq after which this view began; None: not known yet
        self.base: ThreadView | None = None  # what a snapshot gave it
        self.applied: list[frames.Event] = []  # since then
        self.belongs_to: str | None = None  # the log of what is shown; None: nothing can be shown yet
        self.faults = self.chance.choice([0.0, 0.1, 0.3])
        self.happened: set[str] = set()  # so that a test can prove that these worlds are bad enough

    @property
    def shown(self) -> ThreadView:
        assert self.cursor.shown is not None
        return self.cursor.shown

    # what may happen

    def live(self, steps: int = 120) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.receive, 30),
            (self.serve, 12),
            (lambda: self.server.commit(self.chance.randrange(1, 6)), 10),
            (self.server.ping, 4),
            (self.compact, 6),
            (self.cut, 3),
            (self.send, 4),
            (self.subscribe, 5),
            (self.unsubscribe, 1),
            (self.take_snapshot, 1),
            (self.change_view, 2),
            (self.restore, 1),
            (self.trim, 1),
        ]
        if self.chance.random() < 0.4:  # comes in the middle
            self.server.commit(self.chance.randrange(len(self.server.kept)))
            self.do(self.cursor.subscribe(-1))
        for act in self.chance.choices([act for act, _ in acts], [weight for _, weight in acts], k=steps):
            act()
        self.settle()

    def settle(self) -> None:
        """Nothing fails any more: within a few heartbeats the client must show all there is."""
        self.faults = 0
        self.server.commit(10_000)
        for _ in range(60):
            if not self.cursor.is_subscribed and not self.cursor.is_asking:
                self.subscribe()
            while self.commands or self.server.wire:
                self.serve()
                self.receive()
            if self.is_settled():
                break
            self.happened.add("gap")
            self.server.ping()
        assert self.is_settled(), f"stuck at {self.cursor.last} of {self.server.head}"
        self.check_final()

    def is_settled(self) -> bool:
        events = self.server.read(self.cursor.view, 0)
        is_idle = self.cursor.is_subscribed and not self.cursor.is_asking and not self.server.wire
        return is_idle and self.cursor.last is not None and self.cursor.last >= events[-1].seq

    def subscribe(self) -> None:
        after = self.chance.choice([0, 0, -1])
        if self.start is None and after == 0 and not self.cursor.is_asking:
            self.start = 0
        self.do(self.cursor.subscribe(after))
        assert self.cursor.is_asking

    def unsubscribe(self) -> None:
        if self.asked == 0:  # as our clients: not while a subscribe is under way
            self.commands.append(frames.Unsubscribe(id=next(self.ids), thread=THREAD))

    def serve(self) -> None:
        if self.commands:
            self.server.take(self.commands.popleft())

    def send(self) -> None:
        upcoming = [event for event in self.server.kept if event.seq > self.server.head]
        if upcoming and upcoming[0].type == EventType.USER_MESSAGE and self.cursor.view == "all":
            id_ = next(self.ids)
            self.sends.add(id_)
            self.serve_all()
            self.server.send(id_)

    def serve_all(self) -> None:
        """Commands naming one thread run in the order received."""
        while self.commands:
            self.serve()

    def cut(self) -> None:
        self.happened.add("cut")
        self.server.hang_up()
        self.commands.clear()
        self.sends.clear()
        self.asked = 0
        self.cursor.disconnect()

    def compact(self) -> None:
        self.happened.add(self.server.compact())

    def restore(self) -> None:
        if self.chance.random() < 0.3:
            self.happened.add("restored")
            anew = self.server.restore(self.histories[self.server.log])
            self.histories[self.server.log] = anew
            self.cut()

    def trim(self) -> None:
        if self.chance.random() < 0.3:
            self.server.floor = self.server.reset_from()

    def take_snapshot(self) -> None:
        """As a reader of `GET /v1/threads/{id}`: the server reduces its own log, whole."""
        self.happened.add("snapshot")
        view = ThreadView()
        for event in self.server.kept:
            if event.seq <= self.server.head:
                assert view.apply(event)
        snapshot = msgspec.json.decode(msgspec.json.encode(view.to_snapshot() | {"seq": self.server.head}))
        self.begin(self.server.head, ThreadView.from_snapshot(snapshot))
        self.cursor.shown = self.make_view()
        vars(self.cursor.shown).update(vars(ThreadView.from_snapshot(snapshot)))
        self.restart(after=self.server.head, log=self.server.log)

    def change_view(self) -> None:
        self.begin(0, None)
        self.shown.clear()
        self.restart(after=0, view="lifecycle" if self.cursor.view == "all" else "all")

    def begin(self, start: int | None, base: ThreadView | None) -> None:
        self.start, self.base, self.applied, self.belongs_to = start, base, [], None

    def restart(self, **position: Any) -> None:
        self.asked = 0  # what is under way is not waited for any more
        self.do(self.cursor.restart(**position))

    # frames on their way

    def receive(self) -> None:
        wire = self.server.wire
        if not wire:
            return
        self.disturb(wire)
        if not wire:
            return
        if isinstance(wire[0], frames.Reset) and self.chance.random() < 0.1:
            self.change_view()  # just before the reset of the old subscription arrives
        frame = wire.popleft()
        if isinstance(frame, frames.Reply) and frame.id in self.sends:
            reply = frame.data
            self.happened.add("sent")
            was_held = self.cursor.last is not None
            self.do(self.cursor.sent(reply))
            if not was_held:
                self.start = self.cursor.last
        else:
            if isinstance(frame, frames.Subscribed) or (isinstance(frame, frames.Reply) and not frame.ok):
                self.asked = max(0, self.asked - 1)
            self.do(self.cursor.receive(frame))
            if isinstance(frame, frames.Subscribed) and self.start is None:
                self.start = self.cursor.last
        if self.belongs_to is None and self.cursor.is_subscribed:
            self.belongs_to = self.cursor.log
        self.check()

    def disturb(self, wire: deque[frames.ServerFrame]) -> None:
        """Lose, repeat or swap events and positions; a socket does not, and still the rule must hold."""
        if self.chance.random() >= self.faults or not isinstance(wire[0], frames.Event | frames.Position):
            return
        fault = self.chance.randrange(4)
        if fault == 0:
            wire.popleft()
        elif fault == 1:
            self.happened.add("duplicate")
            wire.appendleft(wire[0])
        elif fault == 2 and len(wire) > 1 and isinstance(wire[1], frames.Event | frames.Position):
            wire[0], wire[1] = wire[1], wire[0]
        elif self.applied:
            wire.appendleft(self.chance.choice(self.applied[-5:]))

    def do(self, actions: tuple[Any, ...]) -> None:
        for action in actions:
            match action:
                case Apply(event):
                    self.applied.append(event)
                case Ask(frame):
                    self.asked += 1
                    assert self.asked == 1, "a second subscribe while one is under way"
                    self.commands.append(frame)
                case DropView(reason):
                    self.happened.add(reason)
                    self.begin(self.cursor.last, None)
                case NotSubscribed():
                    self.happened.add("not subscribed")
                case Ended(reason):
                    self.happened.add(reason)

    # what is promised

    @property
    def history(self) -> History:
        """The one that the screen is of; it may never have happened, until the client is told."""
        return self.histories[self.belongs_to or self.server.log]

    def check(self) -> None:
        self.check_applied()
        self.check_texts()
        if self.base is None:
            screen = Screen()
            for event in self.applied:
                screen.show(event)
            assert Screen.of(self.shown).words() == screen.words(), "shown is what the applied events say"

    def check_applied(self) -> None:
        """Each event of the view since its start was applied once, in order; only compacted deltas may lack."""
        applied = [event.seq for event in self.applied]
        assert applied == sorted(set(applied)), f"applied {applied}"
        if self.start is None or self.cursor.last is None:
            assert not applied
            return
        view = self.cursor.view
        allowed = {
            event.seq: event.type
            for event in self.history.events
            if self.start < event.seq <= self.cursor.last and view_has(view, event.type)
        }
        assert set(applied) <= allowed.keys(), "nothing of another stretch or view"
        present = {event.seq for event in self.server.kept if self.server.log == self.belongs_to}
        missing = {seq for seq in allowed.keys() - set(applied) if allowed[seq] not in DELTA_TYPES or seq in present}
        assert not missing, f"lost {missing}"

    def check_texts(self) -> None:
        """A text on the screen is at all times the beginning of what it will be."""
        screen = Screen.of(self.shown)
        for key, (text, _) in (screen.messages | screen.thoughts).items():
            if key in self.history.finals:
                final = self.history.finals[key]
                assert final.startswith(text), f"{key} shows {text!r} of {final!r}"

    def check_final(self) -> None:
        """At rest the screen is what the log says: of everything since the view's start, or all from a snapshot."""
        assert self.start is not None
        assert self.belongs_to == self.server.log
        expected = Screen()
        begin = 0 if self.base else self.start
        for event in self.history.events:
            if event.seq > begin and view_has(self.cursor.view, event.type):
                expected.show(event)
        shown = Screen.of(self.shown)
        if self.base:
            assert list(shown.messages.items()) == list(expected.messages.items())
            assert (shown.tools, shown.statuses) == (expected.tools, expected.statuses)
        else:
            assert shown.words() == expected.words()
