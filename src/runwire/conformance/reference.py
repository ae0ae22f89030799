"""The page that lists all cases, made from the registry: `python -m runwire.conformance.reference --write`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runwire.conformance.case import BUDGET
from runwire.conformance.registry import CATEGORIES, GATE

__all__ = ["PAGE", "main", "page"]

PAGE: Final = Path("docs/reference/checks.md")

_BUDGET_WORDS: Final = {
    "reply_ms": "from a message to its reply",
    "first_event_ms": "from a message to the agent's first event",
    "gap_ms": "between two events of a run",
    "end_to_end_ms": "from a message to the end of its run",
    "cancel_ms": "from a cancel to the end of the run",
    "revocation_ms": "from a withdrawn sign-in to the end of its sockets",
}


def page() -> str:
    """Return docs/reference/checks.md."""
    count = sum(len(category.cases) for category in CATEGORIES.values())
    looked_at = f"{count} promises in {len(CATEGORIES)} categories"
    lines = [
        "# Checks",
        "",
        f"What [`runwire check`](../how-to/check-a-deployment.md) looks at: {looked_at}. For each there is a",
        "small wrong server among Runwire's own tests that this case names and no other.",
        "",
        "`p1` is what a release must never break; `--priority p1` checks nothing else. A case is not checked where",
        "one that it needs is broken. No category but the first is looked at where one of these is broken:",
        f"{', '.join(f'`{id_}`' for id_ in GATE)}.",
    ]
    for category in CATEGORIES.values():
        lines += ["", f"## {category.name}", "", category.about]
        if category.wants:
            lines += ["", f"Needs {category.wants}."]
        lines += ["", "| case | priority | promise | needs |", "|---|---|---|---|"]
        for case in category.cases:
            needs = ", ".join(f"`{name}`" for name in case.needs)
            lines.append(f"| `{case.name}` | {case.priority} | {case.promise} | {needs} |")
    lines += [
        "",
        "## The budget",
        "",
        "Limits of `--budget FILE`, TOML or JSON; of several runs the 95th percentile counts.",
    ]
    lines += ["", "| name | default | what |", "|---|---|---|"]
    lines += [f"| `{name}` | {limit:g} | {_BUDGET_WORDS[name]} |" for name, limit in BUDGET.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it. Returns the exit status."""
    if list(arguments) not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m runwire.conformance.reference --write | --check\n")
        return 2
    is_stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page()
    if is_stale and arguments[0] == "--check":
        sys.stderr.write(f"out of date: {PAGE}; run `python -m runwire.conformance.reference --write`\n")
        return 1
    if is_stale:
        PAGE.write_text(page(), encoding="utf-8")
        sys.stdout.write(f"wrote {PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
