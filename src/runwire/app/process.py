"""One process: every room wired, and the order in which its parts start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

import runwire
from runwire.agents.context import User
from runwire.agents.load import Agents, load_agents
from runwire.app.administration import Verbs, opened, where
from runwire.app.logs import configure_logging
from runwire.auth.client import AuthClient, AuthClientSettings
from runwire.auth.service import users
from runwire.auth.service.app import make_auth_app
from runwire.auth.service.settings import AuthSettings
from runwire.console.app import make_console_app
from runwire.errors import ConfigurationError, Conflict, RunwireError
from runwire.gateway.app import Gateway, GatewaySettings, make_gateway
from runwire.gateway.server import Server, ServerSettings, make_server
from runwire.guide import docs_root
from runwire.protocol.connection import ConnectionSettings
from runwire.runtime.upkeep import Caretaker, UpkeepSettings
from runwire.runtime.worker import Worker, WorkerSettings
from runwire.settings import Loaded, Settings
from runwire.storage.base import Storage, Wake
from runwire.storage.open import migrate_storage, open_bus
from runwire.storage.placed import alone
from runwire.storage.sqlite.control import ControlSocket
from runwire.storage.sqlite.lock import OwnedElsewhere
from runwire.storage.sqlite.storage import SqliteStorage

__all__ = ["running", "serve"]

Announce = Callable[[str, str], None]
Ready = Callable[[str, str | None], None]

_COMMAND_S: Final = 10.0  # a command that has the data folder is done within that time
_COLLECTED_AFTER: Final = 20_000  # objects more than at the last collection: a few megabytes
_NO_PUBLIC_URL: Final = (
    "public_url is not set: who signs in here is unknown to every other server on this database, and after a restart on"
    " another port. Give all of them the same public_url."
)
_DEVELOPER: Final = "developer"  # who the sign-in link of `runwire dev` signs in


async def serve(loaded: Loaded, *, ready: Ready, announce: Announce, takes_signals: bool = True) -> None:
    """Run one process with every role until it is told to stop (SIGTERM, SIGINT).

    Args:
        loaded: the settings and where they came from.
        ready: called once with the URL and, in development, a sign-in link.
        announce: called with (part, detail) each time a part has answered.
        takes_signals: whether SIGTERM and SIGINT stop it; else it runs until it is cancelled.

    Raises:
        ConfigurationError: something set cannot work; nothing was started.
        Unavailable: a part does not answer.
    """
    settings = loaded.settings
    configure_logging(settings)
    _raise_file_limit()
    announce("settings", f"{settings.environment} ({_sources(loaded)})")
    async with contextlib.AsyncExitStack() as stack:
        storage, agents, listener = await _prepare(settings, stack)
        await storage.ping()
        announce("database", f"{settings.shown_url} (log {storage.log})")
        process = _Process(settings, storage, agents, listener, takes_signals=takes_signals)
        if takes_signals:  # the process is the server's own
            _spare_collector()
        await process.run(ready=ready, announce=announce)


def _spare_collector() -> None:
    """Have the garbage collector look at less, and more rarely: it took a third of a burst's CPU (measured).

    What the start has made stays, so it is not looked at again. Python's own threshold of 700 objects is passed by
    every second commit; cycles, which are all it is for, come with connections and runs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER, *gc.get_threshold()[1:])


