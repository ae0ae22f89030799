"""JSON from a peer, told apart three ways: sound, a wrong object, or no JSON at all (PROTOCOL §3).

The fast way is one typed `msgspec` decode. Only what that refuses, or cannot be sure of, is read again
with the standard library, which accepts NaN and lone surrogates and so lets the fault be named.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from runwire.errors import ProtocolError
from runwire.protocol.codes import CloseCode, ErrorCode

__all__ = [
    "MAX_DEPTH",
    "Inbound",
    "as_text",
    "check",
    "decode",
    "encodable",
    "is_plain",
    "parse",
    "printable",
    "refusal",
]

MAX_DEPTH: Final = 64  # PROTOCOL §3: containers inside each other, counted from the message's outermost one
_MAX_DIGITS: Final = 4000  # Python refuses to print an integer of more than 4,300 digits
_MAX_MESSAGE_CHARS: Final = 300  # of an error sentence: it may quote what the peer sent
_FIELD: Final = re.compile(r"at `\$\.([^.\[`]+)")
_MISSING: Final = re.compile(r"missing required field `([^`]+)`(?! - at)")


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer may send: its type says the fields, `validate` what a type cannot say."""

    def validate(self) -> None:
        """Check what the field types do not. Raises ProtocolError naming the field."""


T = TypeVar("T", bound=Inbound)


def as_text(data: str | bytes) -> str:
    """Return the text of a message.

    Raises:
        ProtocolError: with `close` 4500; the bytes are not UTF-8.
    """
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _not_json("The message is not valid UTF-8.") from error


def is_plain(text: str) -> bool:
    """Return whether a typed decode of this text needs no second look: not deep, no NUL. False may be wrong."""
    # Brackets inside strings count too: that only costs the slow way. A NUL can only come as this escape.
    return text.count("{") + text.count("[") <= MAX_DEPTH and "\\u0000" not in text


def parse(text: str) -> Any:
    r"""Parse JSON leniently: NaN, Infinity and lone surrogates get through, for `check` to name.

    Raises:
        ProtocolError: with `close` 4500; not JSON, deeper than 64, or not encodable as UTF-8.
    """
    try:
        text.encode()
        value = json.loads(text, parse_int=_parse_int)
    except UnicodeEncodeError as error:
        raise _not_json("The message is not valid UTF-8.") from error
    except RecursionError as error:
        raise _not_json(f"The message is nested deeper than {MAX_DEPTH}.") from error
    except json.JSONDecodeError as error:
        raise _not_json(f"The message is not JSON: {error.msg} at character {error.pos}.") from error
    if _is_deeper(value, MAX_DEPTH):
        raise _not_json(f"The message is nested deeper than {MAX_DEPTH}.")
    return value


def check(kind: type[T], value: dict[str, Any]) -> T:
    """Turn a parsed object into its struct.

    Raises:
        ProtocolError: `bad_request` or `unsupported`, naming the field; without `close`.
    """
    known = set(kind.__struct_encode_fields__)
    if kind.__struct_config__.tag_field:
        known.add(kind.__struct_config__.tag_field)
    if kind.__struct_config__.forbid_unknown_fields:
        for name in value:
            if name not in known:
                raise refusal(f"There is no field {printable(name)!r} here.", field=printable(name))
    for name in known & value.keys():
        # `id` is echoed and never stored: it may be any string that can be sent back.
        fault = _fault(value[name], is_nul_allowed=name == "id")
        if fault:
            raise refusal(f"{name} has {fault}.", field=name)
    _refuse_other_parts(value.get("content"))
    try:
        # What is unknown is left out, not only ignored: msgspec cannot read a name with a lone surrogate in it.
        struct = msgspec.convert({name: value[name] for name in value if name in known}, kind)
    except msgspec.ValidationError as error:
        raise _explain(error) from error
    struct.validate()
    return struct


def decode(kind: type[T], data: str | bytes) -> T:
    """Decode one JSON object, such as the body of an HTTP request.

    Raises:
        ProtocolError: `bad_request` or `unsupported`, naming the field if there is one.
    """
    text = as_text(data)
    if is_plain(text):
        try:
            struct = msgspec.json.decode(text, type=kind)
            struct.validate()
        except (msgspec.DecodeError, UnicodeEncodeError):
            pass  # read again below, where the fault gets its name
        else:
            return struct
    value = parse(text)
    if not isinstance(value, dict):
        raise refusal("A JSON object is expected.")
    return check(kind, value)


def refusal(message: str, *, field: str | None = None, code: ErrorCode = ErrorCode.BAD_REQUEST) -> ProtocolError:
    """Make the error for a wrong object; its text may quote the peer, so it is cut to a bound."""
    return ProtocolError(message[:_MAX_MESSAGE_CHARS], code=code, field=field)


def encodable(text: str) -> str:
    """Return the text with a question mark in place of each lone surrogate."""
    return text.encode("utf-8", "replace").decode()


def printable(name: str) -> str:
    """Return a peer's word fit for a reply: encodable and short."""
    return encodable(name[:64])


def _not_json(message: str) -> ProtocolError:
    return ProtocolError(message, close=CloseCode.BAD_FRAME)


def _parse_int(digits: str) -> int | float:
    # An integer too long to be printed again is as unfit as an infinite number, and is named like one.
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        # One level of containers at a time; whatever is left after `limit` of them is too deep.
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return False
        level = [child for node in level for child in _children(node)]
    return True


def _children(node: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


def _fault(value: Any, *, is_nul_allowed: bool) -> str | None:
    """Return what makes a value unfit to be stored, in words, or None."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if "\0" in node and not is_nul_allowed:
                return "a NUL character"
            try:
                node.encode()
            except UnicodeEncodeError:
                return "a lone surrogate"
        elif isinstance(node, float) and not math.isfinite(node):
            return "a number that is not finite"
        elif isinstance(node, dict):
            stack.extend(node)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return None


def _refuse_other_parts(content: Any) -> None:
    """Refuse parts other than text with their own code; what is malformed is left to the types."""
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            message = f"Parts of type {printable(kind)!r} are not supported; text is."
            raise refusal(message, field="content", code=ErrorCode.UNSUPPORTED)


def _explain(error: msgspec.ValidationError) -> ProtocolError:
    """Say which field msgspec refused: its message ends in a path, or names a missing field."""
    sentence = str(error)
    found = _FIELD.search(sentence) or _MISSING.search(sentence)
    return refusal(sentence.replace("`$.", "`"), field=found.group(1) if found else None)
