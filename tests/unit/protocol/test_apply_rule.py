"""The apply rule and the reducer hold on any network; every clause of them, left out, is seen to be missed.

The world of `thread_model` loses, repeats and swaps frames, cuts the socket, compacts, trims and restores the
log, and asserts after each frame. Its own eyes are proven by mutants: each must be caught.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.protocol.thread_model import World

from runwire.protocol import frames
from runwire.protocol.shown import Message, Text
from runwire.protocol.view import Action, Apply, Cursor, ThreadView

SEEDS_FOR_A_MUTANT = 1500  # the slowest is caught within a third of this


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**64))
def test_a_client_shows_each_event_once_in_order_whatever_the_network_does(seed: int) -> None:
    World(seed).live()


def test_the_worlds_are_as_bad_as_they_are_meant_to_be() -> None:
    seen: set[str] = set()
    for seed in range(60):
        world = World(seed)
        world.live()
        seen |= world.happened
    assert seen >= {"gap", "log_changed", "too_far_behind", "trimmed", "not subscribed", "asked", "sent", "cut"}
    assert seen >= {"snapshot", "merged", "compacted", "duplicate", "restored"}


# ── mutants of the apply rule ────────────────────────────────────────────────────────────────────────────


class NoPrevCheck(Cursor):
    """Applies whatever is newer."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        if isinstance(frame, frames.Event):
            frame = msgspec.structs.replace(frame, prev=0)
        return super()._follow(frame)


class NextSeqOnly(Cursor):
    """Takes a view that skips numbers for one with gaps."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        if isinstance(frame, frames.Event):
            frame = msgspec.structs.replace(frame, prev=frame.seq - 1)
        return super()._follow(frame)


class NoDuplicateCheck(Cursor):
    """Applies again what it has."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        if isinstance(frame, frames.Event) and self.last is not None and frame.seq <= self.last:
            return self._apply(frame)
        return super()._follow(frame)


class IgnoresPosition(Cursor):
    """Never learns that the last event was lost."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        return () if isinstance(frame, frames.Position) else super()._follow(frame)


class AppliesWhileAsking(Cursor):
    """Takes late events of a subscription that is being replaced."""

    def receive(self, frame: Any) -> tuple[Action, ...]:
        if isinstance(frame, frames.Event) and self.is_asking and self.last is not None and self.is_subscribed:
            return self._apply(frame) if frame.prev <= self.last < frame.seq else ()
        return super().receive(frame)


class AsksTwice(Cursor):
    """Sends another subscribe for each event beyond the gap."""

    def subscribe(self, after: int = 0) -> tuple[Action, ...]:
        self._asked = None
        return super().subscribe(after)

    def receive(self, frame: Any) -> tuple[Action, ...]:
        if isinstance(frame, frames.Event | frames.Position) and self.is_subscribed and self.last is not None:
            return self._follow(frame)
        return super().receive(frame)


class AppliesBeyondAGap(Cursor):
    """Asks again, and shows the later event meanwhile."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        actions = super()._follow(frame)
        if actions and isinstance(frame, frames.Event) and not isinstance(actions[0], Apply):
            return (*actions, Apply(frame))
        return actions


