"""A server of the bench as a process of its own, kept on one core."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self

from bench import cpu
from bench.figures import Faulty

__all__ = ["ROOT", "Process"]

ROOT: Final = Path(__file__).resolve().parent.parent
_START_S: Final = 30.0
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.02


class Process:
    """A process that prints `ready http://…:PORT`; ended with everything it started.

    Args:
        letter: what it is called here.
        command: words of the command line.
        folder: where it writes what it says.
        core: which it is kept on; None: any.
    """

    def __init__(self, letter: str, command: Sequence[str], *, folder: Path, core: int | None) -> None:
        self.letter = letter
        self._output = folder / f"{letter}.out"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(cpu.pin, core),
            )
        self.port = self._await_port()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def said(self) -> str:
        """Return the end of what it wrote."""
        return self._output.read_text(encoding="utf-8", errors="replace")[-2_000:]

    def _await_port(self) -> int:
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            for line in self._output.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                if line.startswith("ready http://") and line.endswith("\n"):
                    return int(line.rsplit(":", 1)[1])
            if self._process.poll() is not None:
                break
            time.sleep(_LOOK_S)
        self.stop()
        raise Faulty(f"The server {self.letter} did not start:\n{self.said()}")
