"""The HTTP half of the minimal server: GET routes beside the socket, and what `websockets` has no word for: bodies."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, urlsplit

from tests.conformance.minimal_run import TERMINAL, Frame, Run, Thread, fresh
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response


class Front(ServerConnection):
    """A connection that may begin with a request other than GET; it answers one and ends."""

    owner: ClassVar[Http]
    taken: bytes | None = None

    def data_received(self, data: bytes) -> None:
        """Take in bytes; everything after a first word other than GET is ours."""
        if self.taken is None and data[:4] == b"GET ":
            self.taken = b""
        if self.taken == b"" or (self.taken is None and not data):
            super().data_received(data)
            return
        self.taken = (self.taken or b"") + data
        head, found, body = self.taken.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = Headers([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])])
        if found and len(body) >= int(headers.get("Content-Length", 0)):
            method, path, _ = lines[0].split(" ")
            response = self.owner.changing(method, urlsplit(path).path, headers, body)
            self.transport.write(response.serialize())
            self.transport.close()


class Kept(Protocol):
    """What the routes need of the rest of the server."""

    log: str
    threads: dict[str, Thread]
    tokens: dict[str, str]
    tickets: dict[str, str]
    named: dict[str, Any]

    def user_of(self, headers: Headers) -> str | None: ...
    def own(self, user: str, thread: str) -> Thread | None: ...
    def own_run(self, user: str, run: str) -> Run | None: ...
    def page(self, thread: Thread, view: str, after: int) -> list[Frame]: ...
    def new_thread(self, user: str) -> Thread: ...
    def start(self, thread: Thread, user: str, content: str, agent: str | None = None) -> Frame: ...
    def call_off(self, run: Run, by: str = "user") -> str: ...
    def fault(self, frame: Frame) -> str | None: ...
    def revoke(self, token: str) -> None: ...


class Http(Kept):
    """Routes; `MinimalServer` is the rest of it."""

    async def http(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer the GET routes; None lets the upgrade go on."""
        target = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        if target.path == "/v1/ws":
            return self.door(request.headers, query)
        user = self.user_of(request.headers)
        if user is None:
            return self.problem(HTTPStatus.UNAUTHORIZED, "unauthenticated")
        match target.path.strip("/").split("/"):
            case ["v1", "me"]:
                return self.json({"user": user, "name": user, "roles": ["user"], "session": None})
            case ["v1", "agents"]:
                names = ["minimal", *self.named]
                return self.json({"items": [{"agent": name} for name in names], "next_cursor": None})
            case ["v1", "threads"]:
                own = self.listed(user)
                return self.json({"items": [{"thread": t.thread} for t in own], "next_cursor": None})
            case ["v1", "runs"]:
                runs = [self.run_of(run) for thread in self.listed(user) for run in thread.runs]
                return self.json({"items": runs, "next_cursor": None})
            case ["v1", "runs", run] if found := self.own_run(user, run):
                return self.json(self.run_of(found))
            case ["v1", "threads", name, *rest] if thread := self.own(user, name):
                return await self.thread_route(thread, rest, query, request.headers)
        return self.unknown(target.path)

    def door(self, headers: Headers, query: dict[str, str]) -> Response | None:
        """Refuse an upgrade before it happens, or let it go on."""
        if "Origin" in headers:
            return self.problem(HTTPStatus.FORBIDDEN, "forbidden")
        if "token" in query:
            return self.problem(HTTPStatus.BAD_REQUEST, "bad_request")
        return None

    def unknown(self, path: str) -> Response:
        """Answer for what there is not, or is another's; faulty servers tell the two apart."""
        return self.problem(HTTPStatus.NOT_FOUND, "not_found")

    def listed(self, user: str) -> list[Thread]:
        """Return the threads that a list shows."""
        return [thread for thread in self.threads.values() if thread.user == user]

    async def thread_route(self, thread: Thread, rest: list[str], query: dict[str, str], headers: Headers) -> Response:
        """Answer a route below a thread."""
        match rest:
            case []:
                return self.json(self.snapshot(thread))
            case ["messages"]:
                return self.json({"items": self.messages(thread), "next_cursor": None})
            case ["events"] if "text/event-stream" in headers.get("Accept", ""):
                return await self.sse(thread, query, headers)
            case ["events"]:
                after = int(query.get("after", 0))
                page = {"thread": thread.thread, "log": self.log, "after": after}
                return self.json(
                    {**page, "events": self.page(thread, query.get("view", "all"), after), "through": thread.head}
                )
        return self.problem(HTTPStatus.NOT_FOUND, "not_found")

    async def sse(self, thread: Thread, query: dict[str, str], headers: Headers) -> Response:
        """Answer a finite stream: until the terminal event of `until`, or what is there."""
        after = int(headers.get("Last-Event-ID", f":{query.get('after', 0)}").partition(":")[2])
        until = query.get("until")
        while until and not any(e["run"] == until and e["type"] in TERMINAL for e in thread.events):
            await thread.changed.wait()
        frames = self.page(thread, query.get("view", "all"), after)
        for at, frame in enumerate(frames):
            if frame["run"] == until and frame["type"] in TERMINAL:
                frames = frames[: at + 1]
                break
        if not frames and until:
            return Response(204, "No Content", Headers())
        text = "".join(f"id: {self.log}:{f['seq']}\ndata: {json.dumps(f, ensure_ascii=False)}\n\n" for f in frames)
        return self.respond(HTTPStatus.OK, text, "text/event-stream")

    # --- what changes something

    def changing(self, method: str, path: str, headers: Headers, body: bytes) -> Response:
        """Answer everything that is no GET."""
        words = path.strip("/").split("/")
        if words == ["auth", "revoke"]:
            self.revoke(parse_qs(body.decode()).get("token", [""])[0])
            return self.json({})
        user = self.user_of(headers)
        if user is None:
            return self.problem(HTTPStatus.UNAUTHORIZED, "unauthenticated")
        match method, words:
            case "POST", ["auth", "keys"]:
                key = fresh("rw")
                self.tokens[key] = user
                return self.json({"key": "key_1", "secret": key}, HTTPStatus.CREATED)
            case "POST", ["v1", "ws-ticket"]:
                self.tickets[ticket := fresh("tk")] = user
                return self.json({"ticket": ticket, "expires_in": 30}, HTTPStatus.CREATED)
            case "POST", ["v1", "threads"]:
                return self.json({"thread": self.new_thread(user).thread}, HTTPStatus.CREATED)
            case "POST", ["v1", "threads", name, "messages"] if thread := self.own(user, name):
                return self.posted(thread, user, body)
            case "POST", ["v1", "runs", name, "cancel"] if run := self.own_run(user, name):
                return self.json({"run": run.run, "status": self.call_off(run)})
        return self.unknown(path)

    def posted(self, thread: Thread, user: str, body: bytes) -> Response:
        """Start a run for a message over HTTP."""
        try:
            said = json.loads(body)
        except ValueError:
            return self.problem(HTTPStatus.BAD_REQUEST, "bad_request")
        if not isinstance(said, dict) or self.fault({"op": "send", "id": "1", **said}):
            return self.problem(HTTPStatus.BAD_REQUEST, "bad_request")
        return self.json(self.start(thread, user, said["content"], said.get("agent")), HTTPStatus.ACCEPTED)

    # --- what is shown

    def snapshot(self, thread: Thread) -> Frame:
        """Return the thread as a person sees it, exact at `seq`."""
        return {"thread": thread.thread, "title": None, "log": self.log, "seq": thread.head,
                "messages": self.messages(thread), "runs": [self.run_of(run) for run in thread.runs]}  # fmt: skip

    def run_of(self, run: Run) -> Frame:
        """Return a run with its steps."""
        done = {e["data"]["call"]: e["data"] for e in run.thread.events if e["type"] == "tool_completed"}
        begun = [e["data"] for e in run.thread.events if e["type"] == "tool_executing" and e["run"] == run.run]
        steps = [{"call": c["call"], "name": c["name"], "args": c["args"], "ok": done.get(c["call"], {}).get("ok"),
                  "result": done.get(c["call"], {}).get("result"), "error": None} for c in begun]  # fmt: skip
        return {"run": run.run, "thread": run.thread.thread, "agent": "minimal", "status": run.status,
                "attempt": run.attempt, "error": None, "steps": steps, "waits": run.waits}  # fmt: skip

    def messages(self, thread: Thread) -> list[Frame]:
        """Return the messages, open ones included."""
        found: dict[str, Frame] = {}
        for event in thread.events:
            data = event["data"]
            if event["type"] == "user_message":
                found[data["message"]] = {"message": data["message"], "role": "user", "content": data["content"],
                                          "run": event["run"], "seq": event["seq"], "complete": True}  # fmt: skip
            elif event["type"] == "message_started":
                found[data["message"]] = {"message": data["message"], "role": "assistant", "content": "",
                                          "run": event["run"], "seq": event["seq"], "complete": False}  # fmt: skip
            elif event["type"] == "text_delta":
                found[data["message"]]["content"] = found[data["message"]]["content"][: data["offset"]] + data["text"]
            elif event["type"] == "message_completed":
                found[data["message"]].update(content=data["content"], complete=data["complete"])
        return list(found.values())

    def json(self, body: Frame, status: HTTPStatus = HTTPStatus.OK) -> Response:
        """Answer with JSON."""
        return self.respond(status, json.dumps(body), "application/json")

    def problem(self, status: HTTPStatus, code: str, **more: Any) -> Response:
        """Answer with a problem (RFC 9457)."""
        body = {"title": status.phrase, "status": int(status), "code": code, "field": None, "retry_after_s": None}
        return self.respond(status, json.dumps({**body, **more}), "application/problem+json")

    def respond(self, status: HTTPStatus, text: str, kind: str) -> Response:
        """Answer with a body and end the connection, as `websockets` needs it."""
        body = text.encode()
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
        return Response(int(status), status.phrase, headers, body)
