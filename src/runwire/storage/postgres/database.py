"""One PostgreSQL database: a few connections, a deadline for everything, and the identity of its history."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from asyncpg import PostgresError, ReadOnlySQLTransactionError

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.placed import PlaceOf
from runwire.storage.postgres.driver import starting, translated
from runwire.storage.postgres.places import examine
from runwire.storage.postgres.prepare import HALF_IMPORTED, check
from runwire.storage.postgres.servers import Servers
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["MAX_WAITING", "PostgresDatabase", "identity_of"]

MAX_CONNECTIONS: Final = 10  # of one process; a server takes 100 by default
URGENT_CONNECTIONS: Final = 2  # of them, for what keeps runs: no crowd of readers may cost a lease
MAX_WAITING: Final = 5_000  # callers that wait for a connection, as for the writer of SQLite
_OPEN_S: Final = 10.0
_LOOK_S: Final = 1.0  # between two looks whether the history is still the one it was
_LOOK_ELSEWHERE_S: Final = 2.0  # likewise, at the other servers of the URL

# Every statement here finds its rows through an index, whatever the table's figures say: a plan that was made while
# the tables were empty, and is kept, would walk through them when they are full. And no statement is planned twice.
_PLANS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",  # it never marks the dead entries of an index, of which a queue leaves many
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

# A machine that is gone says no goodbye. Without these the server would keep its session, and its locks, for hours.
_KEEPALIVE: Final = {"tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3"}

_SQL: Final = load("postgres.sql")
_logger: Final = structlog.get_logger(__name__)
_T = TypeVar("_T")


class _Held:
    """A connection, and the history that it was opened on."""

    __slots__ = ("connection", "log")

    def __init__(self, connection: Connection[Record], log: str) -> None:
        self.connection = connection
        self.log = log


class PostgresDatabase:
    """An open database. Its methods may be called from any event loop; they run in the one that opened it.

    The history (`log`) is read on every new connection. Should it differ from the known one (the new connection came
    to a promoted standby, or to a restored copy), `log` is the new one from then on, and every connection of the old
    one is dropped, those in use as soon as they answer: such an answer tells of a history that is over, so the caller
    gets `Unavailable` in its place. The conditional writes then decide, on the new history, what of it was done.

    A history that goes back under its own name (a copy of its server's files was put in its place) has another from
    then on: who has seen how far it was gives it one. If nobody saw it, only a person knows: `begin_history`.

    Each statement commits by itself. Deadlines are derived from the lease: the server ends a statement, or a wait for a
    lock, before a third of it; the caller waits as long for a connection, and as long for the answer, and then gives up
    and closes that connection. Up to `MAX_WAITING` callers wait for a connection; one more is refused.
    """

    def __init__(self, url: str, *, lease_s: float, limit_s: float | None = None) -> None:
        self.lease_s: Final = lease_s
        self.limit_s: Final = lease_s / 3 if limit_s is None else limit_s
        self._servers = Servers(url)
        self._loop = asyncio.get_running_loop()
        self._log = ""
        self._lsn = 0  # how far this history was on the disk of its server, as we last saw it
        self._may_be_half = False  # who imports uses what is only half there
        self._place: PlaceOf | None = None  # which it must be
        self._is_examined = False  # it is ready, of this release, and has that place
        self.place_set = ""  # the databases that it belongs to
        self._looked_s = self._looked_elsewhere_s = float("-inf")
        self._idle: list[_Held] = []  # the last one used is used first
        self._busy: set[_Held] = set()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS - URGENT_CONNECTIONS)
        self._urgent_slots = asyncio.Semaphore(URGENT_CONNECTIONS)
        self._waiting = 0
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        lease_s: float = 6.0,
        limit_s: float | None = None,
        is_importing: bool = False,
        place: PlaceOf | None = None,
        may_be_away: bool = False,
    ) -> PostgresDatabase:
        """Connect to a database that `migrate` has made ready.

        Args:
            url: `postgresql://user:password@host:port/database`; several hosts: the one that takes writes.
            lease_s: how long a claim is good for; every deadline is a part of it.
            limit_s: the longest that a statement may take, if not a third of the lease.
            is_importing: it may be half imported: the caller goes on with that.
            place: which of how many databases it must be; None: the caller does not mind.
            may_be_away: whether no answer is none of the caller's business yet: every call is `Unavailable` until it
                answers, is ready, and has this place; `log` is empty until then.

        Raises:
            ConfigurationError: the URL is wrong, the server too old, the tables are not of this release, or it is half
                imported.
            Unavailable: no answer; a later start may succeed.
        """
        database = cls(url, lease_s=lease_s, limit_s=limit_s)
        database._may_be_half = is_importing
        database._place = place
        try:
            # Who may be away keeps nobody waiting for long who lives elsewhere.
            await database._open(database.limit_s if may_be_away else _OPEN_S)
        except Unavailable:
            if not may_be_away:
                raise
        return database

    async def _open(self, timeout_s: float) -> None:
        with starting():
            async with asyncio.timeout(timeout_s):
                connection = await self._servers.connect(settings=self._settings(), timeout_s=timeout_s)
                try:
                    await self._examine(connection)
                    self._idle.append(await self._welcome(connection, transaction_s=self.limit_s))
                except BaseException:
                    connection.terminate()
                    raise

    async def _examine(self, connection: Connection[Record]) -> None:
        await check(connection, is_importing=self._may_be_half)
        if self._place is not None:
            self.place_set = await examine(connection, self._place)
        self._is_examined = True

    async def _examine_late(self, connection: Connection[Record]) -> None:
        """Examine a database that was away at the start; what is wrong with it is nobody's fault who asks now."""
        try:
            await self._examine(connection)
        except ConfigurationError as error:
            number = None if self._place is None else self._place.number + 1
            _logger.warning("database_refused", database=number, reason=error.message)
            raise Unavailable("The database is not the one it should be.", retry_after_s=10.0) from error

    @property
    def log(self) -> str:
        """Identity of the database's history, as the newest connection found it."""
        return self._log

    async def fetch(
        self, sql: str, *values: object, timeout_s: float | None = None, is_urgent: bool = False
    ) -> list[Record]:
        """Execute one statement and return its rows.

        Args:
            sql: a named block; it is prepared once per connection.
            values: its parameters.
            timeout_s: for the answer, if not a third of the lease. The server's own limit stays: see `alone`.
            is_urgent: for what keeps runs (append, renew, signals): two connections are reserved for it.

        Raises:
            DataFault: the database refused a value.
            Unavailable: done or not done, nobody knows.

        Promises: a cancelled caller leaves the statement whole, done or not done.
        """
        return await self._here(self._fetch(sql, values, timeout_s or self.limit_s, is_urgent=is_urgent))

    async def fetchrow(
        self, sql: str, *values: object, timeout_s: float | None = None, is_urgent: bool = False
    ) -> Record | None:
        """Execute one statement and return its first row, if there is one; see `fetch`."""
        rows = await self.fetch(sql, *values, timeout_s=timeout_s, is_urgent=is_urgent)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *values: object, timeout_s: float | None = None, is_urgent: bool = False) -> Any:
        """Execute one statement and return the first value of its first row, None without one; see `fetch`."""
        rows = await self.fetch(sql, *values, timeout_s=timeout_s, is_urgent=is_urgent)
        return rows[0][0] if rows else None

    async def follow(self, sql: str, *values: object) -> list[Record]:
        """Execute a read that is repeated all the time, and remember how far the history was; see `fetch`.

        Should it ever be less far, it has gone back, and gets another name: also if what was lost is younger than the
        last `look`, as long as somebody has read it.

        Args:
            sql: as of `fetch`; its first row has `lsn`, as of the block `identity`.
            values: its parameters.
        """
        return await self._here(self._follow(sql, values))

    async def execute(self, sql: str, *values: object, timeout_s: float | None = None, is_urgent: bool = False) -> None:
        """Execute one statement whose rows, if any, do not matter; see `fetch`."""
        await self.fetch(sql, *values, timeout_s=timeout_s, is_urgent=is_urgent)

    async def lend(self, work: Callable[[Connection[Record]], Awaitable[_T]], *, timeout_s: float) -> _T:
        """Have several statements read on one connection, and return what came of it; not for writes.

        Args:
            work: may be called in another event loop. Each of its statements has the limit of `fetch`.
            timeout_s: for all of it.

        Raises:
            Unavailable: it did not come to an end.
        """
        return await self._here(self._lent(work, timeout_s, is_urgent=False))

    @asynccontextmanager
    async def alone(self, *, statement_timeout_s: float) -> AsyncIterator[Connection[Record]]:
        """Open a connection beside the others: to listen, or for statements that take longer than a lease allows.

        Only in the loop that opened the database. What the driver raises inside comes out as of `fetch`.

        Args:
            statement_timeout_s: after which the server ends a statement.
        """
        settings = {
            **self._name(),
            **_KEEPALIVE,
            "tcp_user_timeout": _ms(self.lease_s),  # one who listens and takes nothing would hold the queue for all
            "statement_timeout": _ms(statement_timeout_s),
            "lock_timeout": _ms(self.limit_s * 0.5),
            "idle_in_transaction_session_timeout": _ms(self.limit_s * 0.9),
        }
        with translated():
            connection = await self._servers.connect(settings=settings, timeout_s=self.limit_s)
            try:
                held = await self._welcome(connection)
                yield connection
                self._check_history(held)
            finally:
                connection.terminate()

    async def look(self) -> None:
        """Look whether the history is still the one it was; who keeps runs or shows events calls it all the time.

        Mostly it does nothing: it looks once a second whether the database says who it is as before, and every two
        seconds whether another server of the URL was promoted; then every connection is dropped, and the next one
        leads there. It may take half a second.

        Raises:
            Unavailable: it does not answer, or its history is another one now.
        """
        await self._here(self._look())

    async def begin_history(self) -> str:
        """Give the history another name, because it has gone back; return that. Everybody signs in again.

        Raises:
            Unavailable: done or not done, nobody knows.
        """
        name = await self.fetchval(_SQL["log"])
        await self.fetch(_SQL["begin_history"], name, secrets.token_hex(6), secrets.token_hex(8))
        self._looked_s = float("-inf")
        with suppress(Unavailable):  # of the connection that has served the old one
            await self.look()
        return self._log

    async def close(self) -> None:
        """Refuse what comes, let what runs finish for a third of a lease, then disconnect. Idempotent."""
        await self._here(self._close())

    async def _close(self) -> None:
        is_first, self._is_closed = not self._is_closed, True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limit_s if is_first else 0):
                for _ in range(MAX_CONNECTIONS - URGENT_CONNECTIONS):
                    await self._slots.acquire()
                for _ in range(URGENT_CONNECTIONS):
                    await self._urgent_slots.acquire()
        self._drop()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _here(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work in the loop that owns the connections."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _fetch(self, sql: str, values: tuple[object, ...], timeout_s: float, *, is_urgent: bool) -> list[Record]:
        return await self._lent(lambda connection: connection.fetch(sql, *values), timeout_s, is_urgent=is_urgent)

    async def _follow(self, sql: str, values: tuple[object, ...]) -> list[Record]:
        rows = await self._fetch(sql, values, self.limit_s, is_urgent=False)
        self._lsn = max(self._lsn, rows[0]["lsn"])  # of the history that is still ours: nothing was awaited since
        return rows

    async def _lent(
        self, work: Callable[[Connection[Record]], Awaitable[_T]], timeout_s: float, *, is_urgent: bool
    ) -> _T:
        """Do something with a connection that nobody else uses meanwhile."""
        slots = self._urgent_slots if is_urgent and self._slots.locked() else self._slots
        await self._wait_for(slots)
        try:
            with translated():
                async with asyncio.timeout(self.limit_s):
                    held = await self._connection()
                self._busy.add(held)
                try:
                    return await self._answer(held, work, timeout_s)
                finally:
                    self._busy.discard(held)
        finally:
            slots.release()

    async def _answer(self, held: _Held, work: Callable[[Connection[Record]], Awaitable[_T]], timeout_s: float) -> _T:
        connection = held.connection
        try:
            async with asyncio.timeout(timeout_s):
                done = await work(connection)
        except BaseException as error:
            # One that takes no writes any more: the next connection leads to one that does.
            is_cut_off = connection.is_closed() or isinstance(error, (OSError, ReadOnlySQLTransactionError))
            if is_cut_off or isinstance(error, asyncio.CancelledError):
                connection.terminate()
            else:  # the server refused it in good order
                self._put_back(held)
            if is_cut_off:
                self._drop_idle()  # they lead to the same server: each would cost somebody an error
            is_known = isinstance(error, (OSError, PostgresError)) or not isinstance(error, Exception)
            if connection.is_closed() and not is_known:
                # Whatever the driver says: it trips when a connection is dropped while it prepares a statement.
                raise ConnectionAbortedError from error
            raise
        self._put_back(held)
        self._check_history(held)
        return done

    async def _wait_for(self, slots: asyncio.Semaphore) -> None:
        if self._is_closed:
            raise Unavailable("The database is closed.")
        if not slots.locked():
            await slots.acquire()
            return
        if self._waiting >= MAX_WAITING:
            raise Unavailable("Too many calls are waiting for the database; try again.", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with asyncio.timeout(self.limit_s):
                await slots.acquire()
        except TimeoutError:
            raise Unavailable("No connection to the database was free in time; try again.", retry_after_s=1.0) from None
        finally:
            self._waiting -= 1

    async def _connection(self) -> _Held:
        while self._idle:
            held = self._idle.pop()
            if not held.connection.is_closed():
                return held
        connection = await self._servers.connect(settings=self._settings(), timeout_s=self.limit_s)
        try:
            if not self._is_examined:
                await self._examine_late(connection)
            return await self._welcome(connection, transaction_s=self.limit_s)
        except BaseException:
            connection.terminate()
            raise

    async def _welcome(self, connection: Connection[Record], *, transaction_s: float | None = None) -> _Held:
        """Learn which history a new connection leads to, and drop all others if it is another one.

        From PostgreSQL 17 on the server also ends a transaction whose end it is never told: a process may be stopped,
        or its machine be gone, between the bytes of one request. No other limit counts there.
        """
        log = await self._recognised(connection, transaction_s)
        self._go_on_as(log)
        return _Held(connection, log)

    async def _recognised(self, connection: Connection[Record], transaction_s: float | None) -> str:
        """Return which history a connection leads to; one that has gone back gets another name first."""
        known, lsn = self._log, self._lsn  # before it is asked: what is asked later cannot be further back
        row = await self._identity(connection, transaction_s)
        if _log_of(row) == known and row["lsn"] < lsn:
            _logger.error("database_went_back", log=known, by_bytes=lsn - row["lsn"])
            await connection.execute(_SQL["begin_history"], row["log"], secrets.token_hex(6), secrets.token_hex(8))
            row = await self._identity(connection, transaction_s)
        if not row["log"].endswith(f"@{row['timeline']}"):
            # Standbys that are promoted apart from each other begin timelines of one number: a name tells them apart.
            await connection.execute(_SQL["name_history"], row["log"], f"{secrets.token_hex(6)}@{row['timeline']}")
            row = await self._identity(connection, transaction_s)
        log = _log_of(row)
        self._lsn = max(self._lsn, row["lsn"]) if log == self._log else row["lsn"]
        return log

    async def _identity(self, connection: Connection[Record], transaction_s: float | None) -> Record:
        row = await connection.fetchrow(_SQL["identity"], None if transaction_s is None else _ms(transaction_s))
        if row is None:
            raise Unavailable("The database has lost its identity; run `runwire migrate`.")
        if row["is_half"] and not self._may_be_half:
            raise Unavailable(HALF_IMPORTED, retry_after_s=1.0)
        return row

    async def _look(self) -> None:
        now_s = self._loop.time()
        if now_s < self._looked_s + _LOOK_S:
            return
        self._looked_s = now_s
        if self._servers.are_several and now_s >= self._looked_elsewhere_s + _LOOK_ELSEWHERE_S:
            self._looked_elsewhere_s = now_s
            if await self._servers.have_moved():
                _logger.warning("database_moved", log=self._log)
                self._drop()
        await self._lent(self._recognise, self.limit_s, is_urgent=True)

    async def _recognise(self, connection: Connection[Record]) -> None:
        self._go_on_as(await self._recognised(connection, self.limit_s))

    def _go_on_as(self, log: str) -> None:
        if log != self._log:
            self._log = log
            self._drop_idle()

    def _check_history(self, held: _Held) -> None:
        if held.log != self._log:
            raise Unavailable("The database's history is another one now; try again.", retry_after_s=0.0)

    def _put_back(self, held: _Held) -> None:
        if held.log != self._log or self._is_closed:
            held.connection.terminate()
        else:
            self._idle.append(held)

    def _drop_idle(self) -> None:
        for held in self._idle:
            held.connection.terminate()
        self._idle.clear()

    def _drop(self) -> None:
        self._drop_idle()
        for held in self._busy:
            held.connection.terminate()

    def _settings(self) -> dict[str, str]:
        """Return limits that end on the server what the caller has given up, and the only plans that we want."""
        return {
            **self._name(),
            **_PLANS,
            **_KEEPALIVE,
            "tcp_user_timeout": _ms(self.limit_s * 0.9),  # who does not take an answer off the socket is dropped
            "statement_timeout": _ms(self.limit_s * 0.9),
            "lock_timeout": _ms(self.limit_s * 0.5),
            "idle_in_transaction_session_timeout": _ms(self.limit_s * 0.9),
        }

    def _name(self) -> dict[str, str]:
        """Return under which name the server knows a session, if not that of servers and most commands."""
        return {"application_name": "runwire import"} if self._may_be_half else {}


def _log_of(row: Record) -> str:
    return identity_of(row["log"], row["system_identifier"], row["timeline"], row["oid"])


def identity_of(log: str, system_identifier: int, timeline: str, oid: int) -> str:
    """Return the identity of a history: another one, if any of these is another.

    Args:
        log: of the table `meta`, random, given to each timeline by who finds it first.
        system_identifier: of the cluster, made by `initdb`.
        timeline: moves when a standby is promoted or a backup is recovered.
        oid: of the database in its cluster: a copy beside the original is another history.
    """
    return hashlib.sha256(f"{log} {system_identifier} {timeline} {oid}".encode()).hexdigest()[:12]


def _ms(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))
