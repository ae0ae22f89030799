"""One database or a list of them: how it is written, what is refused, and that no password is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire.errors import ConfigurationError
from runwire.settings import load

FIRST = "postgresql://ada:canary@one.example/runwire"
SECOND = "postgresql://ada:canary@two.example:5433/runwire"


def test_one_database_is_a_list_of_one(tmp_path: Path) -> None:
    alone = load(environ={"RUNWIRE_DATABASE_URL": FIRST}, serves=False).settings
    assert (alone.storage_urls, alone.storage_url, alone.is_shared) == ((FIRST,), FIRST, True)
    embedded = load({"data_dir": tmp_path}, environ={}).settings
    assert embedded.storage_urls == (f"sqlite://{tmp_path}/runwire.db",)
    assert load(environ={"RUNWIRE_DATABASE_URL": "sqlite:///a folder/b.db"}).settings.storage_urls == (
        "sqlite:///a folder/b.db",
    )


def test_several_come_from_the_environment_with_spaces_and_from_the_file_as_a_list_in_order(tmp_path: Path) -> None:
    from_environment = load(environ={"RUNWIRE_DATABASE_URL": f"{SECOND}\n  {FIRST} "}, serves=False).settings
    assert from_environment.storage_urls == (SECOND, FIRST)
    file = tmp_path / "runwire.toml"
    file.write_text(f'database_url = ["{FIRST}", "{SECOND}"]\n', encoding="utf-8")
    from_file = load(environ={}, config_file=file, serves=False).settings
    assert from_file.storage_urls == (FIRST, SECOND)
    assert from_file.shown_urls == ("postgresql://one.example/runwire", "postgresql://two.example:5433/runwire")


@pytest.mark.parametrize(
    ("urls", "word"),
    [
        (f"{FIRST} {FIRST}", "the 2. database is the 1. again"),
        (f"{FIRST} postgres://bob:canary@ONE.example:5432/runwire", "the 2. database is the 1. again"),
        (f"{FIRST} sqlite:///canary.db", "must all be PostgreSQL"),
        ("memory://canary memory://canary", "must all be PostgreSQL"),
        (f"{FIRST} mysql://canary/x", "write postgresql://"),
    ],
)
def test_a_list_that_cannot_be_is_refused_without_its_passwords(urls: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as refused:
        load(environ={"RUNWIRE_DATABASE_URL": urls})
    assert "canary" not in str(refused.value.faults)


def test_there_is_room_for_a_run_of_each_database() -> None:
    with pytest.raises(ConfigurationError, match="max_runs"):
        load(environ={"RUNWIRE_DATABASE_URL": f"{FIRST} {SECOND}", "RUNWIRE_MAX_RUNS": "1"})
