"""What an operator does to the data folder: by the server that owns it, or here when none runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote

import msgspec

from runwire.app.accounts import AccountVerbs
from runwire.app.auditing import audit_verbs
from runwire.app.erasing import ErasureVerbs
from runwire.app.portrait import PortraitVerbs
from runwire.app.reconcile import ReconcileVerbs
from runwire.errors import ConfigurationError, Unavailable
from runwire.settings import Settings
from runwire.storage.base import RESERVED, Bus, Storage
from runwire.storage.open import migrate_storage, open_placed
from runwire.storage.placed import Placed
from runwire.storage.sqlite.control import Absent, Verb, ask
from runwire.storage.sqlite.lock import OwnedElsewhere

__all__ = [
    "Call",
    "Verbs",
    "administer",
    "database_path",
    "members",
    "migrate",
    "opened",
    "opened_all",
    "where",
    "work_through",
]

_OWNER_WAIT_S: Final = 10.0  # a starting server owns the file before it takes commands
_OWNER_POLL_S: Final = 0.05
_ANSWER_S: Final = 10.0  # for a verb; hashing a password is the slowest of the short ones
COMPACTED_RUNS: Final = 100  # in one call: seconds at most, so that a server's end does not wait for it

T = TypeVar("T")


class Call(Protocol):
    """Carry out a verb, wherever that is."""

    async def __call__(self, verb: str, *, timeout_s: float = _ANSWER_S, **arguments: Any) -> dict[str, Any]:
        """Carry out one verb. `timeout_s` is for a server that does not answer."""
        ...


async def administer(
    settings: Settings, verb: str, *, timeout_s: float = _ANSWER_S, **arguments: Any
) -> dict[str, Any]:
    """Carry out a verb on the data folder: by the server that owns it, or here when none runs.

    Raises:
        RunwireError: what the verb raised, the same either way.
    """
    return await work_through(settings, lambda call: call(verb, timeout_s=timeout_s, **arguments))


async def work_through(settings: Settings, steps: Callable[[Call], Awaitable[T]]) -> T:
    """Carry out several verbs, one after the other, all by the server or all here.

    Args:
        settings: where the data folder is.
        steps: makes the calls. Begun again if the server ends between two of them, and so must bear that.

    Raises:
        RunwireError: what a verb raised, the same either way.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _OWNER_WAIT_S
    while True:
        try:
            async with opened_all(settings) as storages:
                return await steps(_called_here(storages))
        except OwnedElsewhere as owned:
            if owned.owner and owned.owner.socket:
                with contextlib.suppress(_Gone):
                    return await steps(_called_there(settings, owned.owner.pid))
            # The owner is starting, or ending, or another command that is done in a moment: look again.
            if loop.time() >= until_s:
                raise
        await asyncio.sleep(_OWNER_POLL_S)


class _Gone(Exception):
    """The socket that the lock file names has nobody behind it, or nobody free: the verb was not carried out."""


def _called_here(storages: Placed[Storage]) -> Call:
    verbs = Verbs(storages, None).table()

    async def call(verb: str, *, timeout_s: float = _ANSWER_S, **arguments: Any) -> dict[str, Any]:
        done: dict[str, Any] = await verbs[verb](arguments)
        return done

    return call


def _called_there(settings: Settings, pid: int) -> Call:
    async def call(verb: str, *, timeout_s: float = _ANSWER_S, **arguments: Any) -> dict[str, Any]:
        try:
            done: dict[str, Any] = await ask(database_path(settings), verb, timeout_s=timeout_s, **arguments)
        except Absent as error:
            raise _Gone from error
        except Unavailable as error:
            if error.code != "deadline":
                raise  # what the verb itself said
            # Whether it was done is not known: asking again could do it twice.
            sentence = f"The server (process {pid}) does not answer; look whether it was done before you try again."
            raise Unavailable(sentence, code="deadline") from error
        return done

    return call


async def where(settings: Settings) -> tuple[str, str | None] | None:
    """Return (URL, sign-in link or None) of the server that runs on the data folder; None: none does.

    On a shared database there may be any number: which of them is meant only a person can say.
    """
    if settings.is_shared or not await asyncio.to_thread(database_path(settings).exists):
        return None  # nothing was ever started here, and looking must not make a database
    place = await administer(settings, "where")
    return (place["url"], place["link"]) if place["url"] else None


async def members(settings: Settings) -> list[dict[str, Any]]:
    """Return who serves each of the databases; `place` is the number of that, from 1."""
    if not settings.is_shared and not await asyncio.to_thread(database_path(settings).exists):
        return []  # nothing was ever started here, and looking must not make a database

    async def ask_all(call: Call) -> list[dict[str, Any]]:
        asked = [await call("member_list", place=place) for place in range(len(settings.storage_urls))]
        return [{"place": place, **row} for place, found in enumerate(asked, 1) for row in found["members"]]

    return await work_through(settings, ask_all)


