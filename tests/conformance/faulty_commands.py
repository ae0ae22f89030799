"""Small wrong servers with one fault in what they do when told: order, ends, doors, cancel, input, policies, waits."""

from __future__ import annotations

import asyncio
import base64
import json
from http import HTTPStatus
from typing import Any

from tests.conformance.minimal_agents import Breakers, check_asks
from tests.conformance.minimal_run import Emit, Failed, now_ms, with_tool
from tests.conformance.minimal_server import Connection, Frame, MinimalServer, Run, Thread
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Response

from runwire.conformance.agents import SECRET

# ── ordering ─────────────────────────────────────────────────────────────────────────────────────────────


class TabsDiffer(MinimalServer):
    """Shows other times to the socket that follows than to the one that asked, while both are there."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        both = sum(frame.get("thread") in each.subscriptions for each in self.connections) > 1
        if frame["op"] == "event" and both and connection.state.get("followed"):
            return [{**frame, "ts": frame["ts"] + 1}]
        return [frame]

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        thread = self.threads.get(frame["thread"])
        connection.state["followed"] = thread is not None and thread.head == 0
        super().subscribe(connection, frame)


class PrevPerSocket(MinimalServer):
    """Counts what a socket was sent, over all of its threads."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        if frame["op"] != "event":
            return [frame]
        thread, last = connection.state.get("last", (frame["thread"], frame["prev"]))
        connection.state["last"] = (frame["thread"], frame["seq"])
        return [frame if thread == frame["thread"] else {**frame, "prev": last}]


class BackwardsBatch(MinimalServer):
    """Carries out three commands of one message from the last to the first."""

    def message(self, connection: Connection, text: str | bytes) -> None:
        found = self.parse(text)
        for frame in reversed(found) if len(found) == 3 else found:
            self.command(connection, frame)


# ── terminal ─────────────────────────────────────────────────────────────────────────────────────────────


class InventsTools(MinimalServer):
    """Shows a tool call in a run whose agent made none."""

    async def ask(self, run: Run, emit: Emit) -> Any:
        return await with_tool(run.content, emit) if run.agent == "check_plain" else await super().ask(run, emit)


class TellsTheReason(MinimalServer):
    """Shows what the exception of an agent says."""

    def end(self, run: Run, kind: str, data: Frame) -> None:
        super().end(run, kind, {**data, "message": SECRET} if kind == "agent_failed" else data)


class CompletesFailures(MinimalServer):
    """Says of a run that failed that it was completed."""

    def run_of(self, run: Run) -> Frame:
        return {**super().run_of(run), "status": "completed"}


class NoDeadline(MinimalServer):
    """Lets runs go on for ever: here they are over just in time."""

    async def ask(self, run: Run, emit: Emit) -> Any:
        return "late" if run.agent == "check_deadline" else await super().ask(run, emit)


class TalksLate(MinimalServer):
    """Says something half a second after the end."""

    def end(self, run: Run, kind: str, data: Frame) -> None:
        super().end(run, kind, data)
        if run.agent == "check_tool":
            value = {"name": "late", "value": 1}
            asyncio.get_running_loop().call_later(0.4, lambda: self.append(run, "custom", value))


# ── isolation ────────────────────────────────────────────────────────────────────────────────────────────


class Broadcasts(MinimalServer):
    """Shows events to whoever has a socket."""

    def append(self, run: Run, kind: str, data: Frame, *, attempt: int | None = None) -> None:
        super().append(run, kind, data, attempt=attempt)
        for connection in self.connections:
            if connection.user != run.user:
                event = run.thread.events[-1]
                connection.put({"op": "event", "thread": run.thread.thread, "prev": event["seq"] - 1, **event})


class ListsAll(MinimalServer):
    """Lists the threads of everybody."""

    def listed(self, user: str) -> list[Thread]:
        return list(self.threads.values())


class SharesKeys(MinimalServer):
    """Takes an idempotency key for that of anybody."""

    def known(self, user: str, frame: Frame, body: str) -> Any:
        found = [known for (_, key), known in self.keys.items() if key == frame.get("key")]
        return found[0][0] == body and found[0][1] if found else None


