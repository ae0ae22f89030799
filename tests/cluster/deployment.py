"""A deployment of many processes on this machine: gateways, workers and auth services that share a PostgreSQL.

::

    cluster = Cluster(tmp_path, await postgres.create_database(), redis_url=redis.url)   # or without Redis
    await cluster.start()                       # auth services first, then all others at once
    ada = Outside(cluster.gateways[0].url, await cluster.key("ada"))
    await cluster.workers[0].kill9()            # also: stop() (SIGTERM), pause(), resume(), restart(), logs()
    await cluster.workers[0].start()            # same role, same port
    await cluster.end()                         # kills what runs, and looks through what all have logged
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, Literal

from tests.mission_critical.deployment import AGENTS
from tests.postgres import PASSWORD

from runwire.testing.server import ServerProcess

__all__ = ["LEASE_S", "ROLE_AGENTS", "SECRET", "Cluster", "Role", "RoleProcess", "free_port"]

Role = Literal["gateway", "worker", "auth"]

ROLE_AGENTS: Final = Path(__file__).with_name("agents.py")
LEASE_S: Final = 3.0  # the shortest that the settings allow
SECRET: Final = "canary-of-the-service-" + "s" * 32  # no log and no error may show it


class RoleProcess(ServerProcess):
    """One process of some roles, on a port that it keeps.

    Args:
        roles: what it does.
        target: the agents; of no use to who is no worker, and not even named to it.
        config: its settings.
        folder: for its log.
        name: of the log.
        cwd: where agents leave marks.
    """

    says = ("ready ",)

    def __init__(
        self, roles: tuple[Role, ...], target: str, *, config: Path, folder: Path, name: str, cwd: Path, port: int
    ) -> None:
        super().__init__(target, data_dir=folder / name, cwd=cwd, port=port, start_timeout_s=60.0)
        self.roles = roles
        self.config = config
        self.name = name
        self.within: tuple[str, ...] = ()  # a command that starts it, such as one that enters a namespace
        self.module = "runwire"  # another one for a build that can be broken
        self.may_say_tracebacks = False  # of a test that breaks it on purpose

    def pause(self) -> None:
        """Stop it where it is (SIGSTOP): its sockets stay open and nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def _command(self) -> list[str]:
        target = [self.target] if "worker" in self.roles else []
        roles = [word for role in self.roles for word in ("--role", role)]
        at = ("--port", str(self.port), "--config", str(self.config))
        return [*self.within, sys.executable, "-m", self.module, "serve", *target, *roles, *at, *self.options]


class Cluster:
    """Processes that share a database, and maybe a Redis; `key` gives people to ask with.

    Args:
        folder: for settings, logs, and `marks`, the working folder of all, where agents leave theirs.
        url: of a migrated PostgreSQL database.
        redis_url: None: hints go through the database.
        gateways: how many; the first one's address is everybody's `public_url`, and so the issuer.
        workers: how many.
        auths: how many; gateway n asks the n-th, and so on round.
        agents: what the workers run.
        settings: of all processes, in `runwire.toml`'s words.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        redis_url: str | None = None,
        gateways: int = 2,
        workers: int = 2,
        auths: int = 1,
        agents: Path = AGENTS,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.url = url
        self.marks = folder / "marks"
        self.marks.mkdir(parents=True)
        self._agents = agents
        self._keys: dict[str, str] = {}
        self.processes: list[RoleProcess] = []
        gateway_ports = [free_port() for _ in range(gateways)]
        auth_ports = [free_port() for _ in range(auths)]
        self._settings = {
            "environment": "test",
            "database_url": url,
            "lease_s": LEASE_S,
            "service_secret": SECRET,
            "agents": ["nowhere.py"],  # whoever is no worker does not even look for them
            "public_url": f"http://127.0.0.1:{gateway_ports[0]}",
            "allowed_origins": [f"http://127.0.0.1:{port}" for port in gateway_ports],
            **({} if redis_url is None else {"redis_url": redis_url, "redis_prefix": f"test-{folder.name}"}),
            **settings,
        }
        self._write(self.marks / "runwire.toml")  # for the verbs of the command line
        self.auths = [self.add(("auth",), port=port) for port in auth_ports]
        self.gateways = [
            self.add(("gateway",), port=port, auth_url=f"http://127.0.0.1:{auth_ports[n % auths]}")
            for n, port in enumerate(gateway_ports)
        ]
        self.workers = [self.add(("worker",)) for _ in range(workers)]

    def add(self, roles: tuple[Role, ...], *, port: int | None = None, **settings: Any) -> RoleProcess:
        """Make one more process, which is not started yet; `settings` are its own."""
        count = sum(process.roles == roles for process in self.processes)
        name = f"{'-'.join(roles)}{count + 1}"
        config = self.folder / f"{name}.toml"
        self._write(config, **settings)
        process = RoleProcess(
            roles,
            str(self._agents),
            config=config,
            folder=self.folder,
            name=name,
            cwd=self.marks,
            port=port or free_port(),
        )
        self.processes.append(process)
        return process

    async def start(self) -> None:
        """Start all: at once, as an operator does; a gateway waits for its auth service."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for process in self.processes:
                    tasks.create_task(process.start())
        except BaseException:
            for process in self.processes:
                await process.kill9()
            raise

    async def rest(self) -> None:
        """Kill what runs; `wake` starts it again."""
        for process in self.processes:
            await process.kill9()

    async def wake(self) -> None:
        """Start all that do not run, at once."""
        async with asyncio.TaskGroup() as tasks:
            for process in self.processes:
                if not process.is_running:
                    tasks.create_task(process.start())

    async def end(self) -> None:
        """Kill what runs, and see that nobody has said what he should not."""
        await self.rest()
        for process in self.processes:
            said = process.logs(lines=100_000)
            assert PASSWORD not in said, process.name
            assert SECRET not in said, process.name
            assert process.may_say_tracebacks or "Traceback" not in said, f"{process.name}:\n{said}"

    async def key(self, name: str) -> str:
        """Return a person's API key; the person is made on first use."""
        if name not in self._keys:
            self._keys[name] = (await self.cli("user", "add", name, "--with-key")).strip()
        return self._keys[name]

    async def cli(self, *words: str, stdin: str | None = None) -> str:
        """Run a verb of `runwire` on the database and return what it printed."""
        return await self.auths[0].cli(*words, stdin=stdin)

    def marked(self, name: str) -> list[str]:
        """Return the lines that agents left under a name."""
        path = self.marks / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _write(self, path: Path, **settings: Any) -> None:
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in {**self._settings, **settings}.items()]
        path.write_text("".join(lines), encoding="utf-8")


def free_port() -> int:
    """Return a port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
