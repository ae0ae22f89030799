"""The way from a data file to PostgreSQL, and back: the same lines, whole or not at all."""

from __future__ import annotations

import asyncio
import io
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.postgres import PostgresServer
from tests.unit.storage.test_transfer import content, exported, imported, source

from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.storage.postgres import transfer
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.postgres.transfer import export_database, import_database

__all__ = ["source"]  # a fixture: a data file that has one of everything


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    made = await postgres_server.create_database()
    yield made
    await postgres_server.drop_database(made)


async def exported_from(url: str, user: str | None = None) -> bytes:
    out = io.BytesIO()
    await export_database(url, out, release="1", user_name=user)
    return out.getvalue()


def written(tmp_path: Path, text: bytes) -> Path:
    file = tmp_path / "export.jsonl"
    file.write_bytes(text)
    return file


async def test_data_file_goes_to_postgresql_and_back(
    source: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_ROWS", 2)  # several rounds of everything
    text = await asyncio.to_thread(exported, source)
    counts = await import_database(url, written(tmp_path, text))
    assert dict(counts) == {
        kind: number for kind, number in json.loads(text.splitlines()[0])["counts"].items() if number
    }
    there = await exported_from(url)
    assert content(there) == content(text)
    back = await asyncio.to_thread(imported, tmp_path, there)
    assert content(await asyncio.to_thread(exported, back)) == content(text)
    storage = await PostgresStorage.open(url)
    assert json.loads(there.splitlines()[0])["log"] == storage.log
    # What was running is claimed by the next worker, under the next attempt; what waited behind it waits.
    claims = await storage.runs.claim("w", agents=["a"], limit=9, user_limit=9)
    assert {claim.attempt for claim in claims} == {2}
    await storage.close()
    with pytest.raises(Conflict, match="not empty"):
        await import_database(url, written(tmp_path, text))


async def test_export_of_one_user_has_nobody_else(source: Path, url: str, tmp_path: Path) -> None:
    text = await asyncio.to_thread(exported, source)
    await import_database(url, written(tmp_path, text))
    mine = await exported_from(url, "ann")
    assert content(mine) == content(await asyncio.to_thread(exported, source, "ann"))
    assert b"bob" not in mine
    with pytest.raises(NotFound, match="no user eve"):
        await exported_from(url, "eve")


def changed(text: bytes, line: int, before: bytes, after: bytes) -> bytes:
    """Return an export with something else in a line, its checksum right."""
    lines = text.splitlines(keepends=True)
    assert before in lines[line - 1]
    body = lines[line - 1].replace(before, after)[18:-1]
    lines[line - 1] = b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body)
    return b"".join(lines)


async def test_damaged_export_leaves_nothing_and_names_the_line(source: Path, url: str, tmp_path: Path) -> None:
    text = await asyncio.to_thread(exported, source)
    lines = text.splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines, 1) if b'"kind":"run"' in line)
    thread = json.loads(lines[number - 1])["thread"].encode()
    wrong = {
        changed(text, number, thread, b"th_unknown"): f"Line {number}: this run names something",
        b"".join(lines[:-1]): "cut off",
        b"SQLite format 3\0" + bytes(4096): "only a data file",
    }
    for damaged, message in wrong.items():
        with pytest.raises(ProtocolError, match=message):
            await import_database(url, written(tmp_path, damaged))
    storage = await PostgresStorage.open(url)
    assert set((await storage.upkeep.stats()).counts.values()) == {0}
    assert await storage.auth.list_users() == []
    await storage.close()
