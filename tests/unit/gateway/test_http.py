"""The HTTP routes: the same log, the same commands, the same refusals as on a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import structlog
from tests.unit.gateway.node import ORIGIN, FakeIdentities, Node, Reader, eventually, running

from runwire.gateway.app import GatewaySettings, make_gateway
from runwire.gateway.sse import StreamSettings
from runwire.protocol import events
from runwire.protocol.connection import ConnectionSettings
from runwire.protocol.frames import Limits
from runwire.storage.base import IncomingMessage, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.open import open_storage
from runwire.storage.placed import alone


def person(node: Node, name: str = "ann") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer t-{name}"}, timeout=10)


async def sent(http: httpx2.AsyncClient, thread: str | None = None, content: Any = "hi") -> dict[str, Any]:
    thread = thread or (await http.post("/v1/threads")).json()["thread"]
    response = await http.post(f"/v1/threads/{thread}/messages", json={"content": content})
    assert response.status_code == 202, response.text
    return dict(response.json())


async def test_a_thread_lives_from_made_to_deleted() -> None:
    async with running() as node, person(node) as http:
        made = await http.post("/v1/threads", json={"title": "first"})
        assert made.status_code == 201
        thread = made.json()["thread"]
        assert made.json()["seq"] == 0
        renamed = await http.patch(f"/v1/threads/{thread}", json={"title": "second"})
        assert renamed.json()["title"] == "second"
        assert [each["thread"] for each in (await http.get("/v1/threads")).json()["items"]] == [thread]
        assert (await http.delete(f"/v1/threads/{thread}")).status_code == 204
        assert (await http.get(f"/v1/threads/{thread}")).status_code == 404
        assert (await http.get("/v1/threads")).json() == {"items": [], "next_cursor": None}


async def test_what_a_patch_does_not_name_stays() -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads", json={"title": "kept"})).json()["thread"]
        path = f"/v1/threads/{thread}"
        same = await http.patch(path, json={})
        assert (same.status_code, same.json()["title"]) == (200, "kept")
        empty = await http.patch(path, content=b"")
        assert (empty.status_code, empty.json()["code"], empty.json()["field"]) == (400, "bad_request", "title")
        wrong = await http.patch(path, json={"titel": "x"})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "titel")
        assert (await http.get(path)).json()["title"] == "kept"
        assert (await http.patch(path, json={"title": None})).json()["title"] is None
        assert (await http.patch("/v1/threads/th_0", json={})).status_code == 404


async def test_lists_come_in_pages() -> None:
    async with running() as node, person(node) as http:
        made = [(await http.post("/v1/threads")).json()["thread"] for _ in range(5)]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = (await http.get("/v1/threads", params=query)).json()
            seen += [each["thread"] for each in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == made[::-1]
        refused = await http.get("/v1/threads?limit=201")
        assert (refused.status_code, refused.json()["field"]) == (400, "limit")


async def test_a_message_starts_a_run_and_a_repetition_does_not() -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        first, second = [
            await http.post(f"/v1/threads/{thread}/messages", json={"content": "hi"}, headers={"Idempotency-Key": "k1"})
            for _ in range(2)
        ]
        assert first.status_code == second.status_code == 202
        assert first.json() == second.json()
        assert set(first.json()) == {"thread", "log", "run", "message", "seq"}
        other = await http.post(
            f"/v1/threads/{thread}/messages", json={"content": "ho"}, headers={"Idempotency-Key": "k1"}
        )
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
        runs = (await http.get("/v1/runs", params={"thread": thread, "status": "queued"})).json()["items"]
        assert [run["run"] for run in runs] == [first.json()["run"]]
        shown = (await http.get(f"/v1/runs/{runs[0]['run']}")).json()
        assert {name: shown[name] for name in runs[0]} == runs[0]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b'{"content":"  "}', 400, "bad_request", "content"),
        (b'{"contents":"hi"}', 400, "bad_request", "contents"),
        (b'{"content":"hi","thread":"th_1"}', 400, "bad_request", "thread"),
        (b'{"content":"hi","agent":"nobody"}', 400, "bad_request", "agent"),
        (b'{"content":"hi","metadata":{"a":NaN}}', 400, "bad_request", "metadata"),
        (b'{"content":"\\ud800"}', 400, "bad_request", "content"),
        (b'{"content":[{"type":"image"}]}', 501, "unsupported", "content"),
        (b"not json", 400, "bad_request", None),
        (b"", 400, "bad_request", "content"),
        (b'{"content":"' + b"x" * 70_000 + b'"}', 413, "too_large", None),
    ],
)
async def test_a_wrong_body_is_refused_by_name_and_starts_nothing(
    body: bytes, status: int, code: str, field: str | None
) -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        response = await http.post(f"/v1/threads/{thread}/messages", content=body)
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (response.status_code, problem["status"], problem["code"], problem["field"]) == (
            status,
            status,
            code,
            field,
        )
        assert (await http.get("/v1/runs")).json()["items"] == []


async def test_foreign_ids_are_answered_exactly_like_unknown_ones() -> None:
    async with running() as node, person(node) as ann, person(node, "bob") as bob:
        data = await sent(ann)
        ids = {"thread": data["thread"], "run": data["run"], "ref": "blob_1"}
        for method, path, body in (
            ("GET", "/v1/threads/{thread}", None),
            ("GET", "/v1/threads/{thread}/events", None),
            ("GET", "/v1/threads/{thread}/messages", None),
            ("POST", "/v1/threads/{thread}/messages", {"content": "hi"}),
            ("PATCH", "/v1/threads/{thread}", {"title": "x"}),
            ("DELETE", "/v1/threads/{thread}", None),
            ("GET", "/v1/runs/{run}", None),
            ("POST", "/v1/runs/{run}/cancel", {}),
        ):
            foreign = await bob.request(method, path.format(**ids), json=body)
            unknown = await bob.request(method, path.format(thread="th_0", run="run_0"), json=body)
            assert foreign.status_code == unknown.status_code == 404, (method, path)
            assert foreign.json() == unknown.json()
        assert (await bob.get("/v1/threads")).json()["items"] == []
        assert (await bob.get("/v1/runs", params={"thread": data["thread"]})).json()["items"] == []
        assert (await bob.get("/v1/blobs/blob_1")).json()["code"] == "not_found"


async def test_without_a_sound_credential_nothing_is_answered() -> None:
    async with running() as node, httpx2.AsyncClient(base_url=node.url) as http:
        for path in ("/v1/me", "/v1/threads", "/v1/runs", "/v1/agents", "/v1/blobs/b", "/admin/v1/users"):
            for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer nonsense"}):
                refused = await http.get(path, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
                assert refused.headers["www-authenticate"] == "Bearer"
        refused = await http.get("/v1/me?access_token=t-ann", headers={"Authorization": "Bearer t-ann"})
        assert refused.status_code == 400
        node.identities.view.withdrawn.add("usr_ann")
        assert (await http.get("/v1/me", headers={"Authorization": "Bearer t-ann"})).status_code == 401


async def test_the_snapshot_is_exact_at_its_seq_while_a_message_is_open() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        queued = (await http.get(f"/v1/threads/{data['thread']}")).json()
        assert queued["runs"][0]["agent"] == "echo"
        assert queued["runs"][0]["status"] == "queued"
        claim = await node.worker.claim(data["run"])
        await node.worker.append(
            claim,
            [
                events.AgentStarted(agent="echo", message=data["message"]),
                events.MessageStarted(message="msg_a"),
                events.TextDelta(message="msg_a", offset=0, text="Hello "),
                events.TextDelta(message="msg_a", offset=6, text="you"),
            ],
        )
        shown = (await http.get(f"/v1/threads/{data['thread']}")).json()
        assert (shown["seq"], shown["log"]) == (5, node.storage.log)
        assert shown["runs"][0]["status"] == "running"
        assert shown["messages"][-1] == {
            "message": "msg_a",
            "role": "assistant",
            "content": "Hello you",
            "run": data["run"],
            "seq": 3,
            "complete": False,
        }


async def test_messages_come_in_pages_before_a_seq() -> None:
    async with running() as node, person(node) as http:
        thread = (await sent(http, content="number 0"))["thread"]
        for n in range(1, 5):
            await sent(http, thread, content=f"number {n}")
        seen: list[str] = []
        before: int | None = None
        while True:
            query = {"limit": "2"} | ({"before": str(before)} if before else {})
            page = (await http.get(f"/v1/threads/{thread}/messages", params=query)).json()
            seen = [each["content"] for each in page["items"]] + seen
            before = page["next_cursor"]
            if before is None:
                break
        assert seen == [f"number {n}" for n in range(5)]


async def test_cancel_says_requested_and_then_what_became_of_the_run() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        await node.worker.claim(data["run"])
        asked = await http.post(f"/v1/runs/{data['run']}/cancel")
        assert (asked.status_code, asked.json()) == (202, {"run": data["run"], "status": "requested"})
        queued = await sent(http, data["thread"])
        ended = await http.post(f"/v1/runs/{queued['run']}/cancel", json={})
        assert ended.json()["status"] == "cancelled"
        assert (await http.get(f"/v1/runs/{queued['run']}")).json()["terminal_seq"] is not None


async def test_who_am_i_which_agents_and_what_is_not_built() -> None:
    async with running() as node, person(node) as http, person(node, "root") as root:
        assert (await http.get("/v1/me")).json() == {
            "user": "usr_ann",
            "name": "ann",
            "roles": [],
            "session": "ses_ann",
        }
        assert (await http.get("/v1/agents")).json()["items"] == [{"agent": "echo", "default": True}]
        assert (await http.get("/admin/v1/users")).status_code == 403
        assert (await root.get("/admin/v1/users")).status_code == 501
        assert (await http.get("/v1/nothing")).json()["code"] == "not_found"
        assert (await http.put("/v1/threads")).status_code == 405
        ticket = await http.post("/v1/ws-ticket", headers={"Origin": ORIGIN})
        assert node.identities.tickets[ticket.json()["ticket"]][1] == ORIGIN


async def test_a_method_that_a_path_does_not_take_is_a_problem_and_says_which_it_takes() -> None:
    async with running() as node, person(node) as http:
        for method, path, allowed in (
            ("PUT", "/v1/threads", {"GET", "POST"}),
            ("POST", "/v1/threads/th_1", {"GET", "PATCH", "DELETE"}),
            ("DELETE", "/v1/me", {"GET"}),
            ("GET", "/v1/runs/run_1/cancel", {"POST"}),
            ("POST", "/health/live", {"GET"}),
            ("POST", "/v1/openapi.json", {"GET", "HEAD"}),
        ):
            refused = await http.request(method, path)
            assert refused.headers["content-type"] == "application/problem+json"
            assert (refused.status_code, refused.json()["status"]) == (405, 405), path
            assert set(refused.headers["allow"].split(", ")) == allowed


async def test_what_is_not_there_is_a_problem() -> None:
    async with running() as node, person(node) as http:
        for path in ("/v1", "/v1/nope", "/v1/ws", "/health", "/health/nope", "/metrics/nope", "/auth/nope", "/nope"):
            for method in ("GET", "POST"):
                refused = await http.request(method, path)
                assert refused.headers["content-type"] == "application/problem+json", (method, path)
                problem = refused.json()
                assert (refused.status_code, problem["status"], problem["code"]) == (404, 404, "not_found")


async def test_the_openapi_document_names_every_route_and_body() -> None:
    async with running(GatewaySettings(server="runwire/9.8.7")) as node, httpx2.AsyncClient(base_url=node.url) as http:
        document = (await http.get("/v1/openapi.json")).json()
        assert document["info"]["version"] == "9.8.7"
        for path, method, words in (
            ("/v1/runs/{run}/cancel", "post", ("requested", "cancelled")),
            ("/v1/threads/{thread}", "patch", ("null", "400")),
            ("/v1/threads/{thread}/messages", "post", ("64 KiB", "too_large")),
        ):
            described = document["paths"][path][method]["description"]
            assert all(word in described for word in words), (path, described)
        patch = document["paths"]["/v1/threads/{thread}"]["patch"]["requestBody"]["content"]["application/json"]
        assert patch["schema"]["$ref"].endswith("/ThreadPatch")
        assert "/v1/threads/{thread}/messages" in document["paths"]
        send = document["paths"]["/v1/threads/{thread}/messages"]["post"]
        reference = send["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert "content" in document["components"]["schemas"][reference.rsplit("/", 1)[-1]]["properties"]


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def stream(http: httpx2.AsyncClient, thread: str, **query: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Open a stream; yield its records, comments left out."""
    last_id = query.pop("last_id", None)
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    async with http.stream("GET", f"/v1/threads/{thread}/events", params=query, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _records(response)


async def _records(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    record: dict[str, Any] = {}
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            record["id"] = line[4:]
        elif line.startswith("data: "):
            record["data"] = json.loads(line[6:])
        elif not line and record:
            yield record
            record = {}


async def test_a_stream_is_the_same_frames_as_a_socket_and_resumes_by_its_last_id() -> None:
    async with running() as node, person(node) as http, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        data = (await ann.ask(op="send", content="hi"))["data"]
        thread, run, log = data["thread"], data["run"], data["log"]
        async with asyncio.TaskGroup() as group:
            group.create_task(node.worker.whole_run(run))
            async with stream(http, thread, until=run) as records:
                live = [record async for record in records]
        await ann.until_end(run)
        assert [record["data"] for record in live] == ann.events
        assert [record["id"] for record in live] == [f"{log}:{event['seq']}" for event in ann.events]
        for cut in range(len(live) - 1):
            async with stream(http, thread, until=run, last_id=live[cut]["id"]) as records:
                assert [record async for record in records] == live[cut + 1 :]
        headers = {"Accept": "text/event-stream", "Last-Event-ID": live[-1]["id"]}
        again = await http.get(f"/v1/threads/{thread}/events", params={"until": run}, headers=headers)
        assert (again.status_code, again.content) == (204, b"")


async def test_a_stream_from_now_says_where_that_is() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        async with stream(http, data["thread"], after=-1) as records:
            first = await anext(records)
            assert first["data"] == {"op": "position", "thread": data["thread"], "seq": 1}
            assert first["id"] == f"{data['log']}:1"
            await node.worker.whole_run(data["run"])
            assert (await anext(records))["data"]["prev"] == 1


async def test_a_stream_is_reset_and_its_id_names_the_new_position() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        async with stream(http, data["thread"], after=0, log="other") as records:
            first = await anext(records)
            assert (first["data"]["op"], first["data"]["reason"]) == ("reset", "log_changed")
            assert first["id"] == f"{data['log']}:0"
            assert (await anext(records))["data"]["type"] == "user_message"


async def test_a_quiet_stream_beats_and_ends_with_bye_when_access_is_withdrawn() -> None:
    settings = GatewaySettings(stream=StreamSettings(heartbeat_s=0.05))
    async with running(settings) as node, person(node) as http:
        data = await sent(http)
        headers = {"Accept": "text/event-stream"}
        async with http.stream("GET", f"/v1/threads/{data['thread']}/events?after=1", headers=headers) as response:
            lines = response.aiter_lines()
            while await anext(lines) != ": heartbeat":
                pass
            node.identities.withdraw("usr_ann")
            rest = [line async for line in lines if line.startswith("data")]
        (bye,) = [json.loads(line[6:]) for line in rest]
        assert (bye["op"], bye["code"], bye["reconnect"]) == ("bye", 4507, False)
        assert node.gateway.metrics.registry.get_sample_value("runwire_revocation_seconds_count") == 1.0
        await eventually(lambda: not len(node.gateway.live) and not node.gateway.tail.threads)


async def test_no_event_is_streamed_after_access_was_withdrawn_even_if_nobody_calls_back() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        async with stream(http, data["thread"], after=1) as records:
            node.identities.view.withdrawn.add("usr_ann")  # the view moved; the call-back is lost
            await node.worker.whole_run(data["run"])
            assert [record["data"]["code"] async for record in records] == [4507]


async def test_a_fault_of_ours_tells_nothing_but_an_id() -> None:
    async with running() as node, person(node) as http:

        async def broken(*_args: Any, **_options: Any) -> Any:
            raise ValueError("secret of somebody")

        node.storage.threads.list = broken  # type: ignore[method-assign]  # a bug, injected
        with structlog.testing.capture_logs() as lines:
            response = await http.get("/v1/threads")
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "secret" not in response.text
        assert [line["error_id"] in response.text for line in lines if line["event"] == "request_failed"] == [True]


async def test_a_stream_ends_with_its_token_and_with_the_server() -> None:
    async with running() as node, person(node, "ann-0.3") as short, person(node) as http:
        data = await sent(http)
        async with stream(short, data["thread"], after=1) as records:
            assert [record["data"]["code"] async for record in records] == [4005]
        async with stream(http, data["thread"], after=1) as records, asyncio.TaskGroup() as group:
            group.create_task(node.gateway.drain())
            assert [record["data"]["code"] async for record in records] == [4001]
        async with stream(http, data["thread"], after=1) as records:  # too late for the drain's own round
            assert [record["data"]["code"] async for record in records] == [4001]


@pytest.mark.timeout(30)
async def test_a_stream_that_nobody_reads_ends() -> None:
    settings = GatewaySettings(stream=StreamSettings(stall_s=0.3))
    async with running(settings) as node, person(node) as http:
        data = await sent(http)
        headers = {"Accept": "text/event-stream"}
        claim = await node.worker.claim(data["run"])
        await node.worker.append(claim, [events.AgentStarted(agent="echo", message=claim.message)])
        for n in range(400):
            await node.worker.append(claim, [events.Custom(name=f"n{n}", value="x" * 50_000)])
        async with http.stream("GET", f"/v1/threads/{data['thread']}/events", headers=headers):
            await eventually(lambda: len(node.gateway.live) == 1)
            await eventually(lambda: len(node.gateway.live) == 0)
            assert node.gateway.tail.threads == 0


async def test_json_answers_what_there_is_and_a_long_poll_what_comes() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        path = f"/v1/threads/{data['thread']}/events"
        first = (await http.get(path)).json()
        assert (first["after"], first["through"], [event["seq"] for event in first["events"]]) == (0, 1, [1])
        empty = (await http.get(path, params={"after": 1})).json()
        assert (empty["through"], empty["events"]) == (1, [])
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(http.get(path, params={"after": 1, "wait": 10}))
            await eventually(lambda: node.gateway.tail.threads > 0)
            claim = await node.worker.claim(data["run"])
            await node.worker.append(claim, [events.AgentStarted(agent="echo", message=claim.message)])
        answer = waiting.result().json()
        assert [event["type"] for event in answer["events"]] == ["agent_started"]
        assert answer["through"] == 2
        reset = (await http.get(path, params={"after": 99})).json()["reset"]
        assert (reset["reason"], reset["from"]) == ("log_changed", 0)
        assert node.gateway.tail.threads == 0


async def test_a_long_poll_answers_nothing_after_access_was_withdrawn() -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        path = f"/v1/threads/{data['thread']}/events"
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(http.get(path, params={"after": 1, "wait": 10}))
            await eventually(lambda: node.gateway.tail.threads > 0)
            node.identities.withdraw("usr_ann")
            await node.storage.runs.send(
                IncomingMessage(user="usr_ann", thread=data["thread"], agent="echo", content="no")
            )
            node.bus.publish(Wake(topic="deleted", thread=data["thread"]))  # any reason to look
        assert waiting.result().status_code == 401


async def test_polling_page_by_page_is_the_whole_log() -> None:
    limits = Limits(replay_events=50_000)
    async with running(GatewaySettings(connection=ConnectionSettings(limits=limits))) as node, person(node) as http:
        data = await sent(http)
        claim = await node.worker.claim(data["run"])
        await node.worker.append(claim, [events.AgentStarted(agent="echo", message=claim.message)])
        for n in range(12):
            await node.worker.append(claim, [events.Custom(name=f"n{n}", value="x" * 60_000)])
        after, answers = 0, 0
        chain = [0]
        while after < 14:
            answer = (await http.get(f"/v1/threads/{data['thread']}/events", params={"after": after})).json()
            for event in answer["events"]:
                assert event["prev"] == chain[-1]
                chain.append(event["seq"])
            after = answer["through"]
            answers += 1
        assert chain == list(range(15))
        assert answers > 1


@pytest.mark.parametrize("keeps", ["through", "last event"])
async def test_a_poller_sees_no_gap_whichever_position_it_keeps(keeps: str) -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        path = f"/v1/threads/{data['thread']}/events"
        claim = await node.worker.claim(data["run"])
        words = [events.TextDelta(message="msg_a", offset=n, text="x") for n in range(3)]
        script: list[events.EventData] = [
            events.AgentStarted(agent="echo", message=data["message"]),
            events.MessageStarted(message="msg_a"),
            *words,
            events.AgentThinking(text="hm"),
            *words,
            events.MessageCompleted(message="msg_a", content="xxx"),
        ]
        after, chain = 0, [0]
        for step in [None, *script]:
            if step is not None:
                await node.worker.append(claim, [step])
            answer = (await http.get(path, params={"after": after, "view": "lifecycle"})).json()
            for event in answer["events"]:
                assert event["prev"] == chain[-1]
                chain.append(event["seq"])
            after = answer["through"] if keeps == "through" else chain[-1]
        assert chain == [0, 1, 2, 3, 7, 11]


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("text/event-stream, */*", True),
        ("Text/Event-Stream;q=0.5", True),
        ("application/json;q=0.5, text/event-stream", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.0, application/json", False),
        ("application/json, text/event-stream;q=0.4", False),
        ("application/json", False),
        ("*/*", False),
        ("application/x-text/event-stream", False),
        ("text/event-stream;q=x", True),
        ("", False),
    ],
)
async def test_accept_decides_between_a_stream_and_one_answer(accept: str, is_stream: bool) -> None:
    async with running() as node, person(node) as http:
        data = await sent(http)
        request = http.stream("GET", f"/v1/threads/{data['thread']}/events", headers={"Accept": accept})
        async with request as response:
            kind = response.headers["content-type"].partition(";")[0]
        assert kind == ("text/event-stream" if is_stream else "application/json")


async def test_until_is_for_streams_and_a_wrong_one_is_named() -> None:
    async with running() as node, person(node) as http:
        data, other = await sent(http), await sent(http)
        path, stream_of = f"/v1/threads/{data['thread']}/events", {"Accept": "text/event-stream"}
        for run in ("run_0", other["run"]):
            unknown = await http.get(path, params={"until": run}, headers=stream_of)
            assert (unknown.status_code, unknown.json()["code"], unknown.json()["field"]) == (404, "not_found", "until")
        refused = await http.get(path, params={"until": data["run"]})
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (400, "bad_request", "until")


async def test_a_long_poll_of_a_thread_that_is_deleted_meanwhile_is_not_found() -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        path = f"/v1/threads/{thread}/events"
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(http.get(path, params={"wait": 10}))
            await eventually(lambda: node.gateway.tail.threads > 0)
            assert (await http.delete(f"/v1/threads/{thread}")).status_code == 204
        gone, unknown = waiting.result(), await http.get("/v1/threads/th_0/events")
        assert gone.status_code == unknown.status_code == 404
        assert gone.json() == unknown.json()
        assert node.gateway.tail.threads == 0


# ── machines, browsers, proxies ──────────────────────────────────────────────────────────────────────────


async def test_health_says_what_is_wrong() -> None:
    async with running() as node, httpx2.AsyncClient(base_url=node.url) as http:
        for path in ("/health/started", "/health/live", "/health/ready"):
            assert (await http.get(path)).status_code == 200
        assert "gateway_listeners" in (await http.get("/metrics")).text
        node.identities.freshness_is = "expired"
        assert (await http.get("/health/ready")).json()["reason"] == "identity_stale"
        await node.storage.close()
        assert (await http.get("/health/ready")).json()["reason"] == "database_unavailable"
        assert (await http.get("/health/live")).status_code == 200


async def test_browsers_of_listed_origins_only_may_read_answers() -> None:
    async with running() as node, httpx2.AsyncClient(base_url=node.url) as http:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        ours = await http.options("/v1/threads", headers={"Origin": ORIGIN, **asked})
        assert ours.headers["access-control-allow-origin"] == ORIGIN
        theirs = await http.options("/v1/threads", headers={"Origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in theirs.headers


async def test_pages_of_listed_origins_reach_everything_that_is_served_and_others_nothing() -> None:
    storage = await open_storage("memory://")
    gateway = make_gateway(
        alone(storage, LocalBus()),
        FakeIdentities(),
        auth_app=_said_path,
        settings=GatewaySettings(allowed_origins=(ORIGIN,)),
    )
    words = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
    paths = (("/auth/sessions", "POST"), ("/auth/sessions/current", "DELETE"), ("/.well-known/jwks.json", "GET"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(gateway.asgi), base_url="http://here") as http:
        for path, method in (*paths, ("/v1/threads/th_1", "PATCH"), ("/health/live", "GET"), ("/nothing", "GET")):
            asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": words.lower()}
            may = await http.options(path, headers={"Origin": ORIGIN, **asked})
            assert may.status_code == 200, path
            assert may.headers["access-control-allow-origin"] == ORIGIN
            assert method in may.headers["access-control-allow-methods"]
            assert set(words.split(", ")) <= set(may.headers["access-control-allow-headers"].split(", "))
            assert "access-control-allow-credentials" not in may.headers
            ours = await http.request(method, path, headers={"Origin": ORIGIN})
            assert ours.headers["access-control-allow-origin"] == ORIGIN, path
            for origin in ("https://evil.example", "null"):
                theirs = await http.request(method, path, headers={"Origin": origin})
                assert "access-control-allow-origin" not in theirs.headers, path
        for wrong, field in (
            ({"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, "Origin"),
            ({"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}, "Access-Control-Request-Method"),
            (
                {
                    "Origin": ORIGIN,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "x-other",
                },
                "Access-Control-Request-Headers",
            ),
        ):
            refused = await http.options("/auth/sessions", headers=wrong)
            assert refused.headers["content-type"] == "application/problem+json"
            problem = refused.json()
            assert (refused.status_code, problem["code"], problem["field"]) == (400, "bad_request", field)
            assert "Origin" in refused.headers["vary"]  # no cache may give it to another origin
    await storage.close()


async def test_a_page_of_a_listed_origin_can_read_why_we_failed() -> None:
    async with running() as node, person(node) as http:

        async def broken(*_args: Any, **_options: Any) -> Any:
            raise ValueError("secret of somebody")

        node.storage.threads.list = broken  # type: ignore[method-assign]  # a bug, injected
        response = await http.get("/v1/threads", headers={"Origin": ORIGIN})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (500, ORIGIN)


async def test_only_what_may_be_a_page_is_asked_of_the_console() -> None:
    storage = await open_storage("memory://")
    gateway = make_gateway(alone(storage, LocalBus()), FakeIdentities(), console_app=_said_path)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(gateway.asgi), base_url="http://here") as http:
        assert (await http.get("/nope")).text == "/nope"
        assert (await http.head("/nope")).status_code == 200
        refused = await http.post("/nope")
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.status_code, refused.json()["status"], refused.headers["allow"]) == (405, 405, "GET, HEAD")
    await storage.close()


async def _said_path(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def test_other_apps_prefix_hosts_and_management() -> None:
    storage = await open_storage("memory://")
    gateway = make_gateway(
        alone(storage, LocalBus()),
        FakeIdentities(),
        auth_app=_said_path,
        console_app=_said_path,
        settings=GatewaySettings(path_prefix="/agents", allowed_hosts=("localhost", "[::1]"), has_management_port=True),
    )
    transport = httpx2.ASGITransport(gateway.asgi)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as http:
        for path in ("/auth/sessions", "/.well-known/jwks.json", "/", "/page.js"):
            assert (await http.get(f"/agents{path}")).text == path
        assert (await http.get("/agents")).text == "/"
        assert (await http.get("/agents/v1/me")).status_code == 401
        assert (await http.get("/v1/me")).status_code == 404
        assert (await http.get("/agentsx/v1/me")).status_code == 404
        assert (await http.get("/agents/health/live")).status_code == 404
        assert (await http.get("/agents/v1/me", headers={"Host": "evil.example:8000"})).status_code == 400
        assert (await http.get("/agents/v1/me", headers={"Host": "[::1]:8000"})).status_code == 401
    management = httpx2.ASGITransport(gateway.management)
    async with httpx2.AsyncClient(transport=management, base_url="http://localhost:9000") as http:
        assert (await http.get("/health/live")).status_code == 200
    await storage.close()
