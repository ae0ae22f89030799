"""What start does with a data folder: makes it, migrates it, or says clearly why it does not."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import runwire.storage.schema_auth  # noqa: F401  # its tables join the same metadata
from runwire.errors import ConfigurationError
from runwire.protocol.events import MessageCompleted, TextDelta, emitted, pack
from runwire.storage import migrations
from runwire.storage.base import UserRow
from runwire.storage.migrations import REVISIONS, tables
from runwire.storage.migrations.upgrade import upgrade
from runwire.storage.schema import metadata
from runwire.storage.sqlite import prepare as preparing
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.prepare import prepare
from runwire.storage.sqlite.storage import SqliteStorage

FOLDER = Path(migrations.__file__).parent
_PARTS = re.compile(r",(?:\s+|$)(?![^()]*\))")  # a comma between two columns, none within brackets


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


async def test_empty_folder_is_made_and_migrated_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data folder" / "runwire.db"
    database = await SqliteDatabase.open(path)
    ((revision,),) = await database.read(
        lambda connection: connection.execute("SELECT version_num FROM alembic_version").fetchall()
    )
    assert revision == REVISIONS[-1]
    await database.write(lambda connection: connection.execute("UPDATE meta SET turn = 0"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    await database.close()


def test_start_on_a_new_or_a_migrated_file_imports_no_migration_tools(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from runwire.storage.open import open_storage\n"
        f"storage = asyncio.run(open_storage('sqlite://{tmp_path}/runwire.db'))\n"
        "print([name for name in ('alembic', 'sqlalchemy') if name in sys.modules])\n"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert outputs == ["[]\n", "[]\n"]


def test_list_of_revisions_is_that_of_the_migrations() -> None:
    assert sorted(file.stem for file in (FOLDER / "versions").glob("*.py")) == list(REVISIONS)
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    script = ScriptDirectory.from_config(config)
    assert [revision.revision for revision in script.walk_revisions()][::-1] == list(REVISIONS)


def test_migrations_make_the_tables_of_the_schema(tmp_path: Path) -> None:
    upgrade(tmp_path / "runwire.db")
    engine = create_engine(f"sqlite:///{tmp_path}/runwire.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    # Alembic compares neither partial conditions nor checks: compare what SQLite was told, too.
    engine = create_engine(f"sqlite:///{tmp_path}/schema.db")
    metadata.create_all(engine)
    engine.dispose()
    assert told(tmp_path / "runwire.db") == told(tmp_path / "schema.db")


def test_a_new_file_has_what_the_migrations_make(tmp_path: Path) -> None:
    assert tables.FILE.read_text() == tables.text(), "python -m runwire.storage.migrations.tables --write"
    upgrade(tmp_path / "migrated.db")
    prepared = prepare(tmp_path / "runwire.db")
    prepared.connection.close()
    prepared.lock.release()
    assert told(tmp_path / "runwire.db") == told(tmp_path / "migrated.db")
    rows = {path: filled(path) for path in (tmp_path / "runwire.db", tmp_path / "migrated.db")}
    generations = {made.pop("auth_counter")[0][1] for made in rows.values()}
    assert len({len(generation) for generation in generations}) == 1
    assert len(generations) == 2  # each file is a history of its own
    assert rows[tmp_path / "runwire.db"].pop("meta")[0][0] == 1
    assert rows[tmp_path / "runwire.db"] == rows[tmp_path / "migrated.db"] == {"alembic_version": [(REVISIONS[-1],)]}


def filled(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each table that has some."""
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
    return {name: rows for name, rows in found.items() if rows}