class LetsAnybodyFollow(MinimalServer):
    """Lets everybody follow every thread."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        thread = self.threads.get(frame["thread"])
        user, connection.user = connection.user, thread.user if thread else connection.user
        super().subscribe(connection, frame)
        connection.user = user


class TellsWhatThereIs(MinimalServer):
    """Answers for what is another's with forbidden, and so tells that it is there."""

    def refuse(self, connection: Connection, frame: Frame, code: str, field: str | None = None) -> None:
        is_there = code == "not_found" and frame.get(field or "") in {**self.threads, **self.runs}
        super().refuse(connection, frame, "forbidden" if is_there else code, field)


class RoutesTellWhatThereIs(MinimalServer):
    """Does so over HTTP."""

    def unknown(self, path: str) -> Response:
        if any(word in {**self.threads, **self.runs} for word in path.split("/")):
            return self.problem(HTTPStatus.FORBIDDEN, "forbidden")
        return super().unknown(path)


# ── auth ─────────────────────────────────────────────────────────────────────────────────────────────────


class DeafToHello(MinimalServer):
    """Takes no hello."""

    async def signed_in(self, socket: ServerConnection) -> tuple[str | None, str, list[Frame]]:
        assert socket.request
        user, token, early = await super().signed_in(socket)
        has_other = "bearer." in socket.request.headers.get("Sec-WebSocket-Protocol", "") or "?" in socket.request.path
        return (user if has_other or "Authorization" in socket.request.headers else None), token, early


class TicketsForEver(MinimalServer):
    """Takes a ticket as often as it comes."""

    def user_of_ticket(self, ticket: str) -> str | None:
        return self.tickets.get(ticket)


class ShowsToNobody(MinimalServer):
    """Takes a request without a token for one of the first user."""

    def user_of(self, headers: Headers) -> str | None:
        return super().user_of(headers) if "Authorization" in headers else "usr_1"


class TakesUnsigned(MinimalServer):
    """Believes what a token says, signed or not."""

    def user_by(self, token: str) -> str | None:
        try:
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        except (ValueError, IndexError):
            return super().user_by(token)
        return str(claims.get("sub"))


class TakesUnsignedOverHttp(TakesUnsigned):
    """Does so over HTTP alone."""

    async def signed_in(self, socket: ServerConnection) -> tuple[str | None, str, list[Frame]]:
        user, token, early = await super().signed_in(socket)
        return (user if token in self.tokens or not token else None), token, early


class ExplainsRefusals(MinimalServer):
    """Says of a token whether it had the right form."""

    async def http(self, socket: ServerConnection, request: Any) -> Response | None:
        self.asked = request.headers.get("Authorization", "")
        return await super().http(socket, request)

    def problem(self, status: HTTPStatus, code: str, **more: Any) -> Response:
        is_form = status == HTTPStatus.UNAUTHORIZED and getattr(self, "asked", "").count(".") == 2
        return super().problem(status, code, **{"detail": "bad signature"} if is_form else {})


class TakesExpired(MinimalServer):
    """Takes tokens that have ended."""

    def user_by(self, token: str) -> str | None:
        return "usr_1" if token == "expired-token" else super().user_by(token)


class AnyOrigin(MinimalServer):
    """Opens sockets for pages of any origin."""

    def door(self, headers: Headers, query: dict[str, str]) -> Response | None:
        return self.problem(HTTPStatus.BAD_REQUEST, "bad_request") if "token" in query else None


class TokenInAddress(MinimalServer):
    """Takes a token in the query."""

    def door(self, headers: Headers, query: dict[str, str]) -> Response | None:
        return self.problem(HTTPStatus.FORBIDDEN, "forbidden") if "Origin" in headers else None


class RefreshesAnybody(MinimalServer):
    """Takes whatever token it is refreshed with."""

    def refresh(self, connection: Connection, frame: Frame) -> None:
        self.reply(connection, frame, {"expires_at": now_ms() + 3_600_000})


class IgnoresRevocation(MinimalServer):
    """Leaves the sockets of a withdrawn sign-in open."""

    def revoke(self, token: str) -> None:
        self.tokens.pop(token, None)


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────


