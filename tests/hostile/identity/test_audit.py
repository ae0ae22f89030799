"""`runwire audit`: what is in it comes out as JSON lines, from where one wants; and it has nothing secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runwire import app
from runwire.cli.main import make_app
from runwire.settings import load
from runwire.storage.base_audit import AuditEntry
from runwire.storage.open import open_storage


async def written(folder: Path, count: int) -> None:
    settings = load({"data_dir": folder}, environ={}, serves=False).settings
    await app.administer(settings, "user_list")  # makes the folder and the database
    storage = await open_storage(settings.storage_url)
    for number in range(count):
        entry = AuditEntry(
            actor=f"usr_{number}",
            actor_kind="user",
            action="user.disable",
            subject="usr_x",
            detail={"reason": "left\n"},
        )
        await storage.auth.record(entry)
    await storage.close()


@pytest.fixture
async def audited(tmp_path: Path) -> Path:
    await written(tmp_path, 700)
    return tmp_path


def printed(folder: Path, *words: str) -> list[str]:
    done = CliRunner().invoke(make_app(), ["audit", "--data-dir", str(folder), *words])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_every_row_is_one_line_of_json_in_order(audited: Path) -> None:
    rows = [json.loads(line) for line in printed(audited)]
    assert [row["actor"] for row in rows] == [f"usr_{number}" for number in range(700)], "more than a page"
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    assert set(rows[0]) == {"seq", "at", "actor", "actor_kind", "action", "subject", "address", "detail"}
    assert rows[0]["at"].endswith("Z")


@pytest.mark.parametrize(("since", "count"), [("1h", 700), ("2020-01-01", 700), ("2100-01-01T00:00:00+02:00", 0)])
def test_what_is_older_is_left_out(audited: Path, since: str, count: int) -> None:
    assert len(printed(audited, "--since", since)) == count


def test_a_moment_that_is_none_is_said_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(make_app(), ["audit", "--data-dir", str(tmp_path), "--since", "yesterday"])
    assert done.exit_code == 2
