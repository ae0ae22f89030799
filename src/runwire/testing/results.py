"""What recorders have told, read without pytest: `runwire test` says where that is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Record", "Results"]


@dataclass(slots=True)
class Record:
    """What happened to one test."""

    # passed, failed or skipped
    outcome: str = "passed"
    seconds: float = 0.0
    # why it was skipped
    why: str = ""
    # what pytest says of a failure
    evidence: str = ""


@dataclass(slots=True)
class Results:
    """What recorders have told."""

    collected: set[str] = field(default_factory=set)
    tests: dict[str, Record] = field(default_factory=dict)
    # files that could not be collected → what pytest says
    broken: dict[str, str] = field(default_factory=dict)
    # tests that have begun and not ended, the last one last
    open: dict[str, None] = field(default_factory=dict)

    def add(self, path: Path) -> Self:
        """Read a recorder's file."""
        for text in path.read_text(encoding="utf-8").splitlines():
            self._take(json.loads(text))
        for name in self.open:  # its setup may have been good
            record = self.tests.setdefault(name, Record())
            record.outcome, record.evidence = "failed", record.evidence or "Its process died."
        return self

    def _take(self, line: dict[str, Any]) -> None:
        self.collected.update(line.get("collected", ()))
        if "broken" in line:
            self.broken.setdefault(line["broken"], line["evidence"])
        if "began" in line:
            self.open[line["began"]] = None
        if "ended" in line:
            self.open.pop(line["ended"], None)
        if "test" not in line:
            return
        record = self.tests.setdefault(line["test"], Record())
        record.seconds += line["seconds"]
        if line["outcome"] == "failed":
            record.outcome, record.evidence = "failed", line["evidence"]
        elif line["outcome"] == "skipped" and record.outcome == "passed":
            record.outcome, record.why = "skipped", line["why"]