class CancelsNothing(MinimalServer):
    """Says that it was asked to stop a run, and goes on."""

    def call_off(self, run: Run, by: str = "user") -> str:
        is_ignored = run.status == "running" and by == "user" and run.thread.runs == [run]
        return "requested" if is_ignored else super().call_off(run, by)


class StartsWhatWasCancelled(MinimalServer):
    """Takes no cancel for a run that waits."""

    def call_off(self, run: Run, by: str = "user") -> str:
        return "requested" if run.thread.runs[0] is not run and not run.is_over else super().call_off(run, by)


class CancelsTheEnded(MinimalServer):
    """Ends a run again that has ended."""

    def call_off(self, run: Run, by: str = "user") -> str:
        if run.is_over:
            run.status = "cancelled"
            self.append(run, "agent_cancelled", {"by": "user"})
        return super().call_off(run, by)


# ── input ────────────────────────────────────────────────────────────────────────────────────────────────


class AcknowledgesUnknown(MinimalServer):
    """Says ok to commands that it does not know."""

    def refuse(self, connection: Connection, frame: Frame, code: str, field: str | None = None) -> None:
        if field == "op" and "id" in frame:
            self.reply(connection, frame, {})
        else:
            super().refuse(connection, frame, code, field)


class StartsForBadInput(MinimalServer):
    """Refuses a message and starts a run for it."""

    def refuse(self, connection: Connection, frame: Frame, code: str, field: str | None = None) -> None:
        super().refuse(connection, frame, code, field)
        if frame.get("op") == "send" and code == "bad_request":
            self.start(self.threads[frame["thread"]], connection.user, "?", "check_plain")


class ShrugsAtNonsense(MinimalServer):
    """Goes on after what is no frame."""

    def parse(self, text: str | bytes) -> list[Frame]:
        try:
            return super().parse(text)
        except ValueError:
            return []


