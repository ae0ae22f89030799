"""How models of OpenAI and Anthropic answer over HTTP: whole, and piece by piece. Pure.

An answer is `text` or a call of a tool; pieces are `(name of the event or None, its data)`, as server-sent events have
them. The shapes are those of the providers' references: OpenAI's Responses and Chat Completions, Anthropic's Messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["APIS", "Answer", "Api", "Piece"]

Piece = tuple[str | None, dict[str, Any]]
_AT: Final = 1_790_000_000  # when every answer was made: a test must be the same tomorrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model says to one request: a text, or one call of a tool."""

    text: str = ""
    # name of the tool; empty: it says `text`
    tool: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    # of the answer, from 1: ids are made of it
    number: int = 1
    # what was asked for, and is said again
    model: str = "fake"

    @property
    def words(self) -> list[str]:
        """Return the text in the pieces in which it is streamed; joined they are the text."""
        return [word for word in self.text.replace(" ", " \0").split("\0") if word]

    @property
    def json(self) -> str:
        """Return the tool's arguments as models give them."""
        return json.dumps(self.arguments)

    @property
    def tokens(self) -> int:
        """Return how many it counts as: pieces of text, at least one."""
        return max(1, len(self.words))


@dataclass(frozen=True, slots=True)
class Api:
    """One way to ask a model."""

    whole: Callable[[Answer], dict[str, Any]]
    pieces: Callable[[Answer], Iterator[Piece]]
    error: Callable[[int, str], dict[str, Any]]
    # what a stream ends with besides its pieces
    last: bytes = b""


def _chat(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool:
        message["tool_calls"] = [_chat_call(answer)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _chat_reason(answer)}
    return {**_chat_head(answer, "chat.completion"), "choices": [choice], "usage": _chat_usage(answer)}


def _chat_head(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.number}", "object": kind, "created": _AT, "model": answer.model}


def _chat_call(answer: Answer) -> dict[str, Any]:
    function = {"name": answer.tool, "arguments": answer.json}
    return {"id": f"call_{answer.number}", "type": "function", "function": function}


def _chat_reason(answer: Answer) -> str:
    return "tool_calls" if answer.tool else "stop"


def _chat_usage(answer: Answer) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": answer.tokens, "total_tokens": 1 + answer.tokens}


def _chat_pieces(answer: Answer) -> Iterator[Piece]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> Piece:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return None, {**_chat_head(answer, "chat.completion.chunk"), "choices": [choice]}

    if answer.tool:
        yield chunk({"role": "assistant", "content": None, "tool_calls": [{"index": 0, **_chat_call(answer)}]})
    else:
        yield chunk({"role": "assistant", "content": ""})
        for word in answer.words:
            yield chunk({"content": word})
    yield chunk({}, _chat_reason(answer))
    yield None, {**_chat_head(answer, "chat.completion.chunk"), "choices": [], "usage": _chat_usage(answer)}


def _responses(answer: Answer) -> dict[str, Any]:
    return _response(answer, "completed", [_item(answer)])


def _response(answer: Answer, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answer.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1 + answer.tokens,
    }
    return {
        "id": f"resp_{answer.number}",
        "object": "response",
        "created_at": _AT,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _item(answer: Answer, status: str = "completed") -> dict[str, Any]:
    is_done = status == "completed"
    if answer.tool:
        call = {"call_id": f"call_{answer.number}", "name": answer.tool, "arguments": answer.json if is_done else ""}
        return {"type": "function_call", "id": f"fc_{answer.number}", "status": status, **call}
    content = [_part(answer.text)] if is_done else []
    return {"type": "message", "id": f"msg_{answer.number}", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _responses_pieces(answer: Answer) -> Iterator[Piece]:
    for number, (name, data) in enumerate(_responses_events(answer)):
        yield f"response.{name}", {"type": f"response.{name}", "sequence_number": number, **data}


def _responses_events(answer: Answer) -> Iterator[tuple[str, dict[str, Any]]]:
    item = _item(answer, "in_progress")
    at = {"item_id": item["id"], "output_index": 0}
    for name in ("created", "in_progress"):
        yield name, {"response": _response(answer, "in_progress", [])}
    yield "output_item.added", {"output_index": 0, "item": item}
    if answer.tool:
        yield "function_call_arguments.delta", {**at, "delta": answer.json}
        yield "function_call_arguments.done", {**at, "name": answer.tool, "arguments": answer.json}
    else:
        part = {**at, "content_index": 0}
        yield "content_part.added", {**part, "part": _part("")}
        for word in answer.words:
            yield "output_text.delta", {**part, "delta": word, "logprobs": []}
        yield "output_text.done", {**part, "text": answer.text, "logprobs": []}
        yield "content_part.done", {**part, "part": _part(answer.text)}
    yield "output_item.done", {"output_index": 0, "item": _item(answer)}
    yield "completed", {"response": _responses(answer)}


def _messages(answer: Answer) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": answer.text}
    if answer.tool:
        block = {"type": "tool_use", "id": f"toolu_{answer.number}", "name": answer.tool, "input": answer.arguments}
    return _message(answer, [block], _stop(answer))


def _message(answer: Answer, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": answer.tokens if reason else 1}
    head = {"id": f"msg_{answer.number}", "type": "message", "role": "assistant", "model": answer.model}
    return {**head, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage}


def _stop(answer: Answer) -> str:
    return "tool_use" if answer.tool else "end_turn"


def _messages_pieces(answer: Answer) -> Iterator[Piece]:
    for name, data in _messages_events(answer):
        yield name, {"type": name, **data}


def _messages_events(answer: Answer) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "message_start", {"message": _message(answer, [], None)}
    block: dict[str, Any] = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": word} for word in answer.words]
    if answer.tool:
        block = {"type": "tool_use", "id": f"toolu_{answer.number}", "name": answer.tool, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": answer.json}]
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "ping", {}
    for delta in deltas:
        yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    end = {"stop_reason": _stop(answer), "stop_sequence": None}
    yield "message_delta", {"delta": end, "usage": {"output_tokens": answer.tokens}}
    yield "message_stop", {}


def _openai_error(status: int, message: str) -> dict[str, Any]:
    kind = "rate_limit_exceeded" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _anthropic_error(status: int, message: str) -> dict[str, Any]:
    kinds = {
        429: "rate_limit_error",
        529: "overloaded_error",
        401: "authentication_error",
        400: "invalid_request_error",
    }
    return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": message}}


APIS: Final = {
    "/responses": Api(_responses, _responses_pieces, _openai_error),
    "/chat/completions": Api(_chat, _chat_pieces, _openai_error, b"data: [DONE]\n\n"),
    "/messages": Api(_messages, _messages_pieces, _anthropic_error),
}
"""End of the path → how that is answered; what is before it (`/v1`, a prefix of a proxy) does not matter."""
