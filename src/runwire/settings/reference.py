"""The tables of docs/reference/settings.md, made from the settings and the rules.

`python -m runwire.settings.reference --write` puts them into the page of the working folder, `--check` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from runwire.settings import shown
from runwire.settings.model import Settings
from runwire.settings.unsafe import ELSEWHERE, RULES

__all__ = ["PAGE", "main", "tables", "with_tables"]

PAGE: Final = Path("docs/reference/settings.md")


def tables() -> dict[str, list[str]]:
    """Return the lines of each table, by the heading below which it is the first one."""
    rules = ((f"`{rule.id}`", f"`{rule.settings[0]}` {rule.sentence}", _capital(rule.fix)) for rule in RULES)
    return {
        "## All settings": _table(("setting", "default", "meaning"), map(_setting, Settings.model_fields)),
        "## What production refuses": _table(("rule", "refused", "instead"), rules),
        "## What is refused everywhere": _table(("what", "how"), ELSEWHERE),
    }


def with_tables(page: str) -> str:
    """Return the page with its tables made anew.

    Raises:
        ValueError: a heading or the table below it is missing.
    """
    lines = page.splitlines()
    for heading, table in tables().items():
        at = lines.index(heading)
        first = next(n for n in range(at, len(lines)) if lines[n].startswith("|"))
        last = next((n for n in range(first, len(lines)) if not lines[n].startswith("|")), len(lines))
        lines[first:last] = table
    return "\n".join(lines) + "\n"


def _setting(name: str) -> tuple[str, str, str]:
    field = Settings.model_fields[name]
    default = field.get_default(call_default_factory=True)
    written = shown.default_text(name)
    shown_default = "unset" if default is None else f"`{written}`" if written not in ("", "{}") else "none"
    return f"`{name}`", shown_default, field.description or ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
    lines[1] = lines[1].replace(" ", "")
    return lines


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it. Returns the exit status."""
    if list(arguments) not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m runwire.settings.reference --write | --check\n")
        return 2
    before = PAGE.read_text(encoding="utf-8")
    after = with_tables(before)
    if before != after and arguments[0] == "--write":
        PAGE.write_text(after, encoding="utf-8")
        sys.stdout.write(f"wrote {PAGE}\n")
    elif before != after:
        sys.stderr.write(f"out of date: {PAGE}; run `python -m runwire.settings.reference --write`\n")
        return 1
    return 0


if __name__ == "__main__":  # pragma: no cover - the tests call `main`
    sys.exit(main(sys.argv[1:]))
