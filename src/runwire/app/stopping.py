"""A stop during the start. Before the server takes signals itself, and after it has, somebody must.

Without a handler SIGTERM kills a process with a bad status, and one that is the first of a container does not even
hear it: it would go on with its start until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Generator
from types import FrameType
from typing import Final, NoReturn

__all__ = ["stopped_when_told"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_PATIENCE_S: Final = 0.7  # for an end in order; a person's imports may hold the loop for as long as they like


@contextlib.contextmanager
def stopped_when_told() -> Generator[None]:
    """Cancel the task in this block on SIGTERM and SIGINT, and end the block without an error.

    What has not ended after 0.7 seconds is cut off, with status 0 all the same: a start has promised nothing to
    anybody, and what it has in hand others take over, as after a kill. A server within the block that takes signals
    takes them from here, and gives them back.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "only a task can be stopped"
    is_told = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if is_told.is_set():
            _leave()
        is_told.set()
        cut = threading.Timer(_PATIENCE_S, _leave)
        cut.daemon = True
        cut.start()
        loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except asyncio.CancelledError:
        if not is_told.is_set():
            raise
        task.uncancel()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(*_: object) -> NoReturn:
    # Not SystemExit: a person's module that is being imported could take it for its own.
    os._exit(0)
