"""Every case of resilience and operations is on its page once, with tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reference" / "resilience-cases.md"
CASES = [*(f"C{n}" for n in range(1, 15)), *(f"D{n}" for n in range(1, 11))]


@cache
def _tests_of(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_"))


def test_every_case_is_there_once_and_shown_by_tests_that_exist() -> None:
    rows = re.findall(r"^\| ([CD]\d+) \| .+ \| .+ \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [case for case, _ in rows] == CASES
    missing = []
    for case, shown in rows:
        links = re.findall(r"\]\(\.\./\.\./tests/([^)#]+)#([^)]+)\)", shown)
        assert links, f"{case} is shown by nothing"
        missing += [
            f"{case}: {file}::{name}"
            for file, name in links
            if not (ROOT / "tests" / file).is_file() or name not in _tests_of(ROOT / "tests" / file)
        ]
    assert missing == []
