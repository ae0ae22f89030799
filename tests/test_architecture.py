"""What the architecture promises about itself: one birthplace of a seq, names, documentation of every event."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.protocol.codes import CloseCode, ErrorCode, RunFailure
from runwire.protocol.events import EventType

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "runwire"
DOCS = ROOT / "docs"


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 50, "the source tree was not found"
    for file in files:
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def test_architecture_names_the_birthplace() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert "storage/sqlite/log.py" in page
    assert "move_head" in page
    assert "EventLog.append" in page


def test_sql_lives_in_named_blocks_only() -> None:
    verbs = r"^\s*(select\b.*\bfrom\b|insert\s+(or\s+\w+\s+)?into\b|update\s+\w+\s+set\b|delete\s+from\b)"
    sql = re.compile(verbs, re.IGNORECASE | re.DOTALL)
    exempt = {"storage/migrations", "guide"}  # migrations are history; the guide's index is its own, in memory
    found = [
        (file.relative_to(SOURCE).as_posix(), leaf.value)
        for file, tree in _modules()
        if not any(file.relative_to(SOURCE).as_posix().startswith(room) for room in exempt)
        for leaf in ast.walk(tree)
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) and sql.match(leaf.value)
    ]
    assert found == []


def test_no_class_is_called_what_it_is_not() -> None:
    banned = re.compile(
        r"(Manager|Factory|Helper|Utils?|Processor|Orchestrator|Coordinator|Impl|Base)$|^_?(Abstract|My|New|Enhanced|Unified)"
    )
    found = [
        f"{file.relative_to(SOURCE)}: {node.name}"
        for file, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and banned.search(node.name)
    ]
    assert found == []


@pytest.mark.parametrize("word", [*EventType, *ErrorCode, *RunFailure, *(str(int(c)) for c in CloseCode)])
def test_the_documentation_mentions_every_event_and_code(word: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert re.search(rf"\b{re.escape(word)}\b", pages), f"docs/ never mention {word}"


def test_importing_the_package_is_quick_and_pulls_no_web_framework() -> None:
    code = (
        "import time; t = time.perf_counter(); import runwire; s = time.perf_counter() - t\n"
        "import sys; heavy = {'fastapi', 'uvicorn', 'sqlalchemy', 'pydantic', 'websockets'} & set(sys.modules)\n"
        "print(s); assert not heavy, heavy; assert s < 0.3, s"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_no_working_place_leaks_into_the_tree() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    leaks = []
    for name in tracked.stdout.split():
        if name in {"uv.lock", "tests/test_architecture.py"} or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_text(encoding="utf-8", errors="ignore")
        leaks += [f"{name}: {word}" for word in ("/work/", "files.pythonhosted", "/root/") if word in text]
    assert leaks == []


def test_every_name_of_the_composition_root_is_found_and_a_command_to_a_server_imports_none_of_it() -> None:
    code = (
        "import runwire.cli.accounts, sys; heavy = {'fastapi', 'uvicorn', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy; from runwire import app; [getattr(app, name) for name in app.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
