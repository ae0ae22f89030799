"""The servers that a database URL names, and which of them is the one to write to.

Of several that take writes, which only happens when a standby was promoted and its old primary is still there, or is
back, it is the one on the highest timeline: each promotion begins a higher one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from runwire.errors import ConfigurationError
from runwire.storage.postgres.driver import OlderTimeline, open_session
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["Servers", "hosts_of"]

_SETTLE_S: Final = 0.3  # for the others, once one has answered: a local answer takes 10 ms, a far one 100
_LOOK_S: Final = 0.5  # for one that is only looked at
_SHUN_S: Final = 30.0  # who did not answer a look is not asked again for so long

_REFUSALS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
    ConfigurationError,
)
_SQL: Final = load("postgres.sql")


class _Host(NamedTuple):
    """A host of a URL."""

    name: str
    port: int


class _Place(NamedTuple):
    """Where in the history of which cluster a server is."""

    system: int
    timeline: int


class _Found(NamedTuple):
    """A server that takes writes."""

    host: _Host
    connection: Connection[Record]
    place: _Place


def hosts_of(url: str) -> tuple[_Host, ...]:
    """Return the hosts of a URL, in its order; none, if it names no more than one: then the driver finds it."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    names = query["host"][-1] if "host" in query else parts.netloc.rpartition("@")[2]
    ports = query["port"][-1].split(",") if "port" in query else []
    found = []
    for at, spec in enumerate(names.split(",")):
        bare = spec if spec.startswith("/") or spec.endswith("]") else spec.rpartition(":")[0] or spec
        own = spec[len(bare) + 1 :]
        port = own or (ports[at] if len(ports) > 1 and at < len(ports) else "".join(ports[:1])) or "5432"
        found.append(_Host(unquote(bare).strip("[]"), int(port)))
    return tuple(found) if len(found) > 1 else ()


class Servers:
    """Connects to the server of a URL that takes writes; never to one that was left behind by a promotion it knows of.

    Args:
        url: `postgresql://user:password@one,two:5433/database`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._hosts: tuple[_Host, ...] | None = None
        self._current: _Host | None = None  # that the newest connection leads to
        self._newest: _Place | None = None
        self._shunned_s: dict[_Host, float] = {}

    @property
    def are_several(self) -> bool:
        """Return whether there is a server beside the current one."""
        return bool(self._hosts)

    async def connect(self, *, settings: dict[str, str] | None = None, timeout_s: float) -> Connection[Record]:
        """Connect to the one that takes writes.

        With several hosts the current one is asked alone, for half of the time; then all at once. So a machine that is
        gone without a word, or stands still, holds nobody up who can reach another.

        Raises:
            ConfigurationError: the URL cannot be read.
            OlderTimeline: the only one that takes writes was left behind by a promotion.
            Exception: whatever else the driver says; call it within `translated` or `starting`.
        """
        if self._hosts is None:
            with suppress(ValueError):  # the driver will say what is wrong
                self._hosts = hosts_of(self._url)
        if not self._hosts:
            return await open_session(self._url, settings=settings, timeout_s=timeout_s)
        async with asyncio.timeout(timeout_s):
            found = await self._connect_to_current(settings, timeout_s / 2)
            return self._chosen(found or await self._connect_to_any(settings, timeout_s))

    async def have_moved(self) -> bool:
        """Look whether another server than the current one was promoted; half a second at most.

        Who does not answer is looked at again half a minute later.
        """
        others = [host for host in self._hosts or () if host != self._current and not self._is_shunned(host)]
        async with asyncio.TaskGroup() as tasks:
            looks = [(host, tasks.create_task(self._look_at(host))) for host in others]
        newest, has_moved = self._newest, False
        for host, look in looks:
            place = look.result()
            if newest is not None and place is not None and _is_ahead(place, newest):
                self._current, self._newest, newest, has_moved = host, place, place, True
        return has_moved

    async def _connect_to_current(self, settings: dict[str, str] | None, timeout_s: float) -> _Found | None:
        if self._current is None:
            return None
        with suppress(*_REFUSALS):
            return await self._connect_to(self._current, settings, timeout_s)
        return None

    async def _connect_to_any(self, settings: dict[str, str] | None, timeout_s: float) -> _Found:
        """Ask all at once, and take the one on the highest timeline of those that answer about as fast as the first."""
        found: list[_Found] = []
        errors: list[Exception] = []

        async def ask(host: _Host) -> None:
            try:
                found.append(await self._connect_to(host, settings, timeout_s))
            except _REFUSALS as error:
                errors.append(error)

        chosen: _Found | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                waiting = {tasks.create_task(ask(host)) for host in self._hosts or ()}
                while waiting and not found:
                    _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if waiting:
                    _, waiting = await asyncio.wait(waiting, timeout=_SETTLE_S)
                for task in waiting:
                    task.cancel()
            if not found:
                raise min(errors, key=_rank)
            chosen = self._furthest(found)
            return chosen
        finally:
            for one in found:
                if one is not chosen:
                    one.connection.terminate()

    def _furthest(self, found: list[_Found]) -> _Found:
        """Return the one on the highest timeline; of several clusters, which is a mistake, of that we are on."""
        hosts = self._hosts or ()
        found = sorted(found, key=lambda one: hosts.index(one.host))
        system = found[0].place.system if self._newest is None else self._newest.system
        ours = [one for one in found if one.place.system == system] or found[:1]
        return max(ours, key=lambda one: one.place.timeline)

    async def _connect_to(self, host: _Host, settings: dict[str, str] | None, timeout_s: float) -> _Found:
        connection = await open_session(self._url, host=host, settings=settings, timeout_s=timeout_s)
        try:
            row = await connection.fetchrow(_SQL["place"], timeout=timeout_s)
        except BaseException:
            connection.terminate()
            raise
        assert row is not None  # it has no condition
        return _Found(host, connection, _Place(row["system_identifier"], int(row["timeline"], 16)))

    async def _look_at(self, host: _Host) -> _Place | None:
        try:
            found = await self._connect_to(host, None, _LOOK_S)
        except asyncpg.TargetServerAttributeNotMatched:
            return None  # a standby, as it should be
        except _REFUSALS:
            self._shunned_s[host] = asyncio.get_running_loop().time() + _SHUN_S
            return None
        found.connection.terminate()
        return found.place

    def _is_shunned(self, host: _Host) -> bool:
        return self._shunned_s.get(host, 0.0) > asyncio.get_running_loop().time()

    def _chosen(self, found: _Found) -> Connection[Record]:
        if self._newest is not None and _is_ahead(self._newest, found.place):
            found.connection.terminate()
            raise OlderTimeline
        self._newest, self._current = found.place, found.host
        return found.connection


def _is_ahead(one: _Place, other: _Place) -> bool:
    return one.system == other.system and one.timeline > other.timeline


def _rank(error: Exception) -> int:
    """Return how much an error says about what is to be done; the least says the most."""
    kinds = (ConfigurationError, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
    if isinstance(error, kinds):
        return 0
    return 1 if isinstance(error, asyncpg.TargetServerAttributeNotMatched) else 2
