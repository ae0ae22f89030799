"""Forged ids: whatever field takes an id, another person's is answered byte for byte like one that does not exist."""

from __future__ import annotations

import json
from typing import Any

from tests.hostile.raw import TEXT, Raw, say, socket
from tests.hostile.target import CANARY, Target

_UNKNOWN = {"thread": "th_" + "f" * 32, "run": "run_" + "f" * 32}
_SHAPES = ("th_0", "", " ", "*", "%", "_", "../th", "th_\u0000", "TH_" + "f" * 32, "' OR 1=1 --", "usr_1", "null")


def _commands(thread: str, run: str) -> list[dict[str, Any]]:
    """Give every command with an id in each field that takes one."""
    return [
        {"op": "subscribe", "thread": thread, "after": 0},
        {"op": "subscribe", "thread": thread, "after": -1, "view": "lifecycle"},
        {"op": "subscribe", "thread": thread, "after": 3, "log": "other"},
        {"op": "send", "thread": thread, "agent": "plain", "content": CANARY},
        {"op": "send", "thread": thread, "agent": "plain", "content": CANARY, "key": "forged"},
        {"op": "send", "thread": thread, "agent": "plain", "content": CANARY, "on_active": "interrupt"},
        {"op": "cancel", "run": run},
        {"op": "answer", "run": run, "wait": "w", "value": True},
        {"op": "unsubscribe", "thread": thread},
    ]


async def exact(raw: Raw, command: dict[str, Any]) -> bytes:
    """Give the very bytes of an answer."""
    await raw.write(say({"id": "x", **command}))
    while True:
        opcode, payload = await raw.websocket_frame()
        message = json.loads(payload) if opcode == TEXT else {}
        if isinstance(message, dict) and message.get("id") == "x":
            return payload


async def test_foreign_ids_in_every_field_are_answered_as_unknown_ones_byte_for_byte(target: Target) -> None:
    ann = target.client(await target.key("ann"))
    async with ann.connected():
        sent = await ann.send("mine alone", agent="steady")
    async with socket(target.port, await target.key("mallory")) as raw:
        theirs = _commands(sent["thread"], sent["run"])
        nobodys = _commands(_UNKNOWN["thread"], _UNKNOWN["run"])
        for forged, unknown in zip(theirs, nobodys, strict=True):
            answers = [await exact(raw, each) for each in (forged, unknown)]
            told = answers[0].replace(sent["thread"].encode(), _UNKNOWN["thread"].encode())
            assert told == answers[1], forged
            assert b'"ok":true' not in answers[0]
    async with ann.connected():
        await ann.command("cancel", run=sent["run"])
        await ann.subscribe(sent["thread"], after=0)
        events = await ann.until_end(sent["run"])
    assert CANARY not in json.dumps(events), "a forged message reached the thread"
    assert [e["type"] for e in events if e["type"] == "user_message"] == ["user_message"]


async def test_what_is_no_id_in_any_field_is_refused_and_starts_nothing(target: Target) -> None:
    async with socket(target.port, await target.key("mallory")) as raw:
        for shape in _SHAPES:
            for command in _commands(shape, shape):
                if command["op"] == "unsubscribe":
                    continue  # is answered also when there is nothing to end
                answer = json.loads(await exact(raw, command))
                assert answer["ok"] is False, (shape, command)
                assert answer["error"]["code"] in ("not_found", "bad_request"), answer