class TakesAnySize(MinimalServer):
    """Takes frames of any size."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.max_size = None


class BreaksAtBodies(MinimalServer):
    """Answers 500 to a body that it cannot read."""

    def problem(self, status: HTTPStatus, code: str, **more: Any) -> Response:
        is_bad = status == HTTPStatus.BAD_REQUEST and code == "bad_request" and "token" not in str(more)
        return (
            super().problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal") if is_bad else super().problem(status, code)
        )

    def door(self, headers: Headers, query: dict[str, str]) -> Response | None:
        if "token" in query:
            return MinimalServer.problem(self, HTTPStatus.BAD_REQUEST, "bad_request")
        return super().door(headers, query)


# ── concurrency ──────────────────────────────────────────────────────────────────────────────────────────


class RunsAtOnce(MinimalServer):
    """Starts a run while the one before it goes on, unless that one is slow."""

    async def turn(self, run: Run) -> None:
        if run.thread.runs[0].agent == "check_slow":
            await super().turn(run)


class NeverRejects(MinimalServer):
    """Has every message wait for its turn, also one that must not."""

    def has_way(self, thread: Thread, policy: str) -> bool:
        return super().has_way(thread, "enqueue" if policy == "reject" else policy)


class NeverInterrupts(MinimalServer):
    """Has every message wait for its turn, also one that interrupts."""

    def has_way(self, thread: Thread, policy: str) -> bool:
        return super().has_way(thread, "enqueue" if policy == "interrupt" else policy)


class KeysPerSocket(MinimalServer):
    """Knows an idempotency key again only on the same socket."""

    def send(self, connection: Connection, frame: Frame) -> None:
        key = f"{frame['key']} {id(connection)}" if frame.get("key") else None
        super().send(connection, {**frame, "key": key})


# ── slow readers ─────────────────────────────────────────────────────────────────────────────────────────


class StallsForOne(MinimalServer):
    """Writes to nobody while one socket does not take what is written to it."""

    lock: asyncio.Lock | None = None

    async def deliver(self, connection: Connection, text: str) -> None:
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            await super().deliver(connection, text)


class DropsForTheSlow(MinimalServer):
    """Leaves events out for a socket that was slow."""

    async def deliver(self, connection: Connection, text: str) -> None:
        began_s = asyncio.get_running_loop().time()
        await super().deliver(connection, text)
        if asyncio.get_running_loop().time() - began_s > 0.25:
            connection.state["is_slow"] = True

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [] if connection.state.get("is_slow") and frame.get("seq") == 3 else [frame]


# ── waits and breakers ───────────────────────────────────────────────────────────────────────────────────


class HidesWaits(MinimalServer):
    """Does not show over HTTP that a run waits."""

    def run_of(self, run: Run) -> Frame:
        return {**super().run_of(run), "waits": []}


class TakesAnyWait(MinimalServer):
    """Says ok to an answer that nobody has asked for."""

    def refuse(self, connection: Connection, frame: Frame, code: str, field: str | None = None) -> None:
        if field == "wait":
            self.reply(connection, frame, {"run": frame["run"], "wait": frame["wait"]})
        else:
            super().refuse(connection, frame, code, field)


class MishearsAnswers(MinimalServer):
    """Goes on with another answer than the one it was given."""

    async def ask(self, run: Run, emit: Emit) -> Any:
        if run.agent != "check_asks":
            return await super().ask(run, emit)
        await check_asks(self.breakers, run, emit)
        return "You answered: nothing"


class LastAnswerWins(MinimalServer):
    """Says ok to another answer after the first."""

    def refuse(self, connection: Connection, frame: Frame, code: str, field: str | None = None) -> None:
        if frame.get("op") == "answer" and code == "conflict":
            self.reply(connection, frame, {"run": frame["run"], "wait": frame["wait"]})
        else:
            super().refuse(connection, frame, code, field)


class NeverOpens(MinimalServer):
    """Asks what fails for ever."""

    async def ask(self, run: Run, emit: Emit) -> Any:
        self.breakers = Breakers()
        return await super().ask(run, emit)


class OpensSilently(MinimalServer):
    """Does not say when to come back."""

    def end(self, run: Run, kind: str, data: Frame) -> None:
        super().end(run, kind, {name: value for name, value in data.items() if name != "retry_after_s"})


class StaysOpen(MinimalServer):
    """Never asks again what has failed."""

    async def ask(self, run: Run, emit: Emit) -> Any:
        name = run.content.partition(" ")[2]
        if run.agent == "check_provider" and self.breakers.failures.get(name, 0) >= 10:
            raise Failed("circuit_open", retry_after_s=0.02)
        return await super().ask(run, emit)


# ── times and crashes ────────────────────────────────────────────────────────────────────────────────────

LATE_S = 1.4


class RepliesLate(MinimalServer):
    """Takes its time to acknowledge a message of the default agent."""

    def send(self, connection: Connection, frame: Frame) -> None:
        later = super().send
        asyncio.get_running_loop().call_later(LATE_S, lambda: later(connection, frame))


class StartsLate(MinimalServer):
    """Acknowledges at once, and begins late."""

    async def turn(self, run: Run) -> None:
        await super().turn(run)
        await asyncio.sleep(LATE_S)


class PausesInTheMiddle(MinimalServer):
    """Stands still between a tool's two events."""

    async def work(self, run: Run, emit: Emit) -> Any:
        async def slow(kind: str, data: Frame) -> None:
            await emit(kind, data)
            await asyncio.sleep(LATE_S if kind == "tool_executing" else 0)

        return await super().work(run, slow)


class Crawls(MinimalServer):
    """Shows one event after the other, and comes to no end in time."""

    async def work(self, run: Run, emit: Emit) -> Any:
        async def slow(kind: str, data: Frame) -> None:
            await emit(kind, data)
            await asyncio.sleep(0.2)

        return await super().work(run, slow)


class ForgetsAtDeath(MinimalServer):
    """Has shown what it had not stored."""

    def take_over(self, run: Run) -> None:
        del run.thread.events[-2:]
        super().take_over(run)


class RetriesSilently(MinimalServer):
    """Goes on in another attempt without a word."""

    def take_over(self, run: Run) -> None:
        run.attempt += 1
