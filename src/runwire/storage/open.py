"""From a URL to a database with all its ports."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runwire.errors import ConfigurationError
from runwire.storage.base import Bus, Storage
from runwire.storage.bus_local import LocalBus
from runwire.storage.condition import Condition, RedisCondition
from runwire.storage.migrations import REVISIONS
from runwire.storage.placed import ALONE, Placed, PlaceOf

if TYPE_CHECKING:
    from runwire.storage.redis.counts import RedisCounts

__all__ = [
    "examine_postgres",
    "examine_redis",
    "is_postgres",
    "migrate_storage",
    "open_bus",
    "open_counts",
    "open_placed",
    "open_storage",
    "with_driver",
    "with_redis",
]


async def open_storage(url: str, *, lease_s: float = 6.0, place: PlaceOf = ALONE, may_be_away: bool = False) -> Storage:
    """Open `memory://`, `sqlite:///abs/path.db` (created and migrated when it is new), or `postgresql://…` (migrated).

    Args:
        url: of the database.
        lease_s: how long a claim is good for, where owners have leases: on PostgreSQL.
        place: which of several databases it is.
        may_be_away: whether one that does not answer is opened all the same; see `PostgresDatabase.open`.

    Raises:
        ConfigurationError: no such scheme, no path, the file cannot be owned or opened, or the database is not ready.
        Unavailable: the database server does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from runwire.storage.memory.storage import MemoryStorage

        return MemoryStorage()
    if parts.scheme == "sqlite":
        from runwire.storage.sqlite.storage import SqliteStorage

        return await SqliteStorage.open(_path(url))
    if is_postgres(url):
        with with_driver():
            from runwire.storage.postgres.database import PostgresDatabase
            from runwire.storage.postgres.storage import PostgresStorage
        database = await PostgresDatabase.open(url, lease_s=lease_s, place=place, may_be_away=may_be_away)
        return PostgresStorage(database)
    # Not the URL itself: it may carry a password.
    known = "postgresql://HOST/DATABASE, sqlite:///abs/path.db or memory://"
    raise ConfigurationError([f"A database URL is {known}; this one has another scheme."])


async def open_placed(urls: Sequence[str], *, shown: Sequence[str], lease_s: float = 6.0) -> Placed[Storage]:
    """Open several databases, in their order. The first must answer; the others may be away.

    Args:
        urls: PostgreSQL, at least one.
        shown: the same as they may be shown.
        lease_s: how long a claim is good for.

    Raises:
        ConfigurationError: every fault of every database: what `open_storage` says, or that one has another place.
        Unavailable: the first one does not answer. Nothing is open.
    """
    opened: list[Storage] = []
    faults: list[str] = []
    try:
        for number, (url, name) in enumerate(zip(urls, shown, strict=True)):
            place = PlaceOf(number=number, places=len(urls), of_set=_set_of(opened))
            try:
                opened.append(await open_storage(url, lease_s=lease_s, place=place, may_be_away=number > 0))
            except ConfigurationError as error:
                if len(urls) == 1:
                    raise  # it may be one that says who has the file
                faults += [f"database_url: {name}: {fault}" for fault in error.faults]
            if not opened:
                break  # without the first nobody knows which set the others must be of
    except BaseException:
        await _close(opened)
        raise
    if faults:
        await _close(opened)
        raise ConfigurationError(faults)
    return Placed(opened)


async def _close(storages: Iterable[Storage]) -> None:
    for storage in storages:
        await storage.close()


def _set_of(opened: Sequence[Storage]) -> str | None:
    database = (
        getattr(opened[0], "database", None) if opened else None
    )  # as `open_bus`: whoever has no PostgreSQL need not have its driver
    return getattr(database, "place_set", None) or None


