"""docs/reference/errors.md and metrics.md are what the code says, and the command beside them says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import runwire
from runwire.app.pages import errors, metrics
from runwire.app.pages.__main__ import FOLDER, main, pages
from runwire.guide import docs_root
from runwire.protocol.codes import CloseCode, ErrorCode, RunFailure
from runwire.protocol.meanings import CLOSES, ERRORS, FAILURES

PACKAGE = Path(runwire.__file__).parent


def test_the_pages_are_what_the_code_says() -> None:
    for name, text in pages().items():
        assert (docs_root() / "reference" / name).read_text(encoding="utf-8") == text, "run `make docs`"


def test_a_page_that_is_behind_is_seen_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / FOLDER).mkdir(parents=True)
    assert main(["--check"]) == 1
    assert "out of date: errors.md, metrics.md" in capsys.readouterr().err
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0
    page = tmp_path / FOLDER / "metrics.md"
    page.write_text(page.read_text(encoding="utf-8") + "by hand\n", encoding="utf-8")
    assert main(["--check"]) == 1
    assert main([]) == 2


def test_every_code_there_is_has_a_meaning() -> None:
    assert list(ERRORS) == list(ErrorCode)
    assert list(FAILURES) == list(RunFailure)
    assert list(CLOSES) == list(CloseCode)


def test_every_exception_that_people_import_is_told_of() -> None:
    public = {name for name in runwire.__all__ if isinstance(getattr(runwire, name), type)}
    raised = {name for name in public if issubclass(getattr(runwire, name), Exception)}
    assert {"CircuitOpen", "ToolFailed"} <= raised
    told = set(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| `\w+` \|", errors.page(), flags=re.MULTILINE))
    assert {(name, "runwire") for name in raised} <= told
    assert {"CallFailed", "OverLimit"} <= {name for name, _ in told}


def test_every_error_of_oauth_that_is_answered_has_a_meaning() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (PACKAGE / "auth" / "service").glob("*.py"))
    answered = {name for source in sources for name in re.findall(r'problem\(.*\berror="(\w+)"', source)}
    assert answered == {name for name, _ in errors.OAUTH}


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('Counter("a_total_of_it", "", registry=r)', "write name and meaning"),
        ('Counter(name, "Some.", registry=r)', "write name and meaning"),
        ('Gauge("a_figure", "Some.", ["user"], registry=r)', "say in BOUNDS .* what the label `user` may be"),
        ('Gauge("a_figure", "Some.", labels_of(it), registry=r)', "write the labels out"),
        ('Gauge("a_figure", "Some.")\nGauge("a_figure", "Other.")', "a_figure is made in two places"),
    ],
)
def test_a_figure_that_the_page_cannot_tell_of_is_refused(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "room.py").write_text(f"from prometheus_client import Counter, Gauge\n{source}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        metrics.figures(tmp_path)


def test_a_figure_is_read_as_its_definition_says(tmp_path: Path) -> None:
    source = 'more = ("op",)\nCounter("a_of_it", documentation="How many.", labelnames=("code", *more))'
    (tmp_path / "room.py").write_text(f"from prometheus_client import Counter\n{source}\n", encoding="utf-8")
    (tmp_path / "other.py").write_text('from collections import Counter\nCounter("no figure")\n', encoding="utf-8")
    (figure,) = metrics.figures(tmp_path)
    assert figure == metrics.Figure("a_of_it", "counter", "How many", ("code", "op"))
    assert figure.shown == "a_of_it_total"
