"""Whatever arrives: frames, refusals or one legal close; and no command is made of a wrong object."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire.errors import ProtocolError
from runwire.protocol import frames, strict_json
from runwire.protocol.codes import CloseCode, ErrorCode
from runwire.protocol.connection import Connection, ConnectionSettings
from runwire.protocol.frames import Refused

EXAMPLES = 300  # of each property in `make test`, always the same ones
CAMPAIGN = 20  # times as many in `make chaos`, new ones each time

_texts = st.text(max_size=40) | st.sampled_from(["th_1", "run_1", "send", "\0", "", " ", "€", "\U0001f600", "op", "id"])
_sound_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _texts
_json = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4))
_sound_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _sound_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_sound_texts, inner, max_size=4),
    max_leaves=12,
)
_said = _sound_texts.filter(lambda text: bool(text.strip()))
_seqs = st.integers(0, 2**53 - 1)
_ids = st.from_regex(r"\A[A-Za-z0-9_]{1,64}\Z")
_content = _said | st.lists(st.builds(frames.TextPart, type=st.just("text"), text=_said), min_size=1, max_size=3)

_frames: st.SearchStrategy[frames.ClientFrame] = st.one_of(
    st.builds(frames.Hello, token=_sound_texts, client=st.none() | _sound_texts),
    st.builds(
        frames.Subscribe,
        id=_sound_texts,
        thread=_ids,
        after=_seqs | st.just(-1),
        log=st.none() | _ids,
        view=st.sampled_from(["all", "lifecycle"]),
    ),
    st.builds(frames.Unsubscribe, id=_sound_texts, thread=_ids),
    st.builds(
        frames.Send,
        id=_sound_texts,
        key=st.none() | st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=255),
        thread=st.none() | _ids,
        agent=st.none() | _ids,
        content=_content,
        on_active=st.sampled_from(["enqueue", "reject", "interrupt"]),
        metadata=st.none() | st.dictionaries(_sound_texts, _sound_json, max_size=3),
    ),
    st.builds(frames.Cancel, id=_sound_texts, run=_ids),
    st.builds(frames.Answer, id=_sound_texts, run=_ids, wait=_ids, value=_sound_json),
    st.builds(frames.Refresh, id=_sound_texts, token=_sound_texts),
    st.just(frames.Pong()),
)
_objects = _frames.map(lambda frame: json.loads(frames.encode(frame)))


@st.composite
def _mutants(draw: st.DrawFn) -> Any:
    """Take a sound frame and make one thing of it otherwise: grammar-aware, so that faults lie deep."""
    value = draw(_objects)
    name = draw(st.sampled_from(sorted(value)))
    other = draw(_objects)
    how = draw(st.sampled_from(["drop", "retype", "rename", "add", "nest", "swap op", "mix", "wrap", "again"]))
    match how:
        case "drop":
            del value[name]
        case "retype":
            value[name] = draw(_json)
        case "rename":
            value[draw(_texts)] = value.pop(name)
        case "add":
            value[draw(_texts)] = draw(_json)
        case "nest":
            value[name] = [value[name]]
        case "swap op":
            value["op"] = other["op"]
        case "mix":
            value = {**other, **value}
        case "wrap":
            value = [value, other]
        case "again":
            value = [value] * draw(st.integers(0, 40))
    return value


@st.composite
def _poisoned(draw: st.DrawFn) -> Any:
    """Take a sound frame and put into one of its fields what no database, client or type may get."""
    value = draw(_objects.filter(lambda each: each["op"] not in ("pong", "hello")))
    name = draw(st.sampled_from(sorted(set(value) - {"op", "id"})))
    text = str(value[name]) if isinstance(value[name], int | str) else "x"
    poison = st.sampled_from(
        [text, f"{text}\0", f"\ud800{text}", math.nan, -math.inf, 10**30, {"\0": text}, [f"{text}\0"]]
    )
    value[name] = draw(poison)
    return value


_bent_texts = st.builds(
    lambda text, at, piece: text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) :],
    _objects.map(json.dumps),
    st.integers(0, 10_000),
    st.sampled_from(
        ["\0", "NaN", "1e999", "\\ud800", "\\u0000", "[" * 70, '"', "}", ",", "-", "\ufeff", "9" * 5000, "\ud800", "//"]
    ),
)
_messages: st.SearchStrategy[str | bytes] = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300),
    _json.map(json.dumps),
    _mutants().map(json.dumps),
    _mutants().map(lambda value: json.dumps(value, ensure_ascii=False)),
    _bent_texts,
    _poisoned().map(json.dumps),
    _poisoned().map(lambda value: json.dumps(value, ensure_ascii=False)),
    st.builds(lambda text, cut: text[: cut % (len(text) + 1)], _objects.map(json.dumps), st.integers(0, 10_000)),
    st.builds(lambda data, cut: data.encode()[cut % 20 :], _objects.map(json.dumps), st.integers(0, 10_000)),
)


def _arrives(message: str | bytes) -> list[frames.ClientFrame | Refused] | ProtocolError:
    try:
        return frames.parse_client_frames(message)
    except ProtocolError as error:
        return error


def parsing_ends_legally(message: str | bytes) -> None:
    """Nothing but `ProtocolError` is raised; the code is one of PROTOCOL, and its words can be sent."""
    arrived = _arrives(message)
    if isinstance(arrived, ProtocolError):
        assert CloseCode(arrived.close or 0) == CloseCode.BAD_FRAME
        arrived.message.encode()
        return
    for each in arrived:
        if isinstance(each, Refused):
            ErrorCode(each.error.code)
            reply = frames.encode(frames.reply_error(each.id, each.error))
            assert len(reply) < 66_000
            json.loads(reply)


def no_command_is_made_of_a_wrong_object(message: str | bytes) -> None:
    """What a command holds is exactly what was written: nothing coerced, dropped or made up, and all of it storable."""
    arrived = _arrives(message)
    if isinstance(arrived, ProtocolError):
        return
    written = json.loads(message)
    objects = written if isinstance(written, list) else [written]
    assert len(objects) == len(arrived)
    for value, each in zip(objects, arrived, strict=True):
        if isinstance(each, Refused):
            continue
        read = json.loads(frames.encode(each))
        extra = set(value) - set(read)
        assert not extra or isinstance(each, frames.Hello) or all(value[name] is None for name in extra), extra
        for name, held in read.items():
            if name in value:
                assert _same(held, value[name]), name
            else:
                assert held is None or name not in ("op", "id", "thread", "run", "token", "content"), "made up"
        if not isinstance(each, frames.Hello):
            _assert_storable({name: held for name, held in read.items() if name != "id"})


def _same(one: Any, two: Any) -> bool:
    """Equal in value and type; 1 and 1.0 are one number (RFC 8259 §6)."""
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)


def _assert_storable(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)  # raises for NaN
    text.encode()  # raises for lone surrogates
    assert "\\u0000" not in json.dumps(value), "a NUL"


def a_connection_survives(messages: list[str | bytes]) -> None:
    """Greeting, deciding or open: each message ends in frames that can be sent, or in one close; never in an error."""
    for is_signed_in in (False, True):
        connection = Connection(
            connection="cn_1",
            server="s/1",
            log="k",
            settings=ConnectionSettings(),
            now_s=0.0,
            has_credential=is_signed_in,
        )
        if is_signed_in:
            connection.signed_in("usr_1", expires_at=None, expires_in_s=None, now_s=0.0)
        for n, message in enumerate(messages):
            connection.receive(message, is_binary=False, now_s=float(n))
            commands = connection.take_commands()
            assert is_signed_in or not commands, "a command before the sign-in"
            assert len(commands) <= connection.settings.limits.commands_in_flight
            while (sent := connection.take_message()) is not None:
                json.loads(sent)
        if connection.closing:
            assert connection.closing.code in (CloseCode.BAD_FRAME, CloseCode.UNAUTHENTICATED, CloseCode.TOO_BIG)
            assert connection.take_credential() is None
            assert not connection.take_commands()


def what_is_encoded_is_read_back(frame: frames.ClientFrame) -> None:
    """`parse(encode(x)) == x`, alone and in an array."""
    encoded = frames.encode(frame)
    assert frames.parse_client_frames(encoded.decode()) == [frame]
    assert frames.parse_client_frames(b"[" + encoded + b"," + encoded + b"]") == [frame, frame]


def a_body_is_read_or_refused_by_name(body: str | bytes) -> None:
    """HTTP's bodies take the same way: a struct, or `ProtocolError` with words that can be sent."""
    data = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    for kind in (frames.MessageBody, frames.AnswerBody):
        try:
            struct = strict_json.decode(kind, data)
        except ProtocolError as error:
            ErrorCode(error.code)
            error.message.encode()
            (error.field or "").encode()
        else:
            _assert_storable(msgspec.to_builtins(struct))


