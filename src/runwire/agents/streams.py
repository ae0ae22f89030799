"""Reading what an author streams."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar

__all__ = ["closing"]

T = TypeVar("T")


@contextlib.asynccontextmanager
async def closing(stream: AsyncIterable[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Read a stream; if its reader stops early, close it, so that the author's `finally` runs here and now."""
    reading = aiter(stream)
    try:
        yield reading
    finally:
        close = getattr(reading, "aclose", None)
        if close is not None:
            await close()
