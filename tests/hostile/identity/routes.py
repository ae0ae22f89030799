"""All routes of gateway and auth service, taken from the apps themselves, so that a new one is always among them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from tests.unit.gateway.node import FakeIdentities

from runwire.auth.service.app import make_auth_app
from runwire.auth.service.settings import AuthSettings
from runwire.gateway.app import GatewaySettings, make_gateway
from runwire.gateway.deadline import Deadline
from runwire.resilience.breakers import Breakers, Kind, Order
from runwire.storage.base import AuditEntry
from runwire.storage.bus_local import LocalBus
from runwire.storage.open import open_storage
from runwire.storage.placed import alone

__all__ = ["ADMIN", "PERSONS", "PUBLIC", "SERVICE", "Route", "all_routes"]

# Everything that may be asked without a credential, and why. Nothing else may; a line more needs a reason, too.
PUBLIC: Final = {
    "POST /auth/sessions": "signs in; limited per account and per address",
    "POST /auth/token": "the refresh token, or the client's secret, is the credential",
    "POST /auth/revoke": "the token is the credential (RFC 7009 §2.1)",
    "POST /auth/register": "signs up, if the operator lets people do that",
    "POST /auth/password/reset": "the reset token is the credential",
    "GET /.well-known/jwks.json": "public keys",
    "GET /.well-known/oauth-authorization-server": "what everybody's client must know (RFC 8414 §3)",
    "GET /auth/openapi.json": "what the routes are",
    "GET /v1/openapi.json": "what the routes are",
    "GET /health/started": "for what looks after the process",
    "GET /health/live": "for what looks after the process",
    "GET /health/ready": "for what looks after the process",
    "GET /metrics": "for what looks after the process; the proxies of deploy/ keep it from the internet",
    "GET /auth/external": "which issuers people may sign in with",
    "GET /auth/external/{name}/start": "leads to the issuer",
    "GET /auth/external/{name}/callback": "the code is the credential",
    "POST /auth/external/{name}/backchannel": "the issuer's logout token is the credential (back channel)",
}
SERVICE: Final = re.compile(r"/auth/introspect|/internal/.*")  # with the service secret and nothing else
ADMIN: Final = re.compile(r"/auth/(users|invites|signing-keys|audit)(/.*)?|/admin/.*")  # no ordinary user
# With a session of a person, and never with an API key: what changes who may do what.
PERSONS: Final = re.compile(ADMIN.pattern.removesuffix("|/admin/.*") + r"|/auth/(sessions|password|keys)(/.*)?")


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """One method of one path."""

    path: str
    method: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_public(self) -> bool:
        return str(self) in PUBLIC

    @property
    def is_for_services(self) -> bool:
        return SERVICE.fullmatch(self.path) is not None

    @property
    def is_for_admins(self) -> bool:
        return ADMIN.fullmatch(self.path) is not None

    @property
    def is_for_persons(self) -> bool:
        # Who ends "the current session" of an API key is told that it has none.
        is_so = PERSONS.fullmatch(self.path) is not None and not self.path.endswith("/current")
        return is_so and not self.is_public

    def url(self, **values: str) -> str:
        """Return the path with values in the places of its names."""
        return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values.get(found[1], "x_0"), self.path)


class _OnlyShown:
    """Circuits whose routes are looked at, and none of them asked."""

    breakers = Breakers()

    async def give(self, order: Order, kind: Kind, name: str, *, by: AuditEntry) -> None:
        raise AssertionError("No order is given by looking at routes.")


async def all_routes() -> list[Route]:
    """Return the routes of a node's gateway, its health and its auth service, sorted."""
    storage = await open_storage("memory://")
    gateway = make_gateway(
        alone(storage, LocalBus()), FakeIdentities(), settings=GatewaySettings(), circuits=_OnlyShown()
    )
    routes = gateway._http
    assert isinstance(routes, Deadline)
    settings = AuthSettings(service_secrets=("s" * 32,))
    apps: list[Any] = [routes._app, gateway.management, make_auth_app(storage.auth, settings)]
    found = {route for app in apps for route in _routes_of(app)}
    await storage.close()
    return sorted(found)


def _routes_of(app: Any) -> Iterable[Route]:
    assert isinstance(app, FastAPI)
    for each in app.routes:
        for route in getattr(each, "effective_candidates", lambda each=each: [each])():  # of an included router
            is_known = isinstance(getattr(route, "original_route", route), APIRoute) or route.path == app.openapi_url
            assert is_known, f"{route} is of a kind that is not looked into"
            yield from (Route(path=route.path, method=method) for method in set(route.methods) - {"HEAD"})
