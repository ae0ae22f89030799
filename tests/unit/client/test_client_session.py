"""The client's pure half: what it sends for what comes in."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest

from runwire.client.feed import Event, Feed, Reset
from runwire.client.session import Pending, Session
from runwire.errors import Conflict, LogReset, NotFound, ProtocolError, RunwireError, Unavailable
from runwire.protocol import frames

TH = "th_1"


class Peer:
    """A session, and hands to play its server."""

    def __init__(self) -> None:
        numbers = count(1)
        self.session = Session(new_id=lambda: f"c{next(numbers)}")
        self.sent: list[Any] = []

    def welcome(self, **limits: int) -> None:
        self.session.opened(
            frames.Welcome(
                protocol=1,
                server="s",
                connection="cn",
                user="usr",
                log="L",
                ping_s=25,
                pong_s=10,
                limits=frames.Limits(**limits),
            )
        )

    def receive(self, *received: Any) -> None:
        for frame in received:
            self.session.receive(frame)

    def take(self) -> list[Any]:
        return self.session.frames_to_send()

    def one(self) -> Any:
        (frame,) = self.take()
        return frame

    def read(self, after: int | None = 0, **options: Any) -> Feed:
        feed = Feed(TH, last=after, wake=lambda: None, **options)
        self.session.open(feed)
        return feed

    def subscribed(self, frame: Any, *, after: int | None = None, head: int = 0, log: str = "L") -> None:
        position = frame.after if after is None else after
        self.receive(frames.Subscribed(id=frame.id, thread=TH, log=log, view="all", after=position, head=head))

    def events(self, *seqs: int, run: str = "run_1", types: str = "custom") -> None:
        for seq in seqs:
            self.receive(event(seq, run=run, type_=types))

    def send(self, feed: bool = True) -> Pending:
        frame = frames.Send(id=self.session.new_id(), key="k1", thread=None, content="hi")
        pending = Pending(frame, feed_wake=(lambda: None) if feed else None)
        self.session.command(pending)
        return pending


def event(seq: int, *, prev: int | None = None, run: str = "run_1", type_: str = "custom") -> frames.Event:
    return frames.Event(
        thread=TH,
        seq=seq,
        prev=seq - 1 if prev is None else prev,
        run=run,
        attempt=1,
        ts=1,
        type=type_,
        data=msgspec.Raw(b'{"name":"n","value":1}'),
    )


def reply(id_: str, *, after: int = 0, seq: int = 1, run: str = "run_1") -> frames.Reply:
    data = {"thread": TH, "log": "L", "after": after, "run": run, "message": "msg_1", "seq": seq}
    return frames.Reply(id=id_, ok=True, data=data)


def refused(id_: str, code: str) -> frames.Reply:
    return frames.Reply(id=id_, ok=False, error=frames.ErrorBody(code=code, message="no"))


def seqs(feed: Feed) -> list[int]:
    taken = []
    while (item := feed.take()) is not None:
        taken.append(item.seq)
    return taken


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_a_reader_is_subscribed_once_there_is_a_connection(peer: Peer) -> None:
    feed = peer.read(after=7, log="L")
    assert peer.take() == []
    peer.welcome()
    asked = peer.one()
    assert (asked.thread, asked.after, asked.log, asked.view) == (TH, 7, "L", "all")
    peer.subscribed(asked, head=9)
    peer.events(8, 9)
    assert seqs(feed) == [8, 9]


def test_after_a_lost_connection_it_goes_on_from_its_position(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1, 2, 3)
    peer.session.lost()
    peer.events(4)  # a late frame of the dead connection means nothing
    peer.welcome()
    asked = peer.one()
    assert (asked.after, asked.log) == (3, "L")
    peer.subscribed(asked, head=4)
    peer.events(4)
    assert seqs(feed) == [1, 2, 3, 4]


def test_what_comes_before_the_answer_is_dropped(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    asked = peer.one()
    peer.events(1)
    peer.subscribed(asked)
    peer.events(1, 2)
    assert seqs(feed) == [1, 2]


def test_a_gap_is_asked_for_once_and_a_repetition_is_dropped(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1, 3, 4)
    asked = peer.one()
    assert asked.after == 1
    peer.subscribed(asked)
    peer.events(2, 2, 3, 4)
    assert seqs(feed) == [1, 2, 3, 4]


def test_a_position_beyond_what_came_is_a_gap(peer: Peer) -> None:
    peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1)
    peer.receive(frames.Position(thread=TH, seq=2))
    assert peer.one().after == 1


def test_a_second_reader_from_the_start_does_not_repeat_for_the_first(peer: Peer) -> None:
    first = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1, 2)
    second = peer.read(after=0)
    asked = peer.one()
    assert asked.after == 0
    peer.subscribed(asked)
    peer.events(1, 2, 3)
    assert seqs(first) == [1, 2, 3]
    assert seqs(second) == [1, 2, 3]


def test_a_second_reader_that_comes_while_the_first_is_asked_for_misses_nothing(peer: Peer) -> None:
    first = peer.read(after=5)
    peer.welcome()
    asked = peer.one()
    second = peer.read(after=0)
    peer.subscribed(asked)
    again = peer.one()
    assert again.after == 0
    peer.subscribed(again)
    peer.events(1, 2, 3, 4, 5, 6)
    assert seqs(first) == [6]
    assert seqs(second) == [1, 2, 3, 4, 5, 6]


def test_a_reader_from_now_begins_at_the_head(peer: Peer) -> None:
    feed = peer.read(after=None)
    peer.welcome()
    asked = peer.one()
    assert asked.after == -1
    peer.subscribed(asked, after=40, head=40)
    peer.events(41)
    assert seqs(feed) == [41]


def test_a_reader_from_now_beside_another_does_not_see_what_that_one_replays(peer: Peer) -> None:
    old = peer.read(after=0)
    peer.welcome()
    peer.subscribed(peer.one(), head=2)
    peer.events(1)
    new = peer.read(after=None)
    asked = peer.one()
    assert asked.after == 1
    peer.subscribed(asked, head=3)
    peer.events(2, 3, 4)
    assert seqs(old) == [1, 2, 3, 4]
    assert seqs(new) == [4]


def test_a_send_follows_its_run_without_a_subscribe(peer: Peer) -> None:
    peer.welcome()
    pending = peer.send()
    sent = peer.one()
    peer.receive(reply(sent.id))
    assert pending.feed
    assert peer.take() == []
    peer.events(1, 2)
    peer.events(3, types="agent_completed")
    assert seqs(pending.feed) == [1, 2, 3]
    assert pending.feed.is_ended
    assert isinstance(peer.one(), frames.Unsubscribe)


def test_a_send_without_a_reply_is_sent_again_with_its_key(peer: Peer) -> None:
    peer.welcome()
    pending = peer.send()
    first = peer.one()
    peer.session.lost()
    peer.welcome()
    again = peer.one()
    assert again == first
    peer.receive(reply(again.id))
    assert pending.is_done
    assert pending.error is None


def test_a_forgotten_send_is_not_sent_again_and_opens_nothing(peer: Peer) -> None:
    peer.welcome()
    pending = peer.send()
    sent = peer.one()
    peer.session.forget(pending)
    peer.receive(reply(sent.id))
    assert pending.feed is None
    assert isinstance(peer.one(), frames.Unsubscribe)  # nobody reads what the send has subscribed
    peer.session.lost()
    peer.welcome()
    assert peer.take() == []


def test_a_run_on_a_thread_that_is_read_already_keeps_both_positions(peer: Peer) -> None:
    reader = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1, 2)
    pending = peer.send()
    peer.receive(reply(peer.one().id, after=2, seq=3, run="run_2"))
    assert peer.take() == []
    peer.events(3, run="run_2")
    assert pending.feed
    assert seqs(pending.feed) == [3]
    assert seqs(reader) == [1, 2, 3]


def test_a_repeated_send_of_an_older_run_replays_it(peer: Peer) -> None:
    reader = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1, 2, 3)
    pending = peer.send()
    peer.receive(reply(peer.one().id, after=1, seq=2))
    asked = peer.one()
    assert asked.after == 1
    peer.subscribed(asked)
    peer.events(2, 3)
    assert pending.feed
    assert seqs(pending.feed) == [2, 3]
    assert seqs(reader) == [1, 2, 3]


def test_commands_in_flight_stay_below_the_servers_limit(peer: Peer) -> None:
    peer.welcome(commands_in_flight=2)
    for _ in range(3):
        peer.send(feed=False)
    sent = peer.take()
    assert len(sent) == 2
    peer.receive(refused(sent[0].id, "conflict"))
    assert len(peer.take()) == 1


def test_too_many_waiting_commands_are_refused(peer: Peer) -> None:
    for _ in range(1000):
        peer.send(feed=False)
    with pytest.raises(Unavailable):
        peer.send(feed=False)


def test_a_command_over_the_servers_limit_is_refused_here(peer: Peer) -> None:
    peer.welcome(frame_bytes=100)
    with pytest.raises(ProtocolError) as raised:
        peer.session.command(Pending(frames.Send(id="1", content="x" * 100)))
    assert raised.value.code == "too_large"


@pytest.mark.parametrize(("code", "kind"), [("conflict", Conflict), ("not_found", NotFound), ("new", ProtocolError)])
def test_a_refusal_is_the_error_of_its_code(peer: Peer, code: str, kind: type[RunwireError]) -> None:
    peer.welcome()
    pending = peer.send()
    peer.receive(refused(peer.one().id, code))
    assert type(pending.error) is kind
    assert pending.error is not None
    assert pending.error.code == code


def test_a_refused_subscription_ends_its_reader_and_not_the_older_one(peer: Peer) -> None:
    first = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.events(1)
    second = peer.read(after=0)
    asked = peer.one()
    peer.receive(refused(asked.id, "rate_limited"))
    assert second.is_ended
    assert isinstance(second.error, Unavailable)
    peer.events(2)
    assert seqs(first) == [1, 2]


def test_a_reset_comes_as_an_item_and_events_go_on_after_it(peer: Peer) -> None:
    feed = peer.read(after=10, log="OLD")
    peer.welcome()
    asked = peer.one()
    assert asked.log == "OLD"
    peer.subscribed(asked, head=5)
    peer.receive(frames.Reset(thread=TH, log="L", from_=3, reason="log_changed"))
    peer.events(4, 5)
    item = feed.take()
    assert item == Reset(thread=TH, log="L", seq=3, reason="log_changed")
    assert seqs(feed) == [4, 5]


def test_a_reset_for_one_reader_leaves_a_later_one_of_the_same_log_alone(peer: Peer) -> None:
    near = peer.read(after=100, log="L")
    peer.welcome()
    peer.subscribed(peer.one(), head=100)
    far = peer.read(after=0)
    peer.subscribed(peer.one(), head=100)
    peer.receive(frames.Reset(thread=TH, log="L", from_=90, reason="too_far_behind"))
    peer.events(*range(91, 102))
    assert seqs(near) == [101]
    assert isinstance(far.take(), Reset)
    assert seqs(far) == list(range(91, 102))


def test_a_run_whose_beginning_is_reset_away_ends_with_log_reset(peer: Peer) -> None:
    feed = peer.read(after=0, run="run_1", run_seq=1)
    peer.welcome()
    peer.subscribed(peer.one(), head=100)
    peer.receive(frames.Reset(thread=TH, log="L", from_=90, reason="trimmed"))
    assert feed.is_ended
    assert isinstance(feed.error, LogReset)


def test_a_reader_that_does_not_read_pauses_and_gets_the_rest_later(peer: Peer) -> None:
    slow, quick = peer.read(), peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    got: list[int] = []
    for seq in range(1, 2001):
        peer.events(seq)
        got += seqs(quick)
    assert got == list(range(1, 2001))
    assert peer.take() == []
    taken: list[int] = []
    while taken[-1:] != [2000]:
        item = slow.take()
        if item is not None:
            taken.append(item.seq)
        peer.session.drained(slow)
        for frame in peer.take():
            peer.subscribed(frame, head=2000)
            peer.events(*range(frame.after + 1, 2001))
    assert taken == list(range(1, 2001))
    assert seqs(quick) == []


def test_lifecycle_leaves_the_deltas_out(peer: Peer) -> None:
    feed = peer.read(view="lifecycle")
    peer.welcome()
    peer.subscribed(peer.one())
    peer.receive(event(1), event(2, type_="text_delta"), event(3))
    assert seqs(feed) == [1, 3]


def test_an_event_of_an_unknown_type_is_delivered(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.receive(event(1, type_="dream"))
    item = feed.take()
    assert isinstance(item, Event)
    assert item.type == "dream"


def test_a_deleted_thread_ends_its_readers(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.receive(frames.Unsubscribed(id=None, thread=TH, reason="deleted"))
    assert isinstance(feed.error, NotFound)


def test_the_last_reader_unsubscribes_and_a_new_one_subscribes_after_the_answer(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.session.close(feed)
    left = peer.one()
    assert isinstance(left, frames.Unsubscribe)
    late = peer.read(after=2)
    assert peer.take() == []
    peer.receive(frames.Unsubscribed(id=left.id, thread=TH, reason="asked"))
    asked = peer.one()
    assert asked.after == 2
    peer.subscribed(asked)
    peer.events(3)
    assert seqs(late) == [3]


def test_a_refused_unsubscribe_blocks_nothing(peer: Peer) -> None:
    feed = peer.read()
    peer.welcome()
    peer.subscribed(peer.one())
    peer.session.close(feed)
    late = peer.read(after=0)
    peer.receive(refused(peer.one().id, "internal"))
    peer.subscribed(peer.one())
    peer.events(1)
    assert seqs(late) == [1]


def test_a_ping_is_answered(peer: Peer) -> None:
    peer.welcome()
    peer.receive(frames.Ping())
    assert peer.one() == frames.Pong()


def test_the_end_of_the_link_ends_all_that_waits(peer: Peer) -> None:
    feed, pending = peer.read(), peer.send()
    gone = Unavailable("gone")
    peer.session.fail(gone)
    assert feed.error is gone
    assert pending.error is gone
