"""The server half of a socket, fed frame by frame: no socket, no clock."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from runwire.errors import Conflict
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode
from runwire.protocol.connection import Connection, ConnectionSettings

SETTINGS = ConnectionSettings()


def greeting(settings: ConnectionSettings = SETTINGS) -> Connection:
    return Connection(connection="cn_1", server="runwire/test", log="k3x9", settings=settings, now_s=0.0)


def opened(settings: ConnectionSettings = SETTINGS, *, expires_in_s: float | None = None) -> Connection:
    connection = Connection(
        connection="cn_1", server="runwire/test", log="k3x9", settings=settings, now_s=0.0, has_credential=True
    )
    connection.signed_in("usr_ann", expires_at=None, expires_in_s=expires_in_s, now_s=0.0)
    assert [frame["op"] for frame in said(connection)] == ["welcome"]
    return connection


def said(connection: Connection) -> list[dict[str, Any]]:
    """Take everything that is queued."""
    found: list[dict[str, Any]] = []
    while (message := connection.take_message()) is not None:
        value = json.loads(message)
        found.extend(value if isinstance(value, list) else [value])
    return found


def hear(connection: Connection, *commands: dict[str, Any], now_s: float = 0.0) -> list[frames.Command]:
    """Feed commands, one message each, and take what may start."""
    started: list[frames.Command] = []
    for command in commands:
        connection.receive(json.dumps(command), now_s=now_s)
        started.extend(connection.take_commands())
    return started


def subscribe(connection: Connection, thread: str, *, after: int = 0) -> None:
    """Subscribe and take the answer."""
    (command,) = hear(connection, {"op": "subscribe", "id": thread, "thread": thread, "after": after})
    assert isinstance(command, frames.Subscribe)
    answer = frames.Subscribed(id=command.id, thread=thread, log="k3x9", view="all", after=after, head=after)
    connection.subscribed(command, answer, None)
    assert [frame["op"] for frame in said(connection)] == ["subscribed"]


def assert_closed(connection: Connection, code: CloseCode) -> None:
    bye = said(connection)[-1]
    assert (bye["op"], bye["code"], bye["reconnect"]) == ("bye", code, code.may_reconnect)
    assert connection.closing is not None
    assert connection.closing.code is code
    connection.notice("stalled")
    connection.close(CloseCode.INTERNAL, "again")
    assert said(connection) == []


# ── greeting ─────────────────────────────────────────────────────────────────────────────────────────────


def test_hello_brings_a_token_and_what_follows_waits_for_the_decision() -> None:
    connection = greeting()
    connection.receive(
        '[{"op":"hello","token":"secret","client":"t/1","new":1},{"op":"cancel","id":"1","run":"run_1"}]', now_s=1.0
    )
    connection.receive('{"op":"cancel","id":"2","run":"run_2"}', now_s=1.0)
    assert connection.take_credential() == "secret"
    assert connection.take_credential() is None
    assert connection.take_commands() == []
    connection.signed_in("usr_ann", expires_at=5, expires_in_s=None, now_s=1.0)
    assert [command.id for command in connection.take_commands()] == ["1", "2"]
    (welcome,) = said(connection)
    assert welcome["user"] == "usr_ann"
    assert welcome["limits"] == {
        "frame_bytes": 65536,
        "subscriptions": 64,
        "commands_in_flight": 32,
        "replay_events": 20000,
    }


def test_a_connection_greets_until_something_was_said_that_counts() -> None:
    connection = greeting()
    greets: list[bool] = []
    for message in ("[]", '{"op":"hello","token":"t"}'):  # the first holds no frame at all
        connection.receive(message, now_s=1.0)
        greets.append(connection.is_greeting)
    assert greets == [True, False]
    wrong = greeting()
    wrong.receive('{"op":"pong"}', now_s=1.0)
    assert (wrong.is_greeting, wrong.is_closed) == (False, True)
    assert not opened().is_greeting


def test_no_hello_within_its_time_is_4002() -> None:
    connection = greeting()
    assert connection.next_tick_s == 5.0
    connection.tick(4.9)
    assert not connection.is_closed
    connection.tick(5.0)
    assert_closed(connection, CloseCode.NO_HELLO)


def test_a_credential_of_the_upgrade_needs_no_hello() -> None:
    connection = Connection(connection="cn_1", server="s", log="l", settings=SETTINGS, now_s=0.0, has_credential=True)
    connection.tick(60.0)
    assert not connection.is_closed


def test_a_first_frame_over_4_kib_is_too_big() -> None:
    connection = greeting()
    connection.receive(json.dumps({"op": "hello", "token": "x" * 4100}), now_s=0.0)
    assert connection.take_credential() is None
    assert_closed(connection, CloseCode.TOO_BIG)


def test_a_large_hello_cannot_hide_in_an_array() -> None:
    connection = greeting()
    connection.receive(json.dumps([{"op": "hello", "token": "x" * 4100}, {"op": "pong"}]), now_s=0.0)
    assert_closed(connection, CloseCode.TOO_BIG)


def test_more_than_64_kib_before_the_decision_is_too_big() -> None:
    connection = greeting()
    connection.receive('{"op":"hello","token":"t"}', now_s=0.0)
    large = json.dumps({"op": "send", "id": "1", "content": "x" * 40_000})
    connection.receive(large, now_s=0.0)
    assert not connection.is_closed
    connection.receive(large, now_s=0.0)
    assert_closed(connection, CloseCode.TOO_BIG)


@pytest.mark.parametrize("first", ['{"op":"pong"}', '{"op":"hello"}', '{"op":"cancel","id":"1","run":"run_1"}'])
def test_anything_but_a_sound_hello_first_is_unauthenticated(first: str) -> None:
    connection = greeting()
    connection.receive(first, now_s=0.0)
    assert connection.take_commands() == []
    assert_closed(connection, CloseCode.UNAUTHENTICATED)


def test_after_the_end_nothing_is_taken() -> None:
    connection = greeting()
    connection.close(CloseCode.UNAUTHENTICATED, "no")
    said(connection)
    connection.receive('{"op":"hello","token":"t"}', now_s=0.0)
    connection.signed_in("usr_ann", expires_at=None, expires_in_s=None, now_s=0.0)
    assert connection.take_credential() is None
    assert said(connection) == []
    assert connection.next_tick_s == float("inf")


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", ["hello", "{", b"\xff\xfe", "5", "[[]]", '{"a":' * 70 + "1" + "}" * 70])
def test_what_is_no_frame_is_4500(bad: str | bytes) -> None:
    connection = opened()
    connection.receive(bad, now_s=0.0)
    assert_closed(connection, CloseCode.BAD_FRAME)


def test_a_binary_message_is_4500_whatever_it_holds() -> None:
    connection = opened()
    connection.receive(b'{"op":"pong"}', is_binary=True, now_s=0.0)
    assert_closed(connection, CloseCode.BAD_FRAME)


def test_a_wrong_object_is_refused_and_those_beside_it_are_not() -> None:
    connection = opened()
    connection.receive(
        '[{"op":"dance","id":"1"},{"op":"cancel","id":"2","run":"r"},{"op":"cancel","id":"3"},{"op":"pong"}]', now_s=0.0
    )
    assert [command.id for command in connection.take_commands()] == ["2"]
    assert [(frame["id"], frame["error"]["code"], frame["error"]["field"]) for frame in said(connection)] == [
        ("1", "bad_request", "op"),
        ("3", "bad_request", "run"),
    ]


def test_a_second_hello_is_refused_and_an_empty_array_is_nothing() -> None:
    connection = opened()
    connection.receive("[]", now_s=0.0)
    assert said(connection) == []
    connection.receive('{"op":"hello","token":"t"}', now_s=0.0)
    (reply,) = said(connection)
    assert (reply["id"], reply["error"]["code"]) == (None, "bad_request")
    assert connection.take_credential() is None


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────


def send_to(thread: str | None, ident: str) -> dict[str, Any]:
    return {"op": "send", "id": ident, "thread": thread, "content": "hi"}


def sent(connection: Connection, command: frames.Command, *, thread: str, after: int = 0) -> None:
    assert isinstance(command, frames.Send)
    data = frames.SendData(thread=thread, log="k3x9", after=after, run="run_1", message="msg_1", seq=after + 1)
    connection.sent(command, data)


def test_answers_to_one_run_come_in_order_and_cancel_does_not_wait() -> None:
    connection = opened()
    started = hear(
        connection,
        {"op": "answer", "id": "1", "run": "run_1", "wait": "w", "value": 1},
        {"op": "answer", "id": "2", "run": "run_1", "wait": "w", "value": 2},
        {"op": "answer", "id": "3", "run": "run_2", "wait": "w", "value": 3},
        {"op": "cancel", "id": "4", "run": "run_1"},
        send_to("th_1", "5"),
    )
    assert [command.id for command in started] == ["1", "3", "4", "5"]
    connection.replied(started[0], frames.AnswerData(run="run_1", wait="w"))
    (second,) = connection.take_commands()
    assert second.id == "2"
    connection.failed(second, Conflict("You have answered this otherwise, elsewhere."))
    assert [(frame["id"], frame["ok"]) for frame in said(connection)] == [("1", True), ("2", False)]


def test_commands_of_one_thread_run_in_order_and_cancel_does_not_wait() -> None:
    connection = opened()
    started = hear(
        connection,
        send_to("th_1", "1"),
        {"op": "subscribe", "id": "2", "thread": "th_1"},
        {"op": "unsubscribe", "id": "3", "thread": "th_1"},
        send_to("th_2", "4"),
        {"op": "cancel", "id": "5", "run": "run_1"},
    )
    assert [command.id for command in started] == ["1", "4", "5"]
    sent(connection, started[0], thread="th_1")
    (second,) = connection.take_commands()
    connection.failed(second, Conflict("no"))
    (third,) = connection.take_commands()
    assert isinstance(third, frames.Unsubscribe)
    connection.unsubscribed(third)
    assert [frame["id"] for frame in said(connection)] == ["1", "2", "3"]
    assert connection.take_commands() == []


def test_the_33rd_command_in_flight_is_refused_and_a_reply_makes_room() -> None:
    connection = opened()
    started = hear(connection, *(send_to(None, str(n)) for n in range(33)))
    assert len(started) == 32
    (refused,) = said(connection)
    assert (refused["id"], refused["error"]["code"]) == ("32", "rate_limited")
    connection.failed(started[0], Conflict("no"))
    assert len(hear(connection, send_to(None, "again"))) == 1


def test_waiting_commands_count_as_in_flight() -> None:
    connection = opened()
    assert len(hear(connection, *(send_to("th_1", str(n)) for n in range(40)))) == 1
    assert [frame["id"] for frame in said(connection)] == [str(n) for n in range(32, 40)]


def test_the_65th_subscription_never_reaches_the_shell() -> None:
    connection = opened()
    for n in range(64):
        subscribe(connection, f"th_{n}")
    assert hear(connection, {"op": "subscribe", "id": "a", "thread": "th_64"}) == []
    assert hear(connection, send_to(None, "b"), send_to("th_64", "c")) == []
    assert {(frame["id"], frame["error"]["code"]) for frame in said(connection)} == {
        ("a", "rate_limited"),
        ("b", "rate_limited"),
        ("c", "rate_limited"),
    }
    # What is subscribed may be subscribed again and sent to.
    assert len(hear(connection, {"op": "subscribe", "id": "d", "thread": "th_3"}, send_to("th_4", "e"))) == 2


def test_a_running_send_reserves_its_subscription_and_gives_it_back() -> None:
    connection = opened()
    for n in range(63):
        subscribe(connection, f"th_{n}")
    (first,) = hear(connection, send_to(None, "a"))
    assert hear(connection, send_to(None, "b")) == []
    assert said(connection)[0]["error"]["code"] == "rate_limited"
    connection.failed(first, Conflict("no"))
    (third,) = hear(connection, send_to(None, "c"))
    sent(connection, third, thread="th_63")
    assert hear(connection, send_to(None, "d")) == []


def test_events_of_a_thread_wait_while_a_send_to_it_runs() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    assert connection.may_deliver("th_1")
    (command,) = hear(connection, send_to("th_1", "1"))
    assert not connection.may_deliver("th_1")
    assert connection.may_deliver("th_2")
    sent(connection, command, thread="th_1")
    assert connection.may_deliver("th_1")


def test_a_reply_to_send_keeps_the_position_of_an_existing_subscription() -> None:
    connection = opened()
    subscribe(connection, "th_1", after=7)
    (command,) = hear(connection, send_to("th_1", "1"))
    sent(connection, command, thread="th_1", after=9)
    connection.tick(25.0)
    assert said(connection)[-1] == {"op": "position", "thread": "th_1", "seq": 7}


# ── life ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_ping_brings_the_positions_behind_what_was_sent() -> None:
    connection = opened()
    subscribe(connection, "th_1", after=3)
    subscribe(connection, "th_2", after=0)
    connection.deliver("th_1", [b'{"op":"event","seq":4}', b'{"op":"event","seq":6}'], position=6)
    connection.reset(frames.Reset(thread="th_2", log="k3x9", from_=5, reason="trimmed"))
    connection.deliver("th_3", [b'{"op":"event"}'], position=1)  # not subscribed: nothing
    assert connection.next_tick_s == 25.0
    connection.tick(25.0)
    assert [(frame["op"], frame.get("thread"), frame.get("seq")) for frame in said(connection)] == [
        ("event", None, 4),
        ("event", None, 6),
        ("reset", "th_2", None),
        ("ping", None, None),
        ("position", "th_1", 6),
        ("position", "th_2", 5),
    ]
    connection.tick(26.0)
    assert said(connection) == []
    connection.receive('{"op":"pong"}', now_s=26.0)
    connection.tick(50.0)
    assert said(connection)[0]["op"] == "ping"


def test_any_frame_is_life_and_none_is_4012() -> None:
    connection = opened()
    hear(connection, {"op": "cancel", "id": "1", "run": "r"}, now_s=30.0)
    connection.tick(64.9)
    assert not connection.is_closed
    connection.tick(65.0)
    assert_closed(connection, CloseCode.NO_LIFE)


def test_a_deleted_thread_is_told_once() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    connection.deleted("th_1")
    connection.deleted("th_1")
    assert said(connection) == [{"op": "unsubscribed", "id": None, "thread": "th_1", "reason": "deleted"}]
    connection.tick(25.0)
    assert [frame["op"] for frame in said(connection)] == ["ping"]


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_announced_to_expire_and_then_expires() -> None:
    connection = opened(replace(SETTINGS, ping_s=1000.0), expires_in_s=300.0)
    connection.tick(239.9)
    assert said(connection) == []
    connection.tick(240.0)
    assert said(connection) == [{"op": "notice", "kind": "token_expiring", "thread": None, "data": {}}]
    connection.tick(304.9)
    assert said(connection) == []
    connection.tick(305.0)
    assert_closed(connection, CloseCode.TOKEN_EXPIRED)


def test_a_short_token_is_announced_at_half_its_life() -> None:
    connection = opened(expires_in_s=20.0)
    connection.tick(9.9)
    assert said(connection) == []
    connection.tick(10.0)
    assert said(connection)[0]["kind"] == "token_expiring"


def test_a_fresh_token_moves_the_end() -> None:
    connection = opened(replace(SETTINGS, ping_s=1000.0), expires_in_s=100.0)
    (command,) = hear(connection, {"op": "refresh", "id": "1", "token": "new"}, now_s=90.0)
    assert isinstance(command, frames.Refresh)
    connection.refreshed(command, "usr_ann", expires_at=777, expires_in_s=300.0, now_s=90.0)
    assert said(connection) == [{"op": "reply", "id": "1", "ok": True, "data": {"expires_at": 777}}]
    connection.tick(330.0)
    assert [frame["op"] for frame in said(connection)] == ["notice"]
    connection.tick(395.0)
    assert_closed(connection, CloseCode.TOKEN_EXPIRED)


def test_another_users_token_is_4503() -> None:
    connection = opened(expires_in_s=100.0)
    (command,) = hear(connection, {"op": "refresh", "id": "1", "token": "new"})
    assert isinstance(command, frames.Refresh)
    connection.refreshed(command, "usr_bob", expires_at=None, expires_in_s=None, now_s=0.0)
    assert_closed(connection, CloseCode.FORBIDDEN)


def test_a_token_without_end_ends_nothing() -> None:
    connection = opened(replace(SETTINGS, ping_s=1e9))
    connection.tick(1e6)
    assert said(connection) == []


# ── slow readers ─────────────────────────────────────────────────────────────────────────────────────────


def test_over_256_kib_unsent_nothing_more_is_pulled() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    may_pull = []
    for size in (262_144, 262_145, 10):
        connection.unsent(size, now_s=1.0)
        may_pull.append(connection.may_pull)
    connection.deliver("th_1", [b"x" * 262_144], position=1)  # queued bytes count too
    assert [*may_pull, connection.may_pull] == [True, False, True, False]


def test_unsent_bytes_not_falling_for_20_s_is_4008_and_only_bye_goes_out() -> None:
    connection = opened(replace(SETTINGS, ping_s=1000.0))
    subscribe(connection, "th_1")
    connection.unsent(100, now_s=10.0)
    connection.unsent(500, now_s=15.0)
    connection.tick(29.9)
    assert not connection.is_closed
    assert connection.next_tick_s == 30.0
    connection.deliver("th_1", [b'{"op":"event"}'], position=1)
    connection.tick(30.0)
    assert [frame["op"] for frame in said(connection)] == ["bye"]
    assert connection.closing is not None
    assert connection.closing.code is CloseCode.TOO_SLOW


def test_bytes_that_fall_however_slowly_keep_the_socket() -> None:
    connection = opened(replace(SETTINGS, ping_s=1000.0))
    size = 10_000
    for second in range(0, 200, 19):
        connection.unsent(size - second, now_s=float(second))
        connection.tick(float(second))
    assert not connection.is_closed
    connection.unsent(0, now_s=200.0)
    connection.unsent(50, now_s=300.0)  # counted from when there was something to send
    connection.tick(319.0)
    assert not connection.is_closed


def test_who_never_reads_the_replies_is_not_read_and_lives_by_what_it_takes() -> None:
    connection = opened()
    connection.unsent(600_000, now_s=1.0)
    assert not connection.wants_input
    for second in range(2, 100):
        connection.unsent(600_000 - second, now_s=float(second))
        connection.tick(float(second))
    assert not connection.is_closed
    connection.unsent(0, now_s=100.0)
    assert connection.wants_input


def test_what_is_queued_waits_while_enough_is_unsent() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    connection.deliver("th_1", [b"1", b"2"], position=2)
    connection.unsent(262_145, now_s=1.0)
    assert connection.take_message() is None
    connection.unsent(262_144, now_s=2.0)
    assert connection.take_message() == b"[1,2]"


@pytest.mark.parametrize(("queued", "expected"), [(262_143, ["event", "bye"]), (262_145, ["bye"])])
def test_a_close_says_bye_at_once_and_before_it_only_what_a_reader_may_be_owed(
    queued: int, expected: list[str]
) -> None:
    connection = opened()
    subscribe(connection, "th_1")
    frame = b'{"op":"event","pad":""}'
    connection.deliver("th_1", [frame.replace(b'""', b'"%s"' % (b"x" * (queued - len(frame))))], position=1)
    connection.unsent(262_144, now_s=1.0)
    connection.close(CloseCode.DRAINING, "restart")
    assert [frame["op"] for frame in said(connection)] == expected


def test_pings_do_not_pile_up_for_who_does_not_read() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    for second in range(1, 500):
        connection.unsent(600_000 - second, now_s=float(second))
        connection.tick(float(second))
    assert not connection.is_closed
    connection.unsent(0, now_s=500.0)
    assert said(connection) == []
    connection.tick(525.0)
    assert [frame["op"] for frame in said(connection)] == ["ping", "position"]


def test_a_message_is_at_most_a_batch_and_keeps_the_order() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    encoded = [json.dumps({"seq": n, "pad": "x" * 50_000}).encode() for n in range(12)]
    connection.deliver("th_1", encoded, position=11)
    messages = []
    while (message := connection.take_message()) is not None:
        messages.append(message)
    assert all(len(message) <= 262_144 for message in messages)
    assert [frame["seq"] for message in messages for frame in json.loads(message)] == list(range(12))
    assert len(messages) == 3


def test_a_frame_larger_than_a_batch_goes_alone() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    connection.deliver("th_1", [b'"%s"' % (b"x" * 300_000), b"2"], position=2)
    assert len(connection.take_message() or b"") == 300_002
    assert connection.take_message() == b"2"


def test_withdrawn_access_drops_what_was_queued() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    connection.deliver("th_1", [b'{"op":"event"}'], position=1)
    connection.close(CloseCode.REVOKED, "withdrawn")
    assert [frame["op"] for frame in said(connection)] == ["bye"]


def test_a_drain_lets_what_was_queued_out_first() -> None:
    connection = opened()
    subscribe(connection, "th_1")
    connection.deliver("th_1", [b'{"op":"event"}'], position=1)
    connection.notice("draining")
    connection.close(CloseCode.DRAINING, "restart", after_s=1.5)
    assert [(frame["op"], frame.get("after_s")) for frame in said(connection)] == [
        ("event", None),
        ("notice", None),
        ("bye", 1.5),
    ]


def test_commands_that_end_after_the_close_say_nothing() -> None:
    connection = opened()
    first, second = hear(connection, send_to("th_1", "1"), {"op": "cancel", "id": "2", "run": "r"})
    hear(connection, send_to("th_1", "3"))
    connection.close(CloseCode.DRAINING, "restart")
    said(connection)
    sent(connection, first, thread="th_1")
    connection.failed(second, Conflict("no"))
    assert connection.take_commands() == []
    assert said(connection) == []


def test_a_subscribe_that_ends_after_the_close_subscribes_nothing() -> None:
    connection = opened()
    (command,) = hear(connection, {"op": "subscribe", "id": "1", "thread": "th_1"})
    assert isinstance(command, frames.Subscribe)
    connection.close(CloseCode.DRAINING, "restart")
    said(connection)
    answer = frames.Subscribed(id="1", thread="th_1", log="k3x9", view="all", after=0, head=0)
    reset = frames.Reset(thread="th_1", log="k3x9", from_=0, reason="trimmed")
    connection.subscribed(command, answer, reset)
    connection.deliver("th_1", [b"{}"], position=1)
    assert said(connection) == []


def test_a_reset_follows_its_subscribed() -> None:
    connection = opened()
    (command,) = hear(connection, {"op": "subscribe", "id": "1", "thread": "th_1", "after": 9})
    assert isinstance(command, frames.Subscribe)
    answer = frames.Subscribed(id="1", thread="th_1", log="k3x9", view="all", after=9, head=5)
    connection.subscribed(command, answer, frames.Reset(thread="th_1", log="k3x9", from_=3, reason="log_changed"))
    assert [frame["op"] for frame in said(connection)] == ["subscribed", "reset"]
    connection.tick(25.0)
    assert said(connection)[-1] == {"op": "position", "thread": "th_1", "seq": 3}
