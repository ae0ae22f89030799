"""What people do to their own account over HTTP, with a session of theirs.

An API key may none of this: whoever finds one must not be able to sign its owner out, or make more of it.
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from runwire.auth.service import own_shapes as shapes
from runwire.auth.service.admin_shapes import SignedOut
from runwire.auth.service.bodies import read_json
from runwire.auth.service.callers import Callers
from runwire.auth.service.own import OwnAccount
from runwire.auth.service.pages import PAGE, Limit, json_answer, page_of
from runwire.auth.service.requests import address_of
from runwire.errors import NotFound
from runwire.protocol.ids import is_own_id

__all__ = ["own_routes"]


def own_routes(own: OwnAccount, callers: Callers) -> APIRouter:
    """Make the routes.

    Args:
        own: what is done.
        callers: who asks.
    """
    router = APIRouter(default_response_class=Response)
    _sessions(router, own, callers)
    _passwords(router, own, callers)
    _keys(router, own, callers)
    return router


def _sessions(router: APIRouter, own: OwnAccount, callers: Callers) -> None:
    @router.get("/auth/sessions")
    async def list_sessions(request: Request, cursor: str | None = None, limit: Limit = PAGE) -> Response:
        """List your live sessions, newest first."""
        caller = await callers.person(request)
        rows = await own.sessions(caller)
        some, further = page_of(rows, lambda row: (row.created_at, row.session), cursor=cursor, limit=limit)
        items = [shapes.own_session_of(row, current=caller.session) for row in some]
        return json_answer(shapes.OwnSessionPage(items=items, next_cursor=further))

    @router.delete("/auth/sessions")
    async def end_sessions(request: Request, keep_current: bool = False) -> Response:
        """End all your sessions; with `keep_current` all but the one that asks."""
        caller = await callers.person(request)
        return json_answer(SignedOut(sessions=await own.end_sessions(caller, keep_current=keep_current)))

    @router.delete("/auth/sessions/{session}", status_code=204)
    async def end_session(session: str, request: Request) -> Response:
        """End one of your sessions; somebody else's is not found."""
        caller = await callers.person(request)
        # What is no id of ours may be what a database does not even take.
        if not is_own_id(session, "ses"):
            raise NotFound("There is no such session of yours.", field="session")
        await own.end_session(caller, session)
        return Response(status_code=204)


def _passwords(router: APIRouter, own: OwnAccount, callers: Callers) -> None:
    @router.post("/auth/password", status_code=204)
    async def change_password(request: Request) -> Response:
        """Replace your password; this session stays, your others end."""
        caller = await callers.person(request)
        wanted = await read_json(request, shapes.PasswordBody)
        await own.change_password(caller, wanted.old, wanted.new)
        return Response(status_code=204)

    @router.post("/auth/password/reset", status_code=204)
    async def reset_password(request: Request) -> Response:
        """Set a new password by a one-time secret; all sessions of the person end."""
        wanted = await read_json(request, shapes.PasswordResetBody)
        await own.reset_password(wanted.token, wanted.password, address=address_of(request))
        return Response(status_code=204)


def _keys(router: APIRouter, own: OwnAccount, callers: Callers) -> None:
    @router.get("/auth/keys")
    async def list_keys(request: Request, cursor: str | None = None, limit: Limit = PAGE) -> Response:
        """List your API keys, newest first, those that have ended too."""
        rows = await own.keys(await callers.person(request))
        some, further = page_of(rows, lambda row: (row.created_at, row.key), cursor=cursor, limit=limit)
        return json_answer(shapes.KeyPage(items=[shapes.key_of(row) for row in some], next_cursor=further))

    @router.post("/auth/keys", status_code=201)
    async def create_key(request: Request) -> Response:
        """Create an API key; its text is in this answer and never again."""
        caller = await callers.person(request)
        wanted = await read_json(request, shapes.KeyBody)
        text, row = await own.create_key(caller, label=wanted.label, scopes=wanted.scopes, ttl_s=wanted.ttl_s)
        made = shapes.MadeKey(**msgspec.structs.asdict(shapes.key_of(row)), secret=text)
        return json_answer(made, status=201)

    @router.delete("/auth/keys/{key}", status_code=204)
    async def revoke_key(key: str, request: Request) -> Response:
        """End one of your API keys; somebody else's is not found."""
        caller = await callers.person(request)
        if not is_own_id(key, "key"):
            raise NotFound("There is no such API key of yours.", field="key")
        await own.revoke_key(caller, key)
        return Response(status_code=204)
