"""A network of this machine's own: a namespace per role, and one process that carries each packet, or does not.

    python -m tests.partitions.network NAME…

It makes a namespace per name and prints `{"name": ["address", descriptor]}`: whoever enters `/proc/PID/fd/descriptor`
is there. Then it carries packets between them, as the lines on standard input say (`Rule`), each answered by a line.
Everything is gone when it ends: no address and no rule is outside of its own namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["Network", "NoNamespaces", "enter"]

_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUN_NO_PI: Final = 0x1001
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8916, 0x891C, 0x8922, 0x8913, 0x8914
_UP: Final = 0x41  # and running
_MTU: Final = 9_000
_CARRIED: Final = 20_000  # packets that may be under way; more are lost, as in any network


class NoNamespaces(Exception):
    """This machine does not allow them."""


def enter(place: str) -> None:
    """Have this thread, and what it starts from now on, live in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(place).open("rb") as file:
        if libc.setns(file.fileno(), _NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Network:
    """The process that carries, and what it is told."""

    def __init__(self, *names: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.partitions.network", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=Path(__file__).resolve().parents[2],
        )
        made = json.loads(self._answer() or "{}")
        if not made:
            self.close()
            raise NoNamespaces
        self.address = {name: address for name, (address, _) in made.items()}
        self.place = {name: f"/proc/{self._process.pid}/fd/{number}" for name, (_, number) in made.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and all of its network."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def rule(self, source: str, target: str, *, lost: float = 0.0, delay_s: float = 0.0) -> None:
        """Say what becomes of packets on one way from now on: a share of them is lost, the others come later."""
        assert self._process.stdin
        rule = [self.address[source], self.address[target], lost, delay_s]
        self._process.stdin.write(json.dumps(rule) + "\n")
        self._process.stdin.flush()
        self._answer()

    def between(self, one: str, other: str, *, lost: float = 0.0, delay_s: float = 0.0) -> None:
        """Likewise, on both ways."""
        self.rule(one, other, lost=lost, delay_s=delay_s)
        self.rule(other, one, lost=lost, delay_s=delay_s)

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


# Below: the process.


def _interface(number: int) -> tuple[int, str, int]:
    """Make a namespace with one interface; return that, its address, and a descriptor of the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    address = f"10.77.0.{number}"
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH14x", b"wire", _TUN_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            packed = struct.pack("16sHH4s8x", b"wire", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, packed)
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si12x", b"wire", _MTU))
        for name in (b"wire", b"lo"):
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name, _UP))
    return tun, address, os.open("/proc/thread-self/ns/net", os.O_RDONLY)


class _Carrier:
    """Carry packets from one interface to another."""

    def __init__(self, tuns: dict[bytes, int]) -> None:
        self._tuns = tuns
        self._rules: dict[tuple[bytes, bytes], tuple[float, float]] = {}
        self._later: list[tuple[float, int, int, bytes]] = []  # in order of their time
        self._numbers = itertools.count()

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        for tun in self._tuns.values():
            selector.register(tun, selectors.EVENT_READ)
        while True:
            wait_s = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
            for key, _ in selector.select(wait_s):
                if key.fd != sys.stdin.fileno():
                    self._carry(key.fd)
                elif not self._learn():
                    return
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, tun, packet = heapq.heappop(self._later)
                _write(tun, packet)

    def _learn(self) -> bool:
        line = sys.stdin.readline()
        if not line:
            return False
        source, target, lost, delay_s = json.loads(line)
        self._rules[socket.inet_aton(source), socket.inet_aton(target)] = (lost, delay_s)
        print("done", flush=True)
        return True

    def _carry(self, source: int) -> None:
        try:
            packet = os.read(source, 65_536)
        except BlockingIOError:
            return
        target = self._tuns.get(packet[16:20])
        if packet[0] >> 4 != 4 or target is None:
            return
        lost, delay_s = self._rules.get((packet[12:16], packet[16:20]), (0.0, 0.0))
        if random.random() < lost or len(self._later) > _CARRIED:
            return
        if delay_s:
            heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._numbers), target, packet))
        else:
            _write(target, packet)


def _write(tun: int, packet: bytes) -> None:
    try:
        os.write(tun, packet)
    except BlockingIOError:
        return  # its queue is full: lost


def _main(names: list[str]) -> int:
    made: dict[str, Any] = {}
    tuns: dict[bytes, int] = {}
    try:
        for number, name in enumerate(names, 1):
            tun, address, place = _interface(number)
            made[name] = (address, place)
            tuns[socket.inet_aton(address)] = tun
    except OSError as error:
        print(f"no network namespaces: {error}", file=sys.stderr)
        made = {}
    print(json.dumps(made), flush=True)
    if made:
        _Carrier(tuns).run()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
