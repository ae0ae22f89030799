"""The table of docs/explanation/durability.md: each rule, and the shortest history that goes wrong without it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Final

from tests.model.rules import RULES
from tests.model.scenarios import SCENARIOS
from tests.model.search import Found, search
from tests.model.state import LEASE

__all__ = ["PAGE", "made", "written"]

PAGE: Final = Path(__file__).parents[2] / "docs/explanation/durability.md"
_BEGIN: Final = "<!-- made by `python -m tests.model --write` -->\n"
_END: Final = "<!-- end -->\n"
_TICK: Final = "a third of a lease passes"
_UNSAID: Final = re.compile(r"[AB] learns: (stored|claimed|parked|released)")  # what was done is told already


def made() -> str:
    """Return the table."""
    lines = ["| rule left out | what can then happen | which must not be |", "|---|---|---|"]
    for rule in RULES:
        found = search(SCENARIOS[rule.scenario], rule.name)
        lines.append(f"| {rule.name} | {told(found)} | {found.broken} |")
    return "\n".join(lines) + "\n"


def written(page: str, table: str) -> str:
    """Return the page with this table in it."""
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + table + _END + rest.split(_END)[1]


def told(found: Found) -> str:
    """Tell a history in one line."""
    return "; ".join(_merged(step for step in found.trace if not _UNSAID.fullmatch(step)))


def _merged(steps: Iterable[str]) -> Iterable[str]:
    for step, same in groupby(steps):
        count = len([*same])
        if step != _TICK:
            yield from [step.replace(", which is queued", "").replace(" run 1", " the run")] * count
        elif count == LEASE:
            yield "a lease passes"
        else:
            yield _TICK if count == 1 else f"{count} thirds of a lease pass"
