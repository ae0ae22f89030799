"""Processes that are kept running: what they say is shown under their name, and who dies is started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from runwire.errors import ConfigurationError

__all__ = ["Began", "Kept", "Say"]

Say = Callable[[str, str], None]  # (name, line)
Began = Callable[[str, int], None]  # (name, process id)

_STOP_S: Final = 40.0  # longer than a server's own `drain_s`
_SETTLED_S: Final = 10.0  # who lived so long is started again at once
_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)  # before the starts after ends that came sooner
_LAST_LINES: Final = 10  # of a quiet one
_MISCONFIGURED: Final = 78  # PROTOCOL §6: another start would end alike
_LINE_BYTES: Final = 1_048_576  # a longer line is shown in pieces


class Kept:
    """One process, started again whenever it ends, until it is stopped.

    It leads a session of its own, so that Ctrl-C reaches whoever stops it in order, and so that nothing of it is left.

    Args:
        name: for people.
        command: its words.
        say: shows a line of it.
        cwd: where it runs; None: here.
        user: as whom; None: as this process.
        is_quiet: whether what it says is news only when it ends, such as that of a database.

    `began` is told of each start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        say: Say,
        cwd: Path | None = None,
        user: str | None = None,
        is_quiet: bool = False,
    ) -> None:
        self.name = name
        self.began: Began = lambda _name, _pid: None
        self.is_up = asyncio.Event()  # it has said `ready`; never of a quiet one
        self._command = list(command)
        self._say = say
        self._cwd = cwd
        self._user = user
        self._is_quiet = is_quiet
        self._is_stopping = False
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Return its id; None: it does not run just now."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep it running until `stop`; cancelled, kill it."""
        loop = asyncio.get_running_loop()
        quick_ends = 0
        try:
            while not self._is_stopping:
                began_s = loop.time()
                status = await self._once()
                if self._has_to_stop():
                    return
                self._tell_end(status)
                quick_ends = 0 if loop.time() - began_s > _SETTLED_S else quick_ends + 1
                pause_s = _PAUSES_S[min(quick_ends, len(_PAUSES_S) - 1)]
                await asyncio.sleep(pause_s)
        finally:
            self._signal(signal.SIGKILL)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and wait; after 40 s it is killed."""
        self._is_stopping = True
        self._signal(how)
        if self._process is not None:
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._say(self.name, f"does not end within {_STOP_S:.0f} s; it is killed")
                self._signal(signal.SIGKILL)

    def _has_to_stop(self) -> bool:
        return self._is_stopping

    def _tell_end(self, status: int) -> None:
        for line in self._last:
            self._say(self.name, line)
        self._last.clear()
        if status == _MISCONFIGURED:
            raise ConfigurationError([f"{self.name} cannot run with these settings; what it says is above."])
        self._say(self.name, f"ended ({_named(status)}); it is started again")

    async def _once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._cwd,
            user=self._user,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        self.began(self.name, self._process.pid)
        assert self._process.stdout is not None
        await self._show(self._process.stdout)
        self.is_up.clear()
        return await self._process.wait()

    async def _show(self, output: asyncio.StreamReader) -> None:
        while line := await _line(output):
            text = line.decode("utf-8", errors="replace").rstrip()
            if text.startswith("ready "):
                self._say(self.name, f"{text} (process {self.pid})")
                self.is_up.set()
            elif self._is_quiet:
                self._last.append(text)
            else:
                self._say(self.name, text)

    def _signal(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)


async def _line(output: asyncio.StreamReader) -> bytes:
    try:
        return await output.readline()
    except ValueError:  # longer than the limit, and thrown away
        return b"(a line too long to show)\n"


def _named(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
