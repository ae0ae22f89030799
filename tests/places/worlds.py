"""The same people in two worlds: together in one database, and each alone in one. Nobody may be able to tell."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from runwire.errors import RunwireError, Unavailable
from runwire.protocol.events import StoredEvent, unpack
from runwire.storage.base import Committed
from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["Differs", "World", "Worlds"]

_TIMES: Final = frozenset({"created_at", "updated_at", "ended_at", "ts", "at", "due_at", "oldest_run_at"})
_OWN: Final = frozenset({"log", "size_bytes", "free_bytes", "freed_bytes"})  # of a database, not of a person


class Differs(AssertionError):
    """Somebody saw who else is in the database."""


class World:
    """Databases by user, and the names under which the history knows what they made.

    Args:
        storages: user to database.
    """

    def __init__(self, storages: Mapping[str, PostgresStorage]) -> None:
        self._storages = storages
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def of(self, user: str) -> PostgresStorage:
        return self._storages[user]

    def groups(self) -> Iterator[tuple[PostgresStorage, list[str]]]:
        """Yield each database with its users: what a statement may reach at once."""
        for storage in dict.fromkeys(self._storages.values()):
            yield storage, [user for user, own in self._storages.items() if own is storage]

    def learn(self, name: str, id: str) -> None:
        self._ids[name], self._names[id] = id, name

    def id(self, name: str) -> str:
        """Return what is called so here; a name that nothing has is an id that nothing has."""
        return self._ids.get(name, name)

    def name(self, id: str) -> str:
        return self._names.get(id, id)

    def seen(self, value: Any) -> Any:
        """Return a value as a person sees it: ids by their names, times only whether there is one."""
        if isinstance(value, RunwireError):
            return ("raises", type(value).__name__, value.code, value.field)
        if isinstance(value, Committed):
            events = unpack(value.packed, first_seq=value.first_seq, run=value.run, attempt=value.attempt)
            return self.seen((value.user, value.thread, value.run, value.attempt, value.last_seq, list(events)))
        if isinstance(value, StoredEvent):
            said = json.loads(bytes(value.data))
            return self.seen((value.seq, value.run, value.attempt, value.type, value.scope, said))
        if isinstance(value, msgspec.Struct):
            return self.seen({field: getattr(value, field) for field in value.__struct_fields__})
        if isinstance(value, Mapping):
            return {
                self.name(key): each is not None if key in _TIMES else self.seen(each)
                for key, each in value.items()
                if key not in _OWN
            }
        if isinstance(value, (list, tuple)):
            return [self.seen(each) for each in value]
        return self.name(value) if isinstance(value, str) else value


class Worlds:
    """Both worlds in lock-step: what is done is done in both, and must look the same."""

    def __init__(self, together: World, apart: World) -> None:
        self.both: Final = (together, apart)
        self.done = 0

    async def do(self, what: str, call: Callable[[World], Awaitable[Any]]) -> Any:
        """Do it in both worlds, and return what was seen.

        Raises:
            Differs: it was not the same.
        """
        together, apart = [world.seen(await _outcome(call, world)) for world in self.both]
        self.done += 1
        if together != apart:
            raise Differs(f"{self.done}. {what}\n together: {together}\n apart:    {apart}")
        return together

    async def do_for_all(
        self, what: str, call: Callable[[World, PostgresStorage, list[str]], Awaitable[Mapping[str, Any]]]
    ) -> dict[str, Any]:
        """Do what one call does for several users at once, cut at the users where they live apart.

        Args:
            what: in words.
            call: returns what each user sees; the numbers of those who are not there stay out of it.
        """

        async def everywhere(world: World) -> dict[str, Any]:
            merged: dict[str, Any] = {}
            for storage, users in world.groups():
                merged |= await call(world, storage, users)
            return dict(sorted(merged.items()))

        seen = await self.do(what, everywhere)
        assert isinstance(seen, dict), f"{what}: {seen}"
        return seen


async def _outcome(call: Callable[[World], Awaitable[Any]], world: World) -> Any:
    try:
        return await call(world)
    except Unavailable:
        raise  # a statement that cannot be executed is the same in both worlds
    except RunwireError as error:
        return error
