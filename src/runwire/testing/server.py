"""A real server in its own process, on its own folder and port, that a test may kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final, Self

from runwire.errors import Unavailable

__all__ = ["ServerProcess"]

_START_S: Final = (
    30.0  # a cold start with migration takes about 2 s; a loaded machine of two cores up to ten times that
)
_STOP_S: Final = 40.0  # longer than the server's own `drain_s` of 30
_CLI_S: Final = 30.0
_REAP_S: Final = 5.0  # a process that has closed its output is gone in milliseconds
_LOG_LINES: Final = 200


class ServerProcess:
    """Start, stop and kill `python -m runwire dev TARGET` on one data folder and one port.

    ::

        async with ServerProcess("agent.py:agent", data_dir=tmp_path / "data") as server:
            key = await server.create_user("ada")
            async with runwire.connect(server.url, key) as client: ...
            await server.kill9()
            await server.start()      # same folder, same port

    All waiting is done in threads, so that clients in the caller's event loop live on; every wait has a deadline.
    Made for one task at a time: start, stop and kill9 must not overlap.

    Args:
        target: what `runwire dev` takes: `file.py`, `file.py:attribute`, `module:attribute`; empty: what pyproject.toml
            names.
        data_dir: the server's folder; the server creates it.
        port: 0 takes a free one at the first start and keeps it for later starts.
        options: further words of the command line, such as `("--max-attempts", "3")`.
        cwd: where the process starts; None: where the test runs.
        start_timeout_s: how long `ready …` may take.
    """

    says: tuple[str, ...] = ("ready ", "sign-in ")  # how the lines begin that it prints when it is up (PROTOCOL §6)

    def __init__(
        self,
        target: str,
        *,
        data_dir: Path,
        port: int = 0,
        options: tuple[str, ...] = (),
        cwd: Path | None = None,
        start_timeout_s: float = _START_S,
    ) -> None:
        self.target = target
        self.data_dir = data_dir
        self.port = port
        self.options = options
        self.cwd = cwd
        self.start_timeout_s = start_timeout_s
        self.cli_cwd: Path | None = None  # where verbs start; None: where the server does
        self.url = ""
        self.sign_in_link = ""
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._output: _Lines | None = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs; a test that wants a clean stop calls `stop`."""
        await self.kill9()

    @property
    def pid(self) -> int:
        """Return the id of the running process.

        Raises:
            Unavailable: it does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise Unavailable("The server does not run.")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Return whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the server and wait for the lines of `says`.

        Raises:
            Unavailable: it ended, or was not ready in time; the message has the end of its log.
        """
        await asyncio.to_thread(self._start)

    async def stop(self, *, timeout_s: float = _STOP_S) -> int:
        """Ask the server to end (SIGTERM) and return its exit status.

        Raises:
            Unavailable: it did not end in time, and was killed.
        """
        return await asyncio.to_thread(self._end, signal.SIGTERM, timeout_s)

    async def kill9(self) -> None:
        """Kill the server and what it started with SIGKILL; nothing happens if it does not run."""
        await asyncio.to_thread(self._end, signal.SIGKILL, _CLI_S)

    async def end(self) -> None:
        """Let nothing of it be left; how is its own."""
        await self.kill9()

    async def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) the server and start it again on the same folder and port."""
        if kill:
            await self.kill9()
        else:
            await self.stop()
        await self.start()

    async def create_user(self, name: str, *, role: str | None = None, password: str | None = None) -> str:
        """Create a user by the command line and return an API key of that user."""
        words = ["user", "add", name, "--with-key", *(("--role", role) if role else ())]
        if password is not None:
            words.append("--password-stdin")
        return (await self.cli(*words, stdin=password)).strip()

    async def create_token(self, user: str) -> str:
        """Return a new API key of a user, made by the command line."""
        return (await self.cli("token", "create", "--user", user)).strip()

    async def cli(self, *words: str, stdin: str | None = None) -> str:
        """Run a verb of `runwire` on the server's folder and return what it printed.

        Raises:
            Unavailable: it failed or took too long; the message has what it wrote to standard error.
        """
        return await asyncio.to_thread(self._cli, words, stdin)

    def logs(self, *, lines: int = _LOG_LINES) -> str:
        """Return the end of what all processes of this server wrote to standard error."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # Below: in a thread.

    def _command(self) -> list[str]:
        words = [sys.executable, "-m", "runwire", "dev", *([self.target] if self.target else [])]
        return [*words, "--port", str(self.port), "--no-open", "--data-dir", str(self.data_dir), *self.options]

    def _start(self) -> None:
        if self.is_running:
            raise Unavailable("The server runs already.")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            # Its own session: a kill reaches what it started too, and Ctrl-C in the test run does not reach it first.
            process = subprocess.Popen(  # noqa: S603 - the words are the test's own
                self._command(), stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, cwd=self.cwd,
                encoding="utf-8", start_new_session=True,
            )  # fmt: skip
        assert process.stdout
        self._process, self._output = process, _Lines(process.stdout)
        found = self._output.wait_for(self.says, timeout_s=self.start_timeout_s)
        if found is None:
            status = self._status(process)
            self._end(signal.SIGKILL, _CLI_S)
            said = "was not ready in time" if status is None else f"ended with status {status}"
            raise Unavailable(f"`{' '.join(self._command())}` {said}. The end of its log:\n{self.logs()}")
        self.url, self.sign_in_link = self._reached(found)
        self.port = int(self.url.rsplit(":", 1)[1].strip("/"))

    def _reached(self, found: list[str]) -> tuple[str, str]:
        """Return the URL and the sign-in link, maybe empty, of what follows each of `says`."""
        url, link = (*found, "")[:2]
        return url, link

    def _status(self, process: subprocess.Popen[str]) -> int | None:
        """Return how a process ended that printed no `ready` line; None if it has not."""
        if self._output is None or not self._output.is_closed:
            return process.poll()
        try:
            # Its output is closed a moment before it is gone.
            return process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            return None

    def _end(self, how: signal.Signals, timeout_s: float) -> int:
        process, output = self._process, self._output
        if process is None or output is None:
            return 0
        self._process = self._output = None
        if process.poll() is None:
            _signal_group(process.pid, how)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"The server did not end within {timeout_s} s of {how.name}.\n{self.logs()}") from None
        finally:
            _signal_group(process.pid, signal.SIGKILL)  # the process itself, or what it left behind
            process.wait()
            output.close()
        return status

    def _cli(self, words: tuple[str, ...], stdin: str | None) -> str:
        command = [sys.executable, "-m", "runwire", *words, "--data-dir", str(self.data_dir)]
        try:
            done = subprocess.run(  # noqa: S603 - the words are the test's own
                command,
                input=stdin or "",
                capture_output=True,
                encoding="utf-8",
                timeout=_CLI_S,
                check=False,
                cwd=self.cli_cwd or self.cwd,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"`runwire {' '.join(words)}` did not end within {_CLI_S} s.") from None
        if done.returncode != 0:
            raise Unavailable(f"`runwire {' '.join(words)}` ended with status {done.returncode}:\n{done.stderr}")
        return done.stdout


