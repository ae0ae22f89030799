"""What an operator does to the data folder: by the server that owns it, or here when none runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from runwire.auth.service import users
from runwire.errors import ConfigurationError, Unavailable
from runwire.settings import Settings
from runwire.storage.base import Bus, BusMessage, CancelRequest, Storage, Wake
from runwire.storage.open import open_storage
from runwire.storage.sqlite.control import Verb, ask
from runwire.storage.sqlite.lock import OwnedElsewhere

__all__ = ["Verbs", "administer", "migrate", "opened", "shown_url", "where"]

_OWNER_WAIT_S: Final = 10.0  # a starting server owns the file before it takes commands
_OWNER_POLL_S: Final = 0.05


async def administer(settings: Settings, verb: str, **arguments: Any) -> dict[str, Any]:
    """Carry out a verb on the data folder: by the server that owns it, or here when none runs.

    Raises:
        RunwireError: what the verb raised, the same either way.
    """
    try:
        async with opened(settings) as storage:
            done: dict[str, Any] = await Verbs(storage, None).table()[verb](arguments)
            return done
    except OwnedElsewhere as owned:
        return await _ask_owner(settings, verb, arguments, owned)


async def _ask_owner(
    settings: Settings, verb: str, arguments: Mapping[str, Any], owned: OwnedElsewhere
) -> dict[str, Any]:
    path = _database(settings)
    try:
        async with asyncio.timeout(_OWNER_WAIT_S):
            while True:
                try:
                    done: dict[str, Any] = await ask(path, verb, **arguments)
                except Unavailable as error:
                    if error.code == "deadline":
                        raise
                    # It owns the file and takes no commands yet: it is starting, or another command is at work.
                    await asyncio.sleep(_OWNER_POLL_S)
                else:
                    return done
    except TimeoutError:
        raise owned from None


async def where(settings: Settings) -> tuple[str, str | None] | None:
    """Return (URL, sign-in link or None) of the server that runs on the data folder; None: none does."""
    if not await asyncio.to_thread(_database(settings).exists):
        return None  # nothing was ever started here, and looking must not make a database
    place = await administer(settings, "where")
    return (place["url"], place["link"]) if place["url"] else None


async def migrate(settings: Settings) -> str:
    """Create or upgrade the database, and say what it is."""
    is_new = not await asyncio.to_thread(_database(settings).exists)
    async with opened(settings) as storage:
        await storage.ping()
        return f"{shown_url(settings)} {'was created' if is_new else 'is up to date'} (log {storage.log})"


class Verbs:
    """What the command line may ask of whoever owns the database.

    Args:
        storage: the database.
        bus: wakes the parts of the running server; None: none runs.
    """

    def __init__(self, storage: Storage, bus: Bus | None) -> None:
        self._storage = storage
        self._bus = bus

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {
            "user_add": self.user_add,
            "user_password": self.user_password,
            "user_disable": self.user_disable,
            "user_enable": self.user_enable,
            "user_list": self.user_list,
            "token_create": self.token_create,
            "where": self.where,
        }

    async def user_add(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Add a user."""
        row = await users.add_user(
            self._storage.auth, arguments["name"], password=arguments.get("password"), roles=tuple(arguments["roles"])
        )
        self._tell(Wake(topic="auth"))
        return {"user": row.user, "name": row.name}

    async def user_password(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Give a user another password."""
        row = await users.set_password(self._storage.auth, arguments["name"], arguments["password"])
        self._tell(Wake(topic="auth"))
        return {"user": row.user}

    async def user_disable(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Withdraw a user's access and end what runs for them."""
        row = await users.disable_user(self._storage.auth, arguments["name"])
        self._tell(Wake(topic="auth"))
        # After the change, so that no new run of theirs can slip in between.
        request = CancelRequest(by="revoked", reason="access was withdrawn")
        cancelled = await self._storage.runs.cancel_user(row.user, request)
        self._tell(*(committed for run in cancelled for committed in run.committed), Wake(topic="signals"))
        return {"user": row.user}

    async def user_enable(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Let a user sign in again."""
        row = await users.enable_user(self._storage.auth, arguments["name"])
        self._tell(Wake(topic="auth"))
        return {"user": row.user}

    async def user_list(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """List everybody."""
        rows = [row async for row in _all_users(self._storage)]
        return {"users": [{"name": r.name, "status": r.status, "roles": list(r.roles), "user": r.user} for r in rows]}

    async def token_create(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make an API key."""
        key = await users.create_api_key(self._storage.auth, arguments["name"], ttl_s=arguments.get("ttl_s"))
        self._tell(Wake(topic="auth"))
        return {"key": key}

    async def where(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Say that no server runs; the one that does answers otherwise."""
        return {"url": None, "link": None}

    def _tell(self, *messages: BusMessage) -> None:
        if self._bus is not None:
            for message in messages:
                self._bus.publish(message)


async def _all_users(storage: Storage) -> AsyncIterator[Any]:
    after: str | None = None
    while rows := await storage.auth.list_users(after=after):
        for row in rows:
            yield row
        after = rows[-1].name


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Storage]:
    """Open the configured database, making its folder; closed when the block ends."""
    if settings.database_url is None:
        _make_folder(settings.data_dir)
    storage = await open_storage(settings.storage_url)
    try:
        yield storage
    finally:
        await storage.close()


def _database(settings: Settings) -> Path:
    return Path(settings.storage_url.removeprefix("sqlite://"))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError([f"data_dir {folder}: cannot be made ({error.strerror}); set --data-dir."]) from error


def shown_url(settings: Settings) -> str:
    """Return the database's URL as it may be shown: short, without a password."""
    url = settings.storage_url
    return url.replace(str(Path.home()), "~", 1)
