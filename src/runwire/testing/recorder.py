"""What pytest tells while it runs, line by line into a file: what it told stands also when its process has died.

`runwire test` starts pytest as a process of its own with `--runwire-record FILE`. Each line is a JSON object with one
of `collected` (ids), `broken` (a file that could not be read), `began`, `ended` (an id), and `test` (an id) with what
became of it. `results.py` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import pytest

__all__ = ["Recorder"]

_EVIDENCE: Final = 20_000  # characters of a failure that are kept: its end


class Recorder:
    """A pytest plugin, of the process that a person started: with xdist all other processes tell it.

    Args:
        path: where the lines go.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take note of what there is."""
        self._write(collected=[item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Take note of what another process has found."""
        self._write(collected=list(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take note of what cannot even be read."""
        if report.failed:
            self._write(broken=report.nodeid, evidence=report.longreprtext[-_EVIDENCE:])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Take note that a test begins."""
        self._write(began=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of what became of a test, or of its setup or teardown."""
        line: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        if report.failed:
            line["evidence"] = report.longreprtext[-_EVIDENCE:]
        elif report.skipped:
            line["why"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self._write(**line)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Take note that a test has ended, with its teardown."""
        self._write(ended=nodeid)

    def pytest_unconfigure(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # the next thing may be the end of this process
