"""`python -m runwire.app.pages --write` puts the pages into `docs/reference` here, `--check` compares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runwire.app.pages import errors, metrics

__all__ = ["FOLDER", "main", "pages"]

FOLDER: Final = Path("docs/reference")


def pages() -> dict[str, str]:
    """Return the text of each page, by the name of its file."""
    return {"errors.md": errors.page(), "metrics.md": metrics.page()}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or check them. Returns the exit status."""
    if list(arguments) not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m runwire.app.pages --write | --check\n")
        return 2
    stale = [name for name, text in pages().items() if _read(FOLDER / name) != text]
    if stale and arguments[0] == "--check":
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `python -m runwire.app.pages --write`\n")
        return 1
    for name in stale:
        (FOLDER / name).write_text(pages()[name], encoding="utf-8")
        sys.stdout.write(f"wrote {FOLDER / name}\n")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":  # pragma: no cover - the tests call `main`
    sys.exit(main(sys.argv[1:]))
