"""Lines through what was measured at three sizes, and the file that keeps it. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from bench.figures import Faulty

__all__ = ["FIGURES", "Line", "Measured", "Run", "fit", "load", "save"]

FIGURES: Final = Path(__file__).with_name("figures.json")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at several sizes; each value is the median of the rounds."""

    name: str
    per: str  # of what the size is a number
    unit: str
    sizes: list[float]
    values: list[float]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the program saw."""

    conditions: list[str]
    measured: dict[str, Measured]
    plain: dict[str, float]  # figures without a size


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`base + slope × size`."""

    base: float
    slope: float
    residual: float  # the greatest distance of a point from the line, as a share of the greatest value


def fit(measured: Measured) -> Line:
    """Return the line of least squares.

    Raises:
        Faulty: there are no three different sizes with a value each.
    """
    xs, ys = measured.sizes, measured.values
    if len(set(xs)) < 3 or len(xs) != len(ys):
        raise Faulty(f"{measured.name}: no line without three sizes.")
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs)
    base = y0 - slope * x0
    off = max(abs(base + slope * x - y) for x, y in zip(xs, ys, strict=True))
    return Line(base=base, slope=slope, residual=off / max(max(map(abs, ys)), 1e-12))


def load(path: Path = FIGURES) -> Run:
    """Read what the last run saw."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def save(run: Run, path: Path = FIGURES) -> None:
    """Keep it for the page."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
