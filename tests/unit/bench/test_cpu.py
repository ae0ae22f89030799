"""CPU time and memory are the whole process tree's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench import cpu

_BURN = """
import subprocess, sys, threading, time
def burn(s):
    until = time.process_time() + s
    while time.process_time() < until: pass
thread = threading.Thread(target=burn, args=(0.1,)); thread.start(); thread.join()
child = subprocess.Popen([sys.executable, "-c", '''
import sys, time
while time.process_time() < 0.2: pass
print("burnt", flush=True); sys.stdin.read()
'''], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
child.stdout.readline()
print(time.process_time_ns(), child.pid, flush=True); sys.stdin.read()
child.kill(); child.wait()
"""


@pytest.fixture
def burner() -> Iterator[tuple[int, int, int]]:
    """Start a process whose thread has ended and whose child lives; give its id, its CPU time and the child's id."""
    words = [sys.executable, "-c", _BURN]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        own_ns, child = map(int, process.stdout.readline().split())
        yield process.pid, own_ns, child
        process.stdin.close()


def test_the_time_of_ended_threads_and_of_children_counts(burner: tuple[int, int, int]) -> None:
    pid, own_ns, child = burner
    assert cpu.tree(pid) == [pid, child]
    assert own_ns >= 100_000_000
    assert cpu.cpu_ns(child) >= 200_000_000
    assert cpu.cpu_ns(pid) >= own_ns + 200_000_000


def test_the_memory_of_children_counts(burner: tuple[int, int, int]) -> None:
    pid, _, child = burner
    assert cpu.pss_bytes(pid) > cpu.pss_bytes(child) > 1_000_000


def test_a_process_that_is_gone_has_no_figure() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        cpu.cpu_ns(process.pid)


_BURNT_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.2: pass"], check=True)
print("over", flush=True); sys.stdin.read()
"""


def test_a_child_that_has_ended_is_counted_where_children_come_and_go() -> None:
    words = [sys.executable, "-c", _BURNT_CHILD]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "over\n"
        before_ns = cpu.cpu_ns(process.pid)
        assert cpu.cpu_with_ended_ns(process.pid) - before_ns >= 170_000_000  # in steps of 10 ms
        process.stdin.close()
