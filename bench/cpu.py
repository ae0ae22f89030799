"""CPU time and memory of a process with all its threads and children, read from the kernel (Linux)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_ns", "cpu_with_ended_ns", "pin", "pss_bytes", "tree"]

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return the process and all that descend from it and live."""
    found = [pid]
    for parent in found:  # grows while it is walked
        found += _children(parent)
    return found


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process tree has used, to the nanosecond, threads that have ended included.

    It is the scheduler's own clock of each process; `utime + stime` count the same in steps of 10 ms.

    Raises:
        ProcessLookupError: the process is gone.
    """
    return sum(_process_ns(process) for process in tree(pid))


def cpu_with_ended_ns(pid: int) -> int:
    """Return the CPU time of a process whose children come and go, with that of the children that have ended.

    Of those it is known in steps of 10 ms only.

    Raises:
        ProcessLookupError: the process itself is gone.
    """
    live_ns = _process_ns(pid)
    for child in tree(pid)[1:]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            live_ns += _process_ns(child)
    fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = int(fields[13]) + int(fields[14])  # cutime and cstime; the third field of all is the first here
    return live_ns + ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """Return the memory of a process tree, what it shares with others counted in part."""
    return sum(_pss(process) for process in tree(pid))


def pin(core: int | None) -> None:
    """Keep this process on one core; None: leave it where it is."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def _children(pid: int) -> Iterator[int]:
    for task in (_PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            yield from map(int, task.read_text(encoding="ascii").split())


def _process_ns(pid: int) -> int:
    # clock_getcpuclockid(3): the scheduler's clock of another process is (~pid << 3) | CPUCLOCK_SCHED.
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError as error:
        raise ProcessLookupError(f"The process {pid} is gone.") from error


def _pss(pid: int) -> int:
    for line in (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"The process {pid} tells nothing about its memory.")
