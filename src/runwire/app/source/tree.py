"""A checkout as it is read: its modules, parsed once, its SQL blocks, and its pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from runwire.errors import NotFound

__all__ = ["Block", "Finding", "Tree"]

_PACKAGE = Path("src/runwire")


class Finding(NamedTuple):
    """Something that has more homes than one, or none."""

    where: str  # "storage/sqlite/log.py:12", from the package's folder, or a page's path
    what: str  # one sentence
    fix: str  # one sentence


class Block(NamedTuple):
    """One named block of SQL."""

    file: str
    line: int
    name: str
    text: str  # without comments


class Tree:
    """A checkout of this project.

    Args:
        root: its folder, with `src/runwire` in it.

    Raises:
        NotFound: there is no such thing here.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / _PACKAGE
        if not (self.package / "__init__.py").is_file():
            raise NotFound(f"{root} is no checkout of Runwire: it has no {_PACKAGE}. Say where one is with --root.")

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        """Return each module by its path below the package, such as `protocol/codes.py`."""
        return {
            file.relative_to(self.package).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
            for file in sorted(self.package.rglob("*.py"))
        }

    @cached_property
    def nodes(self) -> dict[str, list[ast.AST]]:
        """Return all that stands in each module, walked once."""
        return {path: list(ast.walk(module)) for path, module in self.modules.items()}

    @cached_property
    def blocks(self) -> list[Block]:
        """Return every named block of `storage/sql`."""
        return [block for file in sorted((self.package / "storage" / "sql").glob("*.sql")) for block in _blocks(file)]

    @cached_property
    def pages(self) -> dict[str, str]:
        """Return the text of each Markdown page and example, by its path below the root."""
        found = [self.root / "README.md", *(self.root / "docs").rglob("*.md"), *(self.root / "examples").rglob("*.py")]
        return {
            page.relative_to(self.root).as_posix(): page.read_text(encoding="utf-8")
            for page in sorted(found)
            if page.is_file()
        }


def _blocks(file: Path) -> Iterator[Block]:
    line = 1
    for number, part in enumerate(re.split(r"^-- name: ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)):
        if number:
            name, _, text = part.partition("\n")
            yield Block(file.name, line, name.split()[0], re.sub(r"--[^\n]*", "", text))
        line += part.count("\n")
