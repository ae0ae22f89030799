"""What asyncpg does for us, and what its errors mean: a value is to blame, or the database is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from runwire.errors import ConfigurationError, ProtocolError, Unavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["DataFault", "OlderTimeline", "open_session", "starting", "translated"]

# What every session of ours relies on, whatever the server's or the role's defaults are.
_SESSION: Final = {
    "application_name": "runwire",
    "synchronous_commit": "on",  # an answered write is on disk
    "default_transaction_isolation": "read committed",  # who waited for a lock then sees what was committed
    "timezone": "UTC",
    "jit": "off",  # compiling costs more than any statement of ours takes
}
_URL_FORM: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters percent-encoded"
_READ_ONLY: Final = (
    "The database takes no writes: its server is a standby, or is set to read-only."
    " Name the primary, or all servers, in database_url."
)
_LEFT_BEHIND: Final = (
    "The only server that takes writes was left behind by a promotion: stop it, and start the promoted one."
)


class DataFault(ProtocolError):
    """The database, or its driver, refused a value: it is no use to send it again. A text with NUL is one."""

    def __init__(self, kind: str, *, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(f"The database cannot hold one of these values ({kind}).")
        self.kind = kind  # of the driver's error
        self.sqlstate = sqlstate  # None: the driver could not encode it
        self.constraint = constraint  # that it broke


class OlderTimeline(asyncpg.InterfaceError):
    """Refuse a server that a promotion, which this process knows of, has left behind."""

    def __init__(self) -> None:
        super().__init__("an older timeline")


async def open_session(
    url: str, *, host: tuple[str, int] | None = None, settings: dict[str, str] | None = None, timeout_s: float
) -> Connection[Record]:
    """Connect to a server, if it takes writes.

    Args:
        url: names it, or several: see `Servers`.
        host: and port, in place of those of the URL.
        settings: of the session.
        timeout_s: for all of it.

    Raises:
        ConfigurationError: the URL cannot be read.
        Exception: whatever else the driver says; call it within `translated` or `starting`.
    """
    try:
        return await asyncpg.connect(
            url,
            host=None if host is None else host[0],
            port=None if host is None else host[1],
            timeout=timeout_s,
            server_settings={**_SESSION, **(settings or {})},
            target_session_attrs=SessionAttribute.read_write,
            statement_cache_size=256,
            max_cached_statement_lifetime=0,  # no end: a statement is prepared once per connection
        )
    except ValueError:  # of a port that is no number, for example; its text may be part of a password
        raise ConfigurationError([f"The database URL cannot be read: write {_URL_FORM}."]) from None


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error of the driver into `DataFault` or `Unavailable`; neither shows a URL.

    Raises:
        DataFault: SQLSTATE of class 22, 23 or 54 (longer than an index or the server takes), or a value that has no
            form in the protocol.
        Unavailable: everything else: no connection, a deadline, a lock not had in time, a server that shuts down, takes
            no writes, is full, or has other tables than this release needs.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        state = str(error.sqlstate or "")
        if state.startswith(("22", "23", "54")):
            constraint = getattr(error, "constraint_name", None)
            raise DataFault(type(error).__name__, sqlstate=state, constraint=constraint) from error
        raise _unavailable(error) from error
    except (asyncpg.InterfaceError, UnicodeEncodeError) as error:
        if isinstance(error, ValueError):
            raise DataFault(type(error).__name__) from error
        raise _unavailable(error) from error
    except (asyncpg.InternalClientError, OSError, EOFError) as error:  # a TimeoutError is an OSError
        raise _unavailable(error) from error


@contextmanager
def starting() -> Iterator[None]:
    """Turn errors of the first connection into what a person at the start can act on.

    Raises:
        ConfigurationError: the URL cannot be read, or the server does not know its user, password or database.
        Unavailable: there is no answer; a later start may succeed.
    """
    try:
        with translated():
            yield
    except DataFault as error:
        raise ConfigurationError([f"The database URL cannot be used: write {_URL_FORM}."]) from error
    except Unavailable as error:
        cause = error.__cause__
        if isinstance(cause, asyncpg.InvalidCatalogNameError):
            fault = "The database that the URL names does not exist: create it, then run `runwire migrate`."
        elif isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
            fault = "The database server refused the user or the password of the database URL."
        elif isinstance(cause, asyncpg.InsufficientPrivilegeError):
            fault = "The user of the database URL may not do this in that database: make it the database's owner."
        elif isinstance(cause, asyncpg.UndefinedObjectError):
            fault = "The database URL has an option that the server does not know."
        else:
            raise
        raise ConfigurationError([fault]) from error


def _unavailable(error: Exception) -> Unavailable:
    """Return what a caller may see: the kind of error, never its text, which may quote values."""
    if isinstance(error, (asyncpg.TargetServerAttributeNotMatched, asyncpg.ReadOnlySQLTransactionError)):
        return Unavailable(_READ_ONLY, retry_after_s=1.0)
    if isinstance(error, OlderTimeline):
        return Unavailable(_LEFT_BEHIND, retry_after_s=1.0)
    return Unavailable(f"The database did not do the work ({type(error).__name__}); try again.", retry_after_s=1.0)
