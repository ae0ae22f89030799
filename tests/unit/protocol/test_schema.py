"""What is generated from the types: up to date, true to the wire, and complete."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from runwire.protocol import frames, schema
from runwire.protocol.events import EVENT_DATA, INTERNAL_TYPES, EventType, StoredEvent, TextDelta, emitted
from runwire.protocol.shown import Message, Run, Step, Wait

FOLDER = Path(__file__).parents[3] / schema.FOLDER


@pytest.mark.parametrize("name", schema.files().keys())
def test_the_generated_files_are_up_to_date(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == schema.files()[name], "run `python -m runwire.protocol.schema --write`"


# ── JSON Schema ──────────────────────────────────────────────────────────────────────────────────────────


@cache
def validator(name: str) -> Draft202012Validator:
    whole = schema.json_schema()
    Draft202012Validator.check_schema(whole)
    return Draft202012Validator(whole | {"$ref": f"#/$defs/{name}"})


def an_event(kind: str, data: bytes) -> Any:
    stored = StoredEvent(seq=2, run="r", attempt=1, type=kind, ts=0, data=msgspec.Raw(data))
    return json.loads(frames.encode_event("th_1", stored, 1))


def test_the_schema_accepts_what_the_server_sends() -> None:
    delta = emitted(TextDelta(message="m", offset=0, text="x"), ts=0)
    sent: list[frames.ServerFrame] = [
        frames.Welcome(protocol=1, server="s", connection="c", user="u", log="l", ping_s=25, pong_s=10),
        frames.Subscribed(id="1", thread="t", log="l", view="all", after=0, head=0),
        frames.reply_ok("1", frames.RefreshData(expires_at=None)),
        frames.reply_error(None, frames.ErrorBody(code="bad_request", message="m")),
        frames.Reset(thread="t", log="l", from_=3, reason="trimmed"),
        frames.Unsubscribed(id=None, thread="t", reason="asked"),
        frames.Notice(kind="draining"),
        frames.Ping(),
        frames.Bye(code=4001, reconnect=True),
    ]
    message = [json.loads(frames.encode(frame)) for frame in sent]
    message += [an_event("text_delta", bytes(delta.data)), an_event("future", b'{"x":1}')]
    validator("ServerMessage").validate(message)
    for frame in message:
        validator("ServerMessage").validate(frame | {"added_later": 1})


@pytest.mark.parametrize(
    "frame",
    [
        {"op": "ping", "id": 1, "seq": "x"} | {"op": "hint"},
        {"op": "position", "thread": "t"},
        an_event("text_delta", b'{"message":"m","offset":"0","text":"x"}'),
        an_event("tool_completed", b'{"call":"c"}'),
    ],
)
def test_the_schema_refuses_what_no_server_may_send(frame: Any) -> None:
    assert not validator("ServerMessage").is_valid(frame)


def test_the_schema_and_the_parser_agree_on_commands() -> None:
    commands: list[dict[str, Any]] = [
        {"op": "hello", "token": "t", "extra": 1},
        {"op": "subscribe", "id": "1", "thread": "t", "after": -1},
        {"op": "subscribe", "id": "1", "thread": "t", "after": -2},
        {"op": "subscribe", "id": 1, "thread": "t"},
        {"op": "send", "id": "1", "content": "x", "metadata": {"a": None}},
        {"op": "send", "id": "1", "content": [{"type": "text", "text": "x"}]},
        {"op": "send", "id": "1", "content": [{"text": "x"}]},
        {"op": "send", "id": "1", "contents": "x"},
        {"op": "send", "id": "1", "content": "x", "on_active": "later"},
        {"op": "answer", "id": "1", "run": "r", "wait": "w"},
        {"op": "answer", "id": "1", "run": "r", "wait": "w", "value": None},
        {"op": "pong"},
        {"op": "pang"},
    ]
    for command in commands:
        (read,) = frames.parse_client_frames(json.dumps(command))
        assert validator("ClientMessage").is_valid(command) is not isinstance(read, frames.Refused), command


# ── TypeScript ───────────────────────────────────────────────────────────────────────────────────────────


def interface(name: str) -> dict[str, str]:
    """The fields of an interface in the generated text: name -> type."""
    found = re.search(rf"export interface {name} \{{(.*?)\n\}}", schema.typescript(), re.DOTALL)
    assert found, name
    return {key.strip(): kind.strip() for key, kind in re.findall(r"([\w$?]+): ([^;]+);", found.group(1))}


def test_the_types_name_every_frame_and_every_event_that_clients_see() -> None:
    for kind in (*frames.CLIENT_FRAMES, *frames.SERVER_FRAMES):
        if kind is not frames.Event:
            assert interface(kind.__name__)["op"] == f'"{kind.__struct_config__.tag}"'
    assert interface("EventDataByType") == {
        str(kind): data.__name__ for kind, data in EVENT_DATA.items() if kind not in INTERNAL_TYPES
    }
    assert interface(r"EventOf<T extends keyof EventDataByType>").keys() == {
        "op",
        "thread",
        "seq",
        "prev",
        "run",
        "attempt",
        "ts",
        "type",
        "data",
    }


def test_every_name_in_the_types_is_declared() -> None:
    text = re.sub(r"/\*\*.*?\*/|//[^\n]*|\"[^\"]*\"", "", schema.typescript(), flags=re.DOTALL)
    declared = set(re.findall(r"export (?:interface|type) (\w+)", text))
    used = set(re.findall(r"\b[A-Z]\w+", text))
    assert used - declared <= {"Record"}
    assert text.count("{") == text.count("}")


def test_the_snapshot_types_have_the_fields_of_the_snapshot() -> None:
    message = Message(id="m", role="user", content="x", run="r", seq=1, complete=True)
    assert interface("SnapshotMessage").keys() == message.to_json().keys()
    assert interface("SnapshotRun").keys() == Run(id="r").to_json().keys()
    assert interface("SnapshotStep").keys() == Step(call="c", name="n", args=None, seq=1).to_json().keys()
    assert interface("SnapshotWait").keys() == Wait(wait="w", kind=None).to_json().keys()


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_names_every_event_and_field() -> None:
    page = schema.reference_page()
    for kind in EventType:
        assert f"### `{kind}`\n" in page
    assert page.count("*Ends the run.*") == 3
    assert "| `try` | `number` |" in page
    assert "| `span?` |" in page


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_writes_what_is_stale_and_notices_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / schema.FOLDER).mkdir(parents=True)
    assert schema.main(["--check"]) == 1
    assert "out of date: protocol.schema.json, protocol.d.ts, events.md" in capsys.readouterr().err
    assert schema.main(["--write"]) == 0
    assert schema.main(["--check"]) == 0
    page = tmp_path / schema.FOLDER / "events.md"
    page.write_text(page.read_text(encoding="utf-8") + "by hand\n", encoding="utf-8")
    assert schema.main(["--check"]) == 1
    capsys.readouterr()
    assert schema.main(["--write"]) == 0
    assert capsys.readouterr().out == f"wrote {schema.FOLDER}/events.md\n"
    assert schema.main(["--help"]) == 2
