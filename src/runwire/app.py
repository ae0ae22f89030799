"""The composition root: the only file that knows all rooms. It wires them and decides the order of start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import structlog

import runwire
from runwire.agents.context import User
from runwire.agents.load import Agents, load_agents
from runwire.auth.client import AuthClient, AuthClientSettings
from runwire.auth.service import users
from runwire.auth.service.app import make_auth_app
from runwire.auth.service.settings import AuthSettings
from runwire.console.app import make_console_app
from runwire.errors import ConfigurationError, Conflict, Unavailable
from runwire.gateway.app import Gateway, GatewaySettings, make_gateway
from runwire.gateway.server import Server, ServerSettings, make_server
from runwire.guide import docs_root
from runwire.protocol.connection import ConnectionSettings
from runwire.runtime.worker import Worker, WorkerSettings
from runwire.settings import Loaded, Settings, no_color
from runwire.storage.base import Bus, BusMessage, CancelRequest, Storage, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.open import open_storage
from runwire.storage.sqlite.control import ControlSocket, Verb, ask
from runwire.storage.sqlite.lock import OwnedElsewhere
from runwire.storage.sqlite.storage import SqliteStorage

__all__ = ["administer", "migrate", "running", "serve", "where"]

Announce = Callable[[str, str], None]
Ready = Callable[[str, str | None], None]

_DEVELOPER: Final = "developer"  # who the sign-in link of `runwire dev` signs in
_OWNER_WAIT_S: Final = 10.0  # a starting server owns the file before it takes commands
_OWNER_POLL_S: Final = 0.05


async def serve(loaded: Loaded, *, ready: Ready, announce: Announce) -> None:
    """Run one process with every role until it is told to stop (SIGTERM, SIGINT).

    Args:
        loaded: the settings and where they came from.
        ready: called once with the URL and, in development, a sign-in link.
        announce: called with (part, detail) each time a part has answered.

    Raises:
        ConfigurationError: something set cannot work; nothing was started.
        Unavailable: a part does not answer.
    """
    settings = loaded.settings
    _configure_logging(settings)
    announce("settings", f"{settings.environment} ({_sources(loaded)})")
    listener = _listen(settings)  # first: a busy port must cost nothing
    try:
        agents = _load_agents(settings)
        async with _storage(settings) as storage:
            await storage.ping()
            announce("database", f"{_without_home(settings.storage_url)} (log {storage.log})")
            await _Process(settings, storage, agents, listener).run(ready=ready, announce=announce)
    finally:
        listener.close()


class _Process:
    """The parts of one process, wired."""

    def __init__(self, settings: Settings, storage: Storage, agents: Agents, listener: socket.socket) -> None:
        self._settings = settings
        self._storage = storage
        self._agents = agents
        self._listener = listener
        self._bus = LocalBus()
        # The public URL is the issuer, so tokens of one deployment are nothing to another.
        self._url = f"http://{settings.host}:{listener.getsockname()[1]}"
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
        self._worker = Worker(
            storage,
            self._bus,
            agents,
            f"{socket.gethostname()}-{os.getpid()}",
            _worker_settings(settings),
            is_allowed=self._is_allowed,
            who=self._who,
        )
        self._gateway: Gateway = make_gateway(
            storage=storage,
            bus=self._bus,
            auth=self._auth,
            agents=agents.names,
            default_agent=agents.default,
            settings=_gateway_settings(settings, self._url),
            auth_app=self._auth_app,
            console_app=make_console_app(docs_root()),
        )
        self._server: Server = make_server(
            self._gateway.asgi,
            ServerSettings(host=settings.host, port=settings.port, trusted_proxies=settings.trusted_proxies),
            drain=self._drain,
        )

    async def run(self, *, ready: Ready, announce: Announce) -> None:
        """Start the parts, each only after what it needs has answered; stop them in the opposite order."""
        control = self._control_socket()
        async with self._auth_http, asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self._auth.run())]
            announce("bus", "in-process")
            await self._auth.check()
            announce("auth", "in-process, its secret accepted")
            if control:
                background.append(tasks.create_task(control.run()))
            background.append(tasks.create_task(self._gateway.run()))
            background.append(tasks.create_task(self._worker.run()))
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
                await self._bus.close()

    async def _drain(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._gateway.drain())
            tasks.create_task(self._worker.drain())

    async def _developer_link(self) -> str:
        # A restart finds the developer of the start before.
        with contextlib.suppress(Conflict):
            await users.add_user(self._storage.auth, _DEVELOPER, roles=("user", "operator"))
        secret = await users.create_sign_in_link(self._storage.auth, _DEVELOPER)
        return f"{self._url}{self._settings.path_prefix}/?link={secret}"

    def _control_socket(self) -> ControlSocket | None:
        if not isinstance(self._storage, SqliteStorage):
            return None
        verbs = _Verbs(self._storage, self._bus).table() | {"where": self._where}
        control = ControlSocket(self._storage.database, verbs)
        control.open()
        return control

    async def _where(self, _arguments: Mapping[str, Any]) -> dict[str, Any]:
        link = await self._developer_link() if self._settings.environment == "development" else None
        return {"url": self._url + self._settings.path_prefix, "link": link}

    def _describe_agents(self) -> str:
        default = f" (default {self._agents.default})" if len(self._agents.names) > 1 and self._agents.default else ""
        return ", ".join(self._agents.names) + default

    def _is_allowed(self, user: str) -> bool:
        row = self._auth.view.user(user)
        return row is not None and row.status == "active"

    def _who(self, user: str) -> User:
        row = self._auth.view.user(user)
        return User(id=user, name=row.name, roles=frozenset(row.roles)) if row else User(id=user)


async def administer(settings: Settings, verb: str, **arguments: Any) -> dict[str, Any]:
    """Carry out a verb on the data folder: by the server that owns it, or here when none runs.

    Raises:
        RunwireError: what the verb raised, the same either way.
    """
    try:
        async with _storage(settings) as storage:
            done: dict[str, Any] = await _Verbs(storage, None).table()[verb](arguments)
            return done
    except OwnedElsewhere as owned:
        return await _ask_owner(settings, verb, arguments, owned)


async def _ask_owner(
    settings: Settings, verb: str, arguments: Mapping[str, Any], owned: OwnedElsewhere
) -> dict[str, Any]:
    path = _database(settings)
    try:
        async with asyncio.timeout(_OWNER_WAIT_S):
            while True:
                try:
                    done: dict[str, Any] = await ask(path, verb, **arguments)
                except Unavailable as error:
                    if error.code == "deadline":
                        raise
                    # It owns the file and takes no commands yet: it is starting, or another command is at work.
                    await asyncio.sleep(_OWNER_POLL_S)
                else:
                    return done
    except TimeoutError:
        raise owned from None


async def where(settings: Settings) -> tuple[str, str | None] | None:
    """Return (URL, sign-in link or None) of the server that runs on the data folder; None: none does."""
    if not await asyncio.to_thread(_database(settings).exists):
        return None  # nothing was ever started here, and looking must not make a database
    place = await administer(settings, "where")
    return (place["url"], place["link"]) if place["url"] else None


@contextlib.asynccontextmanager
async def running(loaded: Loaded) -> AsyncIterator[tuple[str, str | None]]:
    """Run a server beside the caller's own code; gives its URL and sign-in link.

    Raises:
        RunwireError: it did not start.
    """
    place: asyncio.Future[tuple[str, str | None]] = asyncio.get_running_loop().create_future()

    def ready(url: str, link: str | None) -> None:
        place.set_result((url, link))

    async with asyncio.TaskGroup() as tasks:
        # If it does not start, its error ends the group and this wait with it.
        serving = tasks.create_task(serve(loaded, ready=ready, announce=lambda _part, _detail: None))
        yield await place
        serving.cancel()


async def migrate(settings: Settings) -> str:
    """Create or upgrade the database, and say what it is."""
    async with _storage(settings) as storage:
        await storage.ping()
        return f"{_without_home(settings.storage_url)} is up to date (log {storage.log})"


class _Verbs:
    """What the command line may ask of whoever owns the database.

    Args:
        storage: the database.
        bus: wakes the parts of the running server; None: none runs.
    """

    def __init__(self, storage: Storage, bus: Bus | None) -> None:
        self._storage = storage
        self._bus = bus

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {
            "user_add": self.user_add,
            "user_disable": self.user_disable,
            "user_enable": self.user_enable,
            "user_list": self.user_list,
            "token_create": self.token_create,
            "where": self.where,
        }

    async def user_add(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Add a user."""
        row = await users.add_user(
            self._storage.auth, arguments["name"], password=arguments.get("password"), roles=tuple(arguments["roles"])
        )
        self._tell(Wake(topic="auth"))
        return {"user": row.user, "name": row.name}

    async def user_disable(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Withdraw a user's access and end what runs for them."""
        row = await users.disable_user(self._storage.auth, arguments["name"])
        self._tell(Wake(topic="auth"))
        # After the change, so that no new run of theirs can slip in between.
        request = CancelRequest(by="revoked", reason="access was withdrawn")
        cancelled = await self._storage.runs.cancel_user(row.user, request)
        self._tell(*(committed for run in cancelled for committed in run.committed), Wake(topic="signals"))
        return {"user": row.user}

    async def user_enable(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Let a user sign in again."""
        row = await users.enable_user(self._storage.auth, arguments["name"])
        self._tell(Wake(topic="auth"))
        return {"user": row.user}

    async def user_list(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """List everybody."""
        rows = [row async for row in _all_users(self._storage)]
        return {"users": [{"name": r.name, "status": r.status, "roles": list(r.roles), "user": r.user} for r in rows]}

    async def token_create(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make an API key."""
        key = await users.create_api_key(self._storage.auth, arguments["name"], ttl_s=arguments.get("ttl_s"))
        self._tell(Wake(topic="auth"))
        return {"key": key}

    async def where(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Say that no server runs; the one that does answers otherwise."""
        return {"url": None, "link": None}

    def _tell(self, *messages: BusMessage) -> None:
        if self._bus is not None:
            for message in messages:
                self._bus.publish(message)


async def _all_users(storage: Storage) -> AsyncIterator[Any]:
    after: str | None = None
    while rows := await storage.auth.list_users(after=after):
        for row in rows:
            yield row
        after = rows[-1].name


@contextlib.asynccontextmanager
async def _storage(settings: Settings) -> AsyncIterator[Storage]:
    if settings.database_url is None:
        _make_folder(settings.data_dir)
    storage = await open_storage(settings.storage_url)
    try:
        yield storage
    finally:
        await storage.close()


def _database(settings: Settings) -> Path:
    return Path(settings.storage_url.removeprefix("sqlite://"))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError([f"data_dir {folder}: cannot be made ({error.strerror}); set --data-dir."]) from error


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
        hint = f"; port {free} is free: --port {free}" if free else ""
        raise ConfigurationError(
            [f"port: cannot listen on {settings.host}:{settings.port} ({error.strerror}){hint}"]
        ) from error
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
        grace_s=settings.cancel_grace_s,
        drain_s=settings.drain_s,
        blocked_warn_s=settings.blocked_warn_s,
        blocked_fail_s=settings.blocked_fail_s,
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


def _configure_logging(settings: Settings) -> None:
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not no_color())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Standard output belongs to the two lines that programs read (PROTOCOL §6).
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=max(level, logging.WARNING), format="%(levelname)s %(name)s %(message)s"
    )


def _sources(loaded: Loaded) -> str:
    named = sorted({source for source in loaded.sources.values() if source != "default"})
    return ", ".join(named) if named else "defaults"


def _without_home(url: str) -> str:
    return url.replace(str(Path.home()), "~", 1)
