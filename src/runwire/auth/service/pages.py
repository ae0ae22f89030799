"""Answers in JSON, and lists of them page by page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import Query, Response

from runwire.errors import ProtocolError

__all__ = ["PAGE", "PAGE_LIMIT", "Limit", "json_answer", "no_cursor", "page_of"]

PAGE: Final = 50
PAGE_LIMIT: Final = 200
_CURSOR: Final = re.compile(r"(\d{1,15})\.([A-Za-z0-9_]{1,64})")

Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT)]
T = TypeVar("T")


def page_of(
    rows: Sequence[T], place: Callable[[T], tuple[int, str]], *, cursor: str | None, limit: int
) -> tuple[list[T], str | None]:
    """Return what follows a cursor, newest first, and the cursor after it. Raises ProtocolError."""
    left = sorted(rows, key=place, reverse=True)
    if cursor is not None:
        read = _CURSOR.fullmatch(cursor)
        if read is None:
            raise no_cursor()
        # By its place, not by its row: that may have ended since.
        left = [row for row in left if place(row) < (int(read[1]), read[2])]
    some = left[:limit]
    return some, "{}.{}".format(*place(some[-1])) if len(left) > limit else None


def no_cursor() -> ProtocolError:
    """Return the refusal of what is no cursor."""
    return ProtocolError("This is no cursor; take `next_cursor` of the page before.", field="cursor")


def json_answer(content: Any, *, status: int = 200) -> Response:
    """Answer in JSON; nobody on the way may keep it."""
    body = msgspec.json.encode(content)
    return Response(body, status, media_type="application/json", headers={"cache-control": "no-store"})