def both_ways_of_reading_agree(value: Any) -> None:
    """The fast typed decode and the slow, naming one accept the same objects, and read the same from them."""
    text = json.dumps(value)
    taken = _arrives(text)
    try:
        parsed = strict_json.parse(text)
        slow: list[frames.ClientFrame | Refused] | ProtocolError = [
            frames._frame_or_refused(each) for each in (parsed if isinstance(parsed, list) else [parsed])
        ]
    except ProtocolError as error:
        slow = error
    if isinstance(taken, ProtocolError) or isinstance(slow, ProtocolError):
        assert str(taken) == str(slow)
    else:
        assert taken == slow


PROPERTIES: dict[Callable[..., None], st.SearchStrategy[Any]] = {
    parsing_ends_legally: _messages,
    no_command_is_made_of_a_wrong_object: _messages,
    a_connection_survives: st.lists(_messages, max_size=6),
    what_is_encoded_is_read_back: _frames,
    a_body_is_read_or_refused_by_name: _messages,
    both_ways_of_reading_agree: _mutants() | _poisoned(),
}


def _check(prop: Callable[..., None], *, examples: int, is_fixed: bool) -> None:
    configured = settings(
        max_examples=examples,
        deadline=None,
        derandomize=is_fixed,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    configured(given(PROPERTIES[prop])(prop))()


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__)
def test_whatever_arrives_the_parser_keeps_its_promises(prop: Callable[..., None]) -> None:
    _check(prop, examples=EXAMPLES, is_fixed=True)


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__)
def test_twenty_times_as_much_arrives(prop: Callable[..., None]) -> None:
    _check(prop, examples=CAMPAIGN * EXAMPLES, is_fixed=False)


@pytest.mark.parametrize("field", [r"\ud800", r"\u0000", ""])
def test_a_hello_may_have_any_other_field(field: str) -> None:
    """Found by the campaign: a name that is no UTF-8 was an error of ours, before anybody had signed in."""
    assert _arrives(f'{{"op":"hello","token":"x","{field}":null}}') == [frames.Hello(token="x")]


def test_depth_100000_costs_no_stack_and_little_time() -> None:
    for text in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000):
        arrived = _arrives(text)
        assert isinstance(arrived, ProtocolError)
        assert arrived.close == CloseCode.BAD_FRAME


@pytest.mark.parametrize(("levels", "is_taken"), [(63, True), (64, True), (65, False)])
def test_depth_64_is_the_last_one(levels: int, is_taken: bool) -> None:
    inner: Any = 1
    for _ in range(levels - 1):
        inner = {"a": inner}
    value = {"op": "send", "id": "x", "content": "hi", "metadata": inner}
    assert isinstance(_arrives(json.dumps(value)), list) is is_taken
    assert math.isclose(strict_json.MAX_DEPTH, 64)
