"""A PostgreSQL database: who may open it, which history it is, and what happens while it is away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.postgres import PASSWORD, PostgresServer

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.migrations import REVISIONS
from runwire.storage.postgres import database as module
from runwire.storage.postgres.database import PostgresDatabase, identity_of
from runwire.storage.postgres.driver import DataFault
from runwire.storage.postgres.prepare import Migrated, check_server, migrate

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    made = await postgres_server.create_database()
    yield made
    await postgres_server.drop_database(made)


@pytest.fixture
async def empty(postgres_server: PostgresServer) -> AsyncIterator[str]:
    made = await postgres_server.create_database(is_empty=True)
    yield made
    await postgres_server.drop_database(made)


@pytest.fixture
async def database(url: str) -> AsyncIterator[PostgresDatabase]:
    opened = await PostgresDatabase.open(url, lease_s=30)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a server that a test may kill."""
    server = PostgresServer.start(tmp_path_factory.mktemp("own"))
    yield server
    server.remove()


@pytest.fixture
async def own_url(own_server: PostgresServer) -> AsyncIterator[str]:
    lent = await own_server.lend()
    yield lent
    await own_server.take_back(lent)


def told(error: BaseException | None) -> str:
    """Return all that a log could say of an error."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__
    return " ".join(texts)


# who may open it ----------------------------------------------------------------------------------


async def test_empty_database_is_migrated_once_by_many(empty: str) -> None:
    with pytest.raises(ConfigurationError, match="empty: run `runwire migrate`"):
        await PostgresDatabase.open(empty)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(migrate(empty)) for _ in range(4)]
    before = [task.result().before for task in tasks]
    assert sorted(before, key=str) == [*[REVISIONS[-1]] * 3, None]
    opened = await PostgresDatabase.open(empty)
    log = opened.log
    assert await migrate(empty) == Migrated(before=REVISIONS[-1], after=REVISIONS[-1])
    await opened.close()
    again = await PostgresDatabase.open(empty)
    assert again.log == log
    await again.close()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "UPDATE alembic_version SET version_num = '0004_waits'",
            "older release .revision 0004_waits.: run `runwire mig",
        ),
        (
            "UPDATE alembic_version SET version_num = '9999_future'",
            "newer release .revision 9999_future.*upgrade Runwire",
        ),
        ("DROP TABLE alembic_version", "tables of another program"),
    ],
)
async def test_database_of_another_release_is_refused(
    postgres_server: PostgresServer, url: str, sql: str, message: str
) -> None:
    await postgres_server.execute(url, sql)
    with pytest.raises(ConfigurationError, match=message):
        await PostgresDatabase.open(url)
    if "0004" not in sql:
        with pytest.raises(ConfigurationError, match=message):
            await migrate(url)


async def test_older_database_is_brought_to_the_newest_revision(empty: str, postgres_server: PostgresServer) -> None:
    await postgres_server.execute(empty, "CREATE TABLE alembic_version (version_num text)")
    await postgres_server.execute(empty, "INSERT INTO alembic_version VALUES ('0004_waits')")
    # Of what that revision had only what later ones touch.
    for table in ("thread", '"user"', "pinned", "wait", "blob"):
        await postgres_server.execute(empty, f"CREATE TABLE {table} (key bigint)")
    columns = "key bigint, user_key bigint, agent text, status text, woken_at bigint"
    await postgres_server.execute(empty, f"CREATE TABLE run ({columns})")
    await postgres_server.execute(empty, "CREATE TABLE meta (key bigint PRIMARY KEY, log text)")
    for table in ("auth_session", "auth_key", "auth_signing_key"):
        await postgres_server.execute(empty, f"CREATE TABLE {table} (id text)")
    await postgres_server.execute(empty, "CREATE TABLE auth_event (user_id text, holder text)")
    status = "status text, CONSTRAINT auth_user_status CHECK (status IN ('active', 'disabled'))"
    await postgres_server.execute(empty, f"CREATE TABLE auth_user (id text PRIMARY KEY, {status})")
    fkey = "CONSTRAINT segment_run_key_fkey CHECK (run_key > 0)"
    await postgres_server.execute(empty, f"CREATE TABLE segment (run_key bigint, {fkey})")
    done = await migrate(empty)
    assert (done.before, done.after) == ("0004_waits", REVISIONS[-1])


@pytest.mark.parametrize(("version", "fits"), [(140_012, False), (150_000, True), (180_001, True)])
def test_server_older_than_15_is_refused(version: int, fits: bool) -> None:
    if fits:
        check_server(version)
        return
    with pytest.raises(ConfigurationError, match="PostgreSQL 14; Runwire needs 15"):
        check_server(version)


@pytest.mark.parametrize("verb", ["open", "migrate"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("/test", "/no_such_"), "does not exist: create it"),
        (("postgresql://runwire", "postgresql://nobody"), "refused the user or the password"),
        (("127.0.0.1:", "127.0.0.1:x"), "cannot be read"),
        ((PASSWORD, f"{PASSWORD}/{PASSWORD}"), "cannot be read"),
        (("?", "?no_such_option=1"), "option that the server does not know"),
    ],
)
async def test_wrong_url_is_refused_in_words_that_show_no_password(
    url: str, change: tuple[str, str], message: str, verb: str
) -> None:
    wrong = f"{url}?".replace(*change)
    with pytest.raises(ConfigurationError, match=message) as refusal:
        await (PostgresDatabase.open(wrong) if verb == "open" else migrate(wrong))
    assert PASSWORD not in told(refusal.value)


async def test_server_that_takes_no_writes_is_not_opened(postgres_server: PostgresServer, url: str) -> None:
    name = url.rpartition("/")[2]
    await postgres_server.execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable):
        await PostgresDatabase.open(url)


async def test_server_that_is_not_there_is_unavailable(own_server: PostgresServer, own_url: str) -> None:
    own_server.kill()
    for work in (PostgresDatabase.open(own_url), migrate(own_url)):
        with pytest.raises(Unavailable, match="ConnectionRefusedError") as refusal:
            await work
        assert PASSWORD not in told(refusal.value)
    own_server.restart()


# which history it is ------------------------------------------------------------------------------


def test_history_is_another_one_if_any_part_of_its_identity_is() -> None:
    parts = [("a", 1, "00000001", 5), ("b", 1, "00000001", 5), ("a", 2, "00000001", 5)]
    parts += [("a", 1, "00000002", 5), ("a", 1, "00000001", 6)]
    logs = [identity_of(*one) for one in parts]
    assert len(set(logs)) == 5
    assert all(len(log) == 12 and log.isalnum() for log in logs)
    assert identity_of(*parts[0]) == logs[0]


async def test_copy_of_a_database_is_another_history(postgres_server: PostgresServer, url: str) -> None:
    original = await PostgresDatabase.open(url)
    await original.close()
    copy = await postgres_server.create_database(template=url.rpartition("/")[2])
    restored = await PostgresDatabase.open(copy)
    assert restored.log != original.log
    await restored.close()
    await postgres_server.drop_database(copy)


async def test_new_history_drops_the_connections_of_the_old_one(database: PostgresDatabase) -> None:
    log = database.log
    pids = {await database.fetchval("SELECT pg_backend_pid()")}

    async def slow() -> None:
        with pytest.raises(Unavailable, match="history is another one"):
            await database.fetch("SELECT pg_sleep(1)")

    async with asyncio.TaskGroup() as group:
        group.create_task(slow())
        await asyncio.sleep(0.05)
        # What a promoted standby looks like from here: the next connection finds another identity.
        await database.execute("UPDATE meta SET log = 'elsewhere'")
        pids.add(await database.fetchval("SELECT pg_backend_pid()"))
        assert database.log == log
        async with database.alone(statement_timeout_s=1) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert database.log != log
        assert await database.fetchval("SELECT pg_backend_pid()") not in pids
    assert await database.fetchval("SELECT pg_backend_pid()") not in pids


async def test_driver_that_trips_over_a_dropped_connection_is_unavailable(database: PostgresDatabase) -> None:
    async def trip(connection: Connection[Record]) -> None:
        connection.terminate()
        raise AttributeError  # seen: between two round trips that prepare a statement

    with pytest.raises(Unavailable, match="ConnectionAbortedError"):
        await database._lent(trip, 1.0, is_urgent=False)
    assert await database.fetchval("SELECT 1") == 1


# while it is away ---------------------------------------------------------------------------------


async def test_killed_server_is_unavailable_until_it_is_back(own_server: PostgresServer, own_url: str) -> None:
    database = await PostgresDatabase.open(own_url)
    log = database.log
    async with asyncio.TaskGroup() as group:  # several connections, all of which will be dead
        for _ in range(4):
            group.create_task(database.fetch("SELECT pg_sleep(0.02)"))
    own_server.kill()
    for _ in range(2):
        with pytest.raises(Unavailable) as refusal:
            await database.fetch("SELECT 1")
        assert PASSWORD not in told(refusal.value)
    own_server.restart()
    assert await database.fetchval("SELECT 1") == 1
    assert database.log == log
    await database.close()


async def test_stopped_server_is_unavailable_after_the_deadline(own_server: PostgresServer, own_url: str) -> None:
    loop = asyncio.get_running_loop()
    database = await PostgresDatabase.open(own_url, lease_s=1.5)
    own_server.pause()
    try:
        begun_s = loop.time()
        for _ in range(2):  # on a connection that there is, then on a new one
            with pytest.raises(Unavailable, match="TimeoutError"):
                await database.fetch("SELECT 1")
        assert loop.time() - begun_s < 4.5
    finally:
        own_server.resume()
    until_s = loop.time() + 10
    while True:  # it has a second's work to catch up with
        try:
            assert await database.fetchval("SELECT 1") == 1
            break
        except Unavailable:
            assert loop.time() < until_s
    await database.close()


async def test_server_that_shuts_down_is_unavailable(own_server: PostgresServer, own_url: str) -> None:
    database = await PostgresDatabase.open(own_url)

    async def asked() -> None:
        with pytest.raises(Unavailable):
            await database.fetch("SELECT pg_sleep(1.5)")

    async with asyncio.TaskGroup() as group:
        group.create_task(asked())
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_server.restart)
    assert await database.fetchval("SELECT 1") == 1
    await database.close()


# deadlines ----------------------------------------------------------------------------------------


async def test_server_gives_up_before_a_third_of_the_lease(url: str) -> None:
    database = await PostgresDatabase.open(url, lease_s=1.2)
    for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        text = await database.fetchval("SELECT current_setting($1)", setting)
        assert text.endswith("ms")
        assert 0 < int(text.removesuffix("ms")) < 400
    assert await database.fetchval("SHOW synchronous_commit") == "on"
    with pytest.raises(Unavailable, match=r"QueryCanceledError|TimeoutError"):
        await database.fetch("SELECT pg_sleep(5)")
    assert await database.fetchval("SELECT 1") == 1
    async with database.alone(statement_timeout_s=5) as connection:
        await connection.fetch("SELECT pg_sleep(0.6)")
    await database.close()


async def test_crowd_of_readers_takes_no_connection_from_what_keeps_runs(url: str) -> None:
    database = await PostgresDatabase.open(url, lease_s=2.4)

    async def read() -> str:
        try:
            await database.fetch("SELECT pg_sleep(0.65)")
        except Unavailable as error:
            return error.message
        return "read"

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(40)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(0.5):
            assert await database.fetchval("SELECT 1", is_urgent=True) == 1
    said = [reader.result() for reader in readers]
    assert 8 <= said.count("read") < 40
    assert {message[:40] for message in said} == {"read", "No connection to the database was free in"[:40]}
    assert await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") <= 10
    await database.close()


async def test_callers_beyond_the_bound_are_refused_at_once(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def ask() -> str:
        try:
            await database.fetch("SELECT pg_sleep(0.1)")
        except Unavailable as error:
            return error.message
        return ""

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask()) for _ in range(15)]
    assert sum("Too many calls" in task.result() for task in asked) == 4


async def test_cancelled_caller_leaves_the_others_unharmed(database: PostgresDatabase) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(database.fetch("SELECT pg_sleep(0.2)")) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks[:10]:
            task.cancel()
    assert sum(task.cancelled() for task in tasks) == 10
    pid = await database.fetchval("SELECT pg_backend_pid()")
    async with asyncio.TaskGroup() as group:
        kept = group.create_task(database.fetch("SELECT pg_sleep(0.1)"))
        called_off = group.create_task(database.fetch("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0.05)
        called_off.cancel()
    assert kept.done()
    assert await database.fetchval("SELECT pg_backend_pid()") == pid  # no connection went but its own


async def test_value_that_no_database_holds_is_the_callers_fault(database: PostgresDatabase) -> None:
    for value in ("NUL \x00", "lone \ud800"):
        with pytest.raises(DataFault):
            await database.fetch("SELECT $1::text", value)
    with pytest.raises(DataFault):
        await database.fetch("SELECT $1::bigint", 2**70)
    with pytest.raises(DataFault) as refusal:
        await database.fetch("INSERT INTO meta (key, log) VALUES (2, 'two')")
    assert (refusal.value.sqlstate, refusal.value.constraint) == ("23514", "meta_one_row")
    assert await database.fetchval("SELECT 1") == 1


async def test_other_event_loops_may_call(database: PostgresDatabase) -> None:
    def elsewhere() -> tuple[int, int]:
        value: int = asyncio.run(database.fetchval("SELECT 7"))
        return value, threading.get_ident()

    with ThreadPoolExecutor(1) as pool:
        value, thread = await asyncio.get_running_loop().run_in_executor(pool, elsewhere)
    assert value == 7
    assert thread != threading.get_ident()


async def test_closed_database_is_unavailable(url: str) -> None:
    database = await PostgresDatabase.open(url)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(database.fetch("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0.05)
        await database.close()
    assert len(running.result()) == 1
    await database.close()
    with pytest.raises(Unavailable):
        await database.fetch("SELECT 1")
