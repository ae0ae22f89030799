"""Several servers in one URL: the one that takes writes, on the newest timeline, and none that was left behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Iterator

import pytest
from tests.postgres import PASSWORD, PostgresServer, url_of_all

from runwire.errors import Unavailable
from runwire.storage.postgres import database as module
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.postgres.prepare import migrate
from runwire.storage.postgres.servers import hosts_of
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.sql import load

PORT = "SELECT inet_server_port()"
PLACE = load("postgres.sql")["place"]


class Pair:
    """A primary with a standby, and a database of theirs."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer, url: str) -> None:
        self.primary = primary
        self.standby = standby
        self.url = url  # of the primary alone
        self.both = url_of_all([primary, standby], url)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    primary = PostgresServer.start(tmp_path_factory.mktemp("primary"))
    try:
        url = asyncio.run(primary.create_database())
        standby = primary.standby()
        try:
            yield Pair(primary, standby, url)
        finally:
            standby.remove()
    finally:
        primary.remove()


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@one/db", []),
        ("postgresql:///db?host=/run/postgresql", []),
        ("postgresql://u:p%40,@one,two/db?target_session_attrs=read-write", [("one", 5432), ("two", 5432)]),
        ("postgresql://one:1,[::1]:2,three/db?port=9", [("one", 1), ("::1", 2), ("three", 9)]),
        ("postgresql:///db?host=one,two&port=1,2", [("one", 1), ("two", 2)]),
        ("postgresql:///db?host=/run/a,two:7&port=1", [("/run/a", 1), ("two", 7)]),
    ],
)
def test_hosts_of_a_url(url: str, hosts: list[tuple[str, int]]) -> None:
    assert list(hosts_of(url)) == hosts


async def test_standby_alone_is_refused_in_words_that_say_so(pair: Pair) -> None:
    for work in (PostgresDatabase.open, migrate):
        with pytest.raises(Unavailable, match="a standby, or is set to read-only") as refusal:
            await work(url_of_all([pair.standby], pair.url))
        assert PASSWORD not in str(refusal.value)


async def test_the_one_that_takes_writes_is_found_wherever_it_stands(pair: Pair) -> None:
    for servers in ([pair.primary, pair.standby], [pair.standby, pair.primary]):
        url = url_of_all(servers, pair.url)
        assert (await migrate(url)).before is not None
        database = await PostgresDatabase.open(url)
        assert await database.fetchval(PORT) == pair.primary.port
        await database.close()


async def test_primary_that_becomes_read_only_under_a_connection_is_refused_until_it_is_not(pair: Pair) -> None:
    storage = await PostgresStorage.open(pair.url)
    thread = await storage.threads.create("ann")
    try:
        await pair.primary.configure(default_transaction_read_only="on")
        async with asyncio.timeout(5):  # a connection hears of a setting some time after the server has taken it
            while not await _is_refused(storage):
                pass
        with pytest.raises(Unavailable, match="takes no writes"):  # on a new connection
            await storage.threads.create("ann")
    finally:
        await pair.primary.configure(default_transaction_read_only="off")
    async with asyncio.timeout(5):
        while await _is_refused(storage):
            pass
    assert (await storage.threads.create("ann")).thread != thread.thread
    await storage.close()


async def _is_refused(storage: PostgresStorage) -> bool:
    try:
        await storage.threads.create("ann")
    except Unavailable:
        return True
    return False


async def test_server_that_says_nothing_holds_nobody_up(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never speaks, as one that is stopped
        port = silent.getsockname()[1]
        url = url_of_all([pair.primary], pair.url).replace("@", f"@127.0.0.1:{port},")
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        database = await PostgresDatabase.open(url)
        assert await database.fetchval(PORT) == pair.primary.port
        await database.look()
        assert loop.time() - begun_s < 5  # not the 10 s of an opening; measured: 0.9
        await database.close()


async def test_two_standbys_promoted_apart_from_each_other_are_two_logs(pair: Pair) -> None:
    url = await pair.primary.create_database()
    logs, places = [await log_of(url)], []
    for _ in range(2):
        standby = await asyncio.to_thread(pair.primary.standby)
        try:
            await standby.promote()
            logs += [await log_of(url_of_all([standby], url)) for _ in range(2)]
            places += await standby.execute(url_of_all([standby], url).partition("?")[0], PLACE)
        finally:
            await asyncio.to_thread(standby.remove)
    assert places[0] == places[1], "the same timeline of the same system"
    assert (logs[1], logs[3]) == (logs[2], logs[4])
    assert len({logs[0], logs[1], logs[3]}) == 3


async def log_of(url: str) -> str:
    database = await PostgresDatabase.open(url)
    await database.close()
    return database.log


async def test_who_was_left_behind_by_a_promotion_is_never_gone_back_to(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test here: the standby is a primary afterwards."""
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    monkeypatch.setattr(module, "_LOOK_ELSEWHERE_S", 0.0)
    there, only_old = await PostgresDatabase.open(pair.both), await PostgresDatabase.open(pair.url)
    log = there.log
    assert only_old.log == log
    await there.look()
    assert there.log == log, "a standby is no news"
    await pair.primary.hold_back()
    await pair.standby.promote()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(_error_of(there.fetchval("SELECT 1 FROM pg_sleep(2)")))
        await asyncio.sleep(0.05)
        await there.look()
    assert isinstance(asked.result(), Unavailable), "what was under way at the old one is no answer any more"
    assert await there.fetchval(PORT) == pair.standby.port
    assert there.log != log
    # Who can reach only the old one cannot know; but it is another log, so that no client mixes the two.
    await only_old.look()
    assert only_old.log == log
    late = await PostgresDatabase.open(pair.both)  # the old one stands first in the URL, and takes writes
    assert (late.log, await late.fetchval(PORT)) == (there.log, pair.standby.port)
    pair.standby.kill()
    with pytest.raises(Unavailable):
        await there.fetchval("SELECT 1")  # on a connection that is dead
    with pytest.raises(Unavailable, match="left behind by a promotion"):
        await there.fetchval("SELECT 1")
    pair.standby.restart()
    assert await there.fetchval(PORT) == pair.standby.port
    for database in (there, only_old, late):
        await database.close()


async def _error_of(work: Awaitable[object]) -> Exception | None:
    try:
        await work
    except Unavailable as error:
        return error
    return None
