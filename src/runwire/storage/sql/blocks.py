"""Reading a file of named SQL blocks.

A block is what follows a line `-- name: move_head`, up to the next such line. Other comments stay in
the file and reach no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

__all__ = ["load"]

_MARK: Final = "-- name: "


def load(filename: str) -> Mapping[str, str]:
    """Return the blocks of a file beside this module, by name, e.g. `load("sqlite.sql")["move_head"]`.

    Raises:
        ValueError: text stands before the first name, or a name is used twice or is empty.
    """
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in Path(__file__).with_name(filename).read_text(encoding="utf-8").splitlines():
        if line.startswith(_MARK):
            name = line.removeprefix(_MARK).strip()
            if name in blocks:
                raise ValueError(f"{filename}: the block {name} is there twice")
            blocks[name] = []
        elif line.strip() and not line.lstrip().startswith("--"):
            if name not in blocks:
                raise ValueError(f"{filename}: text before the first name: {line}")
            blocks[name].append(line)
    empty = sorted(name for name, lines in blocks.items() if not lines)
    if empty:
        raise ValueError(f"{filename}: empty blocks {', '.join(empty)}")
    return MappingProxyType({name: "\n".join(lines) for name, lines in blocks.items()})
