"""All ports of a database in memory."""

from __future__ import annotations

import math
from typing import Final

from runwire.errors import Unavailable
from runwire.storage.base import AuthStore
from runwire.storage.memory.erasure import MemoryErasure
from runwire.storage.memory.log import MemoryEventLog
from runwire.storage.memory.members import MemoryMembers
from runwire.storage.memory.people import MemoryPeople
from runwire.storage.memory.runs import MemoryRuns
from runwire.storage.memory.state import State
from runwire.storage.memory.threads import MemoryThreads
from runwire.storage.memory.upkeep import MemoryUpkeep

__all__ = ["MemoryStorage"]


class MemoryStorage:
    """A database that lasts as long as the object."""

    def __init__(self, state: State | None = None) -> None:
        self._state = state or State()
        with self._state.lock:
            self._state.incarnation += 1
            self._state.members.clear()  # those of a process that is gone
        self._is_closed = False
        self.events: Final = MemoryEventLog(self._state)
        self.runs: Final = MemoryRuns(self._state)
        self.threads: Final = MemoryThreads(self._state)
        self.people: Final = MemoryPeople(self._state)
        self.members: Final = MemoryMembers(self._state)
        self.erasure: Final = MemoryErasure(self._state)
        self.upkeep: Final = MemoryUpkeep(self._state)

    @property
    def log(self) -> str:
        """Identity of the database's history."""
        return self._state.log

    @property
    def auth(self) -> AuthStore:
        """Tables of the auth service and their log of changes."""
        return self._state.auth

    def restarted(self) -> MemoryStorage:
        """Return the same data as a new process would find it: every running run has lost its owner."""
        return MemoryStorage(self._state)

    @property
    def lease_s(self) -> float:
        """Endless: this process owns the database until another opens it."""
        return math.inf

    async def ping(self) -> None:
        """Prove that the database answers. Raises Unavailable."""
        if self._is_closed:
            raise Unavailable("The database is closed.")

    async def close(self) -> None:
        """Close; the data lives on in `restarted`. Idempotent."""
        self._is_closed = True
