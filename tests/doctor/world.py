"""Running `runwire doctor` on a deployment, and what it found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.cluster.deployment import SECRET, Cluster
from tests.mission_critical.starts import Ended, Starts
from tests.postgres import PASSWORD as POSTGRES_PASSWORD
from tests.postgres import PostgresServer
from tests.redis_server import PASSWORD as REDIS_PASSWORD
from tests.redis_server import RedisServer

__all__ = ["CANARY", "Doctor", "Found", "World"]

CANARY: Final = "canary-of-a-doctor-never-shown-0123456789"
_PATIENCE_S: Final = 90
_ITS_OWN: Final = ("runwire.app.doctor.examination", "asyncpg", "runwire.storage.redis.condition")


@dataclass(frozen=True, slots=True)
class Found:
    """What the doctor said."""

    status: int
    findings: list[dict[str, Any]]
    verdict: str

    def of(self, state: str) -> set[tuple[str, str]]:
        """Return what is in a state: (part, what)."""
        return {(one["part"], one["what"]) for one in self.findings if one["state"] == state}

    def line(self, what: str, state: str = "fault") -> str:
        """Return what was found, and what mends it."""
        (one,) = [one for one in self.findings if (one["what"], one["state"]) == (what, state)]
        return f"{one['found']} → {one['fix']}"


class World:
    """A PostgreSQL, a Redis and an auth service that run; gateway and worker are only settings."""

    def __init__(
        self, folder: Path, cluster: Cluster, postgres: PostgresServer, redis: RedisServer, doctor: Doctor
    ) -> None:
        self.doctor = doctor
        self.folder = folder
        self.cluster = cluster
        self.postgres = postgres
        self.redis = redis

    async def look(
        self, role: str, *words: str, command: Sequence[str] = (), environ: dict[str, str] | None = None, **changes: Any
    ) -> Found:
        """Have a doctor look at a gateway, worker or auth service with some settings changed; None: not set."""
        process = {"gateway": self.cluster.gateways, "worker": self.cluster.workers, "auth": self.cluster.auths}[role][
            0
        ]
        settings = tomllib.loads(process.config.read_text(encoding="utf-8"))
        settings |= {"agents": [str(self.cluster._agents)], "port": 0, **changes}
        config = self.folder / "looked-at.toml"
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items() if value is not None]
        config.write_text("".join(lines), encoding="utf-8")
        words = ("--role", role, "--config", str(config), *words)
        return await self.doctor(*words, folder=self.folder, command=command, environ=environ)


class Doctor:
    """Runs `runwire doctor --json`, by default where the program is imported already. A context."""

    def __init__(self) -> None:
        self._starts = Starts("runwire.cli.doctor", "runwire.cli.diagnosis", *_ITS_OWN, patience_s=_PATIENCE_S)

    def __enter__(self) -> Self:
        self._starts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._starts.__exit__()

    async def __call__(
        self, *words: str, folder: Path, environ: dict[str, str] | None = None, command: Sequence[str] = ()
    ) -> Found:
        """Run it in a folder and read what it found; nobody's secret may be in it.

        Args:
            words: its options.
            folder: where it starts.
            environ: all of its environment.
            command: what starts `runwire`, if that is not simply started.
        """
        words = ("doctor", "--json", *([] if "--timeout-s" in words else ["--timeout-s", "45"]), *words)
        if command:
            done = await asyncio.to_thread(_run, [*command, *words], folder, environ or {})
        else:
            done = await asyncio.to_thread(self._starts, *words, folder=folder, environ=environ)
        for secret in (POSTGRES_PASSWORD, REDIS_PASSWORD, SECRET, CANARY):
            assert secret not in done.stdout + done.stderr
        assert done.stderr == ""
        said = json.loads(done.stdout)
        found = Found(done.status, said["findings"], said["verdict"])
        # Each line that is not well says what mends it, and no other.
        assert all((one["state"] in ("fault", "warning")) == (one["fix"] is not None) for one in found.findings)
        return found


def _run(command: list[str], folder: Path, environ: dict[str, str]) -> Ended:
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)
