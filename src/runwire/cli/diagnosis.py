"""How a diagnosis looks in a terminal, and as JSON."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from runwire.app.doctor.examination import Diagnosis
    from runwire.app.doctor.finding import Finding

__all__ = ["as_json", "show"]

_MARKS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "fault": "[red]✗[/]", "skipped": "[dim]·[/]"}
_WIDEST: Final = 120


def as_json(diagnosis: Diagnosis) -> str:
    """Return one object: the verdict, and each finding with its part."""
    rows: list[dict[str, Any]] = [
        {"part": part, **msgspec.to_builtins(finding)}
        for part, findings in diagnosis.findings.items()
        for finding in findings
    ]
    about = {"verdict": diagnosis.verdict, "version": diagnosis.version, "environment": diagnosis.environment}
    return msgspec.json.encode({**about, "findings": rows}).decode()


def show(diagnosis: Diagnosis) -> None:
    """Print a line for each finding, below its part, and what mends it; last what it comes to."""
    console = Console(highlight=False, soft_wrap=True)
    width = max((len(one.what) for each in diagnosis.findings.values() for one in each), default=0)
    # What is not looked at is not wrapped: somebody searches it.
    columns = min(shutil.get_terminal_size().columns, _WIDEST) if sys.stdout.isatty() else 10_000
    for part, findings in diagnosis.findings.items():
        console.print(f"[bold]{part}[/]")
        for finding in findings:
            for line in _lines(finding, min(width, 24), columns):
                console.print(line)
    console.print(_sum(diagnosis))


def _lines(finding: Finding, width: int, columns: int) -> Iterator[str]:
    indent = width + 6
    room = max(columns - indent, 30)
    is_dim = finding.state in ("ok", "skipped")
    first, *others = textwrap.wrap(finding.found, room, break_on_hyphens=False, break_long_words=False) or [""]
    yield f"  {_MARKS[finding.state]} {escape(finding.what):<{width}}  {_dim(first, is_dim)}"
    for line in others:
        yield " " * indent + _dim(line, is_dim)
    if finding.fix:
        for number, line in enumerate(textwrap.wrap(finding.fix, room - 2, break_on_hyphens=False)):
            yield f"{'':<{indent}}{'→ ' if number == 0 else '  '}[bold]{escape(line)}[/]"


def _dim(text: str, is_dim: bool) -> str:
    return f"[dim]{escape(text)}[/]" if is_dim else escape(text)


def _sum(diagnosis: Diagnosis) -> str:
    faults, warnings = diagnosis.count("fault"), diagnosis.count("warning")
    said = [_several(faults, "fault")] if faults else []
    said += [_several(warnings, "warning")] if warnings else []
    if diagnosis.verdict == "unknown":
        return f"\n[red]{', '.join(said)}[/]: no server starts with these settings, so nothing else was looked at"
    if diagnosis.verdict == "faulty":
        return f"\n[red]{', '.join(said)}[/]"
    return f"\n[green]healthy[/]{f', {said[0]}' if said else ''}"


def _several(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
