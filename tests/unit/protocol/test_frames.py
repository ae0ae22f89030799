"""Frames: every bad one that PROTOCOL §3 names is refused by name; sound ones come through as they are."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.errors import NotFound, ProtocolError
from runwire.protocol import frames, strict_json
from runwire.protocol.codes import CloseCode, ErrorCode
from runwire.protocol.events import StoredEvent, TextDelta, emitted

SEND = {"op": "send", "id": "3", "content": "hi"}
SUBSCRIBE = {"op": "subscribe", "id": "1", "thread": "th_1"}
ANSWER = {"op": "answer", "id": "5", "run": "run_1", "wait": "w", "value": None}


def one(text: str | bytes) -> frames.ClientFrame | frames.Refused:
    (frame,) = frames.parse_client_frames(text)
    return frame


def assert_refused(text: str, *, field: str | None, code: str = "bad_request", id_: str | None = "3") -> None:
    refused = one(text)
    assert isinstance(refused, frames.Refused), refused
    assert (refused.error.code, refused.error.field, refused.id) == (code, field, id_)
    reply = json.loads(frames.encode(frames.reply_error(refused.id, refused.error)))
    assert (reply["op"], reply["ok"], reply["id"]) == ("reply", False, id_)


# ── sound frames ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_client_frame_of_the_protocol_page_is_read() -> None:
    page = """[{"op":"hello","token":"t","client":"name/version"},
      {"op":"subscribe","id":"1","thread":"th_1","after":381,"log":"k3x9","view":"all"},
      {"op":"unsubscribe","id":"2","thread":"th_1"},
      {"op":"send","id":"3","key":"k","thread":"th_1","agent":"name","content":"text","on_active":"enqueue","metadata":{}},
      {"op":"send","id":"3","key":"k","thread":null,"agent":null,"content":[{"type":"text","text":"a"}],"on_active":"reject"},
      {"op":"cancel","id":"4","run":"run_1"},
      {"op":"answer","id":"5","run":"run_1","wait":"w","value":[1,{"a":null}]},
      {"op":"refresh","id":"6","token":"t"},
      {"op":"pong"}]"""
    assert frames.parse_client_frames(page) == [
        frames.Hello(token="t", client="name/version"),
        frames.Subscribe(id="1", thread="th_1", after=381, log="k3x9", view="all"),
        frames.Unsubscribe(id="2", thread="th_1"),
        frames.Send(id="3", key="k", thread="th_1", agent="name", content="text", metadata={}),
        frames.Send(id="3", key="k", content=[frames.TextPart(type="text", text="a")], on_active="reject"),
        frames.Cancel(id="4", run="run_1"),
        frames.Answer(id="5", run="run_1", wait="w", value=[1, {"a": None}]),
        frames.Refresh(id="6", token="t"),
        frames.Pong(),
    ]


def test_a_single_frame_and_an_array_of_one_are_the_same() -> None:
    assert frames.parse_client_frames('{"op":"pong"}') == frames.parse_client_frames(b' \r\n\t[{"op":"pong"}]')
    assert frames.parse_client_frames("[]") == []


def test_what_a_subscribe_and_a_send_leave_out_has_a_default() -> None:
    assert one(json.dumps(SUBSCRIBE)) == frames.Subscribe(id="1", thread="th_1", after=0, log=None, view="all")
    assert one(json.dumps(SEND)) == frames.Send(id="3", content="hi", on_active="enqueue")


def test_hello_ignores_unknown_fields_and_nothing_else_does() -> None:
    assert one('{"op":"hello","token":"t","caps":{"x":NaN}}') == frames.Hello(token="t")
    assert one('{"op":"hello","token":"t","caps":1}') == frames.Hello(token="t")
    for kind in frames.CLIENT_FRAMES[1:]:
        op = kind.__struct_config__.tag
        assert_refused(json.dumps({"caps": 1, "op": op, "id": "3"}), field="caps")


def test_ids_are_any_string_and_come_back_as_they_were() -> None:
    for id_ in ("", "0", "ü \u2028", "\0", "x" * 1000):
        frame = one(json.dumps(SUBSCRIBE | {"id": id_}))
        assert isinstance(frame, frames.Subscribe)
        assert frame.id == id_


def test_a_malformed_thread_id_is_left_to_the_lookup_that_answers_not_found() -> None:
    assert isinstance(one(json.dumps(SUBSCRIBE | {"thread": "../etc/passwd"})), frames.Subscribe)


# ── wrong objects: bad_request naming the field ──────────────────────────────────────────────────────────

WRONG = {
    "unknown op": ('{"op":"shout","id":"3"}', "op"),
    "no op": ('{"id":"3"}', "op"),
    "op of a wrong type": ('{"op":["send"],"id":"3"}', "op"),
    "an op of the server": ('{"op":"event","id":"3"}', "op"),
    "misnamed field": ('{"op":"send","id":"3","contents":"hi"}', "contents"),
    "unknown field": ('{"op":"cancel","id":"3","run":"run_1","force":true}', "force"),
    "missing field": ('{"op":"cancel","id":"3"}', "run"),
    "missing value": ('{"op":"answer","id":"3","run":"r","wait":"w"}', "value"),
    "empty text": ('{"op":"send","id":"3","content":""}', "content"),
    "blank text": ('{"op":"send","id":"3","content":" \\n\\t\\u00a0\\u3000"}', "content"),
    "no part": ('{"op":"send","id":"3","content":[]}', "content"),
    "blank parts": ('{"op":"send","id":"3","content":[{"type":"text","text":" "}]}', "content"),
    "content of a wrong type": ('{"op":"send","id":"3","content":5}', "content"),
    "content null": ('{"op":"send","id":"3","content":null}', "content"),
    "part of a wrong type": ('{"op":"send","id":"3","content":["hi"]}', "content"),
    "part with a misnamed field": ('{"op":"send","id":"3","content":[{"type":"text","txt":"a"}]}', "content"),
    "part without a type": ('{"op":"send","id":"3","content":[{"text":"a"}]}', "content"),
    "part whose type is a number": ('{"op":"send","id":"3","content":[{"type":1,"text":"a"}]}', "content"),
    "metadata no object": ('{"op":"send","id":"3","content":"a","metadata":[]}', "metadata"),
    "on_active unknown": ('{"op":"send","id":"3","content":"a","on_active":"wait"}', "on_active"),
    "key empty": ('{"op":"send","id":"3","content":"a","key":""}', "key"),
    "key too long": (json.dumps(SEND | {"key": "k" * 256}), "key"),
    "key a number": ('{"op":"send","id":"3","content":"a","key":7}', "key"),
    "thread a number": ('{"op":"subscribe","id":"3","thread":7}', "thread"),
    "after a text": ('{"op":"subscribe","id":"3","thread":"t","after":"0"}', "after"),
    "after a fraction": ('{"op":"subscribe","id":"3","thread":"t","after":1.5}', "after"),
    "after a truth": ('{"op":"subscribe","id":"3","thread":"t","after":true}', "after"),
    "after below -1": ('{"op":"subscribe","id":"3","thread":"t","after":-2}', "after"),
    "after beyond JavaScript": ('{"op":"subscribe","id":"3","thread":"t","after":9007199254740992}', "after"),
    "view unknown": ('{"op":"subscribe","id":"3","thread":"t","view":"some"}', "view"),
    "NaN in metadata": ('{"op":"send","id":"3","content":"a","metadata":{"x":[NaN]}}', "metadata"),
    "Infinity in metadata": ('{"op":"send","id":"3","content":"a","metadata":{"x":-Infinity}}', "metadata"),
    "NaN as value": ('{"op":"answer","id":"3","run":"r","wait":"w","value":NaN}', "value"),
    "a number out of range": ('{"op":"answer","id":"3","run":"r","wait":"w","value":1e999}', "value"),
    "an endless integer": (json.dumps(ANSWER | {"id": "3"}).replace("null", "1" * 5000), "value"),
    "NaN as after": ('{"op":"subscribe","id":"3","thread":"t","after":NaN}', "after"),
    "lone surrogate in content": ('{"op":"send","id":"3","content":"a\\ud800"}', "content"),
    "lone low surrogate in a part": ('{"op":"send","id":"3","content":[{"type":"text","text":"\\udc00"}]}', "content"),
    "lone surrogate in a key of metadata": (
        '{"op":"send","id":"3","content":"a","metadata":{"\\ud800":1}}',
        "metadata",
    ),
    "lone surrogate in a field name": ('{"op":"cancel","id":"3","run":"r","\\ud800":1}', "?"),
    "NUL in content": ('{"op":"send","id":"3","content":"a\\u0000b"}', "content"),
    "NUL in metadata": ('{"op":"send","id":"3","content":"a","metadata":{"x":"\\u0000"}}', "metadata"),
    "NUL in a thread id": ('{"op":"subscribe","id":"3","thread":"\\u0000"}', "thread"),
}


@pytest.mark.parametrize(("text", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_object_is_refused_naming_the_field(text: str, field: str) -> None:
    assert_refused(text, field=field)


UNREADABLE_IDS = {
    "missing": '{"op":"send","content":"hi"}',
    "a number": '{"op":"send","id":3,"content":"hi"}',
    "null": '{"op":"send","id":null,"content":"hi"}',
    "a lone surrogate": '{"op":"send","id":"\\ud800","content":"hi"}',
}


@pytest.mark.parametrize("text", UNREADABLE_IDS.values(), ids=UNREADABLE_IDS.keys())
def test_a_command_without_a_readable_id_is_answered_with_id_null(text: str) -> None:
    assert_refused(text, field="id", id_=None)


def test_parts_other_than_text_are_unsupported() -> None:
    text = '{"op":"send","id":"3","content":[{"type":"text","text":"a"},{"type":"image","url":"x"}]}'
    assert_refused(text, field="content", code="unsupported")


def test_one_wrong_frame_in_an_array_does_not_harm_its_neighbours() -> None:
    message = '[{"op":"pong"},{"op":"send","id":"a","content":NaN},{"op":"cancel","id":"b","run":"r"},{"op":"x"}]'
    pong, bad, cancel, unknown = frames.parse_client_frames(message)
    assert (pong, cancel) == (frames.Pong(), frames.Cancel(id="b", run="r"))
    assert isinstance(bad, frames.Refused)
    assert (bad.id, bad.error.field) == ("a", "content")
    assert isinstance(unknown, frames.Refused)
    assert (unknown.id, unknown.error.field) == (None, "op")


def test_a_refusal_that_quotes_the_peer_stays_short() -> None:
    long = "x" * 60_000
    refused = one(json.dumps({"op": "cancel", "id": "3", "run": "r", long: 1}))
    assert isinstance(refused, frames.Refused)
    assert len(frames.encode(frames.reply_error(refused.id, refused.error))) < 600
    refused = one(json.dumps(SEND | {"on_active": long}))
    assert isinstance(refused, frames.Refused)
    assert len(refused.error.message) <= 300


# ── no JSON object at all: 4500 ──────────────────────────────────────────────────────────────────────────

NO_FRAME: dict[str, str | bytes] = {
    "nothing": "",
    "no JSON": "{op:send}",
    "cut off": '{"op":"send","id":"3"',
    "two messages": '{"op":"pong"}{"op":"pong"}',
    "a byte order mark": "\ufeff{}",
    "a number": "5",
    "NaN alone": "NaN",
    "a text": '"pong"',
    "an array in an array": '[[{"op":"pong"}]]',
    "null in an array": '[{"op":"pong"},null]',
    "invalid UTF-8": b'{"op":"pong\xff"}',
    "an encoded surrogate": b'{"op":"\xed\xa0\x80"}',
    "a bare surrogate": '{"op":"\ud800"}',
    "depth over 64": json.dumps(ANSWER).replace("null", "[" * 64 + "]" * 64),
    "depth over 64 of objects": json.dumps(ANSWER).replace("null", '{"a":' * 64 + "1" + "}" * 64),
    "depth beyond any stack": "[" * 100_000 + "]" * 100_000,
    "depth over 64 inside hello": '{"op":"hello","token":"t","x":' + "[" * 64 + "]" * 64 + "}",
}


@pytest.mark.parametrize("message", NO_FRAME.values(), ids=NO_FRAME.keys())
def test_what_is_no_frame_ends_the_connection_with_4500(message: str | bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        frames.parse_client_frames(message)
    assert (caught.value.close, caught.value.code) == (CloseCode.BAD_FRAME, "bad_request")


def test_a_binary_message_ends_the_connection_whatever_it_holds() -> None:
    with pytest.raises(ProtocolError) as caught:
        frames.parse_client_frames(b'{"op":"pong"}', is_binary=True)
    assert caught.value.close == CloseCode.BAD_FRAME


def test_depth_64_is_allowed_and_brackets_in_a_text_are_not_counted() -> None:
    deep = one(json.dumps(ANSWER).replace("null", "[" * 63 + "]" * 63))
    assert isinstance(deep, frames.Answer)
    wordy = one(json.dumps(SEND | {"content": "[{" * 100}))
    assert wordy == frames.Send(id="3", content="[{" * 100)


def test_the_slow_way_reads_what_the_fast_way_reads() -> None:
    # An escaped backslash before `u0000` looks like a NUL to the fast way.
    frame = one('{"op":"send","id":"3","content":"\\\\u0000","metadata":{"n":123456789012345678901234567890}}')
    assert frame == frames.Send(id="3", content="\\u0000", metadata={"n": 123456789012345678901234567890})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
ops = st.sampled_from([str(kind.__struct_config__.tag) for kind in frames.CLIENT_FRAMES])
fields = st.dictionaries(
    st.sampled_from(
        ["op", "id", "thread", "after", "log", "view", "key", "content", "metadata", "run", "wait", "value"]
    )
    | st.text(max_size=4),
    json_values,
    max_size=6,
)


@given(st.lists(st.builds(lambda op, fields: {"op": op} | fields, ops, fields), max_size=3), st.booleans())
def test_any_object_is_either_sound_or_refused_with_a_reply_that_can_be_sent(objects: list[Any], escapes: bool) -> None:
    text = json.dumps(objects, ensure_ascii=escapes)
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(ProtocolError):
            frames.parse_client_frames(text)
        return
    read = frames.parse_client_frames(text)
    assert len(read) == len(objects)
    for frame in read:
        if isinstance(frame, frames.Refused):
            assert frame.error.code in ("bad_request", "unsupported")
            assert frame.error.field is not None
            frames.encode(frames.reply_error(frame.id, frame.error))
        else:
            assert frames.parse_client_frames(frames.encode(frame)) == [frame]


# ── bodies of HTTP requests ──────────────────────────────────────────────────────────────────────────────


def test_a_body_is_read_by_the_same_rules() -> None:
    body = strict_json.decode(frames.MessageBody, b'{"content":"hi","metadata":{"a":1}}')
    assert body == frames.MessageBody(content="hi", metadata={"a": 1})
    assert strict_json.decode(frames.MessageBody, '{"content":"\\\\u0000"}').content == "\\u0000"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"content":" "}', "content"),
        (b'{"content":"a","metadata":{"x":NaN}}', "metadata"),
        (b'{"content":"a","op":"send"}', "op"),
        (b'{"content":"\\ud800"}', "content"),
        (b"{}", "content"),
        (b"[]", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_a_wrong_body_is_refused_naming_the_field(body: bytes, field: str | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        strict_json.decode(frames.MessageBody, body)
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, field)


def test_equal_messages_have_equal_fingerprints_and_no_others() -> None:
    def of(thread: str | None = None, **body: Any) -> str:
        return frames.fingerprint(frames.MessageBody(**body), thread=thread)

    assert of(content="a", metadata={"x": 1, "y": 2}) == of(content="a", metadata={"y": 2, "x": 1})
    assert of(content="a") == of(content="a", metadata={})
    others = [
        of(content="b"),
        of(content="a", agent="x"),
        of(content="a", on_active="reject"),
        of(content="a", metadata={"x": 1}),
        of("th_1", content="a"),
    ]
    assert len({of(content="a"), *others}) == 6


# ── frames of the server ─────────────────────────────────────────────────────────────────────────────────

SERVER_PAGE = """[
{"op":"welcome","protocol":1,"server":"runwire/0.1.0","connection":"cn_1","user":"usr_1","log":"k3x9","ping_s":25.0,"pong_s":10.0,"expires_at":1790000000000,
 "limits":{"frame_bytes":65536,"subscriptions":64,"commands_in_flight":32,"replay_events":20000}},
{"op":"subscribed","id":"1","thread":"th_1","log":"k3x9","view":"all","after":381,"head":412},
{"op":"reply","id":"3","ok":true,"data":{"thread":"th_1","log":"k3x9","after":0,"run":"run_1","message":"msg_1","seq":1}},
{"op":"reply","id":"3","ok":false,"error":{"code":"run_active","message":"m","field":null,"retry_after_s":null}},
{"op":"event","thread":"th_1","seq":382,"prev":381,"run":"run_1","attempt":1,"ts":1790000000123,"type":"text_delta","data":{"message":"m","offset":0,"text":"é"}},
{"op":"position","thread":"th_1","seq":412},
{"op":"reset","thread":"th_1","log":"k3x9","from":4021,"reason":"trimmed"},
{"op":"unsubscribed","id":null,"thread":"th_1","reason":"deleted"},
{"op":"notice","kind":"draining","thread":null,"data":{}},
{"op":"ping"},
{"op":"bye","code":4001,"reconnect":true,"after_s":1.2,"reason":"r"}]"""


def test_every_server_frame_is_written_exactly_as_on_the_protocol_page() -> None:
    read = frames.parse_server_frames(SERVER_PAGE)
    assert tuple(dict.fromkeys(type(frame) for frame in read)) == frames.SERVER_FRAMES
    encoded = [frames.encode(frame) for frame in read if not isinstance(frame, frames.UnknownFrame)]
    assert [list(json.loads(each).items()) for each in encoded] == [
        list(each.items()) for each in json.loads(SERVER_PAGE)
    ]


def test_an_event_goes_out_with_its_data_as_the_bytes_that_were_stored() -> None:
    data = msgspec.Raw(b'{"message":"m","offset":0,"text":"\\u00e9"  }')
    event = StoredEvent(seq=382, run="run_1", attempt=2, type="text_delta", ts=7, data=data, scope="st/1")
    assert frames.encode_event("th_1", event, 380) == (
        b'{"op":"event","thread":"th_1","seq":382,"prev":380,"run":"run_1","attempt":2,"ts":7,'
        b'"type":"text_delta","data":{"message":"m","offset":0,"text":"\\u00e9"  }}'
    )


def test_several_encoded_frames_make_one_message() -> None:
    ping, position = frames.encode(frames.Ping()), frames.encode(frames.Position(thread="th_1", seq=4))
    assert frames.join([ping]) == ping
    assert frames.parse_server_frames(frames.join([ping, position])) == [
        frames.Ping(),
        frames.Position(thread="th_1", seq=4),
    ]


def test_a_client_ignores_unknown_fields_and_keeps_unknown_frames_aside() -> None:
    assert frames.parse_server_frames('{"op":"ping","load":0.5}') == [frames.Ping()]
    read = frames.parse_server_frames('[{"op":"ping"},{"op":"hint","x":1}]')
    assert read == [frames.Ping(), frames.UnknownFrame(op="hint", raw={"op": "hint", "x": 1})]
    assert isinstance(frames.parse_server_frames('{"op":"hint"}')[0], frames.UnknownFrame)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"op":"reset","thread":"t","log":"k","from":4,"reason":"newer"}', frames.Reset),
        ('{"op":"unsubscribed","id":null,"thread":"t","reason":"newer"}', frames.Unsubscribed),
        ('{"op":"notice","kind":"newer","data":{"a":1}}', frames.Notice),
    ],
)
def test_a_word_of_a_newer_server_is_another_value_and_not_another_shape(
    text: str, kind: type[frames.ServerFrame]
) -> None:
    for message in (text, f"[{text}]"):
        (frame,) = frames.parse_server_frames(message)
        assert isinstance(frame, kind)
        assert "newer" in (getattr(frame, "reason", None), getattr(frame, "kind", None))
    with pytest.raises(ProtocolError):
        frames.parse_server_frames(text.replace('"newer"', "7"))


def test_an_event_of_an_unknown_type_is_an_event() -> None:
    stored = StoredEvent(seq=1, run="r", attempt=1, type="future", ts=0, data=msgspec.Raw(b'{"a":1}'))
    (event,) = frames.parse_server_frames(frames.encode_event("th_1", stored, 0))
    assert isinstance(event, frames.Event)
    assert (event.type, bytes(event.data)) == ("future", b'{"a":1}')


@pytest.mark.parametrize("text", ["", "no", "5", "[5]", '{"op":5}', "{}", '{"op":"event","thread":"th_1"}', b"\xff"])
def test_a_server_that_sends_no_frame_is_at_fault(text: str | bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        frames.parse_server_frames(text)
    assert caught.value.close == CloseCode.BAD_FRAME


def test_an_error_becomes_a_reply_with_all_its_fields() -> None:
    error = NotFound("No such thread.", field="thread", retry_after_s=1.5)
    assert frames.encode(frames.reply_error("1", error)) == (
        b'{"op":"reply","id":"1","ok":false,"error":'
        b'{"code":"not_found","message":"No such thread.","field":"thread","retry_after_s":1.5}}'
    )
    assert frames.encode(frames.reply_ok("1", frames.RefreshData(expires_at=5))) == (
        b'{"op":"reply","id":"1","ok":true,"data":{"expires_at":5}}'
    )


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**53 - 1))
def test_an_event_survives_the_wire(text: str, seq: int) -> None:
    new = emitted(TextDelta(message="m", offset=0, text=text), ts=1)
    stored = StoredEvent(seq=seq, run="r", attempt=1, type=new.type, ts=1, data=new.data)
    (event,) = frames.parse_server_frames(frames.encode_event("th_1", stored, 0).decode())
    assert isinstance(event, frames.Event)
    assert (event.seq, bytes(event.data)) == (seq, bytes(new.data))
