"""A PostgreSQL database that was put back to an older state is another log, by each of PostgreSQL's own ways."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.postgres import ADMIN, PASSWORD, PostgresServer

from runwire.errors import Unavailable
from runwire.storage.base import IncomingMessage
from runwire.storage.postgres import database as module
from runwire.storage.postgres.storage import PostgresStorage

MESSAGE = IncomingMessage(user="ann", thread=None, agent="a", content="x" * 2_000)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """Start a PostgreSQL whose files a test may replace."""
    server = PostgresServer.start(tmp_path / "server")
    yield server
    server.remove()


async def filled(url: str) -> PostgresStorage:
    """Give a database a user with a session, and a thread with a message."""
    storage = await PostgresStorage.open(url)
    ann = await storage.auth.create_user("ann")
    await storage.auth.create_session(
        ann.user, session="ses_1", epoch=1, client="c", refresh_key=b"refresh-me", ttl_s=60
    )
    await storage.runs.send(MESSAGE)
    return storage


async def answered(storage: PostgresStorage) -> None:
    """Do what every process does all the time, until it is answered: connections may be dead, or of the old log."""
    for _ in range(2):
        with suppress(Unavailable):
            await storage.auth.events_after(0)
    await storage.auth.events_after(0)


async def log_of(url: str) -> str:
    storage = await PostgresStorage.open(url)
    await storage.close()
    return storage.log


def restored(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "RUNWIRE_DATABASE_URL": url}
    command = [sys.executable, "-m", "runwire", "storage", "restored"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.timeout(60)
async def test_files_put_back_under_servers_that_saw_more_are_another_log(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    url = await own_server.create_database()
    one, other = await filled(url), await PostgresStorage.open(url)
    log, generation = one.log, (await one.auth.events_after(0)).generation
    copy = own_server.folder / "copy"
    await asyncio.to_thread(own_server.base_backup, copy)
    lost = (await one.runs.send(MESSAGE)).thread
    for storage in (one, other):
        await storage.auth.events_after(0)  # as every process does all the time
    await asyncio.to_thread(own_server.put_back, copy)
    for storage in (one, other):
        await answered(storage)
    assert one.log == other.log != log
    assert (await one.auth.events_after(0)).generation != generation, "views of users are read anew"
    assert await one.auth.session("ses_1") is None, "who had signed out meanwhile is signed in by it no more"
    assert lost not in {row.thread for row in await one.threads.list("ann")}
    for storage in (one, other):
        await storage.close()


@pytest.mark.timeout(60)
async def test_crash_is_no_step_back(own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    url = await own_server.create_database()
    storage = await filled(url)
    log = storage.log
    for _ in range(3):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(storage.runs.send(MESSAGE))
        await storage.auth.events_after(0)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.restart)
        await answered(storage)
        assert storage.log == log
    await storage.close()


@pytest.mark.timeout(60)
async def test_files_put_back_while_no_server_ran_are_another_log_once_it_is_said(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    url = await own_server.create_database()
    storage = await filled(url)
    log = storage.log
    await storage.close()
    copy = own_server.folder / "copy"
    await asyncio.to_thread(own_server.base_backup, copy)
    await asyncio.to_thread(own_server.put_back, copy)
    assert await log_of(url) == log, "nobody is left who could know: this is why it must be said"
    told = await asyncio.to_thread(restored, url, tmp_path)
    assert told.returncode == 0, told.stderr
    now = await log_of(url)
    assert now != log
    assert f"another history now (log {now})" in told.stdout
    assert PASSWORD not in told.stdout + told.stderr
    storage = await PostgresStorage.open(url)
    assert await storage.auth.session("ses_1") is None
    await storage.close()


@pytest.mark.timeout(60)
async def test_dump_restored_elsewhere_and_a_recovery_are_other_logs_by_themselves(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    url = await own_server.create_database()
    storage = await filled(url)
    threads = await storage.threads.list("ann")
    await storage.close()
    logs = [storage.log]
    # pg_dump, into another database
    there = await own_server.create_database(is_empty=True)
    dump = own_server.folder / "db.dump"
    server = ("-h", "127.0.0.1", "-p", str(own_server.port), "-U", ADMIN)
    name, name_there = (one.rpartition("/")[2] for one in (url, there))
    await asyncio.to_thread(own_server.program, "pg_dump", *server, "-Fc", "-f", dump, name)
    await asyncio.to_thread(
        own_server.program, "pg_restore", *server, "--no-owner", "--role=runwire", "-d", name_there, dump
    )
    copied = await PostgresStorage.open(there)
    assert await copied.threads.list("ann") == threads
    await copied.runs.send(MESSAGE)  # with its functions, and keys that go on
    logs.append(copied.log)
    await copied.close()
    # the same dump over the database itself: that must be said
    await asyncio.to_thread(
        own_server.program, "pg_restore", *server, "--clean", "--no-owner", "--role=runwire", "-d", name, dump
    )
    assert await log_of(url) == logs[0]
    assert (await asyncio.to_thread(restored, url, tmp_path)).returncode == 0
    logs.append(await log_of(url))
    # point-in-time recovery
    copy = own_server.folder / "copy"
    await asyncio.to_thread(own_server.base_backup, copy)
    how = {"restore_command": "false", "recovery_target": "immediate", "recovery_target_action": "promote"}
    await asyncio.to_thread(own_server.put_back, copy, "recovery.signal", **how)
    async with asyncio.timeout(20):
        while True:
            try:
                logs.append(await log_of(url))
                break
            except Unavailable:
                await asyncio.sleep(0.05)  # it is recovering
    assert len(set(logs)) == 4, logs


async def test_data_folder_needs_no_telling(tmp_path: Path) -> None:
    told = await asyncio.to_thread(restored, f"sqlite:///{tmp_path}/runwire.db", tmp_path)
    assert told.returncode == 78
    assert "needs no telling" in told.stderr
