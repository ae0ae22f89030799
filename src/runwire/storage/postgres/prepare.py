"""Making a PostgreSQL database ready: `migrate` does it, once for all processes; whoever opens it only looks."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from runwire.errors import ConfigurationError
from runwire.storage.migrations import REVISIONS
from runwire.storage.postgres.driver import starting
from runwire.storage.postgres.servers import Servers
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from sqlalchemy import Connection as Migrating

__all__ = ["HALF_IMPORTED", "Migrated", "MustMigrate", "check", "migrate"]

_OLDEST_SERVER: Final = 150_000  # `server_version_num`
_CONNECT_S: Final = 10.0
_WAIT_MS: Final = "60000"  # for another `runwire migrate`, or for a table that somebody holds
HALF_IMPORTED: Final = (
    "The database is half imported: run `runwire storage import` with the same file again, and it goes on where it"
    " stopped; or give up this database and make a new one."
)
_SQL: Final = load("postgres.sql")


class MustMigrate(ConfigurationError):
    """Refuse a database that `migrate` would make ready."""


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What `migrate` found and did."""

    before: str | None  # the revision it found; None: an empty database
    after: str  # the newest; the same: there was nothing to do


async def migrate(url: str) -> Migrated:
    """Bring a database to the newest revision, whole or not at all; of several callers at once one does it.

    Raises:
        ConfigurationError: the URL, its user or its database is wrong; the server is too old; the database belongs to
            another program or to a newer release.
        Unavailable: the server does not answer, or somebody holds a table for a minute; nothing was changed.
    """
    # Not above: who only opens a database needs neither.
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def connected() -> Connection[Record]:
        return await Servers(url).connect(timeout_s=_CONNECT_S)

    with starting():
        engine = create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(_migrate)
        except DBAPIError as error:
            cause = error.orig.__cause__ if error.orig is not None else None
            if cause is None:
                raise
            raise cause from None  # the driver's own: what is wrapped around it quotes statements and values
        finally:
            await engine.dispose()


async def check(connection: Connection[Record], *, is_importing: bool = False) -> None:
    """Refuse a database that this release cannot use, or (but for who goes on with it) that is half imported.

    Raises:
        ConfigurationError: the server is too old, or the tables are missing, of another revision, or not ours; what
            `migrate` would mend is `MustMigrate`.
    """
    check_server(await connection.fetchval(_SQL["server_version"]))
    tables = {row[0] for row in await connection.fetch(_SQL["tables"])}
    revision = await connection.fetchval(_SQL["revision"]) if "alembic_version" in tables else None
    check_revision(tables, revision)
    if revision is None:
        raise MustMigrate(["The database is empty: run `runwire migrate`."])
    if "unfinished_import" in tables and not is_importing:
        raise ConfigurationError([HALF_IMPORTED])
    if revision != REVISIONS[-1]:
        raise MustMigrate(
            [f"The database is of an older release (revision {revision}): run `runwire migrate`, then start again."]
        )


def check_server(version: int) -> None:
    """Refuse a server that lacks what the functions are written in. Raises ConfigurationError."""
    if version < _OLDEST_SERVER:
        raise ConfigurationError([f"The server is PostgreSQL {version // 10_000}; Runwire needs 15 or newer."])


def check_revision(tables: set[str], revision: str | None) -> None:
    """Refuse tables that no migration of this release can go on from. Raises ConfigurationError."""
    if tables and revision is None:
        raise ConfigurationError(["The database has tables of another program: give Runwire a database of its own."])
    if revision is not None and revision not in REVISIONS:
        known = REVISIONS[-1]
        raise ConfigurationError(
            [f"The database is of a newer release (revision {revision}, this one knows {known}): upgrade Runwire."]
        )


def _migrate(connection: Migrating) -> Migrated:
    from runwire.storage.migrations.upgrade import upgrade_on

    check_server(connection.exec_driver_sql(_SQL["server_version"]).scalar_one())
    connection.exec_driver_sql(_SQL["limit_waiting"], (_WAIT_MS,))
    connection.exec_driver_sql(_SQL["lock_migration"])  # until the end of this transaction
    # Only now: the one that was waited for may have changed them.
    tables = set(connection.exec_driver_sql(_SQL["tables"]).scalars())
    has_revision = "alembic_version" in tables
    revision = connection.exec_driver_sql(_SQL["revision"]).scalar_one_or_none() if has_revision else None
    check_revision(tables, revision)
    if revision != REVISIONS[-1]:
        upgrade_on(connection)
    connection.exec_driver_sql(_SQL["make_meta"], (secrets.token_hex(6),))
    return Migrated(before=revision, after=REVISIONS[-1])
