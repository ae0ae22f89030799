"""What is written of a check: as a comment, for machines, for CI servers, and as a page."""

from __future__ import annotations

from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from xmlschema import XMLSchema

from runwire.conformance import FORMATS, Evidence, Report, Result, as_html, as_junit, as_markdown, as_text, reference
from runwire.conformance.report import Status, without
from runwire.testing import reports as written
from runwire.testing.categories import Category
from runwire.testing.results import Record, Results
from runwire.testing.verdict import judge, summary

NASTY = 'a-secret a <script>alert("1")</script> & ]]> \x00 \ud800 end'


def _result(case: str, status: Status, **more: Any) -> Result:
    return Result(case=case, category="golden_path", priority="p1", promise=f"{case} holds", status=status, **more)


@pytest.fixture
def report() -> Report:
    evidence = Evidence(expected="one event", seen=NASTY, position=7, frames=('{"op":"event","seq":7}', NASTY))
    evidence = without(evidence, ["a-secret"])  # as a check does with all of it
    return Report(
        url="https://agents.example.org",
        expect="five",
        started_at="2026-11-23T17:00:00+00:00",
        duration_s=1.5,
        server="runwire/0.1.0",
        results=(
            _result("welcome", "kept", duration_s=0.25),
            _result("once", "broken", evidence=(evidence,)),
            _result("five", "not_checked", why="expect is any"),
            Result(category="timing", case="reply", priority="p2", promise="in time", status="kept"),
        ),
        figures={"reply_p50_ms": 12.5},
        budget={"reply_ms": 2_000.0},
    )


def test_the_comment_says_all_that_a_reader_asks(report: Report) -> None:
    text = as_markdown(report)
    for wanted in (
        "Promises are broken (2 kept, 1 broken, 1 not checked)",
        "https://agents.example.org",
        "runwire/0.1.0",
        "| ❌ `golden_path` | 1 | 1 | 1 |",
        "### ❌ `golden_path/once`",
        "(at seq 7)",
        '| {"op":"event","seq":7}',
        "| reply | 12.5 | – | – | 2,000 |",
        "- `golden_path/five`: expect is any",
        "runwire check https://agents.example.org --only golden_path --expect five",
    ):
        assert wanted in text, wanted


def test_what_others_said_breaks_out_of_nothing_in_a_comment(report: Report) -> None:
    nasty = "````\n# <b>|\n```"
    (broken,) = report.of("broken")
    evidence = Evidence(expected=nasty, seen=nasty)
    results = (msgspec.structs.replace(broken, evidence=(evidence,) * 5), *(_result("x", "not_checked", why=nasty),))
    text = as_markdown(msgspec.structs.replace(report, results=results))
    assert text.count("`````\nexpected: ````\n# <b>|\n```") == 4, (
        "in a longer fence than any in it; two are folded into one"
    )
    assert "- all of" not in text
    assert "- `golden_path/x`: ```` # &lt;b>\\| ```" in text
    assert "<summary>2 more like it</summary>" in text


def test_a_reason_is_told_once_with_all_that_it_kept_away(report: Report) -> None:
    away = [_result(case, "not_checked", why="needs a key") for case in ("a", "b")]
    others = [
        Result(category="timing", case=case, priority="p2", promise="", status="not_checked", why="needs a key")
        for case in "cd"
    ]
    kept = _result("welcome", "kept")
    text = as_markdown(msgspec.structs.replace(report, results=(kept, *away, *others)))
    assert "- `golden_path/a`, `golden_path/b`, all of `timing`: needs a key" in text
    nothing = msgspec.structs.replace(report, results=(*away, *others), problem="needs a key")
    assert "- everything: needs a key" in as_markdown(nothing)
    good = msgspec.structs.replace(report, results=(kept,))
    assert "Not checked" not in as_markdown(good) + as_html(good)


def test_the_terminal_has_words_to_paste_into_an_issue(report: Report) -> None:
    text = as_text(report)
    assert "to paste into an issue" in text
    assert "`golden_path/once` is broken: once holds" in text
    assert text.endswith(report.verdict)


def test_the_terminal_says_once_that_nothing_could_be_looked_at(report: Report) -> None:
    results = tuple(_result(case, "not_checked", why="nobody answers") for case in "ab")
    text = as_text(msgspec.structs.replace(report, results=results, problem="nobody answers", figures={}))
    assert len(text.splitlines()) == 2
    assert text.count("nobody answers") == 1


def test_junit_is_what_the_schema_of_the_ant_task_says(report: Report) -> None:
    root = ElementTree.fromstring(as_junit(report).split("\n", 1)[1])
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["golden_path", "timing"]
    for number, suite in enumerate(root):
        assert suite.get("id") == str(number)
        assert suite[0].tag == "properties"
        assert [child.tag for child in suite][-2:] == ["system-out", "system-err"]
        wanted = {"name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"}
        assert set(suite.keys()) == wanted
        assert "+" not in (suite.get("timestamp") or "+"), "the schema has no time zone"
        assert Decimal(suite.get("time") or "") >= 0
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("type") == "broken"
    assert "seen:     [secret] a <script>" in (failure.text or "")
    assert "\x00" not in (failure.text or "")


SCHEMA = XMLSchema(Path(__file__).parent / "data" / "junit.xsd")


def test_junit_of_a_check_is_valid_by_the_schema(report: Report) -> None:
    SCHEMA.validate(as_junit(report))


def test_junit_of_tests_is_valid_by_the_schema(tmp_path: Path) -> None:
    category = Category(name="unit", purpose="", paths=("tests/unit",), never_skips=True)
    results = Results(broken={"tests/unit/b.py": "SyntaxError"})
    results.collected = {f"tests/unit/a.py::test_{name}" for name in "abcd"}
    results.tests["tests/unit/a.py::test_a"] = Record("passed", 0.5)
    results.tests["tests/unit/a.py::test_b"] = Record("failed", 0.25, evidence=NASTY)
    results.tests["tests/unit/a.py::test_c"] = Record("skipped", why=NASTY)
    for chosen in ([category], []):
        found = summary(chosen, results, judge(chosen, results), seconds=1.0)
        written.write(tmp_path / "report.xml", found)
        SCHEMA.validate(tmp_path / "report.xml")
        kinds = {node.tag for node in ElementTree.parse(tmp_path / "report.xml").iterfind(".//testcase/*")}
        assert kinds >= {"failure", "error", "skipped"}


@pytest.mark.parametrize(
    ("old", "new"),
    [(' type="broken"', ""), ("</properties>", "</properties><x/>"), (' id="0"', ""), ('time="', 'time="-')],
)
def test_what_is_no_junit_is_not_valid(report: Report, old: str, new: str) -> None:
    text = as_junit(report)
    assert old in text
    assert not SCHEMA.is_valid(text.replace(old, new))


class _Links(HTMLParser):
    """Collects what a page would load, and the tags that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_the_page_needs_no_network_and_runs_nothing(report: Report) -> None:
    page = as_html(report)
    found = _Links()
    found.feed(page)
    assert found.loads == []
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "&lt;script&gt;" in page
    assert "Broken: golden_path/once" in page


def test_every_format_can_be_written_as_utf_8(report: Report) -> None:
    for kind, shown in FORMATS.items():
        assert shown(report).encode(), kind
        assert shown(report).endswith("\n"), kind


def test_the_reference_lists_all_cases_as_the_registry_has_them() -> None:
    written = (Path(__file__).parents[2] / reference.PAGE).read_text(encoding="utf-8")
    assert written == reference.page(), "run `make docs`"
