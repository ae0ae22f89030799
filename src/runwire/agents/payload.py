"""What an agent gives becomes plain JSON, or a typed error where it was given.

`plain` makes any value JSON-plain; `Payload` also puts large fields aside, content-addressed, so that
equal values have equal references and a replay can compare them.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import uuid
from collections.abc import Callable, Mapping, Set
from enum import Enum
from typing import Any, Final

import msgspec

from runwire.errors import PayloadError

__all__ = ["MAX_DEPTH", "MAX_FIELD_BYTES", "MAX_VALUE_BYTES", "check_text", "is_ref", "plain", "put_aside", "told"]

MAX_FIELD_BYTES: Final = 65_536  # PROTOCOL §2: a larger field of `data` becomes a `$ref`
MAX_VALUE_BYTES: Final = 8 * 1024 * 1024  # PROTOCOL §2: a larger value is refused where it is emitted
MAX_DEPTH: Final = 64  # PROTOCOL §3 refuses deeper frames; what we send must be readable by the same rule
_HEAD_BYTES: Final = 1024
_TOLD_CHARS: Final = 2000
_TOO_DEEP: Final = f"a value is nested deeper than {MAX_DEPTH} levels, or holds itself"
_NO_JSON: Final = "a value of type {} has no JSON form; give a dict, list, text or number"
_SAME_KEYS: Final = "two keys of a dict are the same in JSON, such as 1 and '1'; make them differ as text"
# Kept by `msgspec.to_builtins`, so that as keys they come by `_plain_dict`, which sees when two become the same.
_KEPT: Final = (
    uuid.UUID,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    bytes,
    bytearray,
    memoryview,
)
_REF_KEYS: Final = frozenset({"$ref", "bytes", "head"})
# JSON needs at most six bytes for a character (`\u0001`), so a shorter text cannot pass MAX_FIELD_BYTES.
_SURELY_SMALL_CHARS: Final = MAX_FIELD_BYTES // 6 - 1

_encode: Final = msgspec.json.Encoder().encode


def plain(value: object) -> Any:
    """Return the JSON-plain twin of a value: None, bool, int, float, str, list, dict with text keys.

    Understands datetime, enum, UUID, Decimal, bytes (base64), dataclasses, msgspec and pydantic models, sets (sorted
    by their JSON), mappings and tuples, nested up to `MAX_DEPTH`.

    Raises:
        PayloadError: no JSON for it, NaN or Infinity, NUL, a lone surrogate, an integer beyond 64 bits, a cycle,
            keys that would be the same text.
    """
    try:
        return _plain(value, MAX_DEPTH)
    except PayloadError as error:
        raise error.with_traceback(None) from error.__cause__  # the author needs no trace of our recursion


def check_text(text: str) -> str:
    """Return the text if it can be stored.

    Raises:
        PayloadError: it holds NUL or half of a surrogate pair, or is over 8 MiB.
    """
    if "\0" in text:
        raise PayloadError("text holds a NUL character (U+0000); remove it", code="agent_error")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            sentence = "text holds half of a surrogate pair; it was cut or decoded wrongly"
            raise PayloadError(sentence, code="agent_error") from error
    if len(text) > _SURELY_SMALL_CHARS and len(text.encode()) > MAX_VALUE_BYTES:
        raise PayloadError("text is over 8 MiB; store it elsewhere and give its address")
    return text


def told(said: object) -> str:
    """Return the text of an error as it can be stored, whatever its author gave: at most 2,000 characters.

    An error must be told, so what `check_text` would refuse is left out or replaced here.
    """
    try:
        text = str(said)
    except Exception:  # the author's own `__str__`
        text = _name(said)
    return text.replace("\0", "")[:_TOLD_CHARS].encode(errors="replace").decode()


def put_aside(value: Any, blobs: dict[str, bytes], *, limit_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Return a plain value as a field of an event may hold it; a large one goes into `blobs`.

    `{"$ref": "blob_5f…", "bytes": 70002, "head": "first 1 KiB"}` stands for a value over 64 KiB. A small value
    that looks like such a reference is put aside too, so that every reference in the log is one of ours.

    Raises:
        PayloadError: over the limit, 8 MiB.
    """
    if isinstance(value, str) and len(value) <= _SURELY_SMALL_CHARS:
        return value
    if value is None or isinstance(value, bool | int | float):
        return value
    encoded = _encode(value)
    if len(encoded) <= MAX_FIELD_BYTES and not (isinstance(value, dict) and "$ref" in value):
        return value
    if len(encoded) > limit_bytes:
        raise PayloadError("a value is over 8 MiB; store it elsewhere and give its address")
    ref = f"blob_{hashlib.sha256(encoded).hexdigest()[:32]}"
    blobs[ref] = encoded
    shown = value.encode() if isinstance(value, str) else encoded
    head = shown[:_HEAD_BYTES].decode(errors="ignore")
    return {"$ref": ref, "bytes": len(encoded), "head": head}


def is_ref(value: Any) -> bool:
    """Return whether a field of an event stands for a value that was put aside."""
    return isinstance(value, dict) and value.keys() == _REF_KEYS


