"""The circuit breakers, for operators: how those of this process are, and orders to those of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from fastapi import APIRouter, Request, Response

from runwire.auth.identity import Identity
from runwire.errors import Forbidden, NotFound, ProtocolError
from runwire.gateway import shapes
from runwire.gateway.openapi import documented
from runwire.gateway.request import Callers, answer, decode_body, read_body
from runwire.resilience.breakers import Breakers, Kind, Order
from runwire.storage.base import AuditEntry

__all__ = ["BreakerRoutes", "Circuits"]

_LOOK: Final = frozenset({"admin", "operator"})
_NAME_CHARS: Final = 200


class Circuits(Protocol):
    """The breakers of this process, and the way to those of all."""

    @property
    def breakers(self) -> Breakers:
        """Return those of this process."""
        ...

    async def give(self, order: Order, kind: Kind, name: str, *, by: AuditEntry) -> None:
        """Give an order to all processes; this one has obeyed when it returns. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRoutes:
    """Look at breakers (role `operator` or `admin`), and give them orders (`admin`)."""

    circuits: Circuits
    callers: Callers
    body_bytes: int  # size of a request's body at most

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(default_response_class=Response, tags=["operators"])
        listed = documented(returns=shapes.BreakerPage, also=(403,))
        ordered = documented(body=shapes.NoBody, returns=shapes.BreakerShape, also=(403, 404))
        router.add_api_route("/admin/v1/breakers", self.list_all, methods=["GET"], openapi_extra=listed)
        router.add_api_route(
            "/admin/v1/breakers/{kind}/{name:path}/{order}", self.order, methods=["POST"], openapi_extra=ordered
        )
        return router

    async def list_all(self, request: Request) -> Response:
        """List the breakers of the process that answers. Each process finds out for itself whom it leaves alone."""
        identity = await self.callers.who(request)
        if not identity.roles & _LOOK:
            raise Forbidden("Breakers are shown to the roles operator and admin.")
        items = [msgspec.to_builtins(one) for one in self.circuits.breakers.shown()]
        return answer(shapes.page(items, next_cursor=None))

    async def order(self, request: Request, kind: str, name: str, order: str) -> Response:
        """Say `reset`, `force-open` or `disable` to a breaker in every process. The last two stand until `reset`."""
        identity = await self.callers.who(request)
        if "admin" not in identity.roles:
            raise Forbidden("Only the role admin gives orders to breakers.")
        decode_body(shapes.NoBody, await read_body(request, limit_bytes=self.body_bytes))
        if kind not in set(Kind) or order not in set(Order):
            raise NotFound("There is no such kind of breaker, or no such order.")
        if len(name) > _NAME_CHARS or not name.isprintable():
            raise ProtocolError(f"`name` has 1 to {_NAME_CHARS} printable characters.", field="name")
        await self.circuits.give(Order(order), Kind(kind), name, by=_entry(identity, request))
        return answer(msgspec.to_builtins(self.circuits.breakers.one(Kind(kind), name)))


def _entry(identity: Identity, request: Request) -> AuditEntry:
    return AuditEntry(
        actor=identity.key or identity.user,
        actor_kind="key" if identity.key else "user",
        action="",
        address=request.client.host if request.client else "",
    )
