"""What `runwire test` refuses before anything runs, what it remembers, and its reports."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from runwire.errors import ConfigurationError
from runwire.testing import reports
from runwire.testing.categories import STANDARD, Category, Project
from runwire.testing.results import Record, Results
from runwire.testing.runner import Options, categories, run
from runwire.testing.services import missing
from runwire.testing.spread import unit
from runwire.testing.verdict import judge, summary


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "-p no:cacheprovider"\n')
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_one.py").write_text("def test_good(): pass\ndef test_bad(): assert 0, '<&>'\n")
    (tmp_path / "tests" / "test_golden_path.py").write_text("def test_it(): pass\n")
    return tmp_path


def _refused(project: Path, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        run(Options(**{"categories": ["unit"], **options}), place=project, say=lambda _: None)
    return "\n".join(refused.value.faults)


@pytest.fixture
def mute() -> Iterator[int]:
    """Listen, take whoever comes, and say something that is neither PostgreSQL nor Redis."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(64)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def test_a_service_that_is_not_there_is_named_and_nothing_runs(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = taken.getsockname()[1]
        said = _refused(project, services=[f"postgresql://ada:hush@127.0.0.1:{port}/x", f"redis://127.0.0.1:{port}"])
    assert said.count("does not answer") == 2
    assert f"postgresql://127.0.0.1:{port}" in said
    assert "hush" not in said


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_what_listens_and_is_something_else_is_named(mute: int, kind: str) -> None:
    assert f"127.0.0.1:{mute} is no " in (missing(f"{kind}://127.0.0.1:{mute}") or "")


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense", "", "redis://host:port"])
def test_what_is_no_service_is_refused_by_name(url: str) -> None:
    assert "postgresql://" in (missing(url) or "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"categories": []}, "Name a category"),
        ({"categories": ["unti"]}, "no category unti"),
        ({"categories": ["chaos"]}, "tests/chaos"),
        ({"reports": [Path("x.pdf")]}, "What kind of report is x.pdf"),
        ({"reports": [Path("no/where/x.xml")]}, "there is no folder"),
        ({"last_failed": True}, "leave --last-failed out"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(project: Path, options: dict[str, Any], said: str) -> None:
    assert said in _refused(project, **options)


def test_without_pytest_a_sentence_says_what_to_install(project: Path) -> None:
    words = ["runwire", "test", "--category", "unit", "--max-workers", "2"]
    code = "import sys; sys.modules['pytest'] = sys.modules['xdist'] = None; from runwire.__main__ import main"
    command = [sys.executable, "-c", f"{code}; sys.argv = {words}; main()"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    said = "Not installed for this Python: pytest and pytest-xdist. Say: pip install 'runwire[test]'"
    assert done.stderr.strip() == said


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[tool.runwire.test", "not TOML"),
        ("[tool.runwire.test]\nmarkers = 1", "has no markers"),
        ("[tool.runwire.test]\nmarker = 1", "marker is text"),
        ("[tool.runwire.test]\ntogether = 'x'", "together is a list"),
        ("[tool.runwire.test.categories]\nunit = 'tests'", "categories.unit is a table"),
        ("[tool.runwire.test.categories]\nunit = { path = 'x' }", "categories.unit has no path"),
        ("[tool.runwire.test.categories]\nunit = { never_skips = 1 }", "true or false"),
    ],
)
def test_what_pyproject_says_wrongly_is_named(project: Path, toml: str, said: str) -> None:
    (project / "pyproject.toml").write_text(toml)
    assert said in _refused(project)


def test_a_category_is_a_folder_or_files_named_like_it_or_what_pyproject_says(project: Path) -> None:
    found = Project.around(project / "tests" / "unit").categories
    assert set(STANDARD) <= set(found)
    assert found["unit"].paths == ("tests/unit",)
    assert found["golden_path"].paths == ("tests/test_golden_path.py",)
    assert found["all"].paths == ("tests",)
    assert [line.endswith("has none") for line in categories(project) if line.startswith("chaos")] == [True]
    (project / "pyproject.toml").write_text(
        '[tool.runwire.test]\nmarker = "not slow"\n[tool.runwire.test.categories]\nunit = { paths = ["a", "b/"] }\n'
    )
    one = Category(name="one", purpose="", paths=("tests/a.py::test_x",))
    names = ("tests/a.py::test_x", "tests/a.py::test_x[1]", "tests/a.py::test_xy", "tests/a.py::test_y")
    assert [one.has(name) for name in names] == [True, True, False, False]
    unit_of = Project.at(project).categories["unit"]
    assert (unit_of.paths, unit_of.marker) == (("a", "b"), "not slow")


def test_what_failed_is_run_again_alone_and_forgotten_when_it_is_good(project: Path) -> None:
    out = project / "report.json"

    def tested(*, last_failed: bool) -> list[str]:
        options = Options(categories=["all"], last_failed=last_failed, reports=[out])
        run(options, place=project, say=lambda _: None)
        return sorted(name.partition("::")[2] for name in json.loads(out.read_text(encoding="utf-8"))["tests"])

    assert tested(last_failed=False) == ["test_bad", "test_good", "test_it"]
    (project / "tests" / "unit" / "test_one.py").write_text("def test_good(): pass\ndef test_bad(): pass\n")
    assert tested(last_failed=True) == ["test_bad"]
    assert "leave --last-failed out" in _refused(project, last_failed=True)
    (project / "tests" / "unit" / "test_one.py").write_text("def test_bad(): assert 0\n")
    assert tested(last_failed=False) == ["test_bad", "test_it"]
    (project / "tests" / "unit" / "test_one.py").rename(project / "tests" / "unit" / "test_other.py")
    assert "leave --last-failed out" in _refused(project, last_failed=True), "its file is gone"


UNIT = Category(name="unit", purpose="", paths=("tests/unit",), never_skips=True)


def _found() -> dict[str, Any]:
    results = Results()
    results.collected = {"tests/unit/a.py::test_a", "tests/unit/a.py::test_b", "tests/unit/a.py::test_c"}
    results.tests["tests/unit/a.py::test_a"] = Record("passed", 0.5)
    results.tests["tests/unit/a.py::test_b"] = Record("failed", 0.25, evidence="E <boom> & ``` \x1b[31mred\x00")
    results.tests["tests/unit/a.py::test_c"] = Record("skipped", why="no moon")
    results.broken = {"tests/unit/d.py": "E SyntaxError: no colon"}
    return summary([UNIT], results, judge([UNIT], results), seconds=1.0)


def test_every_report_has_what_failed_and_what_did_not_run(tmp_path: Path) -> None:
    found = _found()
    assert len(found["faults"]) == 3
    for end in (".json", ".xml", ".md", ".html"):
        path = tmp_path / f"report{end}"
        assert reports.refused(path) is None
        reports.write(path, found)
        text = path.read_text(encoding="utf-8")
        for word in ("test_b", "boom", "was skipped", "could not be collected", "no colon", "no moon"):
            assert word in text or (word, end) == ("no moon", ".xml"), (end, word)
    tree = ElementTree.fromstring((tmp_path / "report.xml").read_text(encoding="utf-8"))
    (suite,) = tree.findall("testsuite")
    counted = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": 4, "failures": 2, "errors": 1, "skipped": 0}
    assert len(suite.findall("testcase")) == 4
    assert [case.attrib["name"] for case in suite if case.find("failure") is not None] == ["test_b", "test_c"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;boom&gt;" in page
    assert "http" not in page
    assert "<script" not in page


def test_a_fault_of_no_test_is_an_error_in_junit(tmp_path: Path) -> None:
    results = Results(broken={"tests/unit/b.py": "SyntaxError"})
    found = summary([UNIT], results, judge([UNIT], results), seconds=1.0)
    reports.write(tmp_path / "report.xml", found)
    (suite,) = ElementTree.fromstring((tmp_path / "report.xml").read_text(encoding="utf-8")).findall("testsuite")
    assert (suite.attrib["errors"], suite.attrib["tests"]) == ("1", "1")


def test_tests_of_a_folder_that_shares_go_together_and_others_by_file() -> None:
    folders = ("tests/cluster",)
    assert unit("tests/cluster/test_a.py::test_x", folders) == "tests/cluster"
    assert unit("tests/clusters/test_a.py::test_x", folders) == "tests/clusters/test_a.py"
