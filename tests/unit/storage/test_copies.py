"""A copy of a data file is whole, is of one moment, and begins a history of its own."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from runwire.errors import ConfigurationError, Conflict, Unavailable
from runwire.storage.base import IncomingMessage
from runwire.storage.migrations import REVISIONS
from runwire.storage.migrations.upgrade import upgrade
from runwire.storage.placing import placed
from runwire.storage.sqlite.archives import import_file
from runwire.storage.sqlite.backup import back_up_file
from runwire.storage.sqlite.copies import copy_database
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.storage import SqliteStorage

REFRESH_KEY, SIGNING_KEY = b"refresh-key-of-the-old-world", b"signing-key-of-the-old-world"


_FILL = "INSERT INTO user (id, iss, sub, created_at) VALUES (?1, 'i', ?1 || printf('%.*c', 4000, 'x'), 0)"


async def used(path: Path) -> SqliteStorage:
    storage = await SqliteStorage.open(path)
    ann = await storage.auth.create_user("ann")
    await storage.auth.create_session(
        ann.user, session="ses_1", epoch=1, client="c", refresh_key=REFRESH_KEY, ttl_s=600
    )
    await storage.auth.create_signing_key("kid", SIGNING_KEY)
    await storage.auth.create_link(ann.user, secret_hash=b"l" * 32, ttl_s=600)
    await storage.runs.send(IncomingMessage(user=ann.user, thread=None, agent="a", content="hello"))
    await storage.runs.claim("w", agents=["a"], limit=1, user_limit=1)
    return storage


async def test_each_restore_of_a_copy_is_another_history(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")
    ann = (await storage.auth.list_users())[0].user
    before = await storage.auth.snapshot(revoked_within_s=60)
    done = await storage.upkeep.backup(tmp_path / "copy")
    assert (done.log, done.size_bytes) == (storage.log, (tmp_path / "copy").stat().st_size)
    logs, generations = {storage.log}, {before.generation}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "copy", tmp_path / name / "runwire.db")
        for _ in range(2):  # the second start finds what the first one made
            restored = await SqliteStorage.open(tmp_path / name / "runwire.db")
            logs.add(restored.log)
            generations.add((await restored.auth.snapshot(revoked_within_s=60)).generation)
            assert restored.database.incarnation > storage.database.incarnation
            await restored.close()
        restored = await SqliteStorage.open(tmp_path / name / "runwire.db")
        assert await restored.auth.session("ses_1") is None
        assert await restored.auth.signing_keys() == []
        assert [thread.head for thread in await restored.threads.list(ann)] == [1]
        # What ran is nobody's here, and goes on under the next attempt.
        assert [claim.attempt for claim in await restored.runs.claim("w", agents=["a"], limit=1, user_limit=1)] == [2]
        await restored.close()
    assert len(logs) == len(generations) == 3
    assert await storage.auth.session("ses_1") is not None
    await storage.close()


async def test_a_copy_has_no_secret_that_signs_in_not_even_in_free_pages(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")
    await storage.upkeep.backup(tmp_path / "copy")
    await storage.close()
    content = (tmp_path / "copy").read_bytes()
    for secret in (REFRESH_KEY, SIGNING_KEY, b"l" * 32):
        assert secret in (tmp_path / "runwire.db").read_bytes()
        assert secret not in content
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


async def test_a_copy_has_nothing_that_was_deleted(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")

    def write_and_delete(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA secure_delete = OFF")  # as most builds of SQLite have it
        connection.execute("UPDATE thread SET title = 'canary-in-a-row' || printf('%.*c', 500, 'x')")
        connection.executemany(_FILL, [(f"canary-in-a-page-{n}",) for n in range(50)])

    await storage.database.write(write_and_delete)
    await storage.database.write(lambda c: c.execute("DELETE FROM user WHERE id LIKE 'canary%'"))
    await storage.database.write(lambda c: c.execute("UPDATE thread SET title = NULL"))
    await storage.upkeep.backup(tmp_path / "copy")
    await storage.close()
    before, after = (tmp_path / "runwire.db").read_bytes(), (tmp_path / "copy").read_bytes()
    for canary in (b"canary-in-a-row", b"canary-in-a-page"):
        assert canary in before
        assert canary not in after


async def test_a_copy_is_of_one_moment_however_long_it_takes(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "runwire.db")
    path, steps = tmp_path / "runwire.db", 0
    filler = [("th_" + str(n), 1, "x" * 4_000) for n in range(768)]

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO user (key, id, iss, sub, created_at) VALUES (1, 'u', 'i', 's', 0)")
        connection.executemany(
            "INSERT INTO thread (id, user_key, title, created_at, updated_at) VALUES (?1, ?2, ?3, 0, 0)", filler
        )

    await database.write(fill)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(sqlite3.connect(path)) as source:

        def change(_done: int, _total: int) -> None:
            """Commit between two steps: a row at the beginning of the file and one at its end."""
            nonlocal steps
            steps += 1
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE thread SET title = 'late' WHERE key IN (1, (SELECT max(key) FROM thread))")
            other.execute("INSERT INTO user (id, iss, sub, created_at) VALUES (?1, 'i', ?1, 0)", (f"late{steps}",))
            other.execute("COMMIT")

        source.isolation_level = None
        copy_database(source, tmp_path / "copy", progress=change)
    assert steps > 2
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert copy.execute("SELECT count(*) FROM user").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM thread WHERE title = 'late'").fetchone() == (0,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    await database.close()


def test_what_a_killed_process_acknowledged_is_in_a_copy_of_what_it_left(tmp_path: Path) -> None:
    path = tmp_path / "data" / "runwire.db"
    last: dict[str, int] = {}
    program = Path(__file__).with_name("owner.py")
    with subprocess.Popen([sys.executable, program, path, "append"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in itertools.islice(process.stdout, 400):
                thread, _, seq = line.split() if line != "open\n" else ("", "", "0")
                last[thread] = int(seq)
        finally:
            process.kill()
    assert path.with_name("runwire.db-wal").stat().st_size > 0
    back_up_file(path, tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        heads = dict(copy.execute("SELECT id, head FROM thread"))
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert all(heads[thread] >= seq for thread, seq in last.items() if thread)


async def test_a_backup_that_nobody_waits_for_any_more_leaves_nothing(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")
    (tmp_path / "out").mkdir()
    await storage.database.write(lambda connection: connection.executemany(_FILL, [(n,) for n in range(2_000)]))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await storage.upkeep.backup(tmp_path / "out" / "copy")
    assert list((tmp_path / "out").iterdir()) == []
    await storage.close()


async def test_text_at_the_end_of_a_data_file_is_no_seal(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    await (await SqliteDatabase.open(path)).close()
    seal = b"\nrunwire-backup 1 sha256:%s bytes:%020d\n" % (b"0" * 64, path.stat().st_size - 117)
    with path.open("r+b") as file:
        file.seek(-len(seal), os.SEEK_END)
        assert file.read() == b"\0" * len(seal), "the end of the last page must be unused"
        file.seek(-len(seal), os.SEEK_END)
        file.write(seal)
    await (await SqliteDatabase.open(path)).close()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
async def test_a_backup_of_an_older_release_is_migrated_however_it_is_restored(tmp_path: Path, revision: str) -> None:
    old = tmp_path / "old.db"
    upgrade(old, revision=revision)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("INSERT INTO meta (key, log, incarnation) VALUES (1, 'k3x9', 7)")
        connection.commit()
    assert back_up_file(old, tmp_path / "copy").log == "k3x9"
    (tmp_path / "put").mkdir()
    shutil.copy(tmp_path / "copy", tmp_path / "put" / "runwire.db")
    import_file(tmp_path / "imported" / "runwire.db", tmp_path / "copy")
    logs = {"k3x9"}
    for name in ("put", "imported"):
        database = await SqliteDatabase.open(tmp_path / name / "runwire.db")
        assert database.incarnation == 8
        logs.add(database.log)
        await database.close()
    # And what that migration kept is a copy itself.
    kept = tmp_path / "put" / f"runwire.db.{revision}.backup"
    (tmp_path / "kept").mkdir()
    shutil.copy(kept, tmp_path / "kept" / "runwire.db")
    database = await SqliteDatabase.open(tmp_path / "kept" / "runwire.db")
    logs.add(database.log)
    await database.close()
    assert len(logs) == 4


async def test_a_backup_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")
    await storage.database.write(lambda connection: connection.execute("UPDATE alembic_version SET version_num = 'x'"))
    await storage.upkeep.backup(tmp_path / "copy")
    await storage.close()
    with pytest.raises(Exception, match=r"newer release \(revision x\): upgrade Runwire"):
        import_file(tmp_path / "new" / "runwire.db", tmp_path / "copy")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["runwire.db.lock"]


async def test_what_was_copied_by_other_means_is_another_history_when_it_is_imported(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")
    with closing(sqlite3.connect(tmp_path / "raw.db")) as raw, closing(sqlite3.connect(tmp_path / "runwire.db")) as own:
        own.backup(raw)
    with pytest.raises(Exception, match="in use, not a backup"):
        import_file(tmp_path / "new" / "runwire.db", tmp_path / "runwire.db")
    import_file(tmp_path / "new" / "runwire.db", tmp_path / "raw.db")
    restored = await SqliteStorage.open(tmp_path / "new" / "runwire.db")
    assert restored.log != storage.log
    assert await restored.auth.session("ses_1") is None
    await restored.close()
    await storage.close()


async def test_a_damaged_copy_is_refused_at_the_start_and_left_alone(tmp_path: Path) -> None:
    storage = await used(tmp_path / "runwire.db")
    await storage.upkeep.backup(tmp_path / "copy")
    await storage.close()
    damaged = (tmp_path / "copy").read_bytes().replace(b"hello", b"hallo")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "runwire.db").write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="damaged backup"):
            await SqliteDatabase.open(tmp_path / "new" / "runwire.db")
    assert (tmp_path / "new" / "runwire.db").read_bytes() == damaged


def place(path: Path, content: str, *, fails: bool = False, rival: str | None = None) -> None:
    with placed(path) as part:
        part.write_text(content)
        if rival is not None:
            path.write_text(rival, encoding="utf-8")
        if fails:
            raise RuntimeError


def test_a_file_is_placed_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError):
        place(path, "half", fails=True)
    assert list(tmp_path.iterdir()) == []
    with placed(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(Conflict, match="is there already"), placed(path):
        raise AssertionError("nobody should write for a name that is taken")
    with pytest.raises(Conflict):  # somebody was quicker
        place(tmp_path / "late", "mine", rival="theirs")
    assert (tmp_path / "late").read_text() == "theirs"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict), placed(tmp_path / "dangling"):
        pass
    assert not (tmp_path / "nowhere").exists()

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    with placed(tmp_path / "fat") as part:
        part.write_text("whole")
    assert (tmp_path / "fat").read_text() == "whole"
    with pytest.raises(Conflict):
        place(tmp_path / "fat2", "mine", rival="theirs")
    assert (tmp_path / "fat2").read_text() == "theirs"
    with pytest.raises(Unavailable, match="cannot be written"), placed(tmp_path / "no" / "folder"):
        pass
    assert not list(tmp_path.glob(".runwire-*"))


@pytest.mark.parametrize("name", [".", "/", ".."])
async def test_a_folder_is_no_place_for_a_copy(tmp_path: Path, name: str) -> None:
    await (await SqliteStorage.open(tmp_path / "runwire.db")).close()
    with pytest.raises(Conflict, match="is there already"):
        back_up_file(tmp_path / "runwire.db", Path(name))
