"""No statement walks through a whole table: what is polled must not grow with the history."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runwire.storage.migrations.upgrade import upgrade
from runwire.storage.sql import load

BLOCKS = {
    name: text for name, text in load("sqlite.sql").items() if re.match(r"SELECT|INSERT|UPDATE|DELETE|WITH", text)
}
SMALL = {"meta", "tables", "revision", "ping"}  # one row, or read once at start
FIGURES = {"count_threads", "count_runs", "count_users", "count_segments", "count_blobs"}  # asked for by people


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path: Path = tmp_path_factory.mktemp("plans") / "runwire.db"
    upgrade(path)
    with closing(sqlite3.connect(path)) as opened:
        yield opened


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - SMALL - FIGURES))
def test_statement_uses_an_index(connection: sqlite3.Connection, name: str) -> None:
    text = BLOCKS[name]
    numbers = [int(number) for number in re.findall(r"\?(\d+)", text)]
    values = ("{}",) * max(numbers, default=0)
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    whole = [step for step in steps if re.fullmatch(r"SCAN (run|thread|segment|user|blob|pinned|wait|[a-z])", step)]
    assert whole == []
