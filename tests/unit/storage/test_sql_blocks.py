"""Files of named SQL blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runwire.storage import sql
from runwire.storage.sql import blocks, load

STORAGE = Path(blocks.__file__).parents[1]


def test_blocks_are_found_by_name_without_their_comments() -> None:
    text = load("sqlite.sql")
    assert text["commit"] == "COMMIT"
    assert "--" not in "".join(text.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1\n-- name: a\nSELECT 2\n", "before the first name"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n", "twice"),
        ("-- name: a\n-- name: b\nSELECT 2\n", "empty blocks a"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setattr(blocks, "__file__", str(tmp_path / "blocks.py"))
    (tmp_path / "wrong.sql").write_text(text)
    with pytest.raises(ValueError, match=message):
        load("wrong.sql")


def test_every_block_is_used_and_none_is_missing() -> None:
    source = "".join(file.read_text() for file in STORAGE.rglob("*.py"))
    used = set(re.findall(r'"([a-z_]+)"', source))
    files = list(Path(sql.__file__).parent.glob("*.sql"))
    migrations = "".join(file.read_text() for file in (STORAGE / "migrations" / "versions").glob("*.py"))
    # What a migration loads it executes as a whole, and so is a new data file made.
    wholes = {file.name for file in files if f'"{file.name}"' in migrations} | {"sqlite_tables.sql"}
    names = {name for file in files if file.name not in wholes for name in load(file.name)}
    assert names <= used
    asked = set(re.findall(r'_SQL\["([a-z_]+)"\]', source))
    assert asked <= names


def test_one_statement_moves_a_threads_head() -> None:
    moving = {
        (file.name, name)
        for file in Path(sql.__file__).parent.glob("*.sql")
        for name, text in load(file.name).items()
        if re.search(r"\bhead\s*=", text, re.IGNORECASE) and "UPDATE" in text.upper()
    }
    assert moving == {("sqlite.sql", "move_head"), ("postgres_functions.sql", "runwire_extend")}
    users = [file.name for file in STORAGE.rglob("*.py") if '_SQL["move_head"]' in file.read_text()]
    assert users == ["log.py"]