def _plain(value: object, room: int) -> Any:
    if room == 0:
        raise PayloadError(_TOO_DEEP, code="agent_error")
    convert: Callable[[Any, int], Any] = _BY_TYPE.get(type(value), _plain_other)
    return convert(value, room)


def _same(value: Any, _room: int) -> Any:
    return value


def _plain_text(value: str, _room: int) -> str:
    return check_text(value)


def _plain_int(value: int, _room: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise PayloadError("an integer is beyond 64 bits; give it as text", code="agent_error")
    return value


def _plain_float(value: float, _room: int) -> float:
    if not math.isfinite(value):
        raise PayloadError("NaN and Infinity are not JSON; give None or text", code="agent_error")
    return value


def _plain_list(value: Any, room: int) -> list[Any]:
    return [_plain(item, room - 1) for item in value]


def _plain_dict(value: Mapping[Any, Any], room: int) -> dict[str, Any]:
    twin = {_plain_key(key): _plain(item, room - 1) for key, item in value.items()}
    if len(twin) != len(value):
        raise PayloadError(_SAME_KEYS, code="agent_error")
    return twin


def _plain_key(key: object) -> str:
    if type(key) is str:
        return check_text(key)
    small = _plain(key, 2)
    if isinstance(small, str):
        return small
    if small is None or isinstance(small, bool | int | float):
        return _encode(small).decode()
    raise PayloadError(f"a value of type {_name(key)} cannot be the key of a JSON object", code="agent_error")


def _plain_other(value: object, room: int) -> Any:
    """Turn what is not exactly a JSON type into one, by the nearest rule."""
    known = _plain_known(value, room)
    if known is not msgspec.UNSET:
        return known
    try:
        # Dataclasses, msgspec and attrs classes, datetime, UUID, Decimal, bytes.
        kept = () if isinstance(value, _KEPT) else _KEPT
        built = _sets_sorted(msgspec.to_builtins(value, builtin_types=kept, enc_hook=_plain_inner), value)
    except RecursionError as error:
        raise PayloadError(_TOO_DEEP, code="agent_error") from error
    except (TypeError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise PayloadError(_NO_JSON.format(_name(value)), code="agent_error") from error
    return _plain(built, room - 1)


def _plain_known(value: object, room: int) -> Any:
    """Serve subclasses and protocols that `msgspec` does not; UNSET for the rest."""
    if isinstance(value, Enum):
        return _plain(value.value, room - 1)
    if isinstance(value, str):
        return _plain_text(str.__str__(value), room)
    if isinstance(value, int):
        return _plain_int(int(value), room)
    if isinstance(value, float):
        return _plain_float(float(value), room)
    if isinstance(value, Mapping):
        return _plain_dict(value, room)
    if isinstance(value, list | tuple):
        return _plain_list(value, room)
    if isinstance(value, Set):
        return sorted(_plain_list(value, room), key=_encode)
    # Pydantic, without importing it.
    dump, dump_text = getattr(type(value), "model_dump", None), getattr(type(value), "model_dump_json", None)
    if dump is None or dump_text is None:
        return msgspec.UNSET
    try:
        # Only its JSON text shows that two keys became one; the object that `model_dump` builds has lost one by then.
        json.loads(dump_text(value), object_pairs_hook=_check_keys)
        return _plain(_sets_sorted(dump(value, mode="json"), value), room - 1)
    except (TypeError, ValueError) as error:
        raise PayloadError(_NO_JSON.format(_name(value)), code="agent_error") from error


def _sets_sorted(built: Any, given: object) -> Any:
    """Sort the lists that others made of sets.

    Python walks through one and the same set in another order in every process, and a replay would take the list
    for another value.
    """
    if isinstance(built, list) and isinstance(given, Set):
        return sorted(built, key=_encode)
    if isinstance(built, list) and isinstance(given, list | tuple) and len(built) == len(given):
        return [_sets_sorted(*pair) for pair in zip(built, given, strict=True)]
    if isinstance(built, dict) and isinstance(given, Mapping) and len(built) == len(given):
        return {key: _sets_sorted(built[key], inner) for key, inner in zip(built, given.values(), strict=True)}
    if isinstance(built, dict):  # of an object; a field that has another name in JSON is left as it is
        return {key: _sets_sorted(inner, getattr(given, str(key), None)) for key, inner in built.items()}
    return built


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise PayloadError(_SAME_KEYS, code="agent_error")


def _plain_inner(value: object) -> Any:
    """Serve `msgspec.to_builtins` for what it does not know inside a dataclass or struct."""
    known = _plain_known(value, MAX_DEPTH)
    if known is msgspec.UNSET:
        raise PayloadError(_NO_JSON.format(_name(value)), code="agent_error")
    return known


def _name(value: object) -> str:
    return ascii(type(value).__name__)[1:-1][:80]


_BY_TYPE: Final[Mapping[type, Callable[[Any, int], Any]]] = {
    str: _plain_text,
    int: _plain_int,
    float: _plain_float,
    bool: _same,
    type(None): _same,
    list: _plain_list,
    tuple: _plain_list,
    dict: _plain_dict,
}
