"""Starts of the command line as processes of their own, forked where the program is imported already.

Each is what `python -m runwire …` does, by the same `main`, with its own words, environment, folder and exit status;
only the imports are done once. For starts that end by themselves.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["Ended", "Starts"]

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_PATIENCE_S: Final = 15


@dataclass(frozen=True, slots=True)
class Ended:
    """How a start ended."""

    # exit status; negative: the number of the signal
    status: int
    # what it wrote
    stdout: str
    stderr: str

    @property
    def faults(self) -> list[str]:
        """Return the faults of configuration that it named."""
        return [line.removeprefix(_FAULT) for line in self.stderr.splitlines() if line.startswith(_FAULT)]


_FAULT: Final = "configuration: "


class Starts:
    """A process that has the program imported and forks for each start. A context.

    Args:
        modules: what it imports besides.
        patience_s: for one start; SIGALRM ends it.
    """

    def __init__(self, *modules: str, patience_s: int = _PATIENCE_S) -> None:
        self._words = [str(patience_s), *modules]

    def __enter__(self) -> Self:
        words = [sys.executable, "-m", "tests.mission_critical.starts", *self._words]
        self._process = subprocess.Popen(words, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=_PATIENCE_S)

    def __call__(self, *words: str, folder: Path, environ: dict[str, str] | None = None) -> Ended:
        """Start `runwire WORDS` in a folder, with that environment alone, and wait for its end."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([words, str(folder), environ or {}]) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))


def _start(words: list[str], folder: str, environ: dict[str, str], *, patience_s: int) -> Any:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            signal.alarm(patience_s)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(folder)
            os.environ.clear()  # noqa: TID251 - it is another process's
            os.environ.update(environ)  # noqa: TID251 - as above
            sys.argv = ["runwire", *words]
            _main()
        _, status = os.waitpid(child, 0)
        said = [(file.seek(0), file.read().decode("utf-8"))[1] for file in (out, err)]
        return [os.waitstatus_to_exitcode(status), *said]


def _main() -> None:
    from runwire.__main__ import main

    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for module in ("runwire.__main__", *sys.argv[2:]):
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_start(*json.loads(line), patience_s=int(sys.argv[1]))), flush=True)
