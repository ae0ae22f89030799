"""What the system says of this process's memory, and of its container's limit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runwire.resilience.memory import container_limit_bytes, resident_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * 32_000_000)
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before > 16_000_000, len(held)


def test_a_system_that_does_not_say_has_no_figure(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "no such file") is None
    (tmp_path / "statm").write_text("nonsense", encoding="ascii")
    assert resident_bytes(tmp_path / "statm") is None


@pytest.mark.parametrize(
    ("name", "said", "limit"),
    [
        ("memory.max", "1073741824\n", 1 << 30),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "536870912\n", 1 << 29),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("other", "1", None),
    ],
)
def test_the_limit_of_the_container_is_read_as_both_versions_write_it(
    tmp_path: Path, name: str, said: str, limit: int | None
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(said, encoding="ascii")
    assert container_limit_bytes(tmp_path) == limit