def open_bus(storage: Storage, redis_url: str | None = None, redis_prefix: str = "runwire") -> Bus:
    """Return the bus that reaches every process on an open database; its `run` carries the messages.

    Args:
        storage: the database. One that a single process owns needs no Redis, whatever is set.
        redis_url: of the Redis that carries them; None: the database does.
        redis_prefix: what the names of its channels begin with.

    Raises:
        ConfigurationError: the URL of Redis cannot be meant, or its client is not installed.
    """
    if redis_url is not None and type(storage).__name__ not in ("SqliteStorage", "MemoryStorage"):
        with with_redis():
            from runwire.storage.bus_redis import RedisBus
        return RedisBus(storage, redis_url, prefix=redis_prefix)
    # Asked by name: whoever has no PostgreSQL need not have its driver.
    if type(storage).__name__ == "PostgresStorage":
        from runwire.storage.bus_postgres import PostgresBus
        from runwire.storage.postgres.storage import PostgresStorage

        assert isinstance(storage, PostgresStorage)
        return PostgresBus(storage.database)
    return LocalBus()


def open_counts(redis_url: str, redis_prefix: str) -> RedisCounts:
    """Return the counts that all processes with one Redis have in common.

    Raises:
        ConfigurationError: the URL of Redis cannot be meant, or its client is not installed.
    """
    with with_redis():
        from runwire.storage.redis.counts import RedisCounts
    return RedisCounts(redis_url, prefix=redis_prefix)


async def examine_postgres(url: str, *, place: PlaceOf = ALONE, timeout_s: float) -> Condition:
    """Look at a database of PostgreSQL; nothing is made or changed.

    Args:
        url: of the database.
        place: which of several databases it should be.
        timeout_s: for the server to answer all that it is asked.

    Raises:
        ConfigurationError: the URL or what it names is wrong, or the driver is not installed.
        Unavailable: the server does not answer; `__cause__` is the driver's error.
    """
    with with_driver():
        from runwire.storage.postgres.condition import look
    return await look(url, place=place, timeout_s=timeout_s)


async def examine_redis(redis_url: str, redis_prefix: str) -> RedisCondition:
    """Look at Redis; nothing is kept there.

    Raises:
        ConfigurationError: the URL cannot be meant, Redis refuses something, or its client is not installed.
        Unavailable: it does not answer.
    """
    with with_redis():
        from runwire.storage.redis.condition import look
    return await look(redis_url, prefix=redis_prefix)


async def migrate_storage(url: str) -> tuple[str | None, str]:
    """Bring a database to the newest revision, creating what is missing; return the one before and the one now.

    Raises:
        ConfigurationError: it cannot be used, is of a newer release, or another process owns it.
        Unavailable: the database server does not answer.
    """
    if is_postgres(url):
        with with_driver():
            from runwire.storage.postgres.prepare import migrate
        done = await migrate(url)
        return done.before, done.after
    before: str | None = None
    if urlsplit(url).scheme == "sqlite":
        from runwire.storage.sqlite.prepare import found_revision

        before = await asyncio.to_thread(found_revision, _path(url))
    await (await open_storage(url)).close()  # a data file is migrated by whoever opens it
    return before, REVISIONS[-1]


def is_postgres(url: str) -> bool:
    """Return whether a URL names a database that several processes may use at once."""
    return urlsplit(url).scheme in ("postgresql", "postgres")


@contextmanager
def with_driver() -> Iterator[None]:
    """Import what needs the driver of PostgreSQL; where it is missing, say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        fault = "database_url: PostgreSQL needs its driver: pip install 'runwire[postgres]'."
        raise ConfigurationError([fault]) from error


@contextmanager
def with_redis() -> Iterator[None]:
    """Import what needs the client of Redis; where it is missing, say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(["redis_url: Redis needs its client: pip install 'runwire[redis]'."]) from error


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or path in ("", "/"):
        raise ConfigurationError(["A SQLite URL has three slashes and a path: sqlite:///abs/path.db."])
    return Path("/", path.lstrip("/"))
