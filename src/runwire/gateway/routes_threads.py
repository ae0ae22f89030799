"""`/v1/threads`: conversations, their messages and their events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from runwire.auth.identity import Identity
from runwire.errors import NotFound, ProtocolError
from runwire.gateway import shapes
from runwire.gateway.deadline import extend
from runwire.gateway.desk import Desk
from runwire.gateway.history import fold
from runwire.gateway.live import Live
from runwire.gateway.openapi import documented
from runwire.gateway.request import PAGE_LIMIT, Callers, answer, check_cursor, decode_body, read_body
from runwire.gateway.sse import EventStream, LongPoll, StreamSettings
from runwire.gateway.subscription import Opened
from runwire.protocol import frames
from runwire.protocol.events import View
from runwire.storage.base import RunRow
from runwire.storage.placed import Placed

__all__ = ["ThreadRoutes"]

_Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT)]
_After = Annotated[int, Query(ge=-1, le=2**53 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRoutes:
    """The routes of threads. Every id is looked up within the caller's own: foreign is unknown."""

    desks: Placed[Desk]
    callers: Callers
    live: Live
    stream_settings: StreamSettings
    body_bytes: int  # size of a request's body at most
    wait_max_s: float  # of a long poll

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v1/threads", tags=["threads"], default_response_class=Response)
        add = router.add_api_route
        create = documented(body=shapes.ThreadBody, returns=shapes.ThreadShape, status=201)
        shown = documented(returns=shapes.Snapshot, also=(404,))
        rename = documented(body=shapes.ThreadPatch, returns=shapes.ThreadShape, also=(404,))
        messages = documented(returns=shapes.MessagePage, also=(404,))
        send = documented(body=frames.MessageBody, returns=shapes.Accepted, status=202, also=(404, 409, 501))
        events = documented(returns=shapes.Events, also=(404,), is_stream=True)
        add("", self.create, methods=["POST"], status_code=201, openapi_extra=create)
        add("", self.list_threads, methods=["GET"], openapi_extra=documented(returns=shapes.ThreadPage))
        add("/{thread}", self.snapshot, methods=["GET"], openapi_extra=shown)
        add("/{thread}", self.rename, methods=["PATCH"], openapi_extra=rename)
        gone = documented(returns=None, status=204, also=(404,))
        add("/{thread}", self.delete, methods=["DELETE"], status_code=204, openapi_extra=gone)
        add("/{thread}/messages", self.messages, methods=["GET"], openapi_extra=messages)
        add("/{thread}/messages", self.send, methods=["POST"], status_code=202, openapi_extra=send)
        add("/{thread}/events", self.events, methods=["GET"], openapi_extra=events)
        return router

    async def create(self, request: Request) -> Response:
        """Make an empty thread."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        body = decode_body(shapes.ThreadBody, await read_body(request, limit_bytes=self.body_bytes))
        row = await desk.commands.create_thread(identity.user, title=body.title)
        return answer(shapes.thread_shape(row, log=desk.storage.log), status=201)

    async def list_threads(self, request: Request, cursor: str | None = None, limit: _Limit = 50) -> Response:
        """List your threads, newest first."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        check_cursor(cursor, kind="th")
        rows = await desk.storage.threads.list(identity.user, before=cursor, limit=limit + 1)
        items = [shapes.thread_shape(row, log=desk.storage.log) for row in rows[:limit]]
        return answer(shapes.page(items, next_cursor=items[-1].thread if len(rows) > limit else None))

    async def snapshot(self, request: Request, thread: str) -> Response:
        """Show a thread: messages and runs, exact at `seq`."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        row = await desk.storage.threads.get(identity.user, thread)
        history = await fold(desk.storage, thread)
        shown = history.view.to_snapshot()
        await self._name_agents(identity, thread, shown["runs"])
        return answer({"thread": thread, "title": row.title, "log": history.log, "seq": history.seq, **shown})

    async def _name_agents(self, identity: Identity, thread: str, runs: list[dict[str, Any]]) -> None:
        """Name the agents of runs that no worker has begun: no event tells."""
        nameless = {run["run"]: run for run in runs if run["agent"] is None}
        desk = self.desks.of(identity.user)
        before: str | None = None
        while nameless:
            rows = await desk.storage.runs.list(identity.user, thread=thread, before=before, limit=PAGE_LIMIT)
            for row in rows:
                if run := nameless.pop(row.run, None):
                    run["agent"] = row.agent
            if len(rows) < PAGE_LIMIT:
                return
            before = rows[-1].run

    async def rename(self, request: Request, thread: str) -> Response:
        """Set a thread's title; null erases it, and what the body does not name stays. No body at all: 400."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        sent = await read_body(request, limit_bytes=self.body_bytes)
        if not sent:
            raise ProtocolError("Say what to change, such as a title; null erases it.", field="title")
        title = decode_body(shapes.ThreadPatch, sent).title
        if title is msgspec.UNSET:
            row = await desk.storage.threads.get(identity.user, thread)
        else:
            row = await desk.storage.threads.rename(identity.user, thread, title)
        return answer(shapes.thread_shape(row, log=desk.storage.log))

    async def delete(self, request: Request, thread: str) -> Response:
        """Delete a thread; its runs are cancelled, its subscribers told."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        await desk.commands.delete_thread(identity.user, thread)
        return Response(status_code=204)

    async def messages(
        self,
        request: Request,
        thread: str,
        before: Annotated[int | None, Query(ge=0, description="Only messages that began before this seq.")] = None,
        limit: _Limit = 50,
    ) -> Response:
        """Show a stretch of a thread's messages, oldest first, the last ones before `before`."""
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        await desk.storage.threads.get(identity.user, thread)
        history = await fold(desk.storage, thread)
        older = [m for m in history.view.messages.values() if before is None or m.seq < before]
        items = [message.to_json() for message in older[-limit:]]
        return answer(shapes.page(items, next_cursor=items[0]["seq"] if len(older) > limit else None))

    async def send(
        self, request: Request, thread: str, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
    ) -> Response:
        """Say something to an agent; starts a run. `Idempotency-Key` makes a repetition harmless.

        `content` and `metadata` have at most 64 KiB each, as JSON without spaces; more is 413 `too_large`, here
        and on a socket. A key that was used is answered alike as long as its run is kept, also when the agent
        is not served any more.
        """
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        came = await read_body(request, limit_bytes=self.body_bytes)
        desk.commands.count_bytes(identity.user, len(came))
        body = decode_body(frames.MessageBody, came)
        sent = await desk.commands.send(
            identity.user,
            body,
            thread=thread,
            key=idempotency_key or None,
            api_key=identity.key,
            caller=request.headers.get("traceparent"),
        )
        desk.commands.announce(sent)
        accepted = shapes.Accepted(thread=sent.thread, log=sent.log, run=sent.run, message=sent.message, seq=sent.seq)
        return answer(accepted, status=202)

    async def events(
        self,
        request: Request,
        thread: str,
        after: _After = 0,
        log: str | None = None,
        view: View = "all",
        until: Annotated[str | None, Query(description="End after this run's terminal event; streams only.")] = None,
        wait: Annotated[float, Query(ge=0, description="Wait so many seconds for an event (JSON).")] = 0.0,
    ) -> Response:
        """Read events: as a stream with `Accept: text/event-stream`, else as one JSON answer.

        `through` of the JSON answer is the seq up to which the view was looked at: `after` of the next request.
        """
        identity = await self.callers.who(request)
        desk = self.desks.of(identity.user)
        is_stream = _wants_stream(",".join(request.headers.getlist("accept")))
        if until is not None and not is_stream:
            raise ProtocolError("`until` ends a stream; ask for text/event-stream.", field="until")
        last_id = request.headers.get("last-event-id")
        if is_stream and last_id:
            log, after = _position(last_id)
        run = await self._run_of(identity, thread, until) if until else None
        wake = asyncio.Event()
        opened = await desk.subscriptions.open(
            user=identity.user, thread=thread, after=after, log=log, view=view, wake=lambda _thread: wake.set()
        )
        if not is_stream:
            return self._poll(request, identity, opened, wake, wait_s=min(wait, self.wait_max_s))
        if run and run.terminal_seq is not None and opened.reset is None and opened.after >= run.terminal_seq:
            desk.subscriptions.close(opened.subscription)
            return Response(status_code=204)  # makes an EventSource stop for good
        stream = EventStream(
            identity=identity,
            opened=opened,
            subscriptions=desk.subscriptions,
            live=self.live,
            standing=self.callers.identities.view,
            settings=self.stream_settings,
            wake=wake,
            is_from_now=after == -1,
            until=until,
            until_seq=run.terminal_seq if run else None,
        )
        return _Served(stream)

    def _poll(
        self, request: Request, identity: Identity, opened: Opened, wake: asyncio.Event, *, wait_s: float
    ) -> Response:
        extend(request.scope, wait_s)
        desk = self.desks.of(identity.user)
        poll = LongPoll(
            identity=identity,
            opened=opened,
            subscriptions=desk.subscriptions,
            live=self.live,
            check=self.callers.check,
            wake=wake,
            wait_s=wait_s,
        )
        return _Served(poll)

    async def _run_of(self, identity: Identity, thread: str, run: str) -> RunRow:
        refusal = NotFound("There is no such run in this thread.", field="until")
        try:
            row = await self.desks.of(identity.user).storage.runs.get(identity.user, run)
        except NotFound as error:
            raise refusal from error
        if row.thread != thread:
            raise refusal
        return row


class _Served(Response):
    """A response that is an ASGI app of its own."""

    def __init__(self, app: EventStream | LongPoll) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        await self._app(scope, receive, send)


def _wants_stream(accept: str) -> bool:
    """Return whether a stream is asked for by name, and JSON not rather (RFC 9110 §12.5.1)."""
    weights: dict[str, float] = {}
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        weights[kind] = min((_weight(part) for part in parameters), default=1.0)
    return weights.get("text/event-stream", 0.0) > 0.0 and weights["text/event-stream"] >= weights.get(
        "application/json", 0.0
    )


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 1.0  # a weight that cannot be read says nothing


def _position(last_event_id: str) -> tuple[str, int]:
    log, _, seq = last_event_id.rpartition(":")
    if not log or not seq.isascii() or not seq.isdigit() or len(seq) > 16:
        raise ProtocolError("Last-Event-ID must be <log>:<seq>, as this server sent it.", field="Last-Event-ID")
    return log, int(seq)