async def _prepare(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[Storage, Agents, socket.socket]:
    """Get what a process needs before it starts anything; every fault of it is reported, not only the first."""
    faults: list[str] = []
    storage: Storage | None = None
    agents: Agents | None = None
    listener: socket.socket | None = None
    try:
        if settings.is_shared and settings.environment == "development":
            await migrate_storage(settings.storage_url)  # elsewhere it is a step of its own: `runwire migrate`
        storage = await stack.enter_async_context(opened(settings, patience_s=_COMMAND_S))
    except OwnedElsewhere as owned:
        faults.append(await _describe_owner(settings, owned))
    except ConfigurationError as error:
        faults += error.faults
    try:
        agents = _load_agents(settings)
    except ConfigurationError as error:
        faults += error.faults
    try:
        listener = _listen(settings)
        stack.callback(listener.close)
    except ConfigurationError as error:
        faults += error.faults
    if storage is None or agents is None or listener is None:
        raise ConfigurationError(faults)
    return storage, agents, listener


async def _describe_owner(settings: Settings, owned: OwnedElsewhere) -> str:
    process = f"process {owned.owner.pid}" if owned.owner else "another process"
    try:
        place = await where(settings)
    except RunwireError:
        place = None
    at = f" at {place[0]}" if place else ""
    return f"data_dir {settings.data_dir}: already served{at} by {process}; use that, stop it, or choose --data-dir."


@contextlib.asynccontextmanager
async def _tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """Run parts beside each other; what one of them says to a person is raised alone, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        said: BaseException | None = group.subgroup(RunwireError)
        if said is None:
            raise
        while isinstance(said, BaseExceptionGroup):
            said = said.exceptions[0]
        raise said from None


class _Process:
    """The parts of one process, wired."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        agents: Agents,
        listener: socket.socket,
        *,
        takes_signals: bool,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._agents = agents
        self._listener = listener
        self._bus = open_bus(storage)
        # The public URL is the issuer, so tokens of one deployment are nothing to another.
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._url = f"http://{host}:{listener.getsockname()[1]}"
        self._issuer = settings.public_url or self._url
        secret = settings.service_secret or secrets.token_urlsafe(32)
        self._auth_app = make_auth_app(
            storage.auth,
            AuthSettings(
                issuer=self._issuer,
                service_secrets=(secret,),
                access_ttl_s=settings.access_ttl_s,
                refresh_ttl_s=settings.refresh_ttl_s,
            ),
            changed=lambda: self._bus.publish(Wake(topic="auth")),
        )
        self._auth_http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self._auth_app), base_url="http://auth.internal"
        )
        self._auth = AuthClient(
            http=self._auth_http,
            store=storage.auth,
            bus=self._bus,
            settings=AuthClientSettings(issuer=self._issuer, service_secret=secret),
        )
        self._gateway: Gateway = make_gateway(
            alone(storage, self._bus),
            auth=self._auth,
            agents=agents.names,
            default_agent=agents.default,
            settings=_gateway_settings(settings, self._url),
            auth_app=self._auth_app,
            console_app=make_console_app(docs_root()),
            unready=self._unready,
        )
        self._worker = Worker(
            storage,
            self._bus,
            agents,
            # Random, too: in containers all processes have one id, and a restart is another worker.
            f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            _worker_settings(settings),
            is_allowed=self._is_allowed,
            who=self._who,
            registry=self._gateway.metrics.registry,
        )
        self._caretaker = Caretaker(storage.upkeep, _upkeep_settings(settings), registry=self._gateway.metrics.registry)
        self._server: Server = make_server(
            self._gateway.asgi,
            ServerSettings(
                host=settings.host,
                port=settings.port,
                trusted_proxies=settings.trusted_proxies,
                takes_signals=takes_signals,
                connections=settings.max_connections,
            ),
            drain=self._drain,
        )

    async def run(self, *, ready: Ready, announce: Announce) -> None:
        """Start the parts, each only after what it needs has answered; stop them in the opposite order."""
        control = self._control_socket()
        async with self._auth_http, _tasks() as tasks:
            carrying = tasks.create_task(self._bus.run())
            background = [tasks.create_task(self._auth.run())]
            announce("bus", "NOTIFY of the database" if self._settings.is_shared else "in-process")
            await self._auth.check()
            announce("auth", "in-process, its secret accepted")
            if self._settings.is_shared and self._settings.public_url is None:
                announce("warning", _NO_PUBLIC_URL)
            if control:
                background.append(tasks.create_task(control.run()))
            background.append(tasks.create_task(self._gateway.run()))
            background.append(tasks.create_task(self._worker.run()))
            background.append(tasks.create_task(self._caretaker.run()))
            self._auth.on_change(self._worker.recheck)
            announce("agents", self._describe_agents())
            serving = tasks.create_task(self._server.serve(sockets=[self._listener]))
            try:
                # A server that cannot start ends the whole group, and with it this wait.
                await self._server.until_up()
                link = await self._developer_link() if self._settings.environment == "development" else None
                ready(self._url + self._settings.path_prefix, link)
                await asyncio.wait([serving])
            finally:
                # The server has drained and closed its sockets: nobody needs the rest any more.
                for task in background:
                    task.cancel()
                await self._bus.close()  # what was said last still goes out
                carrying.cancel()

    async def _drain(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._gateway.drain())
            tasks.create_task(self._worker.drain())

    async def _developer_link(self) -> str | None:
        # A restart finds the developer of the start before.
        with contextlib.suppress(Conflict):
            await users.add_user(self._storage.auth, _DEVELOPER, roles=("user", "operator"))
        try:
            secret = await users.create_sign_in_link(self._storage.auth, _DEVELOPER)
        except Conflict:
            return None  # disabled by its owner: there are other ways to sign in
        return f"{self._url}{self._settings.path_prefix}/?link={secret}"

    def _control_socket(self) -> ControlSocket | None:
        if not isinstance(self._storage, SqliteStorage):
            return None
        verbs = Verbs(self._storage, self._bus).table() | {"where": self._where}
        control = ControlSocket(self._storage.database, verbs)
        control.open()
        return control

    async def _where(self, _arguments: Mapping[str, Any]) -> dict[str, Any]:
        link = await self._developer_link() if self._settings.environment == "development" else None
        return {"url": self._url + self._settings.path_prefix, "link": link}

    def _describe_agents(self) -> str:
        default = f" (default {self._agents.default})" if len(self._agents.names) > 1 and self._agents.default else ""
        return ", ".join(self._agents.names) + default

    def _unready(self) -> str | None:
        return "identity_stale" if self._auth.freshness() == "expired" else None

    def _is_allowed(self, user: str) -> bool:
        row = self._auth.view.user(user)
        return row is not None and row.status == "active"

    def _who(self, user: str) -> User:
        row = self._auth.view.user(user)
        return User(id=user, name=row.name, roles=frozenset(row.roles)) if row else User(id=user)


