"""Backup, export, import and upkeep of a data folder."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

import runwire
from runwire.app.administration import Call, administer, database_path, opened, work_through
from runwire.errors import ConfigurationError, NotFound, Unavailable
from runwire.settings import Settings
from runwire.storage.base_upkeep import BackedUp
from runwire.storage.clock import now_ms
from runwire.storage.open import with_driver
from runwire.storage.placing import placed
from runwire.storage.sqlite.archives import export_file, import_file
from runwire.storage.sqlite.backup import back_up_file
from runwire.storage.transfer import Header

__all__ = ["Ages", "Progress", "Tidied", "back_up", "export", "figures", "import_from", "restored", "tidy"]

STANDARD_OUTPUT: Final = Path("-")

_CALL_S: Final = 120.0  # for one bounded call; on a busy disk far slower than alone
_GIVE_WAY_S: Final = 0.05
Progress = Callable[[int, int], None]  # (done, in all)


def back_up(settings: Settings, path: Path, *, progress: Progress) -> BackedUp:
    """Copy the database as it is at one moment, beside a running server or without one; blocks.

    This process reads the file itself: the server does nothing for it, and nobody needs its socket or a place that
    it may write to. PostgreSQL has its own means, which the error names.
    """
    if settings.is_shared:
        return asyncio.run(_back_up_shared(settings, path))
    return back_up_file(_data_file(settings), path, progress=progress)


def export(settings: Settings, path: Path, *, user: str | None, progress: Progress, place: int | None = None) -> Header:
    """Write the portable form to a new file, or to standard output for `-`; blocks. Like `back_up`, it only reads.

    Of several databases it is one, `place` from 0 on, and a user cannot be chosen by name: accounts are in the first.
    """
    if user is not None and len(settings.storage_urls) > 1:
        raise ConfigurationError(["--user: accounts are in the first database, what is theirs may not be: export all."])
    if path != STANDARD_OUTPUT:
        with placed(path) as part, part.open("wb") as out:
            return _export(settings, out, user, progress, place)
    try:
        header = _export(settings, sys.stdout.buffer, user, progress, place)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise Unavailable(f"Standard output does not take the export ({error.strerror}).") from error
    return header


def _export(settings: Settings, out: BinaryIO, user: str | None, progress: Progress, place: int | None) -> Header:
    release = runwire.__version__
    if not settings.is_shared:
        return export_file(_data_file(settings), out, release=release, user_name=user, progress=progress)
    with with_driver():
        from runwire.storage.postgres.transfer import export_database
    url = settings.storage_urls[_one(settings, place)]
    return asyncio.run(export_database(url, out, release=release, user_name=user, progress=progress))


def import_from(
    settings: Settings,
    path: Path,
    *,
    progress: Progress,
    announce: Callable[[str], None],
    place: int | None = None,
) -> Mapping[str, int]:
    """Fill an empty database from an export, or a data file from a backup; returns how many of each kind; blocks.

    On PostgreSQL one that was stopped goes on where it was. Of several databases it is one, `place` from 0 on: an
    export of that very place, for nobody is placed anew.
    """
    if not settings.is_shared:
        return import_file(_data_file(settings), path, progress=progress)
    with with_driver():
        from runwire.storage.postgres.importing import import_database
    url = settings.storage_urls[_one(settings, place)]
    return asyncio.run(import_database(url, path, progress=progress, announce=announce))


def restored(settings: Settings, *, place: int | None = None) -> str:
    """Tell a PostgreSQL database that it was put back to an older state; returns its new log; blocks."""
    if not settings.is_shared:
        fault = "A data folder needs no telling: whoever starts on a restored backup knows. This is for PostgreSQL."
        raise ConfigurationError([fault])
    if len(settings.storage_urls) > 1:
        fault = "database_url names several databases: name only the one that was put back, with RUNWIRE_DATABASE_URL."
        raise ConfigurationError([fault])
    return asyncio.run(_begin_history(settings.storage_urls[_one(settings, place)]))


async def _begin_history(url: str) -> str:
    with with_driver():
        from runwire.storage.postgres.database import PostgresDatabase
    database = await PostgresDatabase.open(url)
    try:
        return await database.begin_history()
    finally:
        await database.close()


async def _back_up_shared(settings: Settings, path: Path) -> BackedUp:
    async with opened(settings) as storage:
        return await storage.upkeep.backup(path)


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """From what age on something goes, seconds. None: it stays."""

    deltas_s: float  # of ended runs
    runs_s: float | None
    deleted_threads_s: float  # what they left behind


class Tidied(msgspec.Struct, kw_only=True):
    """What was done."""

    compacted_runs: int = 0
    deleted_events: int = 0
    deleted_runs: int = 0
    freed_bytes: int = 0  # of the file, for what comes


def _one(settings: Settings, place: int | None) -> int:
    """Return which database is meant, where it can only be one."""
    if place is None and len(settings.storage_urls) > 1:
        named = ", ".join(f"{number} ({url})" for number, url in enumerate(settings.shown_urls, 1))
        raise ConfigurationError([f"There are several databases; say which one by --place: {named}."])
    return place or 0


async def tidy(settings: Settings, ages: Ages, *, progress: Progress, place: int = 0) -> Tidied:
    """Compact and trim until nothing is left to do in a database, in bounded calls to who owns it."""
    await _check_there(settings)
    now = now_ms()

    def before(age_s: float) -> int:
        return now - int(age_s * 1000)

    async def steps(call: Call) -> Tidied:
        done = Tidied()
        has_more = True
        while has_more:
            part = await call("storage_compact", timeout_s=_CALL_S, place=place, ended_before=before(ages.deltas_s))
            done.compacted_runs += part["runs"]
            done.deleted_events += part["events"]
            done.freed_bytes += part["freed_bytes"]
            has_more = part["has_more"]
            await _give_way(part)
            progress(done.compacted_runs, 0)
        has_more = True
        while has_more:
            part = await call(
                "storage_trim",
                timeout_s=_CALL_S,
                place=place,
                ended_before=None if ages.runs_s is None else before(ages.runs_s),
                deleted_before=before(ages.deleted_threads_s),
            )
            done.deleted_runs += part["runs"]
            done.freed_bytes += part["freed_bytes"]
            has_more = part["has_more"]
            await _give_way(part)
            progress(done.compacted_runs + done.deleted_runs, 0)
        return done

    return await work_through(settings, steps)


async def _give_way(part: Mapping[str, Any]) -> None:
    """Let the server finish what it is doing to the same runs by itself."""
    if part["has_more"] and not part["runs"]:
        await asyncio.sleep(_GIVE_WAY_S)


async def figures(settings: Settings, *, place: int = 0) -> dict[str, Any]:
    """Return the figures of a database; `Stats`, as JSON has it."""
    await _check_there(settings)
    return await administer(settings, "storage_stats", timeout_s=_CALL_S, place=place)


async def _check_there(settings: Settings) -> None:
    """Refuse a folder without a database: looking must not make one."""
    if settings.is_shared:
        return
    path = _data_file(settings)
    if not await asyncio.to_thread(path.exists):
        raise NotFound(f"There is no database {path}; name the server's data folder.", field="--data-dir")


def _data_file(settings: Settings) -> Path:
    if not settings.storage_url.startswith("sqlite:"):
        fault = "This works on a database file or a database server; the configured database_url names neither."
        raise ConfigurationError([fault])
    return database_path(settings)
