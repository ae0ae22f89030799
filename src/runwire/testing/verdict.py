"""Whether what ran is a success, and what every report is made of."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from runwire.testing.categories import Category
from runwire.testing.results import Results

__all__ = ["judge", "summary"]


def judge(chosen: Sequence[Category], results: Results, *, is_part: bool = False) -> list[str]:
    """Return a sentence for everything that keeps this from being a success.

    Args:
        chosen: what was asked for.
        results: what became of it.
        is_part: only some tests of each were asked for, so that a category may have none of them.
    """
    faults = [f"{name} could not be collected" for name in results.broken]
    failed = [name for name, test in results.tests.items() if test.outcome == "failed"]
    # Of one that was under way when its process died, that is said already.
    faults += [f"{name} failed" for name in failed if name not in results.open]
    for category in chosen:
        names = [name for name in results.collected if category.has(name)]
        if not names and not results.broken and not is_part:
            faults.append(f"the category {category.name} has no test")
        if category.never_skips:
            skipped = [name for name in names if name in results.tests and results.tests[name].outcome == "skipped"]
            faults += [f"{name} was skipped, which {category.name} never does" for name in skipped]
    if not results.tests and not faults:
        faults.append("no test ran")
    return faults


def summary(
    chosen: Sequence[Category],
    results: Results,
    faults: Sequence[str],
    *,
    seconds: float,
    services: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what ran, what did not and why, as JSON has it; `services`: those that were named, as they are shown."""

    def counts(names: Iterable[str]) -> dict[str, int]:
        found = [results.tests[name].outcome if name in results.tests else "not_run" for name in names]
        return {outcome: found.count(outcome) for outcome in ("passed", "failed", "skipped", "not_run")}

    return {
        "ok": not faults,
        "started_at": (datetime.now(tz=UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds"),
        "machine": f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores",
        "services": list(services),
        "seconds": round(seconds, 1),
        "counts": counts(results.collected | set(results.tests)),
        "categories": {c.name: counts(n for n in results.collected if c.has(n)) for c in chosen},
        "faults": list(faults),
        "not_run": dict.fromkeys(sorted(results.collected - set(results.tests)), "stopped before it")
        | {name: test.why for name, test in results.tests.items() if test.outcome == "skipped"},
        "broken": results.broken,
        "tests": {
            name: {"outcome": test.outcome, "seconds": round(test.seconds, 3)}
            | ({"evidence": test.evidence} if test.evidence else {})
            for name, test in results.tests.items()
        },
    }