@contextlib.asynccontextmanager
async def running(loaded: Loaded) -> AsyncIterator[tuple[str, str | None]]:
    """Run a server beside the caller's own code; gives its URL and sign-in link.

    Raises:
        RunwireError: it did not start.
    """
    place: asyncio.Future[tuple[str, str | None]] = asyncio.get_running_loop().create_future()

    def ready(url: str, link: str | None) -> None:
        place.set_result((url, link))

    async with _tasks() as tasks:
        # If it does not start, its error ends the group and this wait with it.
        serving = tasks.create_task(
            serve(loaded, ready=ready, announce=lambda _part, _detail: None, takes_signals=False)
        )
        yield await place
        serving.cancel()


def _raise_file_limit() -> None:
    """Take as many open files as this user may have: each connection is one, and the soft limit is often 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems say "unlimited" and mean less: then it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _load_agents(settings: Settings) -> Agents:
    agents = load_agents(settings.agents, root=Path.cwd(), default=settings.default_agent)
    if not agents.names:
        raise ConfigurationError(["agents: none is named; run `runwire dev agent.py`."])
    return agents


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # So that a restart after `kill -9` need not wait for old connections to time out.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2_048)
    except OSError as error:
        listener.close()
        free = _free_port(settings.host, family)
        hint = f"; port {free} is free: --port {free} (make: PORT={free})" if free else ""
        address = f"{settings.host}:{settings.port}"
        fault = f"{'port' if free else 'host'}: cannot listen on {address} ({error.strerror}){hint}."
        raise ConfigurationError([fault]) from error
    listener.setblocking(False)
    return listener


def _free_port(host: str, family: socket.AddressFamily) -> int | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return None  # the address itself is the fault
        return int(probe.getsockname()[1])


def _worker_settings(settings: Settings) -> WorkerSettings:
    return WorkerSettings(
        max_runs=settings.max_runs,
        user_limit=settings.user_run_limit,
        deadline_s=settings.deadline_s,
        park_after_s=settings.park_after_s,
        grace_s=settings.cancel_grace_s,
        drain_s=settings.drain_s,
        blocked_warn_s=settings.blocked_warn_s,
        blocked_fail_s=settings.blocked_fail_s,
    )


def _upkeep_settings(settings: Settings) -> UpkeepSettings:
    return UpkeepSettings(
        compact_after_s=settings.compact_after_s,
        retention_days=settings.retention_days,
        purge_deleted_s=settings.purge_deleted_s,
    )


def _gateway_settings(settings: Settings, url: str) -> GatewaySettings:
    port = url.rpartition(":")[2]
    own = {url, f"http://localhost:{port}", f"http://127.0.0.1:{port}"}
    hosts: set[str] = set()
    if settings.public_url:
        own = {_origin(settings.public_url)}
    elif settings.environment == "development":
        # A page of another site, its name bent to this address, must not reach a developer's server.
        hosts = {"localhost", "127.0.0.1", "[::1]", settings.host}
    return GatewaySettings(
        server=f"runwire/{runwire.__version__}",
        connection=ConnectionSettings(ping_s=settings.ping_s, pong_s=settings.pong_s, stall_s=settings.slow_reader_s),
        allowed_origins=tuple(sorted(own | set(settings.allowed_origins))),
        allowed_hosts=tuple(sorted(hosts)),
        path_prefix=settings.path_prefix,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _sources(loaded: Loaded) -> str:
    named = sorted({source for source in loaded.sources.values() if source != "default"})
    return ", ".join(named) if named else "defaults"
