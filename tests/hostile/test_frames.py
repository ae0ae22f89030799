"""What a signed-in socket may be sent: each fault ends as PROTOCOL says, and harms nobody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.hostile.raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, Raw, frame, say, socket
from tests.hostile.target import CANARY, Target

MIB = 1_048_576


def _deep(levels: int) -> str:
    return '{"op":"unsubscribe","id":"x","thread":' + '{"a":' * (levels - 1) + f'"{CANARY}"' + "}" * levels


BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "binary": (frame(BINARY, CANARY.encode()), 4500),
    "raw bytes that are no UTF-8": (frame(TEXT, b'{"op":"pong","x":"\xff\xfe"}'), 4500),
    "raw surrogates (CESU-8)": (frame(TEXT, b'{"op":"pong","x":"\xed\xa0\x80"}'), 4500),
    "a NUL between tokens": (frame(TEXT, b'{"op":\x00"pong"}'), 4500),
    "a raw NUL in a string": (frame(TEXT, b'{"op":"unsubscribe","id":"a\x00b","thread":"th_0"}'), 4500),
    "deeper than 64": (say(_deep(65)), 4500),
    "100,000 deep, unclosed": (frame(TEXT, b"[" * 60_000), 4500),
    "30,000 deep, closed": (frame(TEXT, b"[" * 30_000 + b"]" * 30_000), 4500),
    "a byte order mark": (frame(TEXT, b'\xef\xbb\xbf{"op":"pong"}'), 4500),
    "JSON twice": (frame(TEXT, b'{"op":"pong"}{"op":"pong"}'), 4500),
    "an array in an array": (say([[{"op": "pong"}]]), 4500),
    "nothing": (frame(TEXT), 4500),
    "10 MB": (frame(TEXT, b"x" * 10_000_000), 1009),
    "10 MB announced and never sent": (frame(TEXT, b"x", length=10_000_000), 1009),
    "2^63 bytes announced": (frame(TEXT, b"", length=2**63 - 1), 1009),
    "10 MB in pieces": (
        frame(TEXT, b"x" * 65_000, fin=False) + frame(CONT, b"x" * 65_000, fin=False) * 4,
        1009,
    ),
    "a reserved bit": (frame(TEXT, b"{}", rsv=2), 1002),
    "compressed though nobody agreed": (frame(TEXT, b"\xaa\x56\x2a", rsv=4), 1002),
    "not masked": (frame(TEXT, b'{"op":"pong"}', masked=False), 1002),
    "a reserved opcode": (frame(3, b"x"), 1002),
    "a control frame over 125 bytes": (frame(PING, b"x" * 126), 1002),
    "a control frame in pieces": (frame(PING, b"x", fin=False), 1002),
    "a continuation of nothing": (frame(CONT, b"x"), 1002),
    "a message inside another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "a close code that nobody may send": (frame(CLOSE, b"\x03\xec"), 1002),  # 1004
    "a close code of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close reason that is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff\xff"), 1007),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
async def test_what_is_no_frame_ends_its_own_socket_only(target: Target, case: str) -> None:
    said, code = BAD_FRAMES[case]
    async with socket(target.port, await target.key("mallory")) as raw:
        await raw.write(said)
        assert await raw.ending() == code


REFUSED: dict[str, tuple[str, str, str | None]] = {
    "NaN": ('{"op":"send","id":"x","content":"hi","metadata":{"a":NaN}}', "bad_request", "metadata"),
    "Infinity": ('{"op":"send","id":"x","content":"hi","metadata":{"a":-Infinity}}', "bad_request", "metadata"),
    "1e400": ('{"op":"send","id":"x","content":"hi","metadata":{"a":1e400}}', "bad_request", "metadata"),
    "an integer of 5,000 digits": (
        '{"op":"send","id":"x","content":"hi","metadata":{"a":' + "9" * 5_000 + "}}",
        "bad_request",
        "metadata",
    ),
    "a NUL escape": (r'{"op":"send","id":"x","content":"a\u0000b"}', "bad_request", "content"),
    "a NUL escape as a key of metadata": (
        r'{"op":"send","id":"x","content":"a","metadata":{"\u0000":1}}',
        "bad_request",
        "metadata",
    ),
    "a lone surrogate": (r'{"op":"send","id":"x","content":"\udc00"}', "bad_request", "content"),
    "surrogates the wrong way round": (r'{"op":"send","id":"x","content":"\udc00\ud800"}', "bad_request", "content"),
    "after beyond 64 bits": ('{"op":"subscribe","id":"x","thread":"th_0","after":1e30}', "bad_request", "after"),
    "after of 2^64": (f'{{"op":"subscribe","id":"x","thread":"th_0","after":{2**64}}}', "bad_request", "after"),
    "after of -2": ('{"op":"subscribe","id":"x","thread":"th_0","after":-2}', "bad_request", "after"),
    "a thread that is no id": ('{"op":"subscribe","id":"x","thread":"../../etc","after":0}', "not_found", "thread"),
    "a thread of 10,000 characters": (
        json.dumps({"op": "subscribe", "id": "x", "thread": "t" * 10_000, "after": 0}),
        "not_found",
        "thread",
    ),
    "an identity in a frame": ('{"op":"cancel","id":"x","run":"run_0","user":"usr_1"}', "bad_request", "user"),
    "the prototype of all objects": (
        '{"op":"cancel","id":"x","run":"run_0","__proto__":{"admin":true}}',
        "bad_request",
        "__proto__",
    ),
    "exactly 64 deep": (_deep(64), "bad_request", "thread"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_object_is_refused_by_name_and_the_socket_lives(target: Target, case: str) -> None:
    text, code, field = REFUSED[case]
    async with socket(target.port, await target.key("mallory")) as raw:
        await raw.write(say(text))
        reply = await raw.reply("x")
        assert reply["op"] == "reply", reply
        assert (reply["ok"], reply["error"]["code"], reply["error"]["field"]) == (False, code, field), reply
        await raw.write(say({"op": "unsubscribe", "id": "y", "thread": "th_0"}))
        assert (await raw.reply("y"))["op"] == "unsubscribed"


async def test_of_duplicate_keys_one_is_taken_and_it_is_the_one_that_is_answered(target: Target) -> None:
    """RFC 8259 §4 leaves it open; what may not be is that one part of the server sees the first, another the last."""
    async with socket(target.port, await target.key("mallory")) as raw:
        await raw.write(say('{"op":"unsubscribe","id":"x","id":"y","thread":"th_1","thread":"th_2"}'))
        assert await raw.reply("y") == {"op": "unsubscribed", "id": "y", "thread": "th_2", "reason": "asked"}
        # The slow way of reading, which a doubtful text takes, must decide alike.
        await raw.write(say(r'{"op":"unsubscribe","id":"\u0000","id":"z","thread":"th_1","thread":"th_2"}'))
        assert await raw.reply("z") == {"op": "unsubscribed", "id": "z", "thread": "th_2", "reason": "asked"}


async def test_a_close_frame_is_answered_and_nothing_after_it_is_heard(target: Target) -> None:
    async with socket(target.port, await target.key("mallory")) as raw:
        late = say({"op": "send", "id": "late", "content": "too late", "agent": "plain", "key": "late"})
        await raw.write(frame(CLOSE, b"\x03\xe8") + late)
        assert await raw.ending() == 1000
    mallory = target.client(await target.key("mallory"))
    async with mallory.connected():  # the key of the late `send` is unused: another body is no conflict
        assert (await mallory.command("send", content="first", agent="plain", key="late"))["ok"]


async def test_pings_and_unasked_pongs_are_no_commands(target: Target) -> None:
    async with socket(target.port, await target.key("mallory")) as raw:
        await raw.write(frame(PONG, b"unasked") + frame(PING, b"are you there"))
        while (got := await raw.websocket_frame())[0] != PONG:
            pass
        assert got[1] == b"are you there"


@pytest.mark.parametrize("piece", [1, 7])
async def test_a_command_in_tiny_fragments_with_pings_between_is_one_command(target: Target, piece: int) -> None:
    text = json.dumps({"op": "unsubscribe", "id": "€é", "thread": "th_0"}, ensure_ascii=False).encode()
    pieces = [text[n : n + piece] for n in range(0, len(text), piece)]
    async with socket(target.port, await target.key("mallory")) as raw:
        for n, part in enumerate(pieces):
            await raw.write(frame(TEXT if n == 0 else CONT, part, fin=n == len(pieces) - 1))
            await raw.write(frame(PING, b"p"))
        assert (await raw.reply("€é"))["op"] == "unsubscribed"


async def test_a_message_of_endless_empty_fragments_is_ended(target: Target) -> None:
    """No byte limit ever stops it: each fragment adds nothing."""
    async with socket(target.port, await target.key("mallory")) as raw:
        await raw.write(frame(TEXT, b"{", fin=False))
        nothing = frame(CONT, b"", fin=False) * 10_000

        async def flood() -> None:
            for _ in range(100):
                await raw.write(nothing)

        code = await _under_fire(raw, flood())
        assert code == 4029


async def test_a_flood_of_pings_that_reads_no_pong_is_ended(target: Target) -> None:
    async with socket(target.port, await target.key("mallory")) as raw:

        async def flood() -> None:
            for _ in range(200):
                await raw.write(frame(PING, b"x" * 125) * 1_000)

        code = await _under_fire(raw, flood())
        assert code == 4029


async def _under_fire(raw: Raw, attack: Any) -> int | None:
    """Attack until it is over or the server hangs up; give the close code."""
    async with asyncio.TaskGroup() as tasks:
        shooting = tasks.create_task(attack)
        code = await raw.ending()
        shooting.cancel()
    return code
