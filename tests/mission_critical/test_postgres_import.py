"""An import into PostgreSQL is killed, again and again, and goes on; nobody is served half of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.postgres import PASSWORD, PostgresServer
from tests.unit.storage.test_postgres_transfer import exported_from
from tests.unit.storage.test_transfer import content, exported, source

from runwire.errors import ConfigurationError, Conflict, ProtocolError, Unavailable
from runwire.storage.base import IncomingMessage
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.postgres.importing import import_database
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.sqlite.storage import SqliteStorage

__all__ = ["source"]  # a fixture: a data file that has one of everything

_LINES = "SELECT lines FROM unfinished_import"
_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'runwire import' AND wait_event_type = 'Lock'"
_LAST_THREAD = "SELECT 1 FROM thread ORDER BY key DESC LIMIT 1 FOR UPDATE"


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    made = await postgres_server.create_database()
    yield made
    await postgres_server.drop_database(made)


@pytest.fixture
async def file(source: Path, tmp_path: Path) -> Path:
    """An export with more of some kinds than one transaction stores."""
    storage = await SqliteStorage.open(source)
    (ann, *_) = await storage.auth.list_users()
    for thread in (None, None):
        for n in range(300):
            sent = await storage.runs.send(IncomingMessage(user=ann.user, thread=thread, agent="a", content=str(n)))
            thread = sent.thread
    await storage.close()
    path = tmp_path / "all.jsonl"
    path.write_bytes(await asyncio.to_thread(exported, source))
    return path


def begun(url: str, file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runwire", "storage", "import", str(file)]
    environment = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "RUNWIRE_DATABASE_URL": url}
    return subprocess.Popen(
        command, cwd=file.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def written(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


@asynccontextmanager
async def held(url: str, sql: str) -> AsyncIterator[None]:
    """Hold a lock that somebody will wait for."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            assert await connection.execute(sql) in ("LOCK TABLE", "SELECT 1")
            yield
    finally:
        await connection.close()


async def killed_at(server: PostgresServer, url: str, file: Path, lock: str) -> int:
    """Kill an import when it waits for this lock; return how many lines are stored."""
    async with held(url, lock):
        process = begun(url, file)
        async with asyncio.timeout(30):
            while not (await server.execute(url, _WAITS))[0][0]:
                assert process.poll() is None, process.communicate()
                await asyncio.sleep(0.02)
        process.kill()
        await asyncio.to_thread(process.communicate)
    lines: int = (await server.execute(url, _LINES))[0][0]
    return lines


@pytest.mark.timeout(90)
async def test_import_that_is_killed_anywhere_goes_on_and_doubles_nothing(
    file: Path, source: Path, url: str, postgres_server: PostgresServer
) -> None:
    whole = await asyncio.to_thread(file.read_bytes)
    places = ("LOCK TABLE auth_key", "LOCK TABLE wait", "LOCK TABLE segment", _LAST_THREAD, "LOCK TABLE blob")
    stored = [await killed_at(postgres_server, url, file, places[0])]
    with pytest.raises(ConfigurationError, match="half imported: run `runwire storage import`"):
        await PostgresDatabase.open(url)
    for text, refusal in ((b"not ours\n", ProtocolError), (await asyncio.to_thread(exported, source, "ann"), Conflict)):
        with pytest.raises(refusal):
            await import_database(url, written(file.with_name("other.jsonl"), text))
        assert (await postgres_server.execute(url, _LINES))[0][0] == stored[0], "what is there was not given up"
    stored += [await killed_at(postgres_server, url, file, place) for place in places[1:]]
    assert stored == sorted(set(stored)), f"each came further: {stored}"
    process = begun(url, file)
    said, told = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, told
    assert f"going on with the import that was stopped: {stored[-1]} lines are stored" in told
    assert PASSWORD not in said + told
    assert content(await exported_from(url)) == content(whole)
    storage = await PostgresStorage.open(url)
    assert (await storage.upkeep.stats()).counts["runs"] == 608
    await storage.close()


async def test_file_whose_end_is_damaged_leaves_nothing_of_a_resumed_import(
    file: Path, url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await killed_at(postgres_server, url, file, "LOCK TABLE segment") > 0
    whole = await asyncio.to_thread(file.read_bytes)
    with pytest.raises(ProtocolError, match="cut off"):
        await import_database(url, written(file, whole[: whole.rindex(b'"kind":"blob"')]))
    storage = await PostgresStorage.open(url)
    assert set((await storage.upkeep.stats()).counts.values()) == {0}
    await storage.close()
    await import_database(url, written(file, whole))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE thread SET title = 'another' WHERE title IS NOT NULL", "a value differs"),
        ("DELETE FROM auth_key WHERE id = 'key_1'", "1 of 2 api_key"),
    ],
)
async def test_what_the_database_does_not_have_at_the_end_is_named(
    change: str, fault: str, file: Path, url: str, postgres_server: PostgresServer
) -> None:
    assert await killed_at(postgres_server, url, file, "LOCK TABLE segment") > 0
    await postgres_server.execute(url, change)
    with pytest.raises(ProtocolError, match=fault):
        await import_database(url, file)


async def test_database_that_servers_use_is_not_imported_into(file: Path, url: str) -> None:
    storage = await PostgresStorage.open(url)
    with pytest.raises(Conflict, match="Servers use this database"):
        await import_database(url, file)
    await storage.ping()  # and they go on
    await storage.close()
    await import_database(url, file)


async def test_server_that_was_there_all_the_time_serves_nothing_of_it(
    file: Path, url: str, postgres_server: PostgresServer
) -> None:
    assert await killed_at(postgres_server, url, file, "LOCK TABLE segment") > 0
    await postgres_server.execute(url, "ALTER TABLE unfinished_import RENAME TO hidden")
    storage = await PostgresStorage.open(url)
    await postgres_server.execute(url, "ALTER TABLE hidden RENAME TO unfinished_import")
    with pytest.raises(Unavailable, match="half imported"):
        await storage.auth.events_after(0)  # it looks once a second, and this is the first time
    await storage.close()


async def test_two_imports_at_once_are_one(file: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.storage.postgres.importing._PATIENCE_S", 0.0)
    async with held(url, "LOCK TABLE auth_key"), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_refused(url, file))
        await asyncio.sleep(0.3)
        with pytest.raises(Conflict, match="under way"):
            await import_database(url, file)
    assert isinstance(first.result(), Unavailable), "it waited for a lock that was not given"
    assert (await import_database(url, file)).total() > 0, "and goes on when it is started again"


async def _refused(url: str, file: Path) -> Exception | None:
    try:
        await import_database(url, file)
    except Unavailable as error:
        return error
    return None
