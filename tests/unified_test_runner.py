"""Run the tests of a category: a thin, honest layer over pytest.

    python3 tests/unified_test_runner.py --category mission_critical --no-docker --fast-fail --max-workers 1

A category maps to tests that exist, or it is an error; zero tests are never a success; what did not run is named. It
needs nothing but Python to start, and continues in the `.venv` of the project.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

ROOT = Path(__file__).resolve().parent.parent
OK, FAILED, USAGE = 0, 1, 2


@dataclass(frozen=True)
class Category:
    """A name for tests that belong together."""

    name: str
    purpose: str
    paths: tuple[str, ...]  # below the project's root; each must exist
    marker: str = "not campaign"  # pytest's -m
    never_skips: bool = False  # a skip is a failure: the promise was not looked at


CATEGORIES = (
    Category("unit", "every room's pure parts; seconds", ("tests/unit",)),
    Category("contract", "one suite per port, on every adapter", ("tests/contract",)),
    Category("protocol", "what may happen: frames, order, view, replay", ("tests/unit/protocol",)),
    Category("storage", "where truth lives", ("tests/unit/storage", "tests/contract")),
    Category("gateway", "who listens", ("tests/unit/gateway",)),
    Category("auth", "who you are", ("tests/unit/auth", "tests/contract/test_auth_store.py")),
    Category("runtime", "who runs it", ("tests/unit/agents", "tests/unit/runtime")),
    Category("client", "how a Python program listens", ("tests/unit/client",)),
    Category("guide", "the built-in agent and its page", ("tests/unit/guide",)),
    Category("conformance", "the checker against faulty servers", ("tests/conformance",), never_skips=True),
    Category("runner", "this runner", ("tests/runner",)),
    Category(
        "golden_path",
        "from a message through the five events to the stored answer",
        ("tests/unit/golden_path", "tests/mission_critical/test_websocket_basic_events.py"),
        never_skips=True,
    ),
    Category("mission_critical", "the promises, on real services", ("tests/mission_critical",), never_skips=True),
    Category("cluster", "each role a process: killed, restarted, alone", ("tests/cluster",), never_skips=True),
    Category("partitions", "networks between roles that carry nothing, or late", ("tests/partitions",)),
    Category("chaos", "crashes, full disks, clocks that jump: the short ones", ("tests/chaos",), never_skips=True),
    Category("fleet", "fifty faults on processes of every role", ("tests/fleet",), never_skips=True),
    Category("e2e", "started servers, real browser", ("tests/e2e",)),
    Category("oidc", "sign-in by another issuer, with a real one", ("tests/oidc",)),
    Category("deploy", "deploy/ against schemas, and behind real proxies", ("tests/deploy",)),
    Category("deploy_files", "deploy/ against schemas and settings", ("tests/deploy/files",)),
    Category("architecture", "rooms, names, one birthplace of seq", ("tests/test_architecture.py",)),
    Category("campaign", "the long fault campaigns", ("tests",), marker="campaign"),
    Category("all", "everything but the campaigns", ("tests",)),
)


@dataclass
class Record:
    """What happened to one test."""

    outcome: str
    seconds: float = 0.0
    why: str = ""


@dataclass(eq=False)  # pytest keeps plugins in sets
class Recorder:
    """A pytest plugin that remembers what was collected and what became of it, with and without xdist."""

    collected: set[str] = field(default_factory=set)
    tests: dict[str, Record] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # files that could not be collected

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected.update(item.nodeid for item in session.items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = self.tests.setdefault(report.nodeid, Record("passed"))
        record.seconds += report.duration
        if report.failed:
            record.outcome = "failed"
        elif report.skipped and record.outcome == "passed":
            record.outcome = "skipped"
            record.why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


class Collected:
    """The part of the recorder that only xdist calls; registered if xdist is there."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        self.recorder.collected.update(ids)


def main(argv: list[str]) -> int:
    """Run and return the exit status: 0 all passed, 1 something failed, 2 nothing could be run."""
    options = parse(argv)
    if options.list:
        for category in CATEGORIES:
            print(f"{category.name:17} {category.purpose} ({', '.join(category.paths)})")
        return OK
    names = [name for words in options.category for name in words.split(",") if name]
    by_name = {category.name: category for category in CATEGORIES}
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        said = f"There is no category {', '.join(unknown)}" if unknown else "Name a category with --category"
        return complain(f"{said}. There are: {', '.join(by_name)}.")
    chosen = [by_name[name] for name in dict.fromkeys(names)]
    for category in chosen:
        if missing := [path for path in category.paths if not (ROOT / path).exists()]:
            return complain(f"The category {category.name} names tests that do not exist: {', '.join(missing)}.")
    if importlib.util.find_spec("pytest") is None:
        return complain("pytest is not installed for this Python. Run `make setup` first.")
    return run(chosen, options)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", action="append", default=[], metavar="NAME[,NAME]", help="repeatable; see --list")
    parser.add_argument("--list", action="store_true", help="name the categories")
    parser.add_argument("--fast-fail", action="store_true", help="stop at the first failure")
    parser.add_argument("--max-workers", type=workers, default=1, metavar="N", help="processes that test at a time")
    parser.add_argument("--no-docker", action="store_true", help="always so: no test here uses a container")
    parser.add_argument("--report", type=Path, metavar="PATH", help="write what ran, as JSON")
    return parser.parse_args(argv)


