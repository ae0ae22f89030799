"""The bus within one process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from runwire.storage.base import BusMessage, Wake

__all__ = ["LOOK_AGAIN", "MAX_UNHEARD", "LocalBus"]

MAX_UNHEARD: Final = 4_096  # messages a listener may be behind; about eight commits of the largest size
# What is said when hints may have been lost; beacons apart, one of each topic that asks to look.
LOOK_AGAIN: Final = tuple(Wake(topic=topic) for topic in ("runs", "signals", "auth", "members", "moved"))


class LocalBus:
    """Hand messages to listeners of this process, each in its own event loop.

    Each listener has a queue of `MAX_UNHEARD` messages. What finds it full is dropped: the listener's own
    check of the log finds the rest.
    """

    beacon_s: Final = 0.1

    def __init__(self) -> None:
        self._listeners: tuple[_Listener, ...] = ()  # replaced, never changed: `publish` reads it without a lock
        self._registry = threading.Lock()

    async def run(self) -> None:
        """Return at once: there are no others."""

    def publish(self, message: BusMessage) -> None:
        """Hand a message over without waiting. Any thread may call."""
        for listener in self._listeners:
            listener.put(message)

    def listen(self, hear: Callable[[BusMessage], None]) -> Callable[[], None]:
        """Call `hear` in the running event loop for every message from now on; returns the way to stop.

        After stopping, `hear` is not called again, not even for what is queued.
        """
        listener = _Listener(hear, asyncio.get_running_loop())
        with self._registry:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            listener.stop()
            with self._registry:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def follow(self, user: str) -> Callable[[], None]:
        """Do nothing: all that is said here is heard anyway."""
        return _nothing

    async def close(self) -> None:
        """Stop; later publishes are dropped. Idempotent."""
        with self._registry:
            listeners, self._listeners = self._listeners, ()
        for listener in listeners:
            listener.stop()


def _nothing() -> None:
    """Stop nothing."""


class _Listener:
    """One `hear`, its loop, and what it has not heard yet."""

    def __init__(self, hear: Callable[[BusMessage], None], loop: asyncio.AbstractEventLoop) -> None:
        self._hear = hear
        self._loop = loop
        self._thread = threading.get_ident()  # the loop's own
        self._unheard: deque[BusMessage] = deque()  # of itself safe between threads
        self._is_awake = False  # a call of `_deliver` is scheduled: no second wake-up is needed
        self._is_stopped = False

    def put(self, message: BusMessage) -> None:
        # Without a lock: publishers that meet here exceed the limit by one message each, or wake the loop twice.
        if self._is_stopped or len(self._unheard) >= MAX_UNHEARD:
            return
        self._unheard.append(message)  # before the flag is read, which `_deliver` clears before it looks
        if not self._is_awake:
            self._is_awake = True
            self._wake()

    def stop(self) -> None:
        self._is_stopped = True

    def _wake(self) -> None:
        # From within the loop nobody has to be woken, which takes system calls.
        is_within = threading.get_ident() == self._thread
        call = self._loop.call_soon if is_within else self._loop.call_soon_threadsafe
        try:
            call(self._deliver)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.stop()

    def _deliver(self) -> None:
        self._is_awake = False
        # What is published from here on has woken the loop again.
        for _ in range(len(self._unheard)):
            if self._is_stopped:
                return
            self._hear(self._unheard.popleft())
