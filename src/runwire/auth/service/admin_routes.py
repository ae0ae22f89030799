"""Administration over HTTP, by people with the role `admin`, and some of it by `operator`.

An operator looks, stops and signs out, but never an administrator, and makes nobody anything. An API key may none of
this: whoever finds one must not become an administrator by it. Each change is audited with who and from where.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response

from runwire.auth.service import admin_shapes as shapes
from runwire.auth.service.accounts import Accounts
from runwire.auth.service.bodies import read_json
from runwire.auth.service.callers import Caller, Callers, require
from runwire.auth.service.pages import PAGE, PAGE_LIMIT, Limit, json_answer, no_cursor, page_of
from runwire.auth.service.users import normal_name
from runwire.errors import Forbidden, NotFound, ProtocolError
from runwire.protocol.ids import is_own_id
from runwire.storage.base import UserRow

__all__ = ["admin_routes"]

_AUDIT_LIMIT: Final = 1_000
_INVITE: Final = re.compile(r"[0-9a-f]{16}")
_KID: Final = re.compile(r"[A-Za-z0-9_.~-]{1,128}")

_AuditLimit = Annotated[int, Query(ge=1, le=_AUDIT_LIMIT)]
_After = Annotated[int, Query(ge=0, le=2**53)]


def admin_routes(accounts: Accounts, callers: Callers, *, access_ttl_s: int) -> APIRouter:
    """Make the routes.

    Args:
        accounts: what is done.
        callers: who asks.
        access_ttl_s: life of what signing keys sign.
    """
    router = APIRouter(default_response_class=Response)
    for add in (_users, _withdrawal, _invites, _audit):
        add(router, accounts, callers)
    _signing_keys(router, accounts, callers, access_ttl_s)
    return router


def _users(router: APIRouter, accounts: Accounts, callers: Callers) -> None:
    @router.get("/auth/users")
    async def list_users(
        request: Request, cursor: str | None = None, limit: Limit = PAGE, with_deleted: bool = False
    ) -> Response:
        """List users by name; with `with_deleted` tombstones, too."""
        await _looks(callers, request)
        rows = await accounts.store.list_users(after=_name(cursor), limit=limit, with_deleted=with_deleted)
        items = [shapes.user_of(row) for row in rows]
        return json_answer(shapes.UserPage(items=items, next_cursor=rows[-1].name if len(rows) == limit else None))

    @router.post("/auth/users", status_code=201)
    async def add_user(request: Request) -> Response:
        """Add a user; what is answered lets the person set a password, once."""
        caller = await _administers(callers, request)
        wanted = await read_json(request, shapes.UserBody)
        row = await accounts.add(wanted.name, wanted.roles, caller.entry)
        secret = await accounts.reset(row.user, wanted.reset_ttl_s, caller.entry)
        made = shapes.MadeUser(
            **msgspec.structs.asdict(shapes.user_of(row)),
            reset=shapes.Reset(secret=secret, expires_in=wanted.reset_ttl_s),
        )
        return json_answer(made, status=201)

    @router.get("/auth/users/{user}")
    async def show_user(user: str, request: Request) -> Response:
        """Tell what is known of a user, a deleted one too."""
        await _looks(callers, request)
        return json_answer(await accounts.profile(await _one(accounts, user)))

    @router.get("/auth/users/{user}/sessions")
    async def list_sessions(user: str, request: Request, cursor: str | None = None, limit: Limit = PAGE) -> Response:
        """List a user's live sessions, newest first."""
        await _looks(callers, request)
        rows = await accounts.sessions((await _one(accounts, user)).user)
        some, further = page_of(rows, lambda row: (row.created_at, row.session), cursor=cursor, limit=limit)
        return json_answer(shapes.SessionPage(items=[shapes.session_of(row) for row in some], next_cursor=further))

    @router.post("/auth/users/{user}/roles")
    async def set_roles(user: str, request: Request) -> Response:
        """Replace a user's roles; live sockets have the new ones within a second."""
        caller = await _administers(callers, request)
        wanted = await read_json(request, shapes.RolesBody)
        row = await accounts.set_roles(await _one(accounts, user), wanted.roles, caller.entry)
        return json_answer(shapes.user_of(row))

    @router.post("/auth/users/{user}/reset", status_code=201)
    async def reset(user: str, request: Request) -> Response:
        """Make a one-time secret by which the person sets a new password."""
        caller = await _administers(callers, request)
        wanted = await read_json(request, shapes.ResetBody)
        secret = await accounts.reset((await _one(accounts, user)).user, wanted.ttl_s, caller.entry)
        return json_answer(shapes.Reset(secret=secret, expires_in=wanted.ttl_s), status=201)


