"""What waits to be said to Redis, and of what something was dropped instead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from threading import Lock
from typing import Final

from runwire.storage.base import BusMessage, Committed

__all__ = ["MAX_UNSENT", "MAX_UNSENT_BYTES", "Unsent", "size_of"]

MAX_UNSENT: Final = 4_096  # messages
MAX_UNSENT_BYTES: Final = 33_554_432  # of events in them
_TURN_BYTES: Final = 4_194_304  # said in one go; more would take longer than an answer may


class Unsent:
    """A queue of messages with the places of their channels. Any thread may put.

    Holds `MAX_UNSENT` messages with `MAX_UNSENT_BYTES` of events. One more is dropped, and all while it is shut; the
    place is remembered, so that those who listen there can be told to look.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._messages: deque[tuple[int, BusMessage]] = deque()
        self._bytes = 0
        self._lost: set[int] = set()
        self._is_open = False
        self._is_awake = False  # whoever takes has been woken and has not taken yet

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, place: int, message: BusMessage, *, is_missed: bool) -> bool:
        """Take a message in, or drop it; return whether the one who takes is to be woken.

        Args:
            place: of its channel.
            message: what to say there.
            is_missed: whether somebody must be told when it is dropped.
        """
        size = size_of(message)
        with self._lock:
            if not self._is_open or len(self._messages) >= MAX_UNSENT or self._bytes + size > MAX_UNSENT_BYTES:
                if is_missed:
                    self._lost.add(place)
                return False
            self._messages.append((place, message))
            self._bytes += size
            wakes, self._is_awake = not self._is_awake, True
            return wakes

    def take(self) -> tuple[list[tuple[int, BusMessage]], set[int]]:
        """Return what is to be said in one go, and where something was dropped since it was last asked."""
        with self._lock:
            self._is_awake = False
            taken: list[tuple[int, BusMessage]] = []
            size = 0
            while self._messages and size < _TURN_BYTES:
                taken.append(self._messages.popleft())
                size += size_of(taken[-1][1])
            self._bytes -= size
            lost, self._lost = self._lost, set()
            return taken, lost

    def open(self) -> None:
        """Let messages in."""
        with self._lock:
            self._is_open = True

    def drop(self, *, unless: int, is_shut: bool) -> None:
        """Drop what waits, and from now on everything if it is to be shut; of channel `unless` nobody misses it."""
        with self._lock:
            self._is_open = self._is_open and not is_shut
            self._lost.update(place for place, _ in self._messages if place != unless)
            self._messages.clear()
            self._bytes = 0

    def lose(self, places: Iterable[int]) -> None:
        """Remember that what was said there may have reached nobody."""
        with self._lock:
            self._lost.update(places)


def size_of(message: BusMessage) -> int:
    """Return how many bytes of events a message carries."""
    return len(message.packed) if isinstance(message, Committed) else 0
