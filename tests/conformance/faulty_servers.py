"""Small wrong servers: each is the minimal one with one fault of the stream; `faults.py` says which case names it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from tests.conformance.minimal_server import (
    TERMINAL,
    Connection,
    Frame,
    MinimalServer,
    Run,
    Subscription,
    Thread,
    fresh,
)
from websockets.datastructures import Headers
from websockets.http11 import Response


class Mute(MinimalServer):
    """Accepts the upgrade and says nothing at all."""

    def welcome(self, connection: Connection) -> None:
        return


class Silent(MinimalServer):
    """Answers the send and never shows an event."""

    def pull(self, sub: Subscription) -> list[Frame]:
        return []


class LosesOne(MinimalServer):
    """Loses one event of each socket, the fourth; `prev` stays honest."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [] if frame.get("seq") == 4 and frame["op"] == "event" else [frame]


class LosesTheEnd(MinimalServer):
    """Stores the terminal event and never writes it to a socket."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [] if frame.get("type") in TERMINAL else [frame]


class DoublesOne(MinimalServer):
    """Writes the fourth event twice."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [frame, frame] if frame.get("seq") == 4 and frame["op"] == "event" else [frame]


class SwapsTwo(MinimalServer):
    """Writes the fifth event before the fourth."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        if frame["op"] == "event" and frame["seq"] == 4:
            connection.state["held"] = frame
            return []
        return [frame, connection.state.pop("held")] if "held" in connection.state else [frame]


class Canned(MinimalServer):
    """Answers every message with the same recorded run: same ids, same times, same text."""

    def start(self, thread: Thread, user: str, content: str, agent: str | None = None) -> Frame:
        thread = self.threads.setdefault("th_canned", Thread("th_canned", user, self.log))
        if not thread.runs:
            super().start(thread, user, "What is Runwire?", agent)
        run = thread.runs[0]
        return {"thread": thread.thread, "log": self.log, "after": 0, "run": run.run, "message": run.message, "seq": 1}


class CannedWithNewIds(MinimalServer):
    """Takes new ids and times for each run, and plays the same recorded message and answer."""

    def start(self, thread: Thread, user: str, content: str, agent: str | None = None) -> Frame:
        return super().start(thread, user, "What is Runwire?", agent)


class CannedFromThePast(MinimalServer):
    """Plays events with the times of their recording."""

    def append(self, run: Run, kind: str, data: Frame, *, attempt: int | None = None) -> None:
        super().append(run, kind, data, attempt=attempt)
        run.thread.events[-1]["ts"] = 1_700_000_000_000 + run.thread.head


class FabricatesTools(MinimalServer):
    """Shows tool events that were recorded: the same call in every run."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, {**data, "call": "call_recorded"} if "call" in data else data)


class WrongPrev(MinimalServer):
    """Gives one event the prev of the event before it: a hole in the chain."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [{**frame, "prev": frame["prev"] - 1}] if frame.get("seq") == 5 and frame["op"] == "event" else [frame]


class TwoTerminals(MinimalServer):
    """Ends each run twice."""

    def end(self, run: Run, kind: str, data: Frame) -> None:
        super().end(run, kind, data)
        super().end(run, kind, data)


class TalksAfterTheEnd(MinimalServer):
    """Emits an event after the terminal one."""

    def end(self, run: Run, kind: str, data: Frame) -> None:
        super().end(run, kind, data)
        self.append(run, "custom", {"name": "late", "value": 1})


class UnpairedTool(MinimalServer):
    """Never shows that the tool ended."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        if kind != "tool_completed":
            super().emitted(run, kind, data)


class EndsAToolTwice(MinimalServer):
    """Shows the end of a tool call again."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, data)
        if kind == "tool_completed":
            super().emitted(run, kind, data)


class StartsTwice(MinimalServer):
    """Shows agent_started again."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, data)
        if kind == "agent_started":
            super().emitted(run, kind, data)


class WrongText(MinimalServer):
    """Completes a message with another text than it streamed."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, {**data, "content": "Something else."} if kind == "message_completed" else data)


class WrongShape(MinimalServer):
    """Gives a tool call no id."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, {**data, "call": None} if kind == "tool_executing" else data)


