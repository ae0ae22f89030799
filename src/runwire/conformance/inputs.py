"""The category `input`: what is wrong is named, starts nothing, and harms nobody else."""

from __future__ import annotations

import json
from typing import Any, Final

from runwire.conformance.case import Case
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, Talk, error_code, found
from runwire.conformance.wire import Closed, Seen, Silence
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode, ErrorCode

__all__ = ["CASES"]

_LONE: Final = "\\ud800"  # half of a character, as JSON writes it
_FRAMES: Final[tuple[tuple[str, str, str | None], ...]] = (
    # what is wrong, the frame with ID, THREAD and AGENT to fill in, the field that is named
    ("an unknown op", '{"op":"shout","id":"ID","thread":"THREAD"}', "op"),
    ("no op", '{"id":"ID","thread":"THREAD"}', "op"),
    ("an op that is a number", '{"op":7,"id":"ID"}', "op"),
    (
        "a misnamed field",
        '{"op":"send","id":"ID","thread":"THREAD","agent":AGENT,"contents":"hi","content":"hi"}',
        "contents",
    ),
    ("an empty message", '{"op":"send","id":"ID","thread":"THREAD","agent":AGENT,"content":""}', "content"),
    ("only spaces", '{"op":"send","id":"ID","thread":"THREAD","agent":AGENT,"content":"  \\n "}', "content"),
    ("no message", '{"op":"send","id":"ID","thread":"THREAD","agent":AGENT}', "content"),
    ("a message that is a number", '{"op":"send","id":"ID","thread":"THREAD","agent":AGENT,"content":1}', "content"),
    ("half a character", f'{{"op":"send","id":"ID","thread":"THREAD","agent":AGENT,"content":"{_LONE}"}}', "content"),
    (
        "a wrong on_active",
        '{"op":"send","id":"ID","thread":"THREAD","agent":AGENT,"content":"hi","on_active":"x"}',
        "on_active",
    ),
    ("a run to cancel that is no text", '{"op":"cancel","id":"ID","run":[]}', "run"),
    ("a position that is none", '{"op":"subscribe","id":"ID","thread":"THREAD","after":-2}', "after"),
    ("a view that is none", '{"op":"subscribe","id":"ID","thread":"THREAD","after":0,"view":"some"}', "view"),
)
_BROKEN: Final[tuple[tuple[str, str | bytes, bool | None], ...]] = (
    # what is wrong, the message, whether bytes go as text
    ("what is not JSON", "this is no JSON", None),
    ("JSON cut off", '{"op":"pong"', None),
    ("a number", "7", None),
    ("a binary message", b'{"op":"pong"}', None),
    ("JSON of depth 70", "[" * 70 + "]" * 70, None),
)
_BODIES: Final[tuple[tuple[str, bytes, int], ...]] = (
    ("what is not JSON", b"this is no JSON", 400),
    ("an array", b"[]", 400),
    ("an empty message", b'{"content":" "}', 400),
    ("an unknown field", b'{"content":"hi","contents":"hi"}', 400),
    ("a message that is a number", b'{"content":1}', 400),
    ("invalid UTF-8", b'{"content":"\xff"}', 400),
)


async def _say(talk: Talk, template: str, thread: str, agent: str | None) -> Seen:
    number = talk.wire.new_id()
    filled = template.replace('"ID"', json.dumps(number)).replace("THREAD", thread).replace("AGENT", json.dumps(agent))
    await talk.wire.send_text(filled)
    return await talk.answer_to(number)


async def _frames(stage: Stage) -> list[Evidence]:
    thread, agent = await stage.new_thread(), stage.preferred("check_plain")
    async with stage.talk() as talk:
        for what, template, field in _FRAMES:
            try:
                seen = await _say(talk, template, thread, agent)
            except (Closed, Silence) as error:
                return [found(f"bad_request naming {field}, for {what}; the socket goes on", error.message)]
            if error_code(seen) != ErrorCode.BAD_REQUEST or _field(seen) != field:
                return [found(f"bad_request naming {field}, for {what}", "this", shown=[template, seen.clipped])]
    return []


def _field(seen: Seen) -> str | None:
    frame = seen.frame
    error = frame.error if isinstance(frame, frames.Reply) else None
    return error.field if isinstance(error, frames.ErrorBody) else None


async def _starts_nothing(stage: Stage) -> list[Evidence]:
    thread, agent = await stage.new_thread(), stage.preferred("check_plain")
    async with stage.talk() as talk:
        for _, template, _ in _FRAMES:
            if '"send"' in template:
                await _say(talk, template, thread, agent)
        # A sound one after them: its seq says what the others have left.
        sent = await talk.send(stage.question, thread=thread, agent=agent)
        await talk.until_end(sent.run)
    if sent.seq != 1:
        return [found("seq 1 for the first sound message of the thread", f"seq {sent.seq}", position=sent.seq)]
    return []


async def _broken_frames(stage: Stage) -> list[Evidence]:
    for what, message, is_text in _BROKEN:
        async with stage.talk() as talk:
            try:
                await talk.wire.send_text(message, is_text=is_text)
                await talk.wire.until(lambda frame: False, timeout_s=stage.subject.short_s)
            except Closed as error:
                if error.close_code != CloseCode.BAD_FRAME:
                    return [found(f"4500 for {what}", error.message, shown=error.frames)]
            except Silence as error:
                return [found(f"4500 for {what}", "the socket stays open", shown=error.frames)]
    return []


async def _too_big(stage: Stage) -> list[Evidence]:
    limit = stage.welcome.limits.frame_bytes
    async with stage.talk() as talk:
        try:
            await talk.wire.send_text(json.dumps({"op": "pong", "fill": "x" * limit}))
            await talk.wire.until(lambda frame: False, timeout_s=stage.subject.short_s)
        except Closed as error:
            is_so = error.close_code == CloseCode.TOO_BIG
            return [] if is_so else [found(f"1009 for a frame over {limit} bytes", error.message, shown=error.frames)]
        except Silence as error:
            return [found(f"1009 for a frame over {limit} bytes", "the socket stays open", shown=error.frames)]
    return []


async def _bodies(stage: Stage) -> list[Evidence]:
    thread = await stage.new_thread()
    async with stage.http() as http:
        for what, body, status in _BODIES:
            headers = {"Content-Type": "application/json"}
            answer = await http.request("POST", f"/v1/threads/{thread}/messages", content=body, headers=headers)
            problem = _problem(answer.text)
            if answer.status != status or problem.get("code") != ErrorCode.BAD_REQUEST:
                return [found(f"{status} with bad_request, for {what}", answer.clipped)]
            if not answer.headers.get("content-type", "").startswith("application/problem+json"):
                return [found("application/problem+json", answer.headers.get("content-type"))]
    return []


def _problem(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


CASES: Final[tuple[Case[Stage], ...]] = (
    Case(name="frames", promise="A wrong command is refused, and the refusal names the field", look=_frames),
    Case(name="starts_nothing", promise="A refused message leaves nothing behind", look=_starts_nothing),
    Case(name="broken_frames", promise="What is no frame ends the socket with 4500", look=_broken_frames),
    Case(name="too_big", promise="A frame over the limit ends the socket with 1009", look=_too_big),
    Case(name="bodies", promise="A wrong body is a problem with the code bad_request", look=_bodies),
)
