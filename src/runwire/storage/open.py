"""From a URL to a database with all its ports."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from runwire.errors import ConfigurationError
from runwire.storage.base import Storage

__all__ = ["open_storage"]


async def open_storage(url: str) -> Storage:
    """Open `memory://`, or `sqlite:///abs/path.db`, which is created and migrated when it is new.

    Raises:
        ConfigurationError: no such scheme, no path, or the file cannot be owned or opened.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from runwire.storage.memory.storage import MemoryStorage

        return MemoryStorage()
    if parts.scheme == "sqlite":
        from runwire.storage.sqlite.storage import SqliteStorage

        return await SqliteStorage.open(_path(url))
    if parts.scheme in ("postgresql", "postgres"):
        raise ConfigurationError(["PostgreSQL comes with a later release: use sqlite:///abs/path.db for now."])
    # Not the URL itself: it may carry a password.
    raise ConfigurationError(["A database URL is sqlite:///abs/path.db or memory://; this one has another scheme."])


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or path in ("", "/"):
        raise ConfigurationError(["A SQLite URL has three slashes and a path: sqlite:///abs/path.db."])
    return Path("/", path.lstrip("/"))
