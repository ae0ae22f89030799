"""`runwire doctor source` names each second home, with file and line; this checkout has none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import runwire
from runwire.app.source import examination
from runwire.app.source.examination import CHECKS, look_through
from runwire.app.source.tree import Tree
from runwire.cli.main import make_app
from runwire.errors import NotFound

ROOT = Path(__file__).parents[3]
PACKAGE = Path(runwire.__file__).parent
# What the rules look for at home, so that nothing but the fault is found in the copy.
HOMES = (
    *("__init__.py", "errors.py", "protocol/codes.py", "protocol/events.py", "protocol/sayings.py", "auth/tokens.py"),
    *("storage/sqlite/log.py", "storage/sql/sqlite.sql", "storage/sql/postgres_functions.sql"),
    *("storage/postgres/driver.py", "storage/redis/link.py", "agents/context.py", "agents/failures.py"),
    *("agents/options.py", "client/connect.py", "client/sign_in.py", "resilience/breaker.py"),
)
READ = [name for name in CHECKS if name not in ("generated", "contracts")]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a small checkout: each concept's home, and a page."""
    for name in HOMES:
        place = tmp_path / "src" / "runwire" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, place)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("    from runwire import Context\n", encoding="utf-8")
    return tmp_path


def found(root: Path, check: str) -> list[tuple[str, str]]:
    return [(finding.where, finding.what) for finding in CHECKS[check](Tree(root))]


def test_everything_in_this_checkout_has_one_home() -> None:
    looked = list(look_through(ROOT))
    assert [one.check for one in looked] == list(CHECKS)
    assert [(one.check, one.findings, one.reason) for one in looked if one.state != "ok"] == []


@pytest.mark.parametrize("check", READ)
def test_a_copy_of_the_homes_alone_is_in_order(copy: Path, check: str) -> None:
    assert found(copy, check) == []


@pytest.mark.parametrize(
    ("check", "path", "text", "what"),
    [
        ("codes", "gateway/more.py", 'class Why(StrEnum):\n    OPEN = "run_active"', ":2 Why spells `run_active`"),
        ("codes", "protocol/events.py", 'class Kind(StrEnum):\n    X = "text_delta"', "Kind spells `text_delta`"),
        ("codes", "gateway/more.py", 'raise Unavailable("No.", code="run_activ")', ":1 `run_activ` is no code"),
        ("codes", "gateway/more.py", 'class Odd(NotFound):\n    code = "oddity"', ":2 `oddity` is no code"),
        ("codes", "gateway/more.py", "socket.close(4507)", ":1 4507 is a close code in digits"),
        ("seqs", "gateway/more.py", 'def move():\n    run("move_head")', ":1 executes move_head"),
        ("seqs", "storage/sqlite/log.py", 'def again():\n    run("move_head")', "executes move_head"),
        ("seqs", "storage/sql/more.sql", "-- name: jump\nUPDATE thread SET head = 1", "more.sql:1 jump moves"),
        ("verifier", "gateway/more.py", "from joserfc import jws", ":1 imports joserfc.jws"),
        ("verifier", "gateway/more.py", "import jwt\njwt.decode(text)", ":2 looks at a token's signature, too"),
        ("verifier", "auth/tokens.py", "def two(t):\n    jws.deserialize_compact(t)", "looks at a token's signature"),
        ("environment", "gateway/more.py", 'import os\nos.environ["X"]', ":2 reads the environment"),
        ("environment", "gateway/more.py", "from os import getenv", ":1 reads the environment"),
        ("databases", "gateway/more.py", "import asyncpg\nasyncpg.connect(url)", ":2 asyncpg.connect opens"),
        ("databases", "storage/postgres/driver.py", "asyncpg.create_pool(url)", "asyncpg.create_pool opens"),
        ("databases", "gateway/more.py", "import sqlite3\nsqlite3.connect(path)", ":2 sqlite3.connect opens"),
        ("databases", "gateway/more.py", "from redis.asyncio import Redis\nRedis()", ":2 Redis opens"),
        ("names", "gateway/more.py", '__all__ = ["Context"]\nclass Context: ...', ":2 `Context` is defined 2 times"),
        ("names", "../../docs/z.md", "from runwire.agents import Context", "docs/z.md:1 `Context` is imported from"),
    ],
)
def test_a_second_home_is_named(copy: Path, check: str, path: str, text: str, what: str) -> None:
    place = copy / "src" / "runwire" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    before = place.read_text(encoding="utf-8") + "\n" if place.exists() else ""
    place.write_text(before + text + "\n", encoding="utf-8")
    named = [f"{where} {said}" for where, said in found(copy, check)]
    assert [said for said in named if what in said], named
    assert all(Path(path).name in said for said in named), "nothing else is blamed"
    assert [other for other in READ if other != check and found(copy, other)] == []


