"""Which parts a process has: chosen by its roles, and wired, each after what it needs.

::

    role      parts
    gateway   bus, identity, way to the auth service, gateway
    worker    bus, identity, worker, caretaker
    auth      bus, auth service
    each      its word to the others that it is there, by its worker if it has one
    all       all of these, each once, and the control socket of a data folder

A process with all roles is no special case: it has all parts, and its way to the auth service is a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2
from prometheus_client import CollectorRegistry, generate_latest

import runwire
from runwire.agents.context import User
from runwire.agents.load import Agents
from runwire.app import rooms
from runwire.app.circuits import Circuits, open_breakers
from runwire.app.doors import Asgi, Doors
from runwire.app.gauges import ProcessFigures
from runwire.app.inner import http_to
from runwire.app.limits import Limits, open_limits
from runwire.app.local import control_sockets
from runwire.app.registries import registry_of
from runwire.app.self_check import Answerer, SelfCheck, Way
from runwire.app.tracing import open_tracing
from runwire.app.unsafe import remind
from runwire.auth.client import AuthClient
from runwire.auth.follower import Follower
from runwire.auth.forward import Forward, Forwarded
from runwire.auth.service.app import make_auth_app
from runwire.auth.service.settings import AuthSettings
from runwire.console.app import make_console_app
from runwire.errors import Unavailable
from runwire.gateway.app import Gateway, make_gateway
from runwire.gateway.desk import Desk
from runwire.gateway.health import HealthRoutes
from runwire.gateway.http import make_http
from runwire.gateway.tracing import Tracing
from runwire.guide import docs_root
from runwire.resilience.breakers import Breakers
from runwire.runtime.membership import Membership
from runwire.runtime.upkeep import Caretaker
from runwire.runtime.withdrawal import Withdrawals
from runwire.runtime.worker import Worker
from runwire.runtime.workshop import Workshop
from runwire.settings import Rule, Settings
from runwire.storage.base import Offered, Storage, Wake
from runwire.storage.placed import Place, Placed

__all__ = ["Announce", "Assembled", "Ground", "Part", "assemble"]

Announce = Callable[[str, str], None]  # (part, detail)

_AUTH_PATIENCE_S: Final = 30.0  # for an auth service that starts at the same time; then a person must look
_AUTH_RETRY_S: Final = 0.5
_ANNOUNCED_S: Final = 5.0


async def _silent(_announce: Announce) -> None:
    return


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What starts, runs and stops as one."""

    run: Callable[[], Coroutine[Any, Any, None]]  # until cancelled
    check: Callable[[Announce], Awaitable[None]] = _silent  # returns once it answers, and has said so
    drain: Callable[[], Awaitable[None]] = _nothing  # lets go of what others can go on with
    close: Callable[[], Awaitable[None]] = _nothing  # before it is cancelled, when the others are


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the parts of a process stand on."""

    settings: Settings
    allowed: tuple[Rule, ...]  # what is unsafe and served all the same
    places: Placed[Place]  # the databases
    agents: Agents | None  # None: this process runs none
    url: str  # where it listens: scheme, host and port
    place: str  # the same with the path below which it serves
    sign_in: Callable[[], Awaitable[str | None]]  # makes a link, in development
    is_draining: Callable[[], bool]
    registry: CollectorRegistry  # of all figures of the process
    secret: str  # proves gateway and auth service to each other

    @property
    def storage(self) -> Storage:
        """Return the database that has everybody's accounts."""
        return self.places.first.storage

    @property
    def issuer(self) -> str:
        """Return who signs in here: the public URL, so that tokens of one deployment are nothing to another."""
        return self.settings.public_url or self.url

    @property
    def page_url(self) -> str:
        """Return where people find the page."""
        if self.settings.public_url is None:
            return self.place
        return self.settings.public_url.removesuffix(self.settings.path_prefix) + self.settings.path_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A process, wired."""

    parts: tuple[Part, ...]  # in the order of their start
    asgi: Asgi  # what it answers on its port
    management: Asgi | None  # what it answers machines on a port of their own; None: it has none
    self_check: SelfCheck  # for when it listens


def assemble(ground: Ground) -> Assembled:
    """Choose the parts of a process by its roles, and wire them."""
    roles = ground.settings.active_roles
    figures = ProcessFigures(ground.registry)
    follower = Follower(store=ground.storage.auth, bus=ground.places.first.bus)
    limits = open_limits(ground.settings)
    breakers = open_breakers(ground.settings, ground.registry)
    circuits = Circuits(breakers, store=ground.storage.auth, bus=ground.places.first.bus)
    tracing = open_tracing(ground.settings, ground.registry)
    # The first to start is the last to end: nobody has anything to trace any more.
    parts = [Part(run=tracing.run, close=tracing.close)]
    parts += [Part(run=limits.spending.run, close=limits.close), Part(run=circuits.run)]
    parts += [Part(run=lambda: remind(ground.allowed, ground.registry))]
    parts += [_bus(ground, place) for place in ground.places]
    service = _auth_service(ground) if "auth" in roles else None
    gateway: Gateway | None = None
    self_check = SelfCheck(registry=ground.registry)
    if roles & {"gateway", "worker"}:
        parts.append(_identity(follower))
    if "gateway" in roles:
        way, client, auth_app = _way_to_auth(ground, follower, service, breakers)
        gateway = _make_gateway(ground, client, auth_app, limits, circuits, self_check, tracing.gateway)
        parts += [way, Part(run=gateway.run, drain=gateway.drain)]
    if "worker" in roles:
        workshop = Workshop(
            rooms.worker_settings(ground.settings),
            spending=limits.spending,
            breakers=breakers,
            tracing=tracing.worker,
        )
        figures.agent_tasks = lambda: workshop.tasks
        registries = registry_of(ground.places, ground.registry)
        for place, membership in zip(ground.places, _memberships(ground), strict=True):
            desk = _desk(gateway, place)
            registry = registries[place.number]
            parts += _worker(ground, place, membership, follower, workshop, self_check, registry=registry, desk=desk)
    else:
        for place, membership in zip(ground.places, _memberships(ground), strict=True):
            if gateway:
                self_check.add(_way_without_worker(ground, place, membership, gateway))
            parts.append(Part(run=membership.run, drain=membership.leave))
    parts += [Part(run=run) for run in control_sockets(ground.places, ground.place, ground.sign_in)]
    is_followed = bool(roles & {"gateway", "worker"})
    health = HealthRoutes(
        storages=[place.storage for place in ground.places],
        is_running=lambda: True,  # it listens when everything has answered
        is_draining=ground.is_draining,
        unready=lambda: "identity_stale" if is_followed and follower.freshness() == "expired" else self_check.unready(),
        figures=lambda: generate_latest(ground.registry),
    )
    has_own_port = ground.settings.management_port is not None
    machines = gateway.management if gateway else make_http([health.router()], version=runwire.__version__)
    return Assembled(
        parts=tuple(parts),
        asgi=gateway.asgi if gateway else Doors(health, service, has_management_port=has_own_port),
        management=machines if has_own_port else None,
        self_check=self_check,
    )


def _bus(ground: Ground, place: Place) -> Part:
    async def check(announce: Announce) -> None:
        if place is ground.places.first:
            announce("bus", _bus_name(ground.settings))

    return Part(run=place.bus.run, check=check, close=place.bus.close)


def _bus_name(settings: Settings) -> str:
    if not settings.is_shared:
        return "in-process"
    return settings.shown_redis_url or "NOTIFY of the database"


def _identity(follower: Follower) -> Part:
    """Return what knows everybody's standing: from the database and nobody else, so that no auth service is needed."""

    async def check(announce: Announce) -> None:
        await follower.check()
        announce("identity", "followed in the database")

    return Part(run=follower.run, check=check)


