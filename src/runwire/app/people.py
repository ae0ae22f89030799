"""What an operator does about people's data: find out whether both sides of identity agree, hand it over, erase it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

import runwire
from runwire.app.administration import Call, administer, database_path, work_through
from runwire.app.portrait import write_portrait
from runwire.settings import Settings
from runwire.storage.open import with_driver
from runwire.storage.placed import place_of
from runwire.storage.placing import placed
from runwire.storage.sqlite.archives import export_file
from runwire.storage.transfer import Header, read_export

__all__ = ["Gone", "erase", "hand_over", "reconcile"]

_CALL_S: Final = 120.0  # for a bounded piece of work; on a busy disk far slower than alone
_WIPE_S: Final = 3_600.0  # a large file is written anew
_LOOK_S: Final = 0.1  # between two looks whether the runs have ended
_MARGIN_S: Final = 5.0  # for a busy worker, over its promises


class Gone(msgspec.Struct, kw_only=True):
    """What was erased."""

    user: str
    runs: int = 0
    threads: int = 0


async def erase(
    settings: Settings, name: str, *, say: Callable[[str], None], is_thorough: bool = False, wipes: bool = True
) -> Gone:
    """Erase a person, beside a running server or without one; cut off anywhere, another call goes on.

    Args:
        settings: where the databases are.
        name: of the account, or its id.
        say: told the id first, by which an erasure can be gone on with when the name is gone.
        is_thorough: have a database server write its tables anew.
        wipes: take what was deleted out of the files, too.

    Raises:
        NotFound: no such account.
        Unavailable: a database does not answer, or the server does not; call again.
    """
    known = name
    # A run ends within the grace of its cancellation, on a worker that hears of it; that of a dead one after its lease.
    patience_s = settings.cancel_grace_s + 2 * settings.lease_s + _MARGIN_S

    async def steps(call: Call) -> Gone:
        nonlocal known
        begun = await call("erase_begin", timeout_s=_CALL_S, name=known)
        gone = Gone(user=begun["user"])
        if known != gone.user:
            say(f"erasing {name}, which is {gone.user}; should this be cut off, go on with that")
            known = gone.user
        await _empty(call, gone, patience_s=patience_s)
        await call("erase_end", timeout_s=_CALL_S, user=gone.user, names=[begun["name"]])
        await _empty(call, gone, patience_s=0.0)  # what was on its way when access was withdrawn
        if wipes:
            for place in sorted({0, place_of(gone.user, places=len(settings.storage_urls))}):
                await call("erase_wipe", timeout_s=_WIPE_S, place=place, is_thorough=is_thorough)
        return gone

    return await work_through(settings, steps)


async def reconcile(settings: Settings, *, repairs: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare accounts and people, beside a running server or without one.

    Args:
        settings: where the databases are.
        repairs: quarantine people without an account, which deletes nothing; release those whose account is back;
            finish the erasure of those whose account is deleted.
        say: told what is being done.

    Returns:
        `{"accounts", "people", "quarantined", "differences": [{"kind", "user", "issuer", "place", "is_repaired"}],
        "has_more"}`.
    """
    found = await administer(settings, "auth_sync", timeout_s=_CALL_S)
    for difference in found["differences"]:
        difference["is_repaired"] = False
        if not repairs:
            continue
        if difference["kind"] == "not_erased":
            await erase(settings, difference["user"], say=say, wipes=False)
            difference["is_repaired"] = True
        else:
            difference |= await administer(settings, "auth_sync_repair", timeout_s=_CALL_S, user=difference["user"])
    return found


def hand_over(settings: Settings, name: str, path: Path) -> dict[str, int]:
    """Write all that is kept of a person to a new archive; blocks. Servers go on meanwhile.

    Args:
        settings: where the databases are.
        name: of the account, or its id.
        path: where it shall stand.

    Returns:
        How many lines each of its files has.

    Raises:
        NotFound: no such account.
        Conflict: there is a file of this name.
        Unavailable: a database does not answer, or the archive could not be written; nothing is left of it.
    """
    profile, audit = asyncio.run(_told(settings, name))
    release = runwire.__version__
    with placed(path) as part, part.open("wb") as out, tempfile.TemporaryFile() as spool:
        _copy_rows(settings, spool, user=profile["user"], name=profile["name"], release=release)
        spool.seek(0)
        records = (record for _, record in read_export(spool) if not isinstance(record, Header))
        lines = write_portrait(out, profile=profile, records=records, audit=audit, release=release)
    asyncio.run(administer(settings, "person_told", user=profile["user"]))
    return lines


async def _told(settings: Settings, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    async def steps(call: Call) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        profile = await call("person_profile", timeout_s=_CALL_S, name=name)
        words = [profile["user"], *(key["key"] for key in profile["api_keys"])]
        rows: list[dict[str, Any]] = []
        cursor, has_more = 0, True
        while has_more:
            page = await call("person_audit", timeout_s=_CALL_S, words=words, cursor=cursor)
            rows += page["rows"]
            cursor, has_more = page["cursor"], page["has_more"]
        return profile, rows

    return await work_through(settings, steps)


def _copy_rows(settings: Settings, out: BinaryIO, *, user: str, name: str, release: str) -> None:
    """Write the portable form of what belongs to a user, as it is at one moment."""
    if not settings.is_shared:
        export_file(database_path(settings), out, release=release, user_name=name)
        return
    with with_driver():
        from runwire.storage.postgres.transfer import export_database
    url = settings.storage_urls[place_of(user, places=len(settings.storage_urls))]
    asyncio.run(export_database(url, out, release=release, user=user))


async def _empty(call: Call, gone: Gone, *, patience_s: float) -> None:
    """Delete until nothing is left; wait for runs that somebody holds, but not for ever."""
    clock = asyncio.get_running_loop().time
    until_s = clock() + patience_s
    has_more = True
    while has_more:
        done = await call("erase_step", timeout_s=_CALL_S, user=gone.user, is_forced=clock() >= until_s)
        gone.runs += done["runs"]
        gone.threads += done["threads"]
        has_more = done["has_more"]
        if done["unfinished"]:
            await asyncio.sleep(_LOOK_S)
