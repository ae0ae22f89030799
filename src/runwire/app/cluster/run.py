"""`runwire cluster`: PostgreSQL, Redis, and every role as processes of their own, on one machine and without Docker."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runwire.app.administration import opened
from runwire.app.cluster.processes import Kept, Say
from runwire.app.cluster.roster import Roster
from runwire.app.cluster.services import LocalPostgres, free_port, local_redis
from runwire.app.local import sign_in_link
from runwire.app.together import together
from runwire.errors import ConfigurationError, Unavailable
from runwire.settings import Loaded, load
from runwire.storage.open import migrate_storage

__all__ = ["Layout", "run_cluster"]

_UP_S: Final = 90.0  # for all processes; some seconds on a machine with cores to spare
# Not the processes' to take from the settings: each has its own.
_OWN: Final = ("roles", "port", "management_port", "data_dir", "agents", "environment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is started."""

    target: tuple[str, ...]  # agents of the workers; empty: of the settings
    gateways: int = 2
    workers: int = 3
    auths: int = 1
    port: int = 8000  # of the first gateway; the others follow


async def run_cluster(loaded: Loaded, layout: Layout, *, say: Say, ready: Callable[[Sequence[str]], None]) -> None:
    """Run a deployment until SIGINT or SIGTERM.

    Args:
        loaded: the settings: `data_dir` is the cluster's folder; a shared `database_url` and a `redis_url` are used
            instead of own ones; the rest is every process's.
        layout: how many of what.
        say: shows (name, line).
        ready: called once with the lines that say how to reach it.

    Raises:
        ConfigurationError: PostgreSQL is missing, this folder's cluster runs, a gateway's port is taken, or a process
            cannot run with these settings.
        Unavailable: something did not start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    folder = loaded.settings.data_dir.absolute()
    await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    roster = Roster(folder, say=say)
    with roster.held():
        await roster.end_left()  # of whom the ports may be
        _check_ports(layout)
        await _run(loaded, layout, folder, roster, stopping, say=say, ready=ready)


async def _run(
    loaded: Loaded,
    layout: Layout,
    folder: Path,
    roster: Roster,
    stopping: asyncio.Event,
    *,
    say: Say,
    ready: Callable[[Sequence[str]], None],
) -> None:
    async with _services(loaded, folder, roster, say) as (urls, redis_url):
        for url in urls:
            before, after = await migrate_storage(url)
            say("migrate", f"at {after}" if before == after else f"from {before or 'nothing'} to {after}")
        if stopping.is_set():
            return
        roles = _roles(loaded, layout, folder, urls, redis_url, say)
        async with _kept(roles, roster):
            await _until_up(roles, stopping)
            if not stopping.is_set():
                ready(await _reached(folder, roles, layout, say))
                await stopping.wait()
            say("cluster", "stops: gateways, workers, auth service, then the rest")


@asynccontextmanager
async def _services(
    loaded: Loaded, folder: Path, roster: Roster, say: Say
) -> AsyncIterator[tuple[tuple[str, ...], str | None]]:
    """Run the database and Redis, if the settings name none; give the databases' URLs and that of Redis."""
    settings = loaded.settings
    services: list[Kept] = []
    postgres: LocalPostgres | None = None
    if not settings.is_shared:
        postgres = LocalPostgres(folder, say=say)
        await asyncio.to_thread(postgres.prepare)
        services.append(postgres.kept())
    redis_url = settings.redis_url
    if redis_url is None:
        redis = local_redis(folder, say=say)
        if redis is None:
            say("redis", "none on this machine; hints go through the database (NOTIFY)")
        else:
            services.append(redis[0])
            redis_url = redis[1]
    async with _kept(services, roster, how=signal.SIGINT):  # PostgreSQL's fast shutdown; Redis takes it too
        if postgres:
            await postgres.until_up()
        say("postgres", f"up, data in {postgres.data}" if postgres else ", ".join(settings.shown_urls))
        if redis_url:
            say("redis", settings.shown_redis_url or f"up at {redis_url.rpartition('@')[2]}")
        yield (postgres.url,) if postgres else settings.storage_urls, redis_url