def _withdrawal(router: APIRouter, accounts: Accounts, callers: Callers) -> None:
    @router.post("/auth/users/{user}/disable")
    async def disable(user: str, request: Request) -> Response:
        """Withdraw a user's access: sessions, API keys and runs end. Never the last administrator's."""
        caller = await _looks(callers, request)
        row = await _stoppable(accounts, user, caller)
        return json_answer(shapes.user_of(await accounts.disable(row.user, caller.entry, keep_admin=True)))

    @router.post("/auth/users/{user}/sign-out")
    async def sign_out(user: str, request: Request) -> Response:
        """End a user's sessions; with `with_keys` their API keys, too."""
        caller = await _looks(callers, request)
        row = await _stoppable(accounts, user, caller)
        wanted = await read_json(request, shapes.SignOutBody)
        ended = await accounts.sign_out(row.user, caller.entry, with_keys=wanted.with_keys, before=wanted.before)
        return json_answer(shapes.SignedOut(sessions=ended))

    @router.post("/auth/users/{user}/enable")
    async def enable(user: str, request: Request) -> Response:
        """Let a disabled user sign in again; what ended stays ended."""
        caller = await _administers(callers, request)
        return json_answer(shapes.user_of(await accounts.enable((await _one(accounts, user)).user, caller.entry)))

    @router.delete("/auth/users/{user}", status_code=204)
    async def delete(user: str, request: Request) -> Response:
        """Withdraw a user's access for good; a tombstone stays. Never the last administrator's."""
        caller = await _administers(callers, request)
        await accounts.delete((await _one(accounts, user)).user, caller.entry)
        return Response(status_code=204)


def _invites(router: APIRouter, accounts: Accounts, callers: Callers) -> None:
    @router.get("/auth/invites")
    async def list_invites(request: Request, cursor: str | None = None, limit: Limit = PAGE) -> Response:
        """List invitations that are still good, newest first."""
        await _administers(callers, request)
        rows = await accounts.store.list_invites()
        some, further = page_of(rows, lambda row: (row.created_at, row.invite), cursor=cursor, limit=limit)
        return json_answer(shapes.InvitePage(items=[shapes.invite_of(row) for row in some], next_cursor=further))

    @router.post("/auth/invites", status_code=201)
    async def invite(request: Request) -> Response:
        """Make an invitation; who has its secret may register once, with these roles."""
        caller = await _administers(callers, request)
        wanted = await read_json(request, shapes.InviteBody)
        secret, row = await accounts.invite(wanted.roles, wanted.ttl_s, caller.entry, created_by=caller.user)
        made = shapes.MadeInvite(**msgspec.structs.asdict(shapes.invite_of(row)), secret=secret)
        return json_answer(made, status=201)

    @router.delete("/auth/invites/{invite}", status_code=204)
    async def revoke_invite(invite: str, request: Request) -> Response:
        """Take an invitation back."""
        caller = await _administers(callers, request)
        if _INVITE.fullmatch(invite) is None:
            raise NotFound("There is no such invitation.", field="invite")
        await accounts.revoke_invite(invite, caller.entry)
        return Response(status_code=204)


def _signing_keys(router: APIRouter, accounts: Accounts, callers: Callers, access_ttl_s: int) -> None:
    @router.get("/auth/signing-keys")
    async def list_signing_keys(request: Request) -> Response:
        """List signing keys, without what they sign with; those that are not in force any more, too."""
        await _administers(callers, request)
        return json_answer(shapes.SigningKeyPage(items=await accounts.signing_keys(), next_cursor=None))

    @router.post("/auth/signing-keys", status_code=201)
    async def rotate(request: Request) -> Response:
        """Have a new signing key follow when everybody knows it; nobody is signed out for that."""
        caller = await _administers(callers, request)
        return json_answer(await accounts.rotate_signing_key(access_ttl_s, caller.entry), status=201)

    @router.delete("/auth/signing-keys/{kid}", status_code=204)
    async def revoke_signing_key(kid: str, request: Request) -> Response:
        """End a signing key and all access tokens that it has signed, at once and for good."""
        caller = await _administers(callers, request)
        if _KID.fullmatch(kid) is None:
            raise NotFound("There is no such signing key.", field="kid")
        await accounts.revoke_signing_key(kid, caller.entry)
        return Response(status_code=204)


def _audit(router: APIRouter, accounts: Accounts, callers: Callers) -> None:
    @router.get("/auth/audit")
    async def audit(request: Request, after: _After = 0, limit: _AuditLimit = PAGE_LIMIT) -> Response:
        """List who did what to whom from where, oldest first; follow it with `after`."""
        await _looks(callers, request)
        page = await accounts.store.audit_after(after, limit=limit)
        items = [shapes.audited_of(row) for row in page.rows]
        further = items[-1].seq if items and items[-1].seq < page.head else None
        return json_answer(shapes.AuditedPage(items=items, head=page.head, next_cursor=further))


async def _administers(callers: Callers, request: Request) -> Caller:
    caller = await callers.person(request)
    require(caller, "admin")
    return caller


async def _looks(callers: Callers, request: Request) -> Caller:
    caller = await callers.person(request)
    require(caller, "admin", "operator")
    return caller


async def _one(accounts: Accounts, user: str) -> UserRow:
    """Return a user by the id in a path. Raises NotFound."""
    # What is no id of ours may be what a database does not even take.
    if not is_own_id(user, "usr"):
        raise NotFound("There is no user of this id.", field="user")
    return await accounts.by_id(user)


async def _stoppable(accounts: Accounts, user: str, caller: Caller) -> UserRow:
    """Return a user whom this caller may stop. Raises NotFound, Forbidden."""
    row = await _one(accounts, user)
    if "admin" in row.roles and "admin" not in caller.roles:
        raise Forbidden("Only an administrator may do this to an administrator.")
    return row


def _name(cursor: str | None) -> str | None:
    """Return the name after which a page begins. Raises ProtocolError."""
    try:
        return None if cursor is None else normal_name(cursor)
    except ProtocolError:
        raise no_cursor() from None
