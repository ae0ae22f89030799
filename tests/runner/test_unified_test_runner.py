"""The runner on small projects of its own: every way of running nothing is a failure with a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PROJECT = """
[tool.pytest.ini_options]
markers = ["campaign: long"]
addopts = "-p no:cacheprovider"

[tool.runwire.test]
marker = "not campaign"

[tool.runwire.test.categories]
conformance = { paths = ["tests/conformance"], never_skips = true }
campaign = { paths = ["tests"], marker = "campaign" }
"""
RUNNER = Path(__file__).parent.parent / "unified_test_runner.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "security").mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    shutil.copy(RUNNER, tmp_path / "tests")
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    (project / "tests" / name).write_text(text)


def run(project: Path, *words: str) -> tuple[int, str, dict[str, Any]]:
    report = project / "report.json"
    command = [sys.executable, "tests/unified_test_runner.py", *words, "--report", str(report)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=50, check=False)
    found = json.loads(report.read_text()) if report.exists() else {}
    return done.returncode, done.stdout + done.stderr, found


def test_a_category_with_passing_tests_passes_and_the_report_lists_them(project: Path) -> None:
    write(project, "unit/test_one.py", "def test_true(): pass\ndef test_also(): pass\n")
    status, said, report = run(project, "--category", "unit", "--no-docker", "--fast-fail", "--max-workers", "1")
    assert status == 0, said
    assert report["ok"] is True
    assert report["counts"] == {"passed": 2, "failed": 0, "skipped": 0, "not_run": 0}
    assert set(report["tests"]) == {"tests/unit/test_one.py::test_true", "tests/unit/test_one.py::test_also"}


def test_a_folder_with_a_conftest_of_its_own_runs(project: Path) -> None:
    write(project, "unit/conftest.py", "import pytest\n@pytest.fixture\ndef one(): return 1\n")
    write(project, "unit/test_one.py", "def test_one(one): assert one == 1\n")
    status, said, report = run(project, "--category", "unit")
    assert status == 0, said
    assert report["counts"]["passed"] == 1


def test_an_unknown_category_is_an_error_that_names_the_known(project: Path) -> None:
    status, said, _ = run(project, "--category", "unti")
    assert status == 2
    assert "no category unti" in said
    assert "mission_critical" in said


def test_no_category_is_an_error(project: Path) -> None:
    assert run(project)[0] == 2


def test_a_category_whose_folder_is_missing_is_an_error(project: Path) -> None:
    status, said, _ = run(project, "--category", "mission_critical")
    assert status == 2
    assert "tests/mission_critical" in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_empty_category_beside_a_full_one_is_an_error(project: Path, workers: str) -> None:
    write(project, "unit/test_one.py", "def test_true(): pass\n")
    status, said, report = run(project, "--category", "unit,security", "--max-workers", workers)
    assert status == 1
    assert "the category security has no test" in said
    assert report["counts"]["passed"] == 1


def test_a_failure_fails_and_fast_fail_stops_there(project: Path) -> None:
    write(project, "unit/test_one.py", "def test_first(): assert 0\ndef test_second(): pass\n")
    status, said, report = run(project, "--category", "unit", "--fast-fail")
    assert status == 1
    assert "tests/unit/test_one.py::test_first failed" in said
    assert report["not_run"] == {"tests/unit/test_one.py::test_second": "stopped before it"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_syntax_error_is_a_failure_with_a_sentence(project: Path, workers: str) -> None:
    write(project, "unit/test_one.py", "def test_true(): pass\n")
    write(project, "unit/test_two.py", "def test_broken(:\n")
    status, said, _ = run(project, "--category", "unit", "--max-workers", workers)
    assert status == 1
    assert "test_two.py" in said


def test_the_workers_are_as_many_as_asked_for(project: Path) -> None:
    for name in "abc":
        write(
            project, f"unit/test_{name}.py", "import os\ndef test_who(): open(str(os.getpid()) + '.pid', 'w').close()\n"
        )
    status, said, report = run(project, "--category", "unit", "--max-workers", "2")
    assert status == 0, said
    assert report["counts"]["passed"] == 3
    assert len(list(project.glob("*.pid"))) == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_process_that_dies_is_a_failure_and_says_in_which_test(project: Path, workers: str) -> None:
    write(project, "unit/test_one.py", "import os\ndef test_lives(): pass\ndef test_dies(): os._exit(0)\n")
    status, said, report = run(project, "--category", "unit", "--max-workers", workers)
    assert status == 1
    assert any("tests/unit/test_one.py::test_dies" in fault for fault in report["faults"]), report["faults"]
    assert report["tests"]["tests/unit/test_one.py::test_lives"]["outcome"] == "passed", said
    assert report["tests"]["tests/unit/test_one.py::test_dies"]["outcome"] == "failed", "though its setup was good"
    assert (report["counts"]["passed"], report["counts"]["failed"]) == (1, 1)


def test_whoever_ends_the_runner_ends_the_tests_and_still_sees_what_ran(project: Path) -> None:
    write(
        project, "unit/test_one.py", "import time\ndef test_a(): pass\ndef test_b(): open('b', 'w'); time.sleep(60)\n"
    )
    command = [sys.executable, "tests/unified_test_runner.py", "--category", "unit", "--report", "report.json"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        until_s = time.monotonic() + 30
        while not (project / "b").exists():
            assert time.monotonic() < until_s
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 1, said
    report = json.loads((project / "report.json").read_text())
    assert report["tests"]["tests/unit/test_one.py::test_a"]["outcome"] == "passed"
    assert "pytest ended with status 2" in report["faults"]


def test_what_was_skipped_is_named_with_its_reason(project: Path) -> None:
    write(
        project,
        "unit/test_one.py",
        "import pytest\ndef test_a(): pass\n@pytest.mark.skip(reason='no moon')\ndef test_b(): 0\n",
    )
    status, said, report = run(project, "--category", "unit")
    assert status == 0, said
    assert "no moon" in report["not_run"]["tests/unit/test_one.py::test_b"]


def test_a_critical_test_never_skips(project: Path) -> None:
    (project / "tests" / "conformance").mkdir()
    write(project, "conformance/test_one.py", "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('later')\n")
    status, said, _ = run(project, "--category", "conformance")
    assert status == 1
    assert "was skipped, which conformance never does" in said


def test_campaigns_run_only_when_asked_for(project: Path) -> None:
    write(project, "unit/test_one.py", "import pytest\ndef test_a(): pass\n@pytest.mark.campaign\ndef test_b(): pass\n")
    assert run(project, "--category", "all")[2]["counts"]["passed"] == 1
    assert set(run(project, "--category", "campaign")[2]["tests"]) == {"tests/unit/test_one.py::test_b"}


def test_processes_that_tests_start_find_byte_code_though_none_is_wanted_beside_the_sources(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    write(project, "mine.py", "")
    write(
        project,
        "unit/test_one.py",
        "import subprocess as s, sys\ndef test_a(): s.run([sys.executable, '-c', 'import tests.mine'], check=True)\n",
    )
    status, said, _ = run(project, "--category", "unit")
    assert status == 0, said
    assert [path.name for path in project.rglob("mine.*.pyc")] == [f"mine.{sys.implementation.cache_tag}.pyc"]
    assert not list(project.rglob("__pycache__"))