class KeepsTheViewAtAReset(Cursor):
    """Goes on showing what may never have happened."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        kept, self.shown = self.shown, None
        try:
            actions = super()._follow(frame) if isinstance(frame, frames.Reset) else None
        finally:
            self.shown = kept
        return super()._follow(frame) if actions is None else actions


class KeepsThePositionAtAReset(Cursor):
    """Takes what follows a reset for old."""

    def _follow(self, frame: Any) -> tuple[Action, ...]:
        last = self.last
        actions = super()._follow(frame)
        if isinstance(frame, frames.Reset):
            self.last = last
        return actions


class ForgetsTheLog(Cursor):
    """Asks for its position in whatever history there is now."""

    def subscribe(self, after: int = 0) -> tuple[Action, ...]:
        self.log = None
        return super().subscribe(after)


class MovesToTheReply(Cursor):
    """Takes the reply to a send for its position, whatever it holds."""

    def sent(self, reply: frames.SendData) -> tuple[Action, ...]:
        self.last, self.log = reply.after, reply.log
        return super().sent(reply)


class TrustsAnyAnswer(Cursor):
    """Takes the answer to an older subscribe for the one it waits for."""

    def receive(self, frame: Any) -> tuple[Action, ...]:
        if isinstance(frame, frames.Subscribed) and self.is_asking:
            frame = msgspec.structs.replace(frame, id=self._asked)
        return super().receive(frame)


class ForgetsPositionWhenCut(Cursor):
    """Begins anew after each lost connection, on top of what is shown."""

    def disconnect(self) -> None:
        super().disconnect()
        if self.last is not None:
            self.last = 0


class WaitsForADeadAnswer(Cursor):
    """Still waits, on a new socket, for the answer of the old one."""

    def disconnect(self) -> None:
        self._following = None


class SkipsToNow(Cursor):
    """Takes `after` of any answer, even beyond what it has."""

    def _begin(self, frame: frames.Subscribed) -> tuple[Action, ...]:
        self.last = None
        return super()._begin(frame)


class TakesTheLogBeforeTheReset(Cursor):
    """Names a new log for an old position when it is cut before the reset."""

    def _begin(self, frame: frames.Subscribed) -> tuple[Action, ...]:
        self.log = frame.log
        return super()._begin(frame)


CURSORS = [
    TakesTheLogBeforeTheReset,
    NoPrevCheck,
    NextSeqOnly,
    NoDuplicateCheck,
    IgnoresPosition,
    AppliesWhileAsking,
    AsksTwice,
    AppliesBeyondAGap,
    KeepsTheViewAtAReset,
    KeepsThePositionAtAReset,
    ForgetsTheLog,
    MovesToTheReply,
    TrustsAnyAnswer,
    ForgetsPositionWhenCut,
    WaitsForADeadAnswer,
    SkipsToNow,
]


# ── mutants of the reducer ───────────────────────────────────────────────────────────────────────────────


def mutant(**reducers: Any) -> type[ThreadView]:
    """Make a view whose named methods are replaced, in its table too."""
    table = {kind: reducers.get(method.__name__, method) for kind, method in ThreadView._REDUCERS.items()}
    return type("Mutant", (ThreadView,), {"_REDUCERS": table})


def appends(view: ThreadView, run: Any, event: Any, data: Any) -> bool:
    message = view.messages.get(data.message)
    if message is not None and isinstance(message._value, Text):
        message.put(message._value.length, data.text)
    return True


def shows_any_delta(view: ThreadView, run: Any, event: Any, data: Any) -> bool:
    if data.message not in view.messages:
        view.messages[data.message] = Message(
            id=data.message, role="assistant", content=data.text, run=run.id, seq=event.seq, complete=False
        )
        return True
    return ThreadView._text_delta(view, run, event, data)


def begins_thinking_anywhere(view: ThreadView, run: Any, event: Any, data: Any) -> bool:
    if data.thinking not in run.thinking:
        data = msgspec.structs.replace(data, offset=0)
    return ThreadView._thinking_delta(view, run, event, data)


def takes_nothing_back(view: ThreadView, run: Any, event: Any, data: Any) -> None:
    return None


def takes_only_messages_back(view: ThreadView, run: Any, event: Any, data: Any) -> None:
    ThreadView._superseded(view, run, event, msgspec.structs.replace(data, thinking=[], events=[]))


def keeps_what_was_streamed(view: ThreadView, run: Any, event: Any, data: Any) -> None:
    if data.message in view.messages:
        view.messages[data.message].complete = data.complete
    else:
        ThreadView._message_completed(view, run, event, data)


def is_always_complete(view: ThreadView, run: Any, event: Any, data: Any) -> None:
    ThreadView._message_completed(view, run, event, msgspec.structs.replace(data, complete=True))


VIEWS = {
    "appends": mutant(_text_delta=appends),
    "shows any delta": mutant(_text_delta=shows_any_delta),
    "begins thinking anywhere": mutant(_thinking_delta=begins_thinking_anywhere),
    "takes nothing back": mutant(_superseded=takes_nothing_back),
    "takes only messages back": mutant(_superseded=takes_only_messages_back),
    "keeps what was streamed": mutant(_message_completed=keeps_what_was_streamed),
    "is always complete": mutant(_message_completed=is_always_complete),
}


def is_caught(**made_of: Any) -> bool:
    for seed in range(SEEDS_FOR_A_MUTANT):
        try:
            World(seed, **made_of).live()
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("make_cursor", CURSORS)
def test_the_property_catches_a_cursor_without_one_clause(make_cursor: type[Cursor]) -> None:
    assert is_caught(make_cursor=make_cursor)


@pytest.mark.parametrize("make_view", VIEWS.values(), ids=VIEWS.keys())
def test_the_property_catches_a_reducer_without_one_clause(make_view: type[ThreadView]) -> None:
    assert is_caught(make_view=make_view)


def test_a_cut_at_every_frame_of_a_history_costs_and_repeats_nothing() -> None:
    cuts = 0
    for seed in range(6):
        for cut_at in range(400):
            world = World(seed)
            world.faults = world.start = 0
            world.server.replay_events = 20_000
            world.do(world.cursor.subscribe())
            world.server.commit(10_000)
            world.serve()
            for _ in range(cut_at):
                world.receive()
            is_whole = not world.server.wire
            world.cut()
            world.settle()
            if is_whole:
                break
            cuts += 1
    assert cuts > 100