class EventsFirst(MinimalServer):
    """Shows the first event of a run before the reply to its send."""

    def reply(self, connection: Connection, frame: Frame, data: Frame) -> None:
        if "run" in data and "seq" in data:
            thread = self.threads[data["thread"]]
            sub = connection.subscriptions.setdefault(thread.thread, Subscription(thread, "all", data["after"]))
            connection.out.extend(self.pull(sub))
        super().reply(connection, frame, data)


class ForgetsTheAnswer(MinimalServer):
    """Streams the answer and does not store it."""

    def messages(self, thread: Thread) -> list[Frame]:
        return [message for message in super().messages(thread) if message["role"] == "user"]


class ForgetsKeys(MinimalServer):
    """Starts a new run for a repeated send."""

    def known(self, user: str, frame: Frame, body: str) -> Any:
        return None


class RepeatsForTheSameBody(MinimalServer):
    """Starts a new run for a repeated send, and refuses only another body."""

    def known(self, user: str, frame: Frame, body: str) -> Any:
        return False if self.is_other(user, frame, body) else None

    def is_other(self, user: str, frame: Frame, body: str) -> bool:
        before = self.keys.get((user, frame.get("key") or ""))
        return before is not None and before[0] != body


class TakesAnyBody(MinimalServer):
    """Answers another body under the same key as if it were the first."""

    def known(self, user: str, frame: Frame, body: str) -> Any:
        before = self.keys.get((user, frame.get("key") or ""))
        return before[1] if before else None


class OtherHistoryOverHttp(MinimalServer):
    """Shows another history over SSE than on the socket."""

    async def sse(self, thread: Thread, query: dict[str, str], headers: Any) -> Any:
        if "Last-Event-ID" in headers:
            return await super().sse(thread, query, headers)
        shadow = Thread(thread.thread, thread.user, thread.log, events=thread.events[:5] + thread.events[6:])
        return await super().sse(shadow, query, headers)


class OtherPage(MinimalServer):
    """Shows another history in the JSON of the events than on the socket."""

    def json(self, body: Frame, status: HTTPStatus = HTTPStatus.OK) -> Response:
        if "events" in body:
            body = {**body, "events": body["events"][1:]}
        return super().json(body, status)


class ResumesWithAHole(MinimalServer):
    """Goes on one event too late after a reconnect."""

    def subscription(self, thread: Thread, view: str, after: int) -> Subscription:
        is_over = all(run.is_over for run in thread.runs)
        return Subscription(thread, view, after + 1 if 0 < after < thread.head and is_over else after)


class ResumesFromZero(MinimalServer):
    """Begins again from the start after a reconnect."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        super().subscribe(connection, frame)
        sub = connection.subscriptions.get(frame["thread"])
        if sub and all(run.is_over for run in sub.thread.runs):
            sub.last = 0


class RewritesHistory(MinimalServer):
    """Shows other times in a replay than it showed live."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        connection.state["is_replay"] = frame["after"] == 0 and self.is_old(frame["thread"])
        super().subscribe(connection, frame)

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [{**frame, "ts": frame["ts"] + 1}] if connection.state.get("is_replay") and "ts" in frame else [frame]


class ThinLifecycle(MinimalServer):
    """Leaves the thinking out of the view lifecycle."""

    def history(self, sub: Subscription) -> list[Frame]:
        return [e for e in super().history(sub) if sub.view == "all" or e["type"] != "agent_thinking"]


class ForgetsLaterRuns(MinimalServer):
    """Goes on one event too late after a reconnect, in all runs but the first of a thread."""

    def subscription(self, thread: Thread, view: str, after: int) -> Subscription:
        is_late = len(thread.runs) == 2 and thread.runs[1].message in str(thread.events[: after - 1])
        return Subscription(thread, view, after + 1 if is_late and after < thread.head else after)