def _signal_group(pid: int, how: signal.Signals) -> None:
    """Signal the session that a process leads; nothing is left of it when that fails."""
    try:
        os.killpg(pid, how)
    except ProcessLookupError:
        return


class _Lines:
    """Read a pipe in a thread, so that the process never blocks on a full one; keeps the first lines.

    At most 1,000 lines are kept, later ones are dropped: PROTOCOL §6 promises two.
    """

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._lines: list[str] = []
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="runwire-server-output", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Return whether the other end of the pipe is closed."""
        return self._is_closed

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                if len(self._lines) < 1000:
                    self._lines.append(line.strip())
                self._changed.notify_all()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait_for(self, prefixes: tuple[str, ...], *, timeout_s: float) -> list[str] | None:
        """Return what follows each prefix on its line, or None at the deadline or the end of the pipe."""

        def complete() -> bool:
            return self._is_closed or None not in self._after(prefixes)

        with self._changed:
            self._changed.wait_for(complete, timeout_s)
            found = self._after(prefixes)
        words = [word for word in found if word is not None]
        return words if len(words) == len(prefixes) else None

    def _after(self, prefixes: tuple[str, ...]) -> list[str | None]:
        return [
            next((line.removeprefix(prefix) for line in self._lines if line.startswith(prefix)), None)
            for prefix in prefixes
        ]

    def close(self) -> None:
        """Join the thread; the writing end is closed, as its process is gone."""
        self._thread.join(timeout=5)
        self._pipe.close()
