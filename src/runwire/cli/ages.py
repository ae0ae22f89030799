"""How a length of time is written on the command line: 90s, 12h, 7d."""

from __future__ import annotations

import re
from typing import Final

import typer

__all__ = ["age_s"]

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE: Final = re.compile(r"(\d{1,9})([smhd])")


def age_s(text: str) -> int:
    """Return what the option `--older-than` says, seconds. Raises BadParameter."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text}: write a number and s, m, h or d, e.g. 7d", param_hint="--older-than")
    return int(found[1]) * _UNITS_S[found[2]]
