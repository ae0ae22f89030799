"""A wall clock that a test can move: what the rooms' clock modules read, plus an offset from a file.

    CHAOS_CLOCK=/folder/clock      a file with the offset in seconds; no file: none

The monotonic clock is left alone, as the kernel leaves it alone when somebody sets the time. Every reading of the wall
clock in the package is in a module named `clock`, which a test pins; so these are all there are.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from types import SimpleNamespace

__all__ = ["CLOCKS", "install"]

CLOCKS = (
    "runwire.storage.clock",
    "runwire.agents.clock",
    "runwire.runtime.clock",
    "runwire.gateway.clock",
    "runwire.auth.clock",
    "runwire.app.clock",
)


def install(path: Path) -> None:
    """Have every clock module read the moved clock."""

    def time_ns() -> int:
        try:
            offset_s = float(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            offset_s = 0.0
        return time.time_ns() + round(offset_s * 1e9)

    for name in CLOCKS:
        module = importlib.import_module(name)
        assert module.time is time, f"{name} does not read the module `time` any more"
        module.time = SimpleNamespace(time_ns=time_ns, monotonic=time.monotonic, clock_gettime=time.clock_gettime)  # type: ignore[attr-defined]
