"""Several databases, each with the whole life of some users: who is placed where.

No statement relates rows of two users, so a user's threads, runs and events may live in any database, as long as all
processes agree in which. They agree by arithmetic: the user's id and the number of databases decide, and nothing is
looked up. Identity (accounts, sessions, keys) is in the first database alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from runwire.storage.base import Bus, Storage

__all__ = ["ALONE", "Place", "PlaceOf", "Placed", "alone", "place_of"]

T = TypeVar("T")
U = TypeVar("U")


def place_of(user: str, *, places: int) -> int:
    """Return in which of so many databases a user lives, from 0 on.

    The highest of one hash per database (rendezvous): of n + 1 databases only every (n + 1)th user lives elsewhere
    than of n, all of those in the new one. Stored data rely on it: it never changes.
    """
    if places == 1:
        return 0
    return max(range(places), key=lambda number: hashlib.sha256(f"{number} {user}".encode()).digest())


class Placed(Generic[T]):
    """One of something for each database, in the order of the databases, found by user.

    Args:
        each: at least one.
    """

    def __init__(self, each: Sequence[T]) -> None:
        assert each, "there is at least one database"
        self._each: Final = tuple(each)

    def of(self, user: str) -> T:
        """Return that of the user's database. Pure; any thread may call."""
        return self._each[place_of(user, places=len(self._each))]

    @property
    def first(self) -> T:
        """Return that of the first database, where identity is."""
        return self._each[0]

    def map(self, make: Callable[[T], U]) -> Placed[U]:
        """Make one of something else for each."""
        return Placed([make(one) for one in self._each])

    def __iter__(self) -> Iterator[T]:
        return iter(self._each)

    def __len__(self) -> int:
        return len(self._each)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOf:
    """Which of how many databases one is to be."""

    number: int  # from 0 on
    places: int
    of_set: str | None = None  # whose; None: that of whoever is the first


ALONE: Final = PlaceOf(number=0, places=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One of the databases, opened."""

    number: int  # as people count, from 1
    shown: str  # its URL, without who signs in there and with what
    storage: Storage
    bus: Bus  # between the processes, about this database


def alone(storage: Storage, bus: Bus, *, shown: str = "") -> Placed[Place]:
    """Return the list of one database, which has everybody."""
    return Placed([Place(number=1, shown=shown, storage=storage, bus=bus)])