def _auth_settings(ground: Ground) -> AuthSettings:
    return rooms.auth_settings(ground.settings, issuer=ground.issuer, page_url=ground.page_url, secret=ground.secret)


def _auth_document(ground: Ground) -> dict[str, Any]:
    """Return what the auth service says of its routes, elsewhere or here: it is a matter of the version alone."""
    # Without the way of a browser to other issuers: what that needs may be installed at the service only.
    settings = replace(_auth_settings(ground), issuers=())
    return make_auth_app(ground.storage.auth, settings).openapi()


def _auth_service(ground: Ground) -> Asgi:
    bus, settings = ground.places.first.bus, _auth_settings(ground)
    app = make_auth_app(ground.storage.auth, settings, changed=lambda: bus.publish(Wake(topic="auth")))
    return Forwarded(app, secrets=settings.service_secrets)


def _way_to_auth(
    ground: Ground, follower: Follower, service: Asgi | None, breakers: Breakers
) -> tuple[Part, AuthClient, Asgi]:
    """Return what proves credentials, and what is served below `/auth`: the service itself, or the way to it."""
    url = ground.settings.auth_url or ""
    http = _in_process(service) if service else http_to(url)
    client = AuthClient(
        http=http,
        breakers=breakers,
        store=ground.storage.auth,
        follower=follower,
        settings=rooms.auth_client_settings(ground.settings, issuer=ground.issuer, secret=ground.secret),
    )

    clients, auth_app = [http], service
    if auth_app is None:
        clients.append(http_to(url))  # of its own: sign-ins are anybody's, and slow
        auth_app = Forward(clients[1], secret=ground.secret)

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for one in clients:
                await stack.enter_async_context(one)
            await client.run()

    async def check(announce: Announce) -> None:
        if service:
            await client.check()
            announce("auth", "in-process, its secret accepted")
        else:
            await _await_auth(client, url, announce)

    return Part(run=run, check=check), client, auth_app


def _in_process(service: Asgi) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=service), base_url="http://auth.internal")


