"""Each database: does it answer, can this release use it, has it room for us, and what time has it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runwire.app.administration import database_path
from runwire.app.doctor.finding import Finding, by_sentence, fault, fine, skipped, warning
from runwire.app.doctor.subject import Subject, apart
from runwire.auth.contract import SKEW_ALARM_S
from runwire.auth.tokens import LEEWAY_S
from runwire.errors import ConfigurationError, Unavailable
from runwire.settings import Settings
from runwire.storage.condition import Condition
from runwire.storage.migrations import REVISIONS
from runwire.storage.open import examine_postgres
from runwire.storage.placed import PlaceOf
from runwire.storage.sqlite.condition import look
from runwire.storage.sqlite.control import Absent, ask
from runwire.storage.sqlite.lock import read_owner

__all__ = ["examine_database", "probes_of"]

_CONNECTIONS: Final = 11  # of one server: ten, and one that listens
_HERE: Final = "start it, or correct database_url"
_NTP: Final = "set both clocks by NTP"


def probes_of(settings: Settings) -> range:
    """Return the numbers of the databases, from 0."""
    return range(len(settings.storage_urls))


async def examine_database(subject: Subject, number: int) -> list[Finding]:
    """Look at one of the databases."""
    settings = subject.settings
    if settings.is_shared:
        return await _postgres(subject, number)
    if settings.storage_url.startswith("memory:"):
        return [fine("database", "memory: a restart forgets everything")]
    return await _sqlite(subject, database_path(settings))


async def _postgres(subject: Subject, number: int) -> list[Finding]:
    settings = subject.settings
    urls, shown = settings.storage_urls, settings.shown_urls[number]
    which = f" {number + 1}" if len(urls) > 1 else ""
    if "postgres" in subject.missing_extras:
        return [skipped(f"database{which}", "not asked: its driver is not installed")]
    try:
        place = PlaceOf(number=number, places=len(urls))
        condition = await examine_postgres(urls[number], place=place, timeout_s=subject.limit_s)
    except ConfigurationError as error:
        return [by_sentence(f"database{which}", each, otherwise="correct database_url") for each in error.faults]
    except Unavailable as error:
        return [fault(f"database{which}", f"{shown} {_reason(error, subject.limit_s)}", _fix(error))]
    return list(_judged(condition, which, shown, migrates=settings.environment == "development"))


def _judged(condition: Condition, which: str, shown: str, *, migrates: bool) -> Iterator[Finding]:
    used, most = condition.connections or (0, 0)
    tables = "tables as this release needs them"
    if condition.refused and condition.can_migrate and migrates:
        tables = "the next start brings its tables up to date"
    elif condition.refused:
        tables = ""
    parts = [f"{condition.server} at {shown}", tables, f"{used} of {most} connections used"]
    yield fine(f"database{which}", ", ".join(part for part in parts if part))
    if not tables:
        for sentence in condition.refused:
            yield by_sentence(f"tables{which}", sentence, otherwise="use a newer PostgreSQL")
    if most - used < _CONNECTIONS:
        fix = f"raise max_connections of PostgreSQL, or run fewer servers: each takes up to {_CONNECTIONS}"
        yield warning(f"connections{which}", f"{used} of {most} are used", fix)
    yield from _clock(condition.skew_ms / 1_000, which)


def _clock(skew_s: float, which: str) -> Iterator[Finding]:
    found = f"the database's is {skew_s:+.1f} s off this one's"
    if abs(skew_s) > LEEWAY_S:
        yield fault(f"database clock{which}", f"{found}: sign-ins and waits end at the wrong time", _NTP)
    elif abs(skew_s) > SKEW_ALARM_S:
        yield warning(f"database clock{which}", found, _NTP)


def _reason(error: Unavailable, limit_s: float) -> str:
    cause = error.__cause__
    if isinstance(cause, ConnectionRefusedError):
        return "refuses connections: nobody listens there"
    if isinstance(cause, TimeoutError):
        return f"does not answer within {limit_s:g} s"
    if isinstance(cause, socket.gaierror):
        return "has a name that is not known here"
    return f"cannot be used ({type(cause).__name__}): {error.message.rstrip('.')}"


def _fix(error: Unavailable) -> str:
    if isinstance(error.__cause__, TimeoutError):
        return "look whether it hangs, or a firewall swallows what is sent there; else correct database_url"
    return _HERE


async def _sqlite(subject: Subject, path: Path) -> list[Finding]:
    if not await apart(lambda: _may_look(path)):
        return [skipped("database", "not looked at: its folder cannot be used, see files")]
    try:
        condition = await apart(lambda: look(path))
    except ConfigurationError as error:
        return [by_sentence("database", each, otherwise="set data_dir to another folder") for each in error.faults]
    said = f"{condition.server}, {subject.settings.shown_url}"
    if condition.refused:
        tables = [by_sentence("tables", each, otherwise="set data_dir to another folder") for each in condition.refused]
        return [fine("database", said), *tables]
    if condition.revision is None:
        found = [fine("database", f"{said} is made by the first start")]
    elif condition.revision != REVISIONS[-1]:
        found = [fine("database", f"{said} is of {condition.revision}; the next start keeps a copy and upgrades it")]
    else:
        found = [fine("database", f"{said}, tables as this release needs them")]
    return found + await _owner(path, subject.limit_s)


def _may_look(path: Path) -> bool:
    """Return whether it can be known if the data file is there; else the files tell what is wrong."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # on the way to it: no folder, no right, no answer
        return False
    return True


async def _owner(path: Path, limit_s: float) -> list[Finding]:
    """Say who serves the folder: a fact, and no fault."""
    owner = await apart(lambda: read_owner(path))
    if owner is None or owner.socket is None:
        return []  # nobody, or a command that is done in a moment
    try:
        place = await ask(path, "where", timeout_s=limit_s)
    except Absent:
        return []  # it died, and left its word behind
    except Unavailable:
        fix = f"look at its log; if it hangs, end process {owner.pid}"
        return [warning("server", f"process {owner.pid} has the data folder, and does not answer", fix)]
    return [fine("server", f"process {owner.pid} serves the data folder at {place['url']}")]
