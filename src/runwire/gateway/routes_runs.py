"""Runs, agents, blobs, tickets and the caller itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from runwire.errors import Forbidden, ProtocolError
from runwire.gateway import shapes
from runwire.gateway.desk import Desk
from runwire.gateway.history import fold_run
from runwire.gateway.openapi import documented
from runwire.gateway.request import PAGE_LIMIT, Callers, answer, check_cursor, decode_body, read_body
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.storage.base import RunStatus
from runwire.storage.placed import Placed

__all__ = ["RunRoutes"]

_Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT)]
_TICKET_S = 30  # life of a ticket (PROTOCOL §1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRoutes:
    """The routes besides threads. Every id is looked up within the caller's own: foreign is unknown."""

    desks: Placed[Desk]
    callers: Callers
    body_bytes: int  # size of a request's body at most

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(default_response_class=Response)
        add = router.add_api_route
        me = documented(returns=shapes.Me)
        ticket = documented(body=shapes.NoBody, returns=shapes.Ticket, status=201)
        blob = documented(returns=None, also=(404,))
        run = documented(returns=shapes.RunDetail, also=(404,))
        cancel = documented(body=shapes.NoBody, returns=frames.CancelData, status=202, also=(404,))
        given = documented(body=frames.AnswerBody, returns=frames.AnswerData, also=(404, 409))
        retry = documented(body=frames.RetryBody, returns=shapes.Accepted, status=202, also=(404, 409))
        add("/v1/me", self.me, methods=["GET"], tags=["identity"], openapi_extra=me)
        add("/v1/ws-ticket", self.ticket, methods=["POST"], status_code=201, tags=["identity"], openapi_extra=ticket)
        agents = documented(returns=shapes.AgentPage)
        add("/v1/agents", self.agents, methods=["GET"], tags=["agents"], openapi_extra=agents)
        add("/v1/blobs/{ref}", self.blob, methods=["GET"], tags=["threads"], openapi_extra=blob)
        runs = documented(returns=shapes.RunPage)
        add("/v1/runs", self.list_runs, methods=["GET"], tags=["runs"], openapi_extra=runs)
        add("/v1/runs/{run}", self.get, methods=["GET"], tags=["runs"], openapi_extra=run)
        add(
            "/v1/runs/{run}/cancel", self.cancel, methods=["POST"], status_code=202, tags=["runs"], openapi_extra=cancel
        )
        add("/v1/runs/{run}/answers", self.answer, methods=["POST"], tags=["runs"], openapi_extra=given)
        add("/v1/runs/{run}/retry", self.retry, methods=["POST"], status_code=202, tags=["runs"], openapi_extra=retry)
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        add("/admin/v1/{path:path}", self.admin, methods=methods, include_in_schema=False)
        return router

    async def me(self, request: Request) -> Response:
        """Say who the credential is."""
        identity = await self.callers.who(request)
        return answer(
            {
                "user": identity.user,
                "name": identity.name,
                "roles": sorted(identity.roles),
                "session": identity.session,
            }
        )

    async def ticket(self, request: Request) -> Response:
        """Make a ticket for one WebSocket: single use, 30 s, bound to you and the Origin."""
        identity = await self.callers.who(request)
        decode_body(shapes.NoBody, await read_body(request, limit_bytes=self.body_bytes))
        ticket = await self.callers.identities.issue_ticket(identity, request.headers.get("origin"))
        return answer({"ticket": ticket, "expires_in": _TICKET_S}, status=201)

    async def agents(self, request: Request) -> Response:
        """List the agents that may be asked."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        offered = desk.agents.offered()
        items = [{"agent": name, "default": name == offered.default} for name in offered.names]
        return answer(shapes.page(items, next_cursor=None))

    async def blob(self, request: Request, ref: str) -> Response:
        """Return a large value that an event of yours names, as JSON."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        value = await desk.storage.events.blob(identity.user, ref)
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(value, 200, headers, media_type="application/json; charset=utf-8")

    async def list_runs(
        self,
        request: Request,
        status: RunStatus | None = None,
        agent: str | None = None,
        thread: str | None = None,
        cursor: str | None = None,
        limit: _Limit = 50,
    ) -> Response:
        """List your runs, newest first."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        check_cursor(cursor, kind="run")
        rows = await desk.storage.runs.list(
            identity.user, thread=thread, status=status, agent=agent, before=cursor, limit=limit + 1
        )
        items = [shapes.run_shape(row) for row in rows[:limit]]
        return answer(shapes.page(items, next_cursor=items[-1].run if len(rows) > limit else None))

    async def get(self, request: Request, run: str) -> Response:
        """Show a run: its steps, what it waits for, its sub-agents and its output.

        `status` is `waiting` while a wait is open, as in the thread's snapshot; in the list of runs only once the run
        was put aside for it.
        """
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        row = await desk.storage.runs.get(identity.user, run)
        shown = await fold_run(desk.storage, row)
        if shown.is_ended and row.terminal_seq is None:
            row = await desk.storage.runs.get(identity.user, run)  # it ended since
        return answer(shapes.run_detail(row, shown))

    async def cancel(self, request: Request, run: str) -> Response:
        """Ask a run to end; its terminal event is the outcome.

        `status` is `requested` for a run that goes on until its worker has heard. It is the run's final status
        (`completed`, `failed`, `cancelled`) if that is known already: of a run that has ended, and of a queued
        one, which ends at once.
        """
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        decode_body(shapes.NoBody, await read_body(request, limit_bytes=self.body_bytes))
        return answer(await desk.commands.cancel(identity.user, run), status=202)

    async def answer(self, request: Request, run: str) -> Response:
        """Answer a wait of a run. The first answer wins; the same one again is as good, another is 409 `conflict`.

        An approval takes true or false, an input any JSON of at most 64 KiB without spaces (413 `too_large`).
        """
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        came = await read_body(request, limit_bytes=self.body_bytes)
        desk.commands.count_bytes(identity.user, len(came))
        body = decode_body(frames.AnswerBody, came)
        return answer(await desk.commands.answer(identity.user, run, body))

    async def retry(
        self, request: Request, run: str, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
    ) -> Response:
        """Start a new run with the message of one that has ended. `Idempotency-Key` makes a repetition harmless.

        409 `conflict` while the run goes on; its own agent is asked, and 400 says that it is not served any more.
        """
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        body = decode_body(frames.RetryBody, await read_body(request, limit_bytes=self.body_bytes))
        sent = await desk.commands.retry(
            identity.user,
            run,
            body,
            key=idempotency_key or None,
            api_key=identity.key,
            caller=request.headers.get("traceparent"),
        )
        desk.commands.announce(sent)
        accepted = shapes.Accepted(thread=sent.thread, log=sent.log, run=sent.run, message=sent.message, seq=sent.seq)
        return answer(accepted, status=202)

    async def admin(self, request: Request, path: str) -> Response:
        """Not built yet; operators only."""
        identity = await self.callers.who(request)
        if "operator" not in identity.roles:
            raise Forbidden("Only operators may do that.")
        raise ProtocolError("This server cannot do that yet.", code=ErrorCode.UNSUPPORTED)
