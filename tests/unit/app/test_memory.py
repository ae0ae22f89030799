"""Large pieces of memory go back to the system when they are freed, whatever lies beside them."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own: what this sets stays. A piece that is freed first raises glibc's own limit above the others.
_CHILD = """
import sys
from runwire.app.memory import give_back_early

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "set":
    assert give_back_early()
first = bytearray(8 * 2**20)
del first
before, held = resident(), []
pieces = []
for _ in range(60):
    pieces.append(bytearray(b"x" * 200_000))
    held.append(bytes(b"y" * 20_000))
full = resident()
del pieces
print(full - before, resident() - before)
"""


def _figures(how: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _CHILD, how], capture_output=True, text=True, check=True, timeout=15)
    full, left = done.stdout.split()
    return int(full), int(left)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc's allocator that is told")
def test_what_is_freed_is_given_back() -> None:
    full, left = _figures("set")
    assert full > 9 * 2**20
    assert left < full / 5  # what is kept on purpose is a tenth
    # And it would not be, left alone: else this would prove nothing.
    full, left = _figures("left alone")
    assert left > full / 2
