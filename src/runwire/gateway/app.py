"""The gateway as one ASGI app: sockets raw, HTTP through FastAPI, other rooms' apps below their paths."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from prometheus_client import CollectorRegistry

from runwire.errors import NotFound, ProtocolError
from runwire.gateway.acquaintances import Acquaintances
from runwire.gateway.admission import Admission
from runwire.gateway.commands import Commands
from runwire.gateway.cross_origin import CrossOrigin
from runwire.gateway.deadline import Deadline
from runwire.gateway.desk import Desk
from runwire.gateway.health import HealthRoutes
from runwire.gateway.http import make_http
from runwire.gateway.identities import Identities
from runwire.gateway.limits import PersonalLimits
from runwire.gateway.live import Live
from runwire.gateway.metrics import Metrics
from runwire.gateway.offered import OfferedAgents
from runwire.gateway.queue import Queue
from runwire.gateway.request import Callers, method_refused, problem_response
from runwire.gateway.routes_breakers import BreakerRoutes, Circuits
from runwire.gateway.routes_runs import RunRoutes
from runwire.gateway.routes_threads import ThreadRoutes
from runwire.gateway.socket_services import SocketServices
from runwire.gateway.sse import StreamSettings
from runwire.gateway.subscription import Subscriptions
from runwire.gateway.tail import Tail, TailSettings
from runwire.gateway.tracing import UNTRACED, Tracing
from runwire.gateway.upgrade import Asgi, Upgrades, header, refuse
from runwire.protocol.connection import ConnectionSettings
from runwire.storage.base import Offered
from runwire.storage.placed import Place, Placed

__all__ = ["Gateway", "GatewaySettings", "make_gateway"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]

_SHED_TURN_S: Final = 1.0
_SHED_TURNS: Final = 10  # DESIGN §7: spread over 10 s
_SOCKET_PATH: Final = "/v1/ws"
_AUTH_PATHS: Final = ("/auth", "/.well-known")
_MANAGEMENT_PATHS: Final = ("/health", "/metrics")
_PAGE_METHODS: Final = ("GET", "HEAD")
_OWN_PATHS: Final = ("/v1", "/admin", *_MANAGEMENT_PATHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """How the gateway listens and to whom."""

    server: str = "runwire"  # name and version for `welcome`
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)  # times and sizes of a socket
    tail: TailSettings = field(default_factory=TailSettings)  # how rings are fed and checked
    stream: StreamSettings = field(default_factory=StreamSettings)  # times of SSE
    abort_s: float = 2.0  # after a close the peer has so long, then the connection is aborted
    drain_spread_s: float = 5.0  # clients come back within so long after a drain, each at its own time
    wait_max_s: float = 60.0  # a long poll waits so long at most
    body_bytes: int = 65_536  # size of a request's body at most
    answer_s: float = 20.0  # time for an answer to begin, without what a poll waits; then 503
    max_loop_lag_s: float | None = None  # over it nobody new is let in, and no new message; None: everybody is
    max_queued_runs: int = 10_000  # runs of a database that wait for a worker, over which it takes no new message
    max_queue_age_s: float = 60.0  # how long the oldest of an agent may wait, over which it takes none to that agent
    user_run_limit: int = 10  # active runs of a user; as the workers have it
    greetings: int = 1_000  # sockets of this node that wait for their hello at a time; the next one is 4029
    greetings_per_address: int = 250  # of these, from one address (of IPv6: one /64); five seconds later there is room
    max_memory_bytes: int | None = None  # resident, of this process; over it likewise; None: no limit
    listeners_per_user: int = 500  # sockets and streams of one user on this node at most
    allowed_origins: tuple[str, ...] = ()  # exact `scheme://host[:port]` that browsers may come from
    allowed_hosts: tuple[str, ...] = ()  # Host names served, without port; empty: all (development sets its own)
    path_prefix: str = ""  # path below which a proxy serves this, such as `/agents`
    has_management_port: bool = False  # health and figures are served by `management` only


class Gateway:
    """One node's gateway. `asgi` serves, `run` feeds it, `drain` empties it.

    Args:
        places: where truth lives, and hints about it; one database, or several with users placed on them.
        auth: who somebody is.
        agents: gives those of this process, known here at once; others are learned from the members of each database.
        settings: how to listen.
        auth_app: the auth service, or the way to it, served below `/auth` and `/.well-known`.
        auth_document: gives the OpenAPI document of that, which is made part of the one served here.
        console_app: the page, served for every other path.
        unready: a reason of another room not to be ready.
        registry: gets the figures; None: one of its own.
        limits: of each person and key; None: there are none.
        circuits: the breakers that operators are shown; None: none.
        tracing: of what comes and goes.
    """

    def __init__(
        self,
        places: Placed[Place],
        auth: Identities,
        *,
        agents: Callable[[], Offered],
        settings: GatewaySettings,
        auth_app: Asgi | None,
        auth_document: Callable[[], Mapping[str, Any]] | None,
        console_app: Asgi | None,
        unready: Callable[[], str | None],
        registry: CollectorRegistry | None,
        limits: PersonalLimits | None,
        circuits: Circuits | None,
        tracing: Tracing,
    ) -> None:
        self.metrics = Metrics(registry)
        self.live = Live(
            auth.view,
            per_user=settings.listeners_per_user,
            greetings=settings.greetings,
            greetings_per_address=settings.greetings_per_address,
            measure=self.metrics.revocations.observe,
        )
        self.admission = Admission(max_loop_lag_s=settings.max_loop_lag_s, max_memory_bytes=settings.max_memory_bytes)
        self._limits = limits
        self._auth = auth
        self._settings = settings
        self._console_app = console_app
        self._is_running = False
        tail_settings = replace(settings.tail, node_bytes=settings.tail.node_bytes // len(places))
        replay_events = settings.connection.limits.replay_events
        accounts = places.first.storage.auth

        def desk(place: Place) -> Desk:
            tail = Tail(place.storage, place.bus, tail_settings)
            offered = OfferedAgents(place.storage.members, place.bus, own=agents)
            queue = Queue(
                place.storage.runs,
                max_runs=settings.max_queued_runs,
                max_age_s=settings.max_queue_age_s,
                user_limit=settings.user_run_limit,
            )
            return Desk(
                number=place.number,
                storage=place.storage,
                tail=tail,
                agents=offered,
                queue=queue,
                commands=Commands(
                    storage=place.storage,
                    bus=place.bus,
                    tail=tail,
                    agents=offered,
                    admission=self.admission,
                    queue=queue,
                    metrics=self.metrics,
                    acquaintances=Acquaintances(place.storage.people, accounts),
                    limits=limits,
                    tracing=tracing,
                ),
                subscriptions=Subscriptions(place.storage, tail, replay_events=replay_events),
            )

        self.desks: Placed[Desk] = places.map(desk)
        services = SocketServices(
            identities=auth,
            desks=self.desks,
            live=self.live,
            admission=self.admission,
            metrics=self.metrics,
            abort_s=settings.abort_s,
            traffic=limits.traffic if limits else None,
            tracing=tracing,
        )
        self._sockets: Asgi = Upgrades(
            services=services,
            settings=settings.connection,
            server=settings.server,
            allowed_origins=frozenset(settings.allowed_origins),
        )
        callers = Callers(auth)
        threads = ThreadRoutes(
            desks=self.desks,
            callers=callers,
            live=self.live,
            stream_settings=settings.stream,
            body_bytes=settings.body_bytes,
            wait_max_s=settings.wait_max_s,
        )
        runs = RunRoutes(desks=self.desks, callers=callers, body_bytes=settings.body_bytes)
        health = HealthRoutes(
            storages=[place.storage for place in places],
            is_running=lambda: self._is_running,
            is_draining=lambda: self.live.is_draining,
            unready=lambda: "identity_stale" if auth.freshness() == "expired" else unready(),
            figures=self._figures,
        )
        version = settings.server.rpartition("/")[2]
        own = [threads.router(), runs.router()]
        if circuits:  # before what says that the rest of `/admin` is not built
            own.insert(0, BreakerRoutes(circuits=circuits, callers=callers, body_bytes=settings.body_bytes).router())
        routes = make_http(own, version=version, described_too=auth_document)
        self._http: Asgi = Deadline(routes, answer_s=settings.answer_s)
        self._auth_app = Deadline(auth_app, answer_s=settings.answer_s) if auth_app else None
        self.management: Asgi = make_http([health.router()], version=version)
        # Around everything: a page that may use the routes must be able to sign in, and to read why it may not.
        self._cross_origin: Asgi = CrossOrigin(self._serve, allowed_origins=settings.allowed_origins)

    @property
    def tail(self) -> Tail:
        """Return the tail of the first database."""
        return self.desks.first.tail

    @property
    def is_draining(self) -> bool:
        """Return whether new clients are sent elsewhere."""
        return self.live.is_draining

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            return  # no lifespan: `run` is this app's
        is_socket = scope["type"] == "websocket"
        host = header(scope, b"host")
        if self._settings.allowed_hosts and _name(host or "") not in self._settings.allowed_hosts:
            # A page of another site whose name was bent to this address (DNS rebinding) still says its own name.
            error = ProtocolError("This host name is not served here.", field="Host")
            await (refuse(send, error) if is_socket else problem_response(error)(scope, receive, send))
            return
        try:
            await self._cross_origin(scope, receive, send)
        except asyncio.CancelledError:
            if not (is_socket and self.is_draining):
                raise
            # The time for a stop is over, and the server cuts who is left: that is no fault to be logged for each.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_socket = scope["type"] == "websocket"
        path = self._below_prefix(scope)
        app = self._app_for(path, is_socket=is_socket) if path is not None else None
        if app is None:
            error = NotFound("There is nothing here.")
            await (refuse(send, error) if is_socket else problem_response(error)(scope, receive, send))
        elif app is self._console_app and scope["method"] not in _PAGE_METHODS:
            await method_refused(_PAGE_METHODS)(scope, receive, send)
        else:
            await app(scope, receive, send)

    def _below_prefix(self, scope: Scope) -> str | None:
        """Take the prefix off the scope's path and return the rest; None: the path is not below it."""
        path: str = scope["path"]
        prefix = self._settings.path_prefix
        if not prefix:
            return path
        if path != prefix and not path.startswith(prefix + "/"):
            return None
        scope["path"] = path[len(prefix) :] or "/"
        scope["raw_path"] = scope["path"].encode()
        return str(scope["path"])

    def _app_for(self, path: str, *, is_socket: bool) -> Asgi | None:
        if is_socket:
            return self._sockets if path == _SOCKET_PATH else None
        if _is_below(path, _MANAGEMENT_PATHS):
            return None if self._settings.has_management_port else self.management
        if _is_below(path, _AUTH_PATHS):
            return self._auth_app
        return self._http if _is_below(path, _OWN_PATHS) else self._console_app

    def _figures(self) -> bytes:
        self.metrics.listeners.set(len(self.live))
        self.metrics.loop_lag.set(self.admission.loop_lag_s)
        self.metrics.is_full.set(self.admission.is_full)
        self.metrics.limits_alone.set(self._limits is not None and self._limits.is_alone)
        for desk in self.desks:
            self.metrics.queued.labels(database=str(desk.number)).set(desk.queue.waiting)
            self.metrics.queue_age.labels(database=str(desk.number)).set(desk.queue.oldest_s)
        self.metrics.threads.set(sum(desk.tail.threads for desk in self.desks))
        self.metrics.bus_age.set(max(desk.tail.bus_age_s() for desk in self.desks))
        return self.metrics.text()

    async def run(self) -> None:
        """Feed the sockets until cancelled."""
        stop = self._auth.on_change(self.live.recheck)
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                for desk in self.desks:
                    group.create_task(desk.tail.run())
                    group.create_task(desk.agents.run())
                    group.create_task(desk.queue.run())
                group.create_task(self.admission.run())
                group.create_task(self._shed_unchecked())
        finally:
            self._is_running = False
            stop()

    async def _shed_unchecked(self) -> None:
        """End everybody, over some seconds, when their access cannot be checked any more (DESIGN §7)."""
        share = 0
        while True:
            await asyncio.sleep(_SHED_TURN_S)
            if self._auth.freshness() != "expired":
                share = 0
                continue
            # The same number each turn, so that all are gone after `_SHED_TURNS` and none returns in a herd.
            share = share or math.ceil(len(self.live) / _SHED_TURNS)
            self.live.shed(share)

    async def drain(self) -> None:
        """Send every client elsewhere; new ones too from now on. Ends when they are gone, or soon."""
        await self.live.drain(spread_s=self._settings.drain_spread_s)


def make_gateway(
    places: Placed[Place],
    auth: Identities,
    *,
    agents: Callable[[], Offered] = Offered,
    settings: GatewaySettings | None = None,
    auth_app: Asgi | None = None,
    auth_document: Callable[[], Mapping[str, Any]] | None = None,
    console_app: Asgi | None = None,
    unready: Callable[[], str | None] = lambda: None,
    registry: CollectorRegistry | None = None,
    limits: PersonalLimits | None = None,
    circuits: Circuits | None = None,
    tracing: Tracing = UNTRACED,
) -> Gateway:
    """Make a node's gateway; see `Gateway`."""
    return Gateway(
        places,
        auth,
        agents=agents,
        settings=settings or GatewaySettings(),
        auth_app=auth_app,
        auth_document=auth_document,
        console_app=console_app,
        unready=unready,
        registry=registry,
        limits=limits,
        circuits=circuits,
        tracing=tracing,
    )


def _is_below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _name(host: str) -> str:
    """Return a Host header's name without its port; IPv6 in brackets."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
