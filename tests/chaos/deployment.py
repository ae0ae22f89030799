"""One data folder and the servers that live and die on it, in the test build."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.chaos.failpoints import Armed

from runwire.errors import Unavailable
from runwire.testing.server import ServerProcess

__all__ = ["AGENTS", "ChaosServer"]

ROOT = Path(__file__).resolve().parent.parent.parent
AGENTS = Path(__file__).resolve().parent / "agents.py"


class ChaosServer(ServerProcess):
    """A server of the test build; each start takes what is armed then.

    Args:
        folder: gets `data` (the server's), `probes` (where agents leave their journals) and the marks.
        settings: of `runwire.toml`.
        data_dir: elsewhere than in `folder`.
    """

    def __init__(self, folder: Path, *, data_dir: Path | None = None, **settings: float) -> None:
        self.folder = folder
        self.probes = folder / "probes"
        self.probes.mkdir(parents=True, exist_ok=True)
        self.configure(**settings)
        super().__init__(f"{AGENTS}", data_dir=data_dir or folder / "data", cwd=self.probes)
        self.log_path = folder / "server.log"  # not beside the data folder, which may be on a full disk
        self.armed: list[Armed] = []
        self.environment: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def configure(self, **settings: float) -> None:
        """Set what the next start reads."""
        toml = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.probes / "runwire.toml").write_text(toml, encoding="utf-8")

    @property
    def file(self) -> Path:
        """The data file."""
        return self.data_dir / "runwire.db"

    @property
    def clock(self) -> Path:
        """The file that moves the server's wall clock."""
        return self.folder / "clock"

    async def key(self, name: str) -> str:
        """Give the user's API key; the user is made on first use."""
        if name not in self._keys:
            self._keys[name] = await self.create_user(name)
        return self._keys[name]

    async def died(self, *, timeout_s: float) -> bool:
        """Wait for the process to end by itself; return whether it did."""
        process = self._process
        assert process is not None, "it was started"
        try:
            await asyncio.to_thread(process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send_signal(self, how: signal.Signals) -> None:
        """Signal the server process alone."""
        os.kill(self.pid, how)

    async def refused(self) -> str:
        """Start a server that must not start; give how it ended and all that it wrote."""
        self.log_path.unlink(missing_ok=True)
        try:
            await self.start()
        except Unavailable as error:
            return f"{error.message}\n{self.logs(lines=10_000)}"
        await self.kill9()
        raise AssertionError("the server started")

    def marks(self) -> list[dict[str, Any]]:
        """Give what the failpoints of all lives have written."""
        try:
            text = self._marks.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def acted(self, armed: Armed) -> bool:
        """Return whether a point has done what it was armed for, ever."""
        return any(mark["point"] == armed.point and mark["action"] == armed.action for mark in self.marks())

    def forget_marks(self) -> None:
        """Begin a new marks file."""
        self._marks.unlink(missing_ok=True)

    def effects(self, run: str) -> list[dict[str, Any]]:
        """Give the journal of a run's tools: what really happened, in order."""
        path = self.probes / f"effects-{run}"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def look(self, queries: Iterable[str]) -> list[list[Any]]:
        """Query a copy of the file and its log, as a crash has left them; the server need not run."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            for suffix in ("", "-wal"):
                source = self.file.with_name(self.file.name + suffix)
                if source.exists():
                    Path(scratch, source.name).write_bytes(source.read_bytes())
            with closing(sqlite3.connect(Path(scratch, self.file.name))) as connection:
                return [connection.execute(query).fetchall() for query in queries]

    @property
    def _marks(self) -> Path:
        return self.folder / "marks"

    def _command(self) -> list[str]:
        words = super()._command()
        at = words.index("runwire")
        environment = {
            "PYTHONPATH": str(ROOT),
            "CHAOS_MARKS": str(self._marks),
            "CHAOS_CLOCK": str(self.clock),
            "CHAOS_FAILPOINT": ",".join(map(str, self.armed)),
            **self.environment,
        }
        # `env` becomes the process it starts: the id stays that of the server.
        return [
            "env",
            *(f"{k}={v}" for k, v in environment.items()),
            *words[:at],
            "tests.chaos.server",
            *words[at + 1 :],
        ]