def workers(text: str) -> int:
    """Read a count from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def complain(sentence: str) -> int:
    """Say why nothing was run."""
    print(f"unified_test_runner: {sentence}", file=sys.stderr)
    return USAGE


def run(chosen: list[Category], options: argparse.Namespace) -> int:
    """Run the chosen categories, one pytest session per marker expression, and report."""
    import pytest  # not at the top: --list and complaints work without it

    recorder, faults, began_s = Recorder(), list[str](), time.monotonic()
    print(f"Categories: {', '.join(c.name for c in chosen)}. No Docker: every service is a process of this machine.")
    for marker in dict.fromkeys(category.marker for category in chosen):
        status = pytest.main(arguments(chosen, marker, options), plugins=plugins(recorder, options))
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            faults.append(f"pytest ended with {pytest.ExitCode(status).name}")
        if options.fast_fail and status != pytest.ExitCode.OK:
            break
    faults += judge(chosen, recorder)
    summary = summarise(chosen, recorder, faults, seconds=time.monotonic() - began_s)
    show(summary)
    if options.report:
        options.report.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return FAILED if faults else OK


def arguments(chosen: list[Category], marker: str, options: argparse.Namespace) -> list[str]:
    """Return pytest's command line for the categories of one marker expression."""
    paths = dict.fromkeys(path for category in chosen if category.marker == marker for path in category.paths)
    words = [f"--rootdir={ROOT}", "-q", "-m", marker]
    if options.fast_fail:
        words.append("-x")
    if options.max_workers > 1:
        # A file is the unit, so that what its tests share is started once. Files keep their order, in which those with
        # few long tests come before the many short ones of `unit`: else one worker would end alone, with the longest.
        words += ["-n", str(options.max_workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    return [*words, *(str(ROOT / path) for path in paths)]


def plugins(recorder: Recorder, options: argparse.Namespace) -> list[object]:
    """Return what listens to pytest."""
    return [recorder, Collected(recorder)] if options.max_workers > 1 else [recorder]


def judge(chosen: list[Category], recorder: Recorder) -> list[str]:
    """Return a sentence for everything that keeps this from being a success."""
    faults = [f"{name} could not be collected" for name in recorder.broken]
    faults += [f"{name} failed" for name, test in recorder.tests.items() if test.outcome == "failed"]
    for category in chosen:
        names = [name for name in recorder.collected if belongs(name, category)]
        if not names and not recorder.broken:
            faults.append(f"the category {category.name} has no test")
        if category.never_skips:
            skipped = [name for name in names if name in recorder.tests and recorder.tests[name].outcome == "skipped"]
            faults += [f"{name} was skipped, which {category.name} never does" for name in skipped]
    if not recorder.tests and not faults:
        faults.append("no test ran")
    return faults


def belongs(name: str, category: Category) -> bool:
    """Return whether a test's id lies on a path of the category; the marker was pytest's to choose."""
    path = name.partition("::")[0]
    return any(path == wanted or path.startswith(f"{wanted}/") for wanted in category.paths)


def summarise(chosen: list[Category], recorder: Recorder, faults: list[str], *, seconds: float) -> dict[str, Any]:
    """Return what ran, what did not and why."""

    def counts(names: set[str]) -> dict[str, int]:
        found = [recorder.tests[name].outcome if name in recorder.tests else "not_run" for name in names]
        return {outcome: found.count(outcome) for outcome in ("passed", "failed", "skipped", "not_run")}

    return {
        "ok": not faults,
        "seconds": round(seconds, 1),
        "counts": counts(recorder.collected | set(recorder.tests)),
        "categories": {c.name: counts({n for n in recorder.collected if belongs(n, c)}) for c in chosen},
        "faults": faults,
        "not_run": dict.fromkeys(sorted(recorder.collected - set(recorder.tests)), "stopped before it")
        | {name: test.why for name, test in recorder.tests.items() if test.outcome == "skipped"},
        "tests": {
            name: {"outcome": test.outcome, "seconds": round(test.seconds, 3)} for name, test in recorder.tests.items()
        },
    }


def show(summary: dict[str, Any]) -> None:
    """Print the summary for a person."""
    for name, counts in summary["categories"].items():
        print(f"  {name:17} " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    for name, why in list(summary["not_run"].items())[:20]:
        print(f"  not run: {name}: {why}")
    for fault in summary["faults"]:
        print(f"  FAULT: {fault}")
    print(f"{'PASSED' if summary['ok'] else 'FAILED'} in {summary['seconds']} s")


def continue_in_venv() -> None:
    """Become the same program in the project's environment, if there is one and this is not it."""
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    continue_in_venv()
    sys.exit(main(sys.argv[1:]))