class TrimsSilently(MinimalServer):
    """Leaves out the beginning of a thread that is read from the start."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        super().subscribe(connection, frame)
        if frame["after"] == 0 and self.is_old(frame["thread"]) and frame["thread"] in connection.subscriptions:
            connection.subscriptions[frame["thread"]].last = 3


class LosesInOldRuns(MinimalServer):
    """Goes on one event too late in a run that is long over."""

    wrong_view = "all"

    def subscription(self, thread: Thread, view: str, after: int) -> Subscription:
        is_old = len(thread.runs) == 2 and after > 0 and thread.runs[1].message not in str(thread.events[: after + 4])
        return Subscription(thread, view, after + 3 if is_old and view == self.wrong_view else after)


class LosesInOldLifecycles(LosesInOldRuns):
    """Does so in the view lifecycle alone."""

    wrong_view = "lifecycle"


class IgnoresTheHead(MinimalServer):
    """Takes a position that the log never reached for a good one."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        super().subscribe(connection, frame)
        if frame["thread"] in self.threads and frame["after"] > self.threads[frame["thread"]].head:
            connection.out = [out for out in connection.out if out["op"] != "reset"]
            connection.subscriptions[frame["thread"]].last = frame["after"]


class IgnoresTheLog(MinimalServer):
    """Takes a position of another history for one of its own."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        super().subscribe(connection, {**frame, "log": None})


class NeverResets(MinimalServer):
    """Takes any position for one of its own."""

    def reset_from(self, thread: Thread) -> int:
        return thread.head

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        super().subscribe(connection, {**frame, "log": None})
        connection.out = [out for out in connection.out if out["op"] != "reset"]


class ResetsToNowhere(MinimalServer):
    """Resets to a place after the events that it should show."""

    def reset_from(self, thread: Thread) -> int:
        return super().reset_from(thread) + 2

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [{**frame, "from": frame["from"] - 2}] if frame["op"] == "reset" else [frame]


class SseStartsOver(MinimalServer):
    """Ignores Last-Event-ID."""

    async def sse(self, thread: Thread, query: dict[str, str], headers: Any) -> Any:
        return await super().sse(thread, query, Headers())


class SseNeverEnds(MinimalServer):
    """Answers an empty stream where 204 says that there is no more."""

    async def sse(self, thread: Thread, query: dict[str, str], headers: Headers) -> Response:
        response = await super().sse(thread, query, headers)
        return response if response.status_code != 204 else self.respond(HTTPStatus.OK, "", "text/event-stream")


class WrongPosition(MinimalServer):
    """Says with each ping that nothing was written."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        return [{**frame, "seq": 0}] if frame["op"] == "position" else [frame]


class Hangs(MinimalServer):
    """Stores the events of a run up to the tool, and never goes on."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, data)
        if kind == "tool_executing":
            assert run.task
            run.task.cancel()

    def end(self, run: Run, kind: str, data: Frame) -> None:
        return


class Refuses(MinimalServer):
    """Says that the token is none."""

    def user_of(self, headers: Any) -> str | None:
        return None


class HeartbeatOnly(MinimalServer):
    """Pings, and does nothing else."""

    def command(self, connection: Connection, frame: Frame) -> None:
        return


class BreaksAtOnce(MinimalServer):
    """Closes each socket with 1011 as it is opened."""

    def welcome(self, connection: Connection) -> None:
        assert self.tasks
        self.tasks.create_task(connection.socket.close(1011, "internal error"))


class Drains(MinimalServer):
    """Says goodbye as it drains."""

    def command(self, connection: Connection, frame: Frame) -> None:
        assert self.tasks
        self.tasks.create_task(self.bye(connection.socket, 4001, "draining"))


class Breaks(MinimalServer):
    """Closes with 1011 at the first command."""

    def command(self, connection: Connection, frame: Frame) -> None:
        assert self.tasks
        self.tasks.create_task(connection.socket.close(1011, "internal error"))


async def fabricated(content: str, emit: Any) -> str:
    """Emit the tool's two events the wrong way round."""
    call = {"call": fresh("call"), "step": "count:1", "try": 1, "name": "count"}
    await emit("agent_thinking", {"text": "…"})
    await emit("tool_completed", {**call, "ok": True, "final": True, "result": 1, "duration_ms": 1})
    await emit("tool_executing", {**call, "args": {}})
    return "done"
