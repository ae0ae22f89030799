"""The way from a data file to PostgreSQL, and back: the same lines, whole or not at all."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.postgres import PostgresServer
from tests.unit.storage.test_transfer import CRAFTED, DAMAGES, content, exported, imported, resealed, source
from tests.unit.storage.test_transfer import written as line_of

from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.storage.postgres import importing, transfer
from runwire.storage.postgres.importing import import_database
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.postgres.transfer import export_database

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
    monkeypatch.setattr(importing, "_ROWS", 2)  # several rounds of everything
    monkeypatch.setattr(transfer, "_ROWS", 2)
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


async def test_what_a_data_file_refuses_is_refused_in_the_same_words(source: Path, url: str, tmp_path: Path) -> None:
    text = await asyncio.to_thread(exported, source)
    lines = text.splitlines(keepends=True)
    cases = [(damage(lines), sentence) for damage, sentence in DAMAGES.values()]
    for craft, sentence in CRAFTED.values():
        records = [json.loads(line) for line in lines]
        craft(records)
        cases.append((resealed([line_of(record) for record in records]), sentence))
    cases.append((b"SQLite format 3\0" + bytes(4096), "only a data file"))
    for damaged, sentence in cases:
        with pytest.raises(ProtocolError, match=sentence):
            await import_database(url, written(tmp_path, damaged))
    storage = await PostgresStorage.open(url)
    assert set((await storage.upkeep.stats()).counts.values()) == {0}
    assert await storage.auth.list_users() == []
    await storage.close()
    await import_database(url, written(tmp_path, text))  # and the way is free
