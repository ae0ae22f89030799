"""Request bodies as JSON objects of a known shape: strict, bounded, never quoted back."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec
from fastapi import Request

from runwire.auth.service.problems import body_of
from runwire.errors import ProtocolError

__all__ = ["read_json"]

_FIELD: Final = re.compile(r"`\$\.(\w+)|field `([^`]{1,64})`")
T = TypeVar("T", bound=msgspec.Struct)


async def read_json(request: Request, kind: type[T]) -> T:
    """Read a body of this shape; an empty one is an empty object.

    Raises:
        ProtocolError: not JSON, an unknown, missing or wrong field, which it names; or it is too large.
    """
    body = await body_of(request) or b"{}"
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        named = _FIELD.search(str(error))  # msgspec's sentence names a field, and never quotes a value
        field = named[1] or named[2] if named else None
        fields = ", ".join(kind.__struct_fields__)
        raise ProtocolError(f"The body must be an object of {fields}, each of its kind.", field=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("The body is not JSON.") from None
