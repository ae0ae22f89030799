"""Every case of identity has a test that exists, and every line of the ASVS that we answer for is answered."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ASVS = ROOT / "docs" / "reference" / "asvs.md"
CASES = ROOT / "docs" / "reference" / "identity-cases.md"
LINES = {
    *(f"4.4.{n}" for n in range(1, 5)),
    *(f"7.1.{n}" for n in range(1, 4)),
    *(f"7.2.{n}" for n in range(1, 5)),
    *(f"7.3.{n}" for n in range(1, 3)),
    *(f"7.4.{n}" for n in range(1, 6)),
    *(f"7.5.{n}" for n in range(1, 4)),
    *(f"7.6.{n}" for n in range(1, 3)),
    *(f"9.1.{n}" for n in range(1, 4)),
    *(f"9.2.{n}" for n in range(1, 5)),
    *(f"10.3.{n}" for n in range(1, 6)),
    *(f"10.4.{n}" for n in range(1, 17)),
}


def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def _missing(text: str) -> list[str]:
    """Return the tests that a page's text links to and that do not exist."""
    return [
        f"{file}::{name}"
        for file, name in re.findall(r"\]\(\.\./\.\./tests/([^)#]+)(?:#([^)]+))?\)", text)
        if not (ROOT / "tests" / file).is_file() or (name and name not in _tests_of(ROOT / "tests" / file))
    ]


def test_every_case_of_identity_is_there_once_and_shown_by_tests_that_exist() -> None:
    text = CASES.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([AB]\d+) \| .+ \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert [case for case, _ in rows] == [*(f"A{n}" for n in range(1, 21)), *(f"B{n}" for n in range(1, 25))]
    assert [case for case, shown in rows if not re.search(r"\]\(\.\./\.\./tests/[^)#]+#test_", shown)] == []
    assert _missing(text) == []


def test_a_test_that_is_named_for_a_case_is_in_its_row_and_no_other() -> None:
    text = CASES.read_text(encoding="utf-8")
    named = {
        case: re.findall(r"#(test_[^)]+)\)", shown)
        for case, shown in re.findall(r"^\| ([AB]\d+) \| .+ \| .+ \| (.+) \|$", text, re.MULTILINE)
    }
    wrong = [
        (case, name)
        for case, names in named.items()
        for name in names
        if (said := re.match(r"test_([ab])(\d\d)_", name)) and f"{said[1].upper()}{int(said[2])}" != case
    ]
    assert wrong == []


def test_every_line_of_the_asvs_is_answered_once_and_by_a_test_or_a_reason() -> None:
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \| ([123]) \| (.+?) \| (.+) \|$", ASVS.read_text("utf-8"), re.MULTILINE)
    answered = [line for line, *_ in rows]
    assert sorted(answered) == sorted(LINES)
    for line, _, _, shown in rows:
        assert "](../../tests/" in shown or len(shown) >= 10, line
    linked = [line for line, *_, shown in rows if "](../../tests/" in shown]
    assert len(linked) >= 28, "most lines are shown by tests"


def test_every_test_that_the_asvs_page_names_exists() -> None:
    text = ASVS.read_text(encoding="utf-8")
    assert _missing(text) == []
    assert text.count("](../../tests/") >= 40
