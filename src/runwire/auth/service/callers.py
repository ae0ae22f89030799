"""Who asks the auth service about accounts, by the tables themselves: an access token of a session, or an API key."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from runwire.auth import tokens
from runwire.auth.service.clients import is_of_key
from runwire.auth.service.requests import address_of, bearer
from runwire.auth.service.standing import Standing
from runwire.errors import Forbidden
from runwire.storage.base import AuditEntry

__all__ = ["Caller", "Callers", "require"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as the tables say in this moment."""

    user: str
    name: str
    roles: frozenset[str]
    session: str | None  # None: by an API key
    key: str | None
    scopes: frozenset[str]
    address: str  # "": not known
    is_program: bool  # by an API key, or by a token that was got by one

    def entry(self, action: str, subject: str | None = None, **detail: str) -> AuditEntry:
        """Return the audit's line of what this caller does."""
        return AuditEntry(
            actor=self.key or self.user,
            actor_kind="key" if self.key else "user",
            action=action,
            subject=subject,
            address=self.address,
            detail=detail,
        )


@dataclass(frozen=True, slots=True)
class Callers:
    """Tell who makes a request.

    Args:
        standing: what tokens are good for.
    """

    standing: Standing

    async def of(self, request: Request) -> Caller:
        """Return who asks. Raises Unauthenticated."""
        token = bearer(request)
        address = address_of(request)
        if tokens.is_api_key(token):
            key = await self.standing.live_key(token)
            return Caller(
                user=key.holder.user,
                name=key.holder.name,
                roles=frozenset(key.holder.roles),
                session=None,
                key=key.key,
                scopes=frozenset(key.scopes),
                address=address,
                is_program=True,
            )
        claims, row = await self.standing.live_session(token)
        return Caller(
            user=row.holder.user,
            name=row.holder.name,
            roles=frozenset(row.holder.roles),
            session=row.session,
            key=None,
            scopes=frozenset(claims.scope.split()),
            address=address,
            is_program=is_of_key(row),
        )

    async def person(self, request: Request) -> Caller:
        """Return who asks, with a session of theirs. Raises Unauthenticated, Forbidden: an API key."""
        caller = await self.of(request)
        if caller.session is None or caller.is_program:
            raise Forbidden("An API key may not do this, and no token that was got by one; sign in.")
        return caller


def require(caller: Caller, *roles: str) -> None:
    """Refuse whoever has none of these roles. Raises Forbidden."""
    if not caller.roles & set(roles):
        raise Forbidden(f"This needs the role {' or '.join(roles)}.")
