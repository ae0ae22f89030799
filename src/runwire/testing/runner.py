"""Run the tests of categories: a thin, honest layer over pytest and pytest-xdist.

A category maps to tests that exist, or it is an error; zero tests are never a success; what did not run is named, and a
process that died is a failure. No test here uses a container: what tests need runs as processes of this machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runwire.errors import ConfigurationError
from runwire.testing import reports, services
from runwire.testing.categories import Category, Project
from runwire.testing.results import Results
from runwire.testing.verdict import judge, summary

__all__ = ["Options", "categories", "run"]

_MEMORY: Final = Path(".pytest_cache") / "runwire" / "failed.json"  # below the project's root
_BYTE_CODE: Final = Path(".pytest_cache") / "runwire" / "byte_code"
_ENDINGS: Final = (0, 1, 5)  # of pytest: passed, failed, nothing collected; what that means is judged here
_SHOWN: Final = 20  # tests that did not run, in the terminal; reports have all


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run."""

    # names, each maybe several with commas between
    categories: Sequence[str]
    # stop at the first failure
    fast_fail: bool = False
    # processes that test at a time, from 1
    workers: int = 1
    # `auto`, or URLs of what the tests shall use instead of what they start
    services: Sequence[str] = ()
    # .json, .xml (JUnit), .md, .html
    reports: Sequence[Path] = ()
    # only what failed when it ran last
    last_failed: bool = False
    # that many of the slowest are shown
    durations: int = 0


def run(options: Options, *, place: Path, say: Callable[[str], None]) -> bool:
    """Run tests and return whether that is a success.

    Args:
        options: what to run, and how.
        place: a folder of the project.
        say: shows a line.

    Raises:
        ConfigurationError: nothing was run: what was asked for is not there.
    """
    project = Project.around(place)
    chosen = _chosen(project, options)
    only = _failed_before(project, chosen) if options.last_failed else None
    _check(options)
    results, faults, began_s = Results(), list[str](), time.monotonic()
    say(f"Categories: {', '.join(c.name for c in chosen)}. No Docker: what is started is a process of this machine.")
    lent = [services.shown(url) for url in options.services]
    if lent:
        say(f"The fixture runwire_server uses {' and '.join(lent)}.")
    for marker in dict.fromkeys(category.marker for category in chosen):
        paths = _paths([category for category in chosen if category.marker == marker], only)
        if paths and not _tested(project, paths, marker, options, results, faults):
            break
    faults += judge(chosen, results, is_part=options.last_failed)
    found = summary(chosen, results, faults, seconds=time.monotonic() - began_s, services=lent)
    _remember(project, results)
    for path in options.reports:
        reports.write(path, found)
    _show(found, say, durations=options.durations)
    return not faults


def categories(place: Path) -> list[str]:
    """Return a line for each category of the project that a folder is in.

    Raises:
        ConfigurationError: what pyproject.toml says of tests is not so.
    """
    project = Project.around(place)
    return [
        f"{category.name:17} {category.purpose} ({', '.join(category.paths)})"
        + ("" if _are_there(project, category) else " – this project has none")
        for category in project.categories.values()
    ]


def _chosen(project: Project, options: Options) -> list[Category]:
    """Return the categories that are meant. Raises ConfigurationError."""
    names = [name for words in options.categories for name in words.split(",") if name]
    known = project.categories
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        said = f"There is no category {', '.join(unknown)}" if unknown else "Name a category with --category"
        raise ConfigurationError([f"{said}. There are: {', '.join(known)}."])
    chosen = [known[name] for name in dict.fromkeys(names)]
    for category in chosen:
        if missing := [path for path in category.paths if not _is_there(project, path)]:
            raise ConfigurationError(
                [f"The category {category.name} names tests that do not exist: {', '.join(missing)}."]
            )
    return chosen


def _are_there(project: Project, category: Category) -> bool:
    return all(_is_there(project, path) for path in category.paths)


def _is_there(project: Project, path: str) -> bool:
    return (project.root / path.partition("::")[0]).exists()  # pytest says if the test is not there


def _check(options: Options) -> None:
    """See that what is asked for can be had, before anything runs. Raises ConfigurationError."""
    faults = [fault for path in options.reports if (fault := reports.refused(path))]
    faults += [fault for url in options.services if url != "auto" and (fault := services.missing(url))]
    wanted = ["pytest", *(["xdist"] if options.workers > 1 else [])]
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        packages = " and ".join({"xdist": "pytest-xdist"}.get(name, name) for name in missing)
        faults.append(f"Not installed for this Python: {packages}. Say: pip install 'runwire[test]'")
    if faults:
        raise ConfigurationError(faults)


