"""One client before one server on a faulty network; what is promised is asserted after every single input.

`World(seed).live()` is a history. It is a pure function of the seed, and it keeps a transcript: each input of the
client with what the client did. The transcript is what another client (`driver.mjs`) is run against.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from types import ModuleType
from typing import Any

import msgspec
from tests.histories.log import History, random_history
from tests.histories.rows import row_of
from tests.histories.screen import Entry, Screen, disagreement, flat
from tests.histories.server import THREAD, Server

from runwire.protocol import frames
from runwire.protocol import view as the_rule
from runwire.protocol.events import DELTA_TYPES, StoredEvent, View, view_has

SEED = 0  # the histories of `make test` are those of the seeds from here on
_HEARTBEATS = 2  # after which a quiet network has brought everything


class World:
    """One client and its server.

    Args:
        seed: decides everything.
        rule: the module with `Cursor` and `ThreadView`; a test of this world gives it a broken copy.
        cut_at: hang up before this input number, so that a cut at every frame can be tried.
    """

    def __init__(self, seed: int, *, rule: ModuleType = the_rule, cut_at: int | None = None) -> None:
        self.chance = random.Random(seed)
        first = random_history(self.chance)
        self.server = Server(first, self.chance)
        self.histories = {self.server.log: first}
        self.rule = rule
        self.ids = (str(number) for number in count(1))
        self.view: View = self.chance.choice(["all", "all", "lifecycle"])
        self.cursor = rule.Cursor(THREAD, new_id=lambda: next(self.ids), view=self.view, shown=rule.ThreadView())
        self.transcript: list[dict[str, Any]] = []
        self.happened: Counter[str | None] = Counter()  # so that a test can prove that these worlds are bad enough
        self.ever_applied: list[tuple[View, frames.Event]] = []
        self.faults = self.chance.choice([0.0, 0.1, 0.3])
        self.cut_at = cut_at
        self.commands: deque[frames.Subscribe | frames.Unsubscribe] = deque()
        self.sends: set[str] = set()
        self.asks = 0
        self.asked = 0  # subscribes of this socket without an answer
        self.excused = 0  # how many gaps the network has made in this subscription: so often may it ask by itself
        self.lost = 0  # deltas that no answer brings
        self.has_lost_the_last = False
        self.dead: list[Any] = []  # what was on its way when the socket was cut
        self.belongs_to: str | None = None  # the log of what is shown; None: nothing can be shown yet
        self.recorded: dict[tuple[str, str], dict[str, Any]] = {}  # the view, as the transcript tells it
        self.recorded_at: tuple[str | None, int | None] = (None, None)
        self.begin(None)

    def begin(self, start: int | None, base: Callable[[], Screen] = Screen) -> None:
        """Remember that the view begins anew: after `start`, on top of what a snapshot gave."""
        self.start = start  # None: not known yet
        self.told = base()  # what the applied events say
        self.ideal = base()  # what the log says
        self.through = start  # how far `ideal` has come
        self.applied: list[frames.Event] = []
        # For each it may ask once more, and again if the server merged what it asked for into a later one meanwhile.
        self.holes = 2 * self.lost
        self.belongs_to = None

    def recording(self, name: str) -> bytes:
        """Return the transcript as one line of a vector file."""
        return msgspec.json.encode({"name": name, "thread": THREAD, "view": self.view, "steps": self.transcript})

    @property
    def last(self) -> int | None:
        position: int | None = self.cursor.last
        return position

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
            (self.subscribe, 3),
            (self.unsubscribe, 1),
            (self.take_snapshot, 1),
            (self.change_view, 2),
            (self.change_view_twice, 1),
            (self.restore, 1),
            (self.trim, 1),
            (self.server.chatter, 1),
            (self.lose_delta, 1),
        ]
        if self.chance.random() < 0.4:  # comes in the middle
            self.server.commit(self.chance.randrange(len(self.server.kept)))
            self.ask(-1)
        elif self.chance.random() < 0.2:
            self.send()
            self.server.commit(3)
            self.ask(-1)  # before the reply has come
        for act in self.chance.choices([act for act, _ in acts], [weight for _, weight in acts], k=steps):
            act()
        if self.chance.random() < 0.03:
            self.delete()
        else:
            self.settle()

    def settle(self) -> None:
        """Nothing fails any more: within two heartbeats the client must show all there is."""
        self.faults, self.cut_at = 0, None
        self.server.refusals, self.server.refuses_next = 0, False
        self.server.commit(10_000)
        if self.server.wire and isinstance(self.server.wire[-1], frames.Event) and self.chance.random() < 0.3:
            self.server.wire.pop()  # the very last event: no later one shows that it lacks
            self.happened["lost"] += 1
            self.excused += 1
            self.has_lost_the_last = True
        for beat in range(20):
            if not self.cursor.is_subscribed and not self.cursor.is_asking:
                self.subscribe(after=0)
            while self.commands or self.server.wire:
                self.serve()
                self.receive()
            if self.is_settled():
                break
            self.happened["gap found by a position"] += 1
            assert beat < _HEARTBEATS or not self.cursor.is_subscribed, "a gap outlives the heartbeats"
            self.server.ping()
        assert self.is_settled(), f"stuck at {self.last} of {self.server.head}"
        self.check_final()

    def is_settled(self) -> bool:
        events = self.server.read(self.cursor.view, 0)
        is_idle = self.cursor.is_subscribed and not self.cursor.is_asking and not self.server.wire
        return is_idle and self.last is not None and self.last >= events[-1].seq

    def subscribe(self, after: int | None = None) -> None:
        after = self.chance.choice([0, 0, -1]) if after is None else after
        self.ask(after)
        assert self.cursor.is_asking

    def ask(self, after: int) -> None:
        if self.start is None and after == 0 and not self.cursor.is_asking:
            self.begin(0)
        self.input({"subscribe": after}, lambda: self.cursor.subscribe(after))

    def unsubscribe(self) -> None:
        if self.asked == 0:  # as our clients: not while a subscribe is under way
            self.commands.append(frames.Unsubscribe(id=next(self.ids), thread=THREAD))

    def serve(self) -> None:
        if self.commands:
            self.server.take(self.commands.popleft())

    def send(self) -> None:
        if self.server.next_is_asked() and self.cursor.view == "all":
            id_ = next(self.ids)
            self.sends.add(id_)
            while self.commands:  # commands naming one thread run in the order received
                self.serve()
            self.server.send(id_)

    def cut(self) -> None:
        self.happened["cut"] += 1
        self.dead = list(self.server.wire)[:2]
        self.server.hang_up()
        self.commands.clear()
        self.sends.clear()
        self.asked = 0
        self.input({"disconnect": True}, self.hang_up)
        if self.chance.random() < 0.3:
            for frame in self.dead:  # its last words are read late
                self.happened["late frame"] += 1
                self.feed(frame)

    def hang_up(self) -> tuple[Any, ...]:
        self.cursor.disconnect()
        return ()

    def compact(self) -> None:
        if self.chance.random() < 0.1:
            self.server.compact_ended()
            self.happened["compacted"] += 1
        else:
            self.happened[self.server.compact()] += 1

    def restore(self) -> None:
        if self.chance.random() < 0.3:
            self.happened["restored"] += 1
            anew = self.server.restore(self.histories[self.server.log])
            self.histories[self.server.log] = anew
            self.cut()
            if self.chance.random() < 0.5:
                self.send()  # the first word on the new socket, before any subscribe
                self.server.refuses_next = self.chance.random() < 0.3

    def lose_delta(self) -> None:
        if self.server.lose_delta():
            self.happened["delta that never comes"] += 1
            self.lost += 1
            self.holes += 2

    def trim(self) -> None:
        if self.chance.random() < 0.3:
            self.server.floor = self.server.reset_from()

    def delete(self) -> None:
        """The thread is deleted: whatever the client waits for, it shows nothing and holds no position."""
        self.faults = 0
        if self.server.view is None:
            return
        self.server.delete()
        while self.server.wire:
            self.receive()
        assert self.recorded == {}
        assert (self.cursor.log, self.last) == (None, None)

    def take_snapshot(self) -> None:
        """As a reader of `GET /v1/threads/{id}`: the server reduces its own log, whole."""
        self.happened["snapshot"] += 1
        stored = [event for event in self.server.kept if event.seq <= self.server.head]
        view = the_rule.ThreadView()
        for event in stored:
            if not view.apply(event):
                view.pass_over(event)
        snapshot = msgspec.json.decode(msgspec.json.encode(view.to_snapshot() | {"seq": self.server.head}))
        self.begin(self.server.head, lambda: _screen_of(stored))
        self.restart({"after": self.server.head, "log": self.server.log}, snapshot)

    def change_view(self) -> None:
        self.begin(0)
        self.restart({"after": 0, "view": "lifecycle" if self.cursor.view == "all" else "all"}, None)

    def change_view_twice(self) -> None:
        """Go back to the view before, and be refused: the other one is what the socket goes on with."""
        if self.asked == 0 and not self.commands:
            self.change_view()
            self.serve()
            self.change_view()
            self.server.refuses_next = True
            self.serve()
            if self.chance.random() < 0.5:
                self.send()

    def restart(self, position: dict[str, Any], snapshot: dict[str, Any] | None) -> None:
        def act() -> tuple[Any, ...]:
            shown = self.rule.ThreadView.from_snapshot(snapshot) if snapshot else self.rule.ThreadView()
            self.cursor.shown = shown
            actions: tuple[Any, ...] = self.cursor.restart(**position)
            return actions

        self.asked = 0  # what is under way is not waited for any more
        self.input({"restart": position} | ({"snapshot": snapshot} if snapshot else {}), act)

    # frames on their way

    def receive(self) -> None:
        wire = self.server.wire
        if not wire:
            return
        if self.cut_at is not None and len(self.transcript) >= self.cut_at:
            self.cut_at = None
            self.cut()
            return
        self.disturb(wire)
        if not wire:
            return
        if isinstance(wire[0], frames.Reset) and self.chance.random() < 0.1:
            self.change_view()  # just before the reset of the old subscription arrives
        self.feed(wire.popleft())

    def feed(self, frame: Any) -> None:
        if isinstance(frame, frames.Reply) and frame.id in self.sends:
            self.happened["sent"] += 1
            self.excused += 1  # a gap shows itself, or the log is another than the one held
            was_held = self.last is not None
            self.input({"sent": frame}, lambda: self.cursor.sent(frame.data))
            if not was_held:
                self.begin(self.last)
                self.belongs_to = self.cursor.log if self.cursor.is_subscribed else None
            return
        if isinstance(frame, frames.Subscribed):
            self.asked = max(0, self.asked - 1)
            # What was lost before comes now. But "from now" was asked for, and then a `send` gave a position: a gap.
            self.excused = int(self.last is not None and frame.after > self.last) + self.has_lost_the_last
        elif isinstance(frame, frames.Reply) and not frame.ok and frame.id != "cancel":
            self.asked = max(0, self.asked - 1)
            self.excused += 1  # an older subscription goes on, behind a gap
        self.input({"frame": frame}, lambda: self.cursor.receive(frame))

    def disturb(self, wire: deque[Any]) -> None:
        """Lose, repeat or swap events and positions; a socket does not, and still the rule must hold."""
        if self.chance.random() >= self.faults or not isinstance(wire[0], frames.Event | frames.Position):
            return
        fault = self.chance.randrange(4)
        if fault == 0:
            self.happened["lost"] += 1
            self.excused += 1
            wire.popleft()
        elif fault == 1:
            self.happened["duplicate"] += 1
            wire.appendleft(wire[0])
        elif fault == 2 and len(wire) > 1 and isinstance(wire[1], frames.Event | frames.Position):
            self.happened["swapped"] += 1
            self.excused += 1
            wire[0], wire[1] = wire[1], wire[0]
        elif self.applied:
            self.happened["old frame again"] += 1
            wire.appendleft(self.chance.choice(self.applied[-5:]))

    # one input

    def input(self, given: dict[str, Any], act: Callable[[], tuple[Any, ...]]) -> None:
        """Give the client something, look at what it does, and hold it against what is promised."""
        before = (self.cursor.log, self.last)
        row, was_unfit = row_of(self.cursor, given), self.cursor._unfit_seq
        actions = act()
        if row == "prev <= last < seq" and was_unfit != self.cursor._unfit_seq:
            row = "offset beyond the end"
        elif row == "prev <= last < seq" and was_unfit == self.last:
            row = "offset beyond the end, again"
        self.happened[row] += row is not None
        step = dict(given)
        for action in actions:
            self.do(action, step)
        if self.start is None and self.last is not None and self.cursor.is_subscribed:
            self.begin(self.last)
        if self.belongs_to is None and self.cursor.is_subscribed:
            self.belongs_to = self.cursor.log
        if "frame" in given:
            self.check_position(before, step)
        self.check(step)
        self.transcript.append(step)

    def do(self, action: Any, step: dict[str, Any]) -> None:
        did = step.setdefault("did", [])
        match type(action).__name__:
            case "Apply":
                did.append("apply")
                self.apply(action.event)
            case "Ask":
                self.asks += 1
                self.asked += 1
                assert self.asked == 1, "a second subscribe while one is under way"
                if "frame" in step or "sent" in step:
                    self.excuse()
                self.commands.append(action.frame)
                step["send"] = action.frame
            case "DropView":
                did.append("reset")
                self.happened[action.reason] += 1
                self.begin(self.last)
            case "NotSubscribed":
                did.append("refused")
                self.happened["not subscribed"] += 1
            case "Ended":
                did.append(action.reason)
                self.happened[action.reason] += 1
                if action.reason == "deleted":
                    self.begin(None)

    def excuse(self) -> None:
        self.happened["asked by itself"] += 1
        if self.excused:
            self.excused -= 1
        else:
            self.holes -= 1
        assert self.holes >= 0, "it asks though nothing was lost"

    # what is promised

    @property
    def history(self) -> History:
        """The one that the screen is of; it may never have happened, until the client is told."""
        return self.histories[self.belongs_to or self.server.log]

    def apply(self, event: frames.Event) -> None:
        """Each event is applied once, in order, and is one of this log and view."""
        assert not self.applied or event.seq > self.applied[-1].seq, "applied twice, or out of order"
        assert self.start is not None, "applied without a position"
        assert self.start < event.seq <= len(self.history.events), "not of this view, or of this log"
        logged = self.history.events[event.seq - 1]
        assert (logged.run, logged.type) == (event.run, event.type), "not an event of this log"
        assert view_has(self.cursor.view, event.type), "not an event of this view"
        self.applied.append(event)
        self.ever_applied.append((self.cursor.view, event))
        self.told.show(event)

    def check_position(self, before: tuple[str | None, int | None], step: dict[str, Any]) -> None:
        """A position never goes back within a log; only a reset, a deletion or a snapshot moves it elsewhere."""
        log, last = before
        if last is not None and not {"reset", "deleted"} & {*step.get("did", ())}:
            assert self.last is not None, "the position is lost"
            assert log in (None, self.cursor.log), "the log changed without a reset"
            assert self.last >= last, "the position went back"

    def check(self, step: dict[str, Any]) -> None:
        self.check_nothing_lacks()
        shown = flat(self.cursor.shown)
        assert shown == self.told.entries, "shown is what the applied events say"
        if "did" in step or "restart" in step:
            problem = self.disagreement(shown)
            assert problem is None, problem
            self.record_view(step, shown)
        at = (self.cursor.log, self.last)
        if at != self.recorded_at:
            self.recorded_at = at
            step["at"] = at
        if not step.get("did", True):
            del step["did"]  # it only asked

    def disagreement(self, shown: list[Entry]) -> str | None:
        return disagreement(self.ideal, shown, came_in_the_middle=bool(self.start))

    def check_nothing_lacks(self) -> None:
        """Whatever the position passes was applied, unless it is a delta that compaction took."""
        if self.through is None or self.last is None or self.last <= self.through:
            return
        was_applied = {event.seq for event in self.applied if event.seq > self.through}
        kept = {event.seq for event in self.server.kept} if self.server.log == self.belongs_to else set()
        for event in self.history.events[self.through : self.last]:
            if not view_has(self.cursor.view, event.type):
                continue
            is_compacted = event.type in DELTA_TYPES and event.seq not in kept
            assert event.seq in was_applied or is_compacted, f"lost {event.seq} {event.type}"
            self.ideal.show(event)
        self.through = self.last

    def record_view(self, step: dict[str, Any], shown: list[Entry]) -> None:
        fresh = {(kind, key): value for kind, key, value in shown}
        if "restart" in step or {"reset", "deleted"} & {*step["did"]}:
            self.recorded = {}
        changes: list[Any] = [[*name, None] for name in self.recorded if name not in fresh]
        changes += [[*name, value] for name, value in fresh.items() if self.recorded.get(name) != value]
        self.recorded = fresh
        if changes:
            step["view"] = changes

    def check_final(self) -> None:
        """At rest nothing lags behind: the screen is what the log says."""
        assert self.start is not None
        assert self.belongs_to == self.server.log
        assert self.disagreement(flat(self.cursor.shown)) is None
        assert not self.ideal.open, "every stream has ended"


def play(seed: int, *, cut_at: int | None = None) -> World:
    """Live one history to its end; what fails names it."""
    world = World(seed, cut_at=cut_at)
    try:
        world.live()
    except Exception as error:
        words = f"{seed}" if cut_at is None else f"{seed} --cut-at {cut_at}"
        raise AssertionError(f"history {words}: {error}; again: python -m tests.histories play {words}") from error
    return world


def _screen_of(stored: list[StoredEvent]) -> Screen:
    """Return what stands at the end of a log, as far as a snapshot of it tells."""
    screen = Screen()
    for event in stored:
        screen.show(event)
    screen.keep_what_a_snapshot_has()
    return screen
