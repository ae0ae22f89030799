"""docs/reference/settings.md is what the code says, and the command beside it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire.guide import docs_root
from runwire.settings import RULES, Settings, reference

PAGE = docs_root() / "reference" / "settings.md"


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert reference.with_tables(page) == page, "run `make docs`"
    for name in [*Settings.model_fields, *(rule.id for rule in RULES)]:
        assert f"| `{name}` |" in page


def test_a_page_that_is_behind_is_seen_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / reference.PAGE
    page.parent.mkdir(parents=True)
    page.write_text(PAGE.read_text(encoding="utf-8").replace("| `port` | `8000` |", "| `port` | `80` |"), "utf-8")
    monkeypatch.chdir(tmp_path)
    assert reference.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert reference.main(["--write"]) == 0
    assert reference.main(["--check"]) == 0
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert reference.main([]) == 2
