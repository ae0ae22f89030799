"""From a URL to a database with all its ports."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from runwire.errors import ConfigurationError
from runwire.storage.base import Storage

__all__ = ["open_storage"]


async def open_storage(url: str, *, lease_s: float = 6.0) -> Storage:
    """Open `memory://`, `sqlite:///abs/path.db` (created and migrated when it is new), or `postgresql://…` (migrated).

    Args:
        url: of the database.
        lease_s: how long a claim is good for, where owners have leases: on PostgreSQL.

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
    if parts.scheme in ("postgresql", "postgres"):
        try:
            from runwire.storage.postgres.storage import PostgresStorage
        except ModuleNotFoundError as error:
            raise ConfigurationError(["PostgreSQL needs its driver: install `runwire[postgres]`."]) from error

        return await PostgresStorage.open(url, lease_s=lease_s)
    # Not the URL itself: it may carry a password.
    known = "postgresql://HOST/DATABASE, sqlite:///abs/path.db or memory://"
    raise ConfigurationError([f"A database URL is {known}; this one has another scheme."])


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or path in ("", "/"):
        raise ConfigurationError(["A SQLite URL has three slashes and a path: sqlite:///abs/path.db."])
    return Path("/", path.lstrip("/"))