async def _await_auth(client: AuthClient, url: str, announce: Announce) -> None:
    """Wait until the auth service answers, and say what is missing: both are often started at the same time.

    Who is not let in goes on all the same, not ready until he is: a process that ended would only be started again, and
    its health is where a person looks for the reason.
    """
    until_s = asyncio.get_running_loop().time() + _AUTH_PATIENCE_S
    said = ""
    while True:
        try:
            await client.check()
        except Unavailable as error:
            if client.unready():  # it answers, and refuses our secret or has another time
                announce("warning", f"not ready: {url}: {error.message}")
                return
            if asyncio.get_running_loop().time() >= until_s:
                raise Unavailable(f"auth_url {url}: {error.message}") from error
            if error.message != said:
                said = error.message
                announce("auth", f"waiting for {url}: {said}")
        else:
            announce("auth", f"{url}, its secret accepted")
            return
        await asyncio.sleep(_AUTH_RETRY_S)


def _memberships(ground: Ground) -> list[Membership]:
    """Return what tells the others of each database that this process is there."""
    # Random, too: in containers all processes have one id, and a restart is another worker.
    node = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return [
        Membership(
            place.storage,
            place.bus,
            node=node,
            roles=ground.settings.active_roles,
            version=runwire.__version__,
            good_s=ground.settings.agent_absent_s,
        )
        for place in ground.places
    ]


def _make_gateway(
    ground: Ground,
    client: AuthClient,
    auth_app: Asgi,
    limits: Limits,
    circuits: Circuits,
    self_check: SelfCheck,
    tracing: Tracing,
) -> Gateway:
    return make_gateway(
        ground.places,
        auth=client,
        agents=lambda: _own(ground.agents),
        settings=rooms.gateway_settings(ground.settings, ground.url),
        auth_app=auth_app,
        auth_document=lambda: _auth_document(ground),
        console_app=make_console_app(docs_root()),
        unready=lambda: client.unready() or self_check.unready(),
        registry=ground.registry,
        limits=limits.personal,
        circuits=circuits,
        tracing=tracing,
    )


def _own(agents: Agents | None) -> Offered:
    if agents is None:
        return Offered()
    return Offered(names=agents.names, chosen=agents.default if agents.is_default_chosen else None)


def _desk(gateway: Gateway | None, place: Place) -> Desk | None:
    return next(desk for desk in gateway.desks if desk.number == place.number) if gateway else None


def _way_without_worker(ground: Ground, place: Place, membership: Membership, gateway: Gateway) -> Way:
    answerer, nobody = Answerer(membership.node), Agents(by_name={})
    membership.use(answerer.beside(nobody))
    return Way(
        place=place,
        membership=membership,
        answerer=answerer,
        desk=_desk(gateway, place),
        has_worker=False,
        good_s=ground.settings.agent_absent_s,
        forget=lambda: membership.use(nobody),
    )


def _worker(
    ground: Ground,
    place: Place,
    membership: Membership,
    follower: Follower,
    workshop: Workshop,
    self_check: SelfCheck,
    *,
    registry: CollectorRegistry,
    desk: Desk | None,
) -> list[Part]:
    """Return what runs the user's code for one database, and looks after that."""
    assert ground.agents is not None, "whoever has this role has loaded them"
    agents, view = ground.agents, follower.view
    answerer = Answerer(membership.node)

    def is_allowed(user: str) -> bool:
        if user == answerer.name:  # there is no account of this name, and so nobody who could ask for it
            return True
        row = view.user(user)
        return row is not None and row.status == "active"

    def who(user: str) -> User:
        row = view.user(user)
        return User(id=user, name=row.name, roles=frozenset(row.roles)) if row else User(id=user)

    worker = Worker(
        place.storage,
        place.bus,
        answerer.beside(agents),
        membership.node,
        rooms.worker_settings(ground.settings),
        is_allowed=is_allowed,
        confirm=follower.confirm,
        who=who,
        registry=registry,
        workshop=workshop,
        membership=membership,
        first=answerer.name,
    )
    self_check.add(
        Way(
            place=place,
            membership=membership,
            answerer=answerer,
            desk=desk,
            has_worker=True,
            good_s=ground.settings.agent_absent_s,
            forget=lambda: worker.use(agents),
        )
    )
    follower.on_change(worker.recheck)
    withdrawals = Withdrawals(place.storage.runs, place.bus, is_allowed=is_allowed)
    follower.on_left(lambda users: withdrawals.note(user for user in users if ground.places.of(user) is place))

    async def check(announce: Announce) -> None:
        default = f" (default {agents.default})" if len(agents.names) > 1 and agents.default else ""
        if place is ground.places.first:
            # Not ready before the others can know whom they may send here; a database that is away keeps nobody.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANNOUNCED_S):
                    await membership.until_said()
            announce("agents", ", ".join(agents.names) + default)

    caretaker = Caretaker(place.storage.upkeep, rooms.upkeep_settings(ground.settings), registry=registry)
    return [Part(run=worker.run, check=check, drain=worker.drain), Part(run=caretaker.run), Part(run=withdrawals.run)]