def _paths(chosen: Sequence[Category], only: Sequence[str] | None) -> list[str]:
    if only is None:
        return list(dict.fromkeys(path for category in chosen for path in category.paths))
    return [name for name in only if any(category.has(name) for category in chosen)]


def _tested(
    project: Project, paths: Sequence[str], marker: str, options: Options, results: Results, faults: list[str]
) -> bool:
    """Run pytest, as a process of its own that may die, and return whether to go on."""
    words = [sys.executable, "-m", "pytest", f"--rootdir={project.root}", "-q", *(["-m", marker] if marker else [])]
    words += ["-x"] if options.fast_fail else []
    words += [f"--runwire-service={url}" for url in options.services]
    if options.workers > 1:
        # Files keep their order, in which those with few long tests come before the many short ones of `unit`: else
        # one process would end alone, with the longest.
        words += ["-n", str(options.workers), "--dist", "loadfile", "--no-loadscope-reorder"]
        words += ["--max-worker-restart", "0"]  # one that replaces the dead may wait for ever for what it left
        words += [f"--runwire-together={folder}" for folder in project.together]
    with tempfile.TemporaryDirectory(prefix="runwire-test-") as folder:
        record = Path(folder) / "record.jsonl"
        record.touch()
        status = _status([*words, f"--runwire-record={record}", *paths], project.root)
        results.add(record)
    if status not in _ENDINGS and not results.broken:  # what cannot be read says more than that it was the end
        faults.append(f"pytest ended with status {status}")
    faults += [f"{name} was under way when its process died" for name in results.open]
    return status == 0 or not options.fast_fail


def _status(command: Sequence[str], folder: Path) -> int:
    """Run pytest and return how it ended. Whoever ends this process ends pytest with it, as Ctrl-C does."""
    # The words are ours, the paths the project's.
    with subprocess.Popen(command, cwd=folder, env=_environment(folder)) as process:  # noqa: S603
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT)) if is_main else None
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue  # pytest was told too, and says so as it ends
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before)


def _environment(root: Path) -> dict[str, str]:
    """Return the environment of the tests: ours, but for byte code, which they keep.

    They start servers by the hundred, and each would compile all it imports, about a second long. Who wants no byte
    code beside the sources (PYTHONDONTWRITEBYTECODE) has it in a folder of its own.
    """
    environment = dict(os.environ)  # noqa: TID251 - what they would have without us
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(root / _BYTE_CODE))
    return environment


def _failed_before(project: Project, chosen: Sequence[Category]) -> list[str]:
    """Return what failed when it ran last. Raises ConfigurationError: nothing did."""
    path = project.root / _MEMORY
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigurationError(["Nothing is known of an earlier run here; leave --last-failed out."]) from None
    failed = [str(name) for name in known if _is_there(project, str(name))]
    if not any(category.has(name) for name in failed for category in chosen):
        names = ", ".join(category.name for category in chosen)
        raise ConfigurationError([f"Nothing of {names} failed when it ran last; leave --last-failed out."])
    return failed


def _remember(project: Project, results: Results) -> None:
    """Keep what failed, beside what failed earlier and has not run since; where nothing can be kept, nothing is."""
    path = project.root / _MEMORY
    try:
        before = set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        before = set()
    failed = {name for name, test in results.tests.items() if test.outcome == "failed"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parents[1] / ".gitignore").write_text("*\n", encoding="utf-8")
        path.write_text(json.dumps(sorted(failed | (before - set(results.tests)))), encoding="utf-8")
    except OSError:
        return


def _show(found: dict[str, Any], say: Callable[[str], None], *, durations: int) -> None:
    """Show the summary to a person."""
    for name, counts in found["categories"].items():
        said = [f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items() if count]
        say(f"  {name:17} {', '.join(said) or 'no test'}")
    slowest = sorted(found["tests"].items(), key=lambda item: -item[1]["seconds"])
    for name, test in slowest[:durations]:
        say(f"  {test['seconds']:8.2f} s  {name}")
    for name, why in list(found["not_run"].items())[:_SHOWN]:
        say(f"  not run: {name}: {why}")
    if (more := len(found["not_run"]) - _SHOWN) > 0:
        say(f"  not run: {more} more; --report names all")
    for fault in found["faults"]:
        say(f"  FAULT: {fault}")
    say(f"{'PASSED' if found['ok'] else 'FAILED'} in {found['seconds']} s")
