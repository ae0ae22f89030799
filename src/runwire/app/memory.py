"""What a process of the server keeps of the memory that it no longer needs: its collector and its allocator."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from typing import Final

__all__ = ["give_back_early", "spare_collector"]

_COLLECTED_AFTER: Final = 20_000  # objects more than at the last collection: a few megabytes

# Of glibc's `mallopt` (malloc.h): the number of each setting, and its value; thresholds are bytes.
_ARENA_MAX: Final = (-8, 2)
_MMAP_THRESHOLD: Final = (-3, 131_072)  # glibc's own at the start, which it raises with the first piece that is freed
_TRIM_THRESHOLD: Final = (-1, 131_072)


def spare_collector() -> None:
    """Have the garbage collector look at less, and more rarely: it took a third of a burst's CPU (measured).

    What the start has made stays, so it is not looked at again. Python's own threshold of 700 objects is passed by
    every second commit; cycles, which are all it is for, come with connections and runs.
    """
    gc.collect()
    gc.freeze()
    gc.enable()  # `runwire serve` begins without
    gc.set_threshold(_COLLECTED_AFTER, *gc.get_threshold()[1:])


def give_back_early() -> bool:
    """Have glibc return large pieces to the system, and all threads share two heaps. Before threads are made.

    Left alone, glibc raises its own limit for pieces of their own to the largest that was ever freed, so the buffers of
    reads and histories go into the heap and keep it from shrinking; and each thread gets a heap. In half an hour of
    churn a gateway's resident memory rose by 15 to 22 MiB per hour while Python's own count stood still.

    Returns:
        Whether this was set: with another C library nothing is done.
    """
    if not sys.platform.startswith("linux") or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) == 1 for number, value in (_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD))


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):  # musl knows no such name
        return False
