"""Gateways that leak a little with each connection, to show that the soak sees it. `FLEET_MUTANT` names one."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from typing import Any, Final

__all__ = ["LEAKS"]

_HELD: Final[list[object]] = []


def _with_each_connection(leak: Callable[[object], object]) -> None:
    from runwire.protocol.connection import Connection

    begin = Connection.__init__

    @functools.wraps(begin)
    def beginning(self: Connection, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        _HELD.append(leak(self))

    Connection.__init__ = beginning  # type: ignore[method-assign]


def _leaks_descriptors() -> None:
    """Leave a file open."""
    _with_each_connection(lambda _: os.open("/dev/null", os.O_RDONLY))


def _leaks_tasks() -> None:
    """Leave a task waiting for ever."""

    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    _with_each_connection(lambda _: asyncio.get_running_loop().create_task(wait()))


def _leaks_memory() -> None:
    """Keep the state of the connection: dozens of small objects, more than one KiB of them."""
    _with_each_connection(lambda connection: connection)


LEAKS: Final[dict[str, Callable[[], None]]] = {
    "leaks descriptors": _leaks_descriptors,
    "leaks tasks": _leaks_tasks,
    "leaks memory": _leaks_memory,
}
