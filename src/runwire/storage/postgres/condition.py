"""Looking at a PostgreSQL database without using it: who it is, its tables, its clock, its place among several."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from runwire.errors import ConfigurationError
from runwire.storage.clock import now_ms
from runwire.storage.condition import Condition
from runwire.storage.migrations import REVISIONS
from runwire.storage.placed import PlaceOf
from runwire.storage.postgres.driver import starting
from runwire.storage.postgres.places import fault_of
from runwire.storage.postgres.prepare import MustMigrate, check
from runwire.storage.postgres.servers import Servers
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["look"]

_SQL: Final = load("postgres.sql")


async def look(url: str, *, place: PlaceOf, timeout_s: float) -> Condition:
    """Look at a database.

    Args:
        url: `postgresql://user:password@host:port/database`.
        place: which of how many databases it should be.
        timeout_s: for all of it.

    Raises:
        ConfigurationError: the URL is wrong, or the server does not know its user, password or database.
        Unavailable: no answer; `__cause__` is the driver's error.
    """
    with starting():
        async with asyncio.timeout(timeout_s):
            connection = await Servers(url).connect(timeout_s=timeout_s)
            try:
                await connection.fetchval(_SQL["server_version"])  # the first statement looks up types
                began_ms = now_ms()
                row = await connection.fetchrow(_SQL["condition"])
                ended_ms = now_ms()
                assert row is not None  # it has no condition
                refused, can_migrate = await _refused(connection, place)
            finally:
                connection.terminate()  # whatever it still does is of no interest, and may take long
    there_ms: int = row["now_ms"]
    # It looked at its clock at some moment in between.
    return Condition(
        server=f"PostgreSQL {row['version'].split()[0]}",
        revision=None if refused else REVISIONS[-1],
        refused=refused,
        can_migrate=can_migrate,
        skew_ms=min(0.0, there_ms - began_ms) or max(0.0, there_ms - ended_ms),
        connections=(row["used"], row["most"]),
    )


async def _refused(connection: Connection[Record], place: PlaceOf) -> tuple[tuple[str, ...], bool]:
    """Return why no server can use the database, and whether migrating it would mend that."""
    try:
        await check(connection)
    except MustMigrate as error:
        return tuple(error.faults), True
    except ConfigurationError as error:
        return tuple(error.faults), False
    fault = await fault_of(connection, place)
    return (() if fault is None else (f"The database {fault}",)), False
