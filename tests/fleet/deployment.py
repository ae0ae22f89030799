"""Processes of every role on one machine, each of which may be killed, stopped or deployed anew at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Literal

from tests.postgres import ADMIN, PASSWORD, PostgresServer, url_of_all
from tests.redis_server import RedisServer

from runwire.auth.service import users
from runwire.storage.open import migrate_storage, open_storage

__all__ = ["LEASE_S", "Deployment", "Node", "Role"]

Role = Literal["gateway", "worker", "auth"]

ROOT: Final = Path(__file__).resolve().parent.parent.parent
AGENTS: Final = Path(__file__).resolve().parent / "agents.py"
LEASE_S: Final = 3.0  # the shortest that the settings allow
PING_S: Final = 5.0
PONG_S: Final = 5.0
DRAIN_S: Final = 4.0
_START_S: Final = 60.0
_SECRET: Final = "fleet-secret-fleet-secret-fleet-secret"
_ISSUER: Final = "http://127.0.0.1:1"  # who signs; nobody goes there
_SETTINGS: Final = {
    "environment": "test",
    "lease_s": LEASE_S,
    "park_after_s": 1.0,  # so that waits are parked and woken all the time
    "cancel_grace_s": 1.0,
    "drain_s": DRAIN_S,
    "ping_s": PING_S,
    "pong_s": PONG_S,
    "slow_reader_s": 4.0,
    "compact_after_s": 100_000.0,  # deltas stay, so that all can be compared
    "log_format": "json",
    "log_level": "info",
}


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """A process of one role, on a port of its own over all its lives."""

    def __init__(self, deployment: Deployment, role: Role, number: int) -> None:
        self.role: Role = role
        self.name = f"{role}{number}"
        self.port = free_port()
        self.mutant = ""
        self.starts = 0
        self._deployment = deployment
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0  # how long the log was when this life began

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self._deployment.folder / f"{self.name}.log"

    @property
    def clock(self) -> Path:
        """The file that moves its wall clock."""
        return self._deployment.folder / f"{self.name}.clock"

    def launch(self) -> None:
        """Start the process; it is not ready yet."""
        assert not self.is_running, f"{self.name} runs already"
        self.starts += 1
        target = [str(AGENTS)] if self.role == "worker" else []
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "NO_COLOR": "1",
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "FLEET_CLOCK": str(self.clock),
            "FLEET_MUTANT": self.mutant,
            "RUNWIRE_ROLES": self.role,
        }
        with self.log_path.open("ab") as log:
            self._logged = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fleet.server", "serve", *target, "--port", str(self.port)],
                cwd=self._deployment.traces,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Wait until it says that it is ready, or has ended: it listens before it can be told to drain."""
        async with asyncio.timeout(_START_S):
            while self.is_running and b"\nready http" not in self._news():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    def _news(self) -> bytes:
        """Return what this life has logged."""
        with self.log_path.open("rb") as file:
            file.seek(self._logged)
            return b"\n" + file.read()

    def signal(self, how: signal.Signals) -> None:
        """Signal the process, if it lives."""
        if self.is_running:
            os.kill(self.pid, how)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait)

    async def stop(self, *, timeout_s: float) -> int | None:
        """Ask it to end; return how it did, or None if it had to be killed."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            await self.kill()
            return None

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""


class Proxies:
    """The process before the gateways."""

    def __init__(self, targets: Collection[int]) -> None:
        self.ports = [free_port() for _ in targets]
        pairs = [f"{port}:{target}" for port, target in zip(self.ports, targets, strict=True)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.proxy", *pairs],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def tell(self, verb: str, number: int, value: float) -> None:
        """Give a command; see `tests.fleet.proxy`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {number} {value}\n".encode())
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Deployment:
    """A database, perhaps a Redis, and processes of every role.

    Args:
        folder: for settings, traces and logs.
        has_redis: whether hints go through Redis; else through the database.
        counts: processes of each role.
        data: where the database's files go; None: a folder of its own.
        has_standby: whether a standby follows the database, asynchronously.
    """

    def __init__(
        self,
        folder: Path,
        *,
        has_redis: bool,
        counts: dict[Role, int],
        data: Path | None = None,
        has_standby: bool = False,
        **settings: float,
    ) -> None:
        self.folder = folder
        self.traces = folder / "traces"
        self.traces.mkdir(parents=True)
        self.postgres = _started(data) if data else PostgresServer.start(folder / "postgres")
        self.standby: PostgresServer | None = None
        self._has_standby = has_standby
        self._left: list[PostgresServer] = []  # what was left behind by a fail-over
        self.redis = RedisServer.start(folder / "redis") if has_redis else None
        self.nodes = [Node(self, role, n + 1) for role, count in counts.items() for n in range(count)]
        self.proxies: Proxies | None = None
        self.url = ""
        self._more = settings

    def of(self, role: Role) -> list[Node]:
        return [node for node in self.nodes if node.role == role]

    async def start(self) -> None:
        """Make the database and start everything."""
        self.url = await self.postgres.create_database(is_empty=True)
        await migrate_storage(self.url)
        shared = self.url
        if self._has_standby:
            # Else a standby that was cut off for a while would not find what it has missed.
            await self.postgres.configure(wal_keep_size="2GB")
            self.standby = await asyncio.to_thread(self.postgres.standby)
            shared = url_of_all([self.postgres, self.standby], self.url)
        auth = next((node.port for node in self.of("auth")), None)
        settings = {
            **_SETTINGS,
            **self._more,
            "database_url": shared,
            "public_url": _ISSUER,
            "service_secret": _SECRET,
            **({"auth_url": f"http://127.0.0.1:{auth}"} if auth else {}),
            **({"redis_url": self.redis.url} if self.redis else {}),
        }
        toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        (self.traces / "runwire.toml").write_text(toml, encoding="utf-8")
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            await node.ready()
            assert node.is_running, f"{node.name} did not start:\n{node.log()[-3000:]}"
        self.proxies = Proxies([node.port for node in self.of("gateway")])

    async def people(self, count: int) -> list[tuple[str, str]]:
        """Make users; return (id, API key) of each."""
        made: list[tuple[str, str]] = []
        storage = await open_storage(self.url)
        try:
            for n in range(count):
                row = await users.add_user(storage.auth, f"user{n}")
                made.append((row.user, await users.create_api_key(storage.auth, f"user{n}")))
        finally:
            await storage.close()
        return made

    async def end(self) -> None:
        """Kill everything; what was written stays."""
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            await node.kill()
        if self.proxies is not None:
            self.proxies.end()
        if self.redis is not None:
            await asyncio.to_thread(self.redis.remove)
        for server in filter(None, (self.postgres, self.standby, *self._left)):
            await asyncio.to_thread(server.remove)

    async def _followed(self) -> None:
        """Wait until the standby has what the primary has: after an outage it looks again after five seconds."""
        async with asyncio.timeout(_START_S):
            while not await self.postgres.execute(self.postgres.url("postgres", role=ADMIN), _FOLLOWERS):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def fail_over(self, *, lag_s: float, died: Callable[[], None]) -> None:
        """Have the primary die and its standby take its place, which lacks what was committed in the last moments."""
        standby = self.standby
        assert standby is not None
        await self._followed()
        await self.postgres.hold_back()
        await asyncio.sleep(lag_s)
        await asyncio.to_thread(self.postgres.kill)
        died()
        await standby.promote()
        self._left.append(self.postgres)
        self.url = standby.url(self.url.rpartition("/")[2])
        self.postgres, self.standby = standby, None

    def complaints(self) -> list[str]:
        """Return what no log may have: tracebacks and secrets."""
        found = []
        for node in self.nodes:
            said = node.log()
            found += [f"{node.name}: shows a secret" for secret in (PASSWORD, _SECRET) if secret in said]
            lines = said.splitlines()
            bad = [n for n, line in enumerate(lines) if _is_bad(line)]
            if bad:
                shown = "\n".join(lines[bad[0] : bad[0] + 30])
                found.append(f"{node.name}: {len(bad)} times, first: {shown[:4000]}")
        return found


_FOLLOWERS: Final = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lag < '1 s'"


def _started(data: Path) -> PostgresServer:
    """Start a database in a folder also as root, whose servers run as somebody else in a temporary folder."""
    before, tempfile.tempdir = tempfile.tempdir, str(data)
    try:
        return PostgresServer.start(data / "postgres")
    finally:
        tempfile.tempdir = before


def _is_bad(line: str) -> bool:
    """Return whether a line of a log is one that no fault excuses; agents fail by design, and say so."""
    return ("Traceback" in line or '"level": "error"' in line) and "it was meant to" not in line
