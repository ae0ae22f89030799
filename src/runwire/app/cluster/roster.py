"""Who runs in a cluster's folder: one `runwire cluster` at a time, and what a killed one has left is ended first."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runwire.app.cluster.processes import Say
from runwire.errors import ConfigurationError

__all__ = ["Roster"]

_FILE: Final = "processes.json"
_END_S: Final = 10.0  # for those that a killed one left; then they are killed
_POLL_S: Final = 0.05
_SERVICES: Final = ("postgres", "redis")  # end last, and SIGINT is PostgreSQL's fast shutdown
_PS_S: Final = 5.0


class Roster:
    """The processes of a folder, written down so that another start finds those that `kill -9` has orphaned.

    A process is known by its id and its moment of birth: another one that has got the id is left alone.

    Args:
        folder: of the cluster.
        say: shows what is done.
    """

    def __init__(self, folder: Path, *, say: Say) -> None:
        self._folder = folder
        self._file = folder / _FILE
        self._say = say
        self._born: dict[str, tuple[int, str]] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder alone. Raises ConfigurationError: another one has it."""
        with open(os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = lock.read().strip() or "unknown"
                fault = f"{self._folder}: its cluster runs, process {owner}; use that, stop it, or choose --data-dir."
                raise ConfigurationError([fault]) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def add(self, name: str, pid: int) -> None:
        """Write a process down; one of the same name has ended."""
        born = _born(pid)
        if born is not None:
            self._born[name] = (pid, born)
        written = self._file.with_suffix(".new")
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(self._born, file)
        written.replace(self._file)

    async def end_left(self) -> None:
        """End what is left of a cluster whose own process was killed: roles first, then what they need."""
        left = self._left()
        for name, (pid, _) in left.items():
            self._say(name, f"process {pid} is left of a cluster that was killed; it is stopped")
        await _ended({name: who for name, who in left.items() if name not in _SERVICES}, signal.SIGTERM)
        await _ended({name: who for name, who in left.items() if name in _SERVICES}, signal.SIGINT)

    def _left(self) -> dict[str, tuple[int, str]]:
        try:
            written = json.loads(self._file.read_text(encoding="utf-8"))
            known = {str(name): (int(pid), str(born)) for name, (pid, born) in written.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # the first start, or cut off while it was written
        return {name: who for name, who in known.items() if _is_alive(who)}


async def _ended(left: dict[str, tuple[int, str]], how: signal.Signals) -> None:
    for number in (how, signal.SIGKILL):
        for who in filter(_is_alive, left.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(who[0], number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                while any(map(_is_alive, left.values())):  # noqa: ASYNC110 - they are not our children
                    await asyncio.sleep(_POLL_S)


def _is_alive(who: tuple[int, str]) -> bool:
    return _born(who[0]) == who[1]


def _born(pid: int) -> str | None:
    """Return when a process began, in its system's own words; None: there is none, or it is a zombie."""
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            state, *rest = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            return None if state in "ZX" else rest[18]
        return None
    words = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_PS_S)  # noqa: S603 - ours
    state, _, born = done.stdout.strip().partition(" ")
    return None if not born or state.startswith("Z") else born.strip()