async def migrate(settings: Settings) -> str:
    """Create or upgrade the database, and say what it was and is."""
    if settings.database_url is None:
        _make_folder(settings.data_dir)
    done: list[str] = []
    for url in settings.storage_urls:
        before, after = await migrate_storage(url)
        done.append(f"is up to date at {after}" if before == after else f"went from {before or 'nothing'} to {after}")
    async with opened_all(settings) as storages:
        for storage in storages:
            await storage.ping()
        told = zip(settings.shown_urls, done, storages, strict=True)
        return "\n".join(f"{url} {what} (log {storage.log})" for url, what, storage in told)


class Verbs:
    """What the command line may ask of whoever owns the database.

    Args:
        storages: the databases; accounts are in the first one.
        bus: wakes the parts of the running server; None: none runs.
    """

    def __init__(self, storages: Placed[Storage], bus: Bus | None) -> None:
        self._storages = storages
        self._storage = storages.first
        self._bus = bus

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {
            "storage_stats": self.storage_stats,
            "storage_compact": self.storage_compact,
            "storage_trim": self.storage_trim,
            "member_list": self.member_list,
            "where": self.where,
            **AccountVerbs(self._storages, self._bus).table(),
            **audit_verbs(self._storage),
            **ErasureVerbs(self._storages, self._bus).table(),
            **ReconcileVerbs(self._storages).table(),
            **PortraitVerbs(self._storages).table(),
        }

    async def storage_stats(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Give the figures of a database."""
        figures: dict[str, Any] = msgspec.to_builtins(await self._at(arguments).upkeep.stats())
        return figures

    async def storage_compact(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Compact some runs; the caller asks again while there are more."""
        done = await self._at(arguments).upkeep.compact(ended_before=arguments["ended_before"], runs=COMPACTED_RUNS)
        return {"runs": done.runs, "events": done.events, "freed_bytes": done.freed_bytes, "has_more": done.has_more}

    async def storage_trim(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Delete some runs that are over their time; the caller asks again while there are more."""
        done = await self._at(arguments).upkeep.trim(
            ended_before=arguments["ended_before"], deleted_before=arguments["deleted_before"], runs=COMPACTED_RUNS
        )
        return {"runs": done.runs, "freed_bytes": done.freed_bytes, "has_more": done.has_more}

    async def member_list(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """List who serves a database."""
        rows = await self._at(arguments).members.list()
        return {
            "members": [
                {
                    **msgspec.to_builtins(row.member),
                    "agents": [name for name in row.member.agents if not name.startswith(RESERVED)],
                    "state": "live" if row.is_live else "left" if row.left_at is not None else "absent",
                    "since": row.since,
                    "seen_at": row.seen_at,
                }
                for row in rows
            ]
        }

    async def where(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Say that no server runs; the one that does answers otherwise."""
        return {"url": None, "link": None}

    def _at(self, arguments: dict[str, Any]) -> Storage:
        """Return the database that the caller means, the first if none is named."""
        place: int = arguments.get("place", 0)
        return tuple(self._storages)[place]


@contextlib.asynccontextmanager
async def opened_all(settings: Settings, *, patience_s: float = 0.0) -> AsyncIterator[Placed[Storage]]:
    """Open the configured databases, making the folder of the embedded one; closed when the block ends.

    Args:
        settings: where they are.
        patience_s: how long to wait for an owner that takes no commands: that is a command, done in a moment.

    Raises:
        OwnedElsewhere: a living process has it.
        ConfigurationError: one cannot be opened.
        Unavailable: the first one does not answer; others may be away, and each call to such a one says so.
    """
    if settings.database_url is None:
        _make_folder(settings.data_dir)
    storages = await _open(settings, patience_s=patience_s)
    try:
        yield storages
    finally:
        for storage in storages:
            await storage.close()


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, patience_s: float = 0.0) -> AsyncIterator[Storage]:
    """Open the database that has everybody's accounts: the only one, or the first; see `opened_all`."""
    async with opened_all(settings, patience_s=patience_s) as storages:
        yield storages.first


async def _open(settings: Settings, *, patience_s: float) -> Placed[Storage]:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + patience_s
    while True:
        try:
            return await open_placed(settings.storage_urls, shown=settings.shown_urls, lease_s=settings.lease_s)
        except Unavailable as error:
            reason = type(error.__cause__ or error).__name__
            sentence = f"The database server of {settings.shown_url} does not answer ({reason}); is it there?"
            raise Unavailable(sentence) from error
        except OwnedElsewhere as owned:
            is_server = owned.owner is not None and owned.owner.socket is not None
            if is_server or loop.time() >= until_s:
                raise
        await asyncio.sleep(_OWNER_POLL_S)


def database_path(settings: Settings) -> Path:
    """Return the data file."""
    return Path(unquote(settings.storage_url.removeprefix("sqlite://")))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError([f"data_dir {folder}: cannot be made ({error.strerror}); set --data-dir."]) from error