@pytest.mark.parametrize(
    ("check", "home", "word", "what"),
    [
        ("seqs", "storage/sql/sqlite.sql", "-- name: move_head", "move_head moves no head"),
        ("seqs", "storage/sqlite/log.py", '"move_head"', "nothing executes move_head"),
        ("verifier", "auth/tokens.py", "deserialize_compact", "looks at no signature"),
    ],
)
def test_a_home_that_is_gone_is_named(copy: Path, check: str, home: str, word: str, what: str) -> None:
    place = copy / "src" / "runwire" / home
    text = place.read_text(encoding="utf-8")
    assert word in text
    place.write_text(text.replace(word, word.replace("move_head", "elsewhere").replace("deserialize", "d")), "utf-8")
    assert [said for _, said in found(copy, check) if what in said]


def test_a_page_that_is_not_as_its_command_makes_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    shutil.copytree(ROOT / "docs" / "reference", tmp_path / "docs" / "reference")
    page = tmp_path / "docs" / "reference" / "checks.md"
    page.write_text(page.read_text(encoding="utf-8") + "by hand\n", encoding="utf-8")
    monkeypatch.setattr(examination, "_GENERATORS", ("runwire.conformance.reference",))
    ((where, what),) = found(tmp_path, "generated")
    assert (where, what) == (
        "docs/reference",
        "docs/reference/checks.md is not what runwire.conformance.reference makes",
    )


def test_a_broken_contract_is_named(tmp_path: Path) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    contract = (
        "[importlinter]\nroot_package = runwire\n[importlinter:contract:x]\nname = Nobody needs errors\n"
        "type = forbidden\nsource_modules = runwire.protocol\nforbidden_modules = runwire.errors\n"
    )
    (tmp_path / ".importlinter").write_text(contract, encoding="utf-8")
    assert found(tmp_path, "contracts") == [(".importlinter", "broken: Nobody needs errors")]


def test_where_there_is_no_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is no checkout of Runwire"):
        list(look_through(tmp_path))
    done = CliRunner().invoke(make_app(["doctor"]), ["doctor", "source", "--root", str(tmp_path)])
    assert done.exit_code == 2
    assert "is no checkout of Runwire" in done.output


def test_the_command_says_what_and_where(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "CHECKS", {name: CHECKS[name] for name in READ})
    call = ["doctor", "source", "--root", str(copy)]
    assert CliRunner().invoke(make_app(["doctor"]), call).exit_code == 0
    (copy / "src" / "runwire" / "more.py").write_text("socket.close(4507)\n", encoding="utf-8")
    done = CliRunner().invoke(make_app(["doctor"]), call)
    assert done.exit_code == 1
    assert "\tmore.py:1\t4507 is a close code in digits; use the one of runwire.protocol" in done.output
    as_json = json.loads(CliRunner().invoke(make_app(["doctor"]), [*call, "--json"]).output)
    assert [one["check"] for one in as_json if one["state"] == "fault"] == ["codes"]