@asynccontextmanager
async def _kept(processes: Sequence[Kept], roster: Roster, how: signal.Signals = signal.SIGTERM) -> AsyncIterator[None]:
    """Keep processes running; at the end stop them all at once."""
    for process in processes:
        process.began = roster.add
    async with together() as tasks:
        running = [tasks.create_task(process.run()) for process in processes]
        try:
            yield
        finally:
            async with asyncio.TaskGroup() as ending:
                for process in processes:
                    ending.create_task(process.stop(how))
            for task in running:
                task.cancel()


def _roles(
    loaded: Loaded, layout: Layout, folder: Path, urls: tuple[str, ...], redis_url: str | None, say: Say
) -> list[Kept]:
    """Return the processes of the roles, and write what they are told."""
    ports = [layout.port + n for n in range(layout.gateways)]
    auth_ports = [free_port() for _ in range(layout.auths)]
    hosts = ("127.0.0.1", "localhost")
    ours: dict[str, Any] = {
        **{name: _plain(value) for name, value in loaded.given.items()},
        "environment": "development",
        "database_url": list(urls),
        "service_secret": loaded.settings.service_secret or secrets.token_urlsafe(32),
        "public_url": f"http://127.0.0.1:{layout.port}",
        "auth_url": f"http://127.0.0.1:{auth_ports[0]}",
        "allowed_origins": [f"http://{host}:{port}" for host in hosts for port in ports],
        **({"redis_url": redis_url} if redis_url else {}),
    }
    common = {name: value for name, value in ours.items() if name not in _OWN or name == "environment"}
    agents = list(layout.target or loaded.settings.agents)
    config = folder / "runwire.toml"
    _write(config, common)

    def kept(name: str, role: str, port: int, *words: str) -> Kept:
        start = [sys.executable, "-m", "runwire", "serve", *words, "--role", role, "--port", str(port)]
        return Kept(name, [*start, "--config", str(config)], say=say)

    return [
        *(kept(f"auth{n + 1}", "auth", port) for n, port in enumerate(auth_ports)),
        *(kept(f"gateway{n + 1}", "gateway", port) for n, port in enumerate(ports)),
        *(kept(f"worker{n + 1}", "worker", 0, *agents) for n in range(layout.workers)),
    ]


def _check_ports(layout: Layout) -> None:
    """See that gateways can listen, before a database is made. Raises ConfigurationError, naming all that are taken."""
    faults: list[str] = []
    for port in range(layout.port, layout.port + layout.gateways):
        with socket.socket() as probe:
            # As the server will: what is only in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                what = f"cannot listen on 127.0.0.1:{port} ({error.strerror})"
                faults.append(f"port: {what}; gateways take {layout.gateways} in a row: choose others with --port.")
    if faults:
        raise ConfigurationError(faults)


def _plain(value: Any) -> Any:
    """Return a value as `_write` can have it: tables are JSON in a text, which is taken from everywhere."""
    if isinstance(value, Mapping) or (isinstance(value, tuple) and any(isinstance(one, Mapping) for one in value)):
        return json.dumps(value)
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _write(config: Path, values: dict[str, Any]) -> None:
    config.unlink(missing_ok=True)
    with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        # JSON's strings, numbers, booleans and lists are TOML's.
        file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)


async def _until_up(roles: Sequence[Kept], stopping: asyncio.Event) -> None:
    """Wait for all of them, or until a person has had enough."""
    try:
        async with asyncio.timeout(_UP_S), asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(_all_up(roles)), tasks.create_task(stopping.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
    except TimeoutError:
        missing = ", ".join(process.name for process in roles if not process.is_up.is_set())
        raise Unavailable(f"Not up within {_UP_S:.0f} s: {missing}; what they say is above.") from None


async def _all_up(roles: Sequence[Kept]) -> bool:
    for process in roles:
        await process.is_up.wait()
    return True


async def _reached(folder: Path, roles: Sequence[Kept], layout: Layout, say: Say) -> list[str]:
    settings = load(config_file=folder / "runwire.toml", serves=False).settings
    lines: list[str] = []
    async with opened(settings) as storage:
        for n in range(layout.gateways):
            url = f"http://127.0.0.1:{layout.port + n}"
            link = await sign_in_link(storage.auth, url)
            lines.append(f"gateway{n + 1}  {url}  sign-in {link or '(the developer is disabled)'}")
    pids = "  ".join(f"{process.name} {process.pid}" for process in roles)
    lines += [f"processes {pids}", "try: kill -9 one of them while a run streams. Ctrl-C stops all."]
    return lines
