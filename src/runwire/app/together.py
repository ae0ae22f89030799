"""Tasks beside each other whose error a person can read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from runwire.errors import RunwireError

__all__ = ["together"]


@contextlib.asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks beside each other; what one of them says to a person is raised alone, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        said: BaseException | None = group.subgroup(RunwireError)
        if said is None:
            raise
        while isinstance(said, BaseExceptionGroup):
            said = said.exceptions[0]
        raise said from None