def test_a_new_file_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runwire.db"
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "REVISIONS", ())  # it cannot be stamped, after all tables
        with pytest.raises(IndexError):
            prepare(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []
    prepared = prepare(path)
    prepared.connection.close()
    prepared.lock.release()
    assert filled(path)["alembic_version"] == [(REVISIONS[-1],)]


def told(path: Path) -> dict[str, list[str]]:
    """Return each table's and index's definition as its sorted parts: a column added later stands elsewhere."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {
        name: sorted(part for line in sql.splitlines() for part in _PARTS.split(line.strip()) if part)
        for name, sql in rows
        if name != "alembic_version"
    }


@pytest.mark.parametrize("survived", REVISIONS[:-1])
async def test_older_file_is_copied_then_migrated(tmp_path: Path, survived: str) -> None:
    path = tmp_path / "runwire.db"
    upgrade(path, revision=survived)
    change(path, "INSERT INTO meta (key, log, incarnation) VALUES (1, 'k3x9', 7)")
    database = await SqliteDatabase.open(path)
    assert (database.log, database.incarnation) == ("k3x9", 8)
    await database.close()
    kept = tmp_path / f"runwire.db.{survived}.backup"
    assert kept.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(kept)) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (survived,)
        # Without its log: what is put back later goes on as another history.
        assert copy.execute("SELECT log, incarnation FROM meta").fetchone() == ("", 7)


async def test_accounts_of_an_older_file_stay_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    upgrade(path, revision="0008_places")
    user = ("usr_1", "ada", "disabled", 3, '["admin"]', "hash", 7)
    change(path, "INSERT INTO meta (key, log) VALUES (1, 'k3x9')")
    change(path, f"INSERT INTO auth_user VALUES {user}")
    change(path, "INSERT INTO auth_key VALUES ('key_1', 'usr_1', x'01', 'ci', 5, NULL, NULL, NULL)")
    change(path, "INSERT INTO auth_signing_key VALUES ('k1', x'02', 6)")
    storage = await SqliteStorage.open(path)
    row = await storage.auth.user_by_name("ada")
    assert row == UserRow(user="usr_1", name="ada", status="disabled", epoch=3, roles=("admin",), created_at=7)
    assert await storage.auth.password_hash("usr_1") == "hash"
    key = await storage.auth.key("key_1")
    assert key is not None
    assert (key.scopes, key.last_used_at, key.holder) == (("runwire",), None, row)
    (signing,) = await storage.auth.signing_keys()
    assert (signing.kid, signing.activates_at, signing.retires_at) == ("k1", 0, None)
    assert (await storage.auth.delete_user("usr_1")).status == "deleted"  # which the old table did not allow
    await storage.close()


async def test_file_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    await (await SqliteDatabase.open(path)).close()
    change(path, "UPDATE alembic_version SET version_num = '9999_future'")
    with pytest.raises(ConfigurationError, match=r"9999_future.*upgrade Runwire"):
        await SqliteDatabase.open(path)
    change(path, f"UPDATE alembic_version SET version_num = '{REVISIONS[-1]}'")
    await (await SqliteDatabase.open(path)).close()  # and the lock was given back


async def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.db", tmp_path / "text.db"
    change(foreign, "CREATE TABLE recipes (name TEXT)")
    text.write_text("this is no database, but long enough to be taken for one\n" * 100)
    before = text.read_bytes()
    with pytest.raises(ConfigurationError, match="not one of Runwire"):
        await SqliteDatabase.open(foreign)
    with pytest.raises(ConfigurationError, match="cannot be opened: file is not a database"):
        await SqliteDatabase.open(text)
    assert text.read_bytes() == before


async def test_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"data folder .*file"):
        await SqliteDatabase.open(tmp_path / "file" / "runwire.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(ConfigurationError, match=r"folder\.db cannot be opened"):
        await SqliteDatabase.open(tmp_path / "folder.db")


def test_migration_that_dies_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runwire.db"
    upgrade(path, revision=REVISIONS[0])
    before = told(path)
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            prepare(path)
    assert told(path) == before
    assert filled(path) == {"alembic_version": [(REVISIONS[0],)]}
    prepared = prepare(path)
    prepared.connection.close()
    prepared.lock.release()


def test_a_python_with_an_old_sqlite_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.37\.2; Runwire needs 3\.38\.0"):
        prepare(tmp_path / "data" / "runwire.db")
    assert list(tmp_path.iterdir()) == []


async def test_runs_of_an_older_file_are_compacted_and_trimmed(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    upgrade(path, revision="0002_auth")
    delta = emitted(TextDelta(message="m", offset=0, text="x"), ts=1)
    said = [delta, delta, emitted(MessageCompleted(message="m", content="xx"), ts=1)]
    statements = [
        "INSERT INTO meta (key, log) VALUES (1, 'k3x9')",
        "INSERT INTO user (key, id, iss, sub, created_at) VALUES (1, 'usr_1', 'builtin', 'usr_1', 1)",
        "INSERT INTO thread (key, id, user_key, head, created_at, updated_at) VALUES (1, 'th_1', 1, 10, 1, 1)",
    ]
    for key, status, terminal in ((1, "completed", 5), (2, "running", None)):
        seq = 5 * key - 4
        statements += [
            "INSERT INTO run (key, id, thread_key, user_key, agent, message, after, seq, status, started_seq,"
            f" terminal_seq, created_at, ended_at) VALUES ({key}, 'run_{key}', 1, 1, 'a', 'msg_{key}', {seq - 1},"
            f" {seq}, '{status}', {seq + 1}, {terminal or 'NULL'}, 1, {terminal or 'NULL'})",
            "INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, flags, events)"
            f" VALUES (1, {seq}, {seq}, {key}, 0, 0, x'5b5d'),"
            f" (1, {seq + 1}, {seq + 3}, {key}, 1, 1, x'{pack(said).hex()}'),"
            f" (1, {seq + 4}, {seq + 4}, {key}, 1, {2 if terminal else 0}, x'5b5d')",
        ]
    change(path, *statements)
    storage = await SqliteStorage.open(path)
    assert (await storage.upkeep.stats()).compactable_runs == 1
    assert (await storage.upkeep.compact(ended_before=2**53)).events == 2
    page = await storage.events.read("th_1", after=0)
    assert ([event.seq for event in page.events], page.through) == ([4, 7, 8, 9], 10)
    assert (await storage.upkeep.trim(ended_before=2**53, deleted_before=0)).runs == 0  # the second run goes on
    assert await storage.threads.delete("usr_1", "th_1") == ["run_2"]
    await storage.close()
