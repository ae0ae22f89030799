"""Who gets a socket and how it ends: sign-in, refusals, limits, slow readers, withdrawn access, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx2
import pytest
import websockets
from tests.unit.gateway.node import ORIGIN, Node, Reader, eventually, running

from runwire.errors import Unavailable
from runwire.gateway.app import GatewaySettings
from runwire.protocol import events
from runwire.protocol.connection import ConnectionSettings

HELLO = '{"op":"hello","token":"t-ann","client":"t/1"}'


def connection(**options: Any) -> GatewaySettings:
    return GatewaySettings(allowed_origins=(ORIGIN,), connection=ConnectionSettings(**options))


async def first_frame(websocket: websockets.ClientConnection) -> dict[str, Any]:
    return await Reader(websocket).frame()


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────


async def test_all_four_ways_sign_in_the_same_user() -> None:
    async with running() as node:
        ticket = await node.identities.issue_ticket(await node.identities.authenticate("t-ann"), None)
        ways: list[tuple[str, dict[str, Any], str | None]] = [
            ("", {"additional_headers": {"Authorization": "Bearer t-ann"}}, None),
            ("", {"subprotocols": ["runwire.v1", "bearer.t-ann"]}, None),
            (f"?ticket={ticket}", {}, None),
            ("", {"subprotocols": ["runwire.v1"], "origin": ORIGIN}, HELLO),
        ]
        for query, options, hello in ways:
            async with websockets.connect(node.ws_url + query, **options) as websocket:
                assert websocket.subprotocol == ("runwire.v1" if "subprotocols" in options else None)
                if hello:
                    await websocket.send(hello)
                welcome = await first_frame(websocket)
                assert (welcome["op"], welcome["user"]) == ("welcome", "usr_ann")


async def test_frames_in_the_same_flight_as_hello_are_answered_after_the_welcome() -> None:
    async with running() as node, websockets.connect(node.ws_url) as websocket:
        await websocket.send(HELLO)
        await websocket.send('{"op":"unsubscribe","id":"1","thread":"th_1"}')
        ann = Reader(websocket)
        assert [(await ann.frame())["op"] for _ in range(2)] == ["welcome", "unsubscribed"]


async def test_a_ticket_is_good_once_and_from_its_origin_only() -> None:
    async with running() as node:
        ann = await node.identities.authenticate("t-ann")
        used = await node.identities.issue_ticket(ann, None)
        async with websockets.connect(f"{node.ws_url}?ticket={used}") as websocket:
            assert (await first_frame(websocket))["op"] == "welcome"
        bound = await node.identities.issue_ticket(ann, ORIGIN)
        for ticket in (used, bound):
            async with websockets.connect(f"{node.ws_url}?ticket={ticket}") as websocket:
                assert (await Reader(websocket).closed())[1] == 4501


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"additional_headers": {"Authorization": "Bearer nonsense"}}, 4501),
        ({"additional_headers": {"Authorization": "Basic eDp5"}}, 4501),
        ({"subprotocols": ["runwire.v1", "bearer.nonsense"]}, 4501),
        ({"subprotocols": ["other.v9", "bearer.t-ann"]}, 4506),
    ],
)
async def test_identity_failures_are_told_after_the_upgrade(options: dict[str, Any], code: int) -> None:
    async with running() as node, websockets.connect(node.ws_url, **options) as websocket:
        bye, closed = await Reader(websocket).closed()
        assert (bye["code"], bye["reconnect"], closed) == (code, False, code)
        assert "nonsense" not in json.dumps(bye)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?token=t-ann", {}, 400),
        ("?access_token=t-ann", {}, 400),
        ("", {"Origin": "https://evil.example"}, 403),
        ("", {"Origin": "null"}, 403),
        ("", {"Origin": ORIGIN + ".evil.example"}, 403),
        ("", {"Origin": "https://evil.example", "Authorization": "Bearer t-ann"}, 403),
    ],
)
async def test_before_the_upgrade_origin_and_query_tokens_are_refused(
    query: str, headers: dict[str, str], status: int
) -> None:
    async with running() as node:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(node.ws_url + query, additional_headers=headers):
                pass
        assert refused.value.response.status_code == status


async def test_no_hello_in_time_is_4002() -> None:
    async with running(connection(hello_s=0.1)) as node, websockets.connect(node.ws_url) as websocket:
        assert (await Reader(websocket).closed())[1] == 4002


async def test_a_silent_client_is_4012() -> None:
    async with running(connection(ping_s=0.1, pong_s=0.1)) as node, node.connect() as websocket:
        assert (await Reader(websocket).closed())[1] == 4012


async def test_an_expired_token_is_4005_and_a_refreshed_one_goes_on() -> None:
    settings = connection(token_grace_s=0.1, ping_s=60.0)
    async with running(settings) as node, node.connect("ann-0.4") as one, node.connect("ann-0.4") as two:
        ann, other = Reader(one), Reader(two)
        await ann.frame(), await other.frame()
        reply = await other.ask(op="refresh", token="t-ann-60")
        assert reply["ok"], reply
        bye, code = await ann.closed()
        assert (bye["reconnect"], code) == (True, 4005)
        assert (await other.ask(op="refresh", token="bad"))["error"]["code"] == "unauthenticated"
        await other.say(op="refresh", token="t-bob")
        assert (await other.closed())[1] == 4503


async def test_too_many_sockets_of_one_user_are_4504_and_others_are_not_concerned() -> None:
    settings = GatewaySettings(listeners_per_user=1)
    async with running(settings) as node, node.connect() as one:
        assert (await first_frame(one))["op"] == "welcome"
        async with node.connect() as two, node.connect("bob") as other:
            assert (await Reader(two).closed())[1] == 4504
            assert (await first_frame(other))["op"] == "welcome"
        await one.close()
        async with node.connect() as again:
            frame = await first_frame(again)
            assert frame["op"] == "welcome", frame


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", ["no json", b"\x01", '{"a":' * 70 + "1" + "}" * 70, "7"])
async def test_what_is_no_frame_is_4500(bad: str | bytes) -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        await websocket.send(bad)
        bye, code = await ann.closed()
        assert (bye["code"], code) == (4500, 4500)


async def test_invalid_utf8_is_4500() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        await websocket.send(b'{"op":"\xff"}', text=True)
        assert (await ann.closed())[1] == 4500


@pytest.mark.parametrize("size", [65_537, 3_000_000])
async def test_a_frame_over_the_limit_is_1009_also_while_it_is_still_being_sent(size: int) -> None:
    async with running() as node, node.connect() as websocket:
        await Reader(websocket).frame()
        with contextlib.suppress(websockets.ConnectionClosed):  # the answer may come before all is sent
            await websocket.send("x" * size)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        frame = json.dumps({"op": "send", "id": "1", "content": ""})
        await websocket.send(frame.replace('""', '"' + "x" * (65_536 - len(frame)) + '"'))
        assert (await ann.frame())["ok"]


async def test_wrong_commands_are_refused_by_name_and_the_socket_lives() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        for command, code, field in (
            ({"op": "dance"}, "bad_request", "op"),
            ({"op": "send", "contents": "hi"}, "bad_request", "contents"),
            ({"op": "send", "content": "  "}, "bad_request", "content"),
            ({"op": "send", "content": "hi", "agent": "nobody"}, "bad_request", "agent"),
            ({"op": "send", "content": [{"type": "image", "url": "u"}]}, "unsupported", "content"),
            ({"op": "answer", "run": "run_1", "wait": "w", "value": 1}, "not_found", "run"),
        ):
            reply = await ann.ask(**command)
            assert (reply["ok"], reply["error"]["code"], reply["error"]["field"]) == (False, code, field)
        assert await node.storage.runs.list("usr_ann") == []


async def test_more_replies_than_a_reader_may_be_owed_at_once_all_come() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        for _ in range(2):  # the second one waits in the connection's own buffer until the first is answered
            await websocket.send("[" + ",".join(["{}"] * 21_000) + "]")
        for _ in range(42_000):
            assert (await ann.frame())["error"]["code"] == "bad_request"
        assert (await ann.ask(op="send", content="hi"))["ok"]


async def test_no_connection_waits_for_a_delayed_acknowledgement() -> None:
    async with running() as node, node.connect() as websocket, httpx2.AsyncClient(base_url=node.url) as http:
        await Reader(websocket).frame()
        await http.get("/health/live")
        connections = [each.transport.get_extra_info("socket") for each in node.server.server_state.connections]
        assert len(connections) == 2
        assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in connections)


async def test_a_fault_of_ours_is_4000_and_tells_nothing() -> None:
    async with running() as node, node.connect() as websocket:

        async def broken(*_args: Any, **_options: Any) -> Any:
            raise ValueError("secret of somebody")

        node.storage.runs.cancel = broken  # type: ignore[method-assign]  # a bug, injected
        ann = Reader(websocket)
        await ann.frame()
        await ann.say(op="cancel", run="run_1")
        bye, code = await ann.closed()
        assert (bye["reconnect"], code) == (True, 4000)
        assert "secret" not in json.dumps(bye)
        assert len(node.gateway.live) == 0


async def test_an_identity_that_cannot_be_decided_is_4013() -> None:
    async with running() as node:

        async def unavailable(credential: str) -> Any:
            raise Unavailable("The auth service does not answer.", retry_after_s=1.0)

        node.identities.authenticate = unavailable  # type: ignore[method-assign]  # an outage, injected
        async with node.connect() as websocket:
            bye, code = await Reader(websocket).closed()
            assert (bye["reconnect"], code) == (True, 4013)


# ── slow readers ─────────────────────────────────────────────────────────────────────────────────────────


def raw_socket(node: Node) -> socket.socket:
    """Upgrade a socket with a tiny receive buffer; nobody reads it afterwards."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", node.port))
    raw.setblocking(False)
    return raw


async def upgraded(node: Node, raw: socket.socket, name: str, command: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    request = (
        f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer t-{name}\r\n\r\n"
    )
    await loop.sock_sendall(raw, request.encode())
    assert b"101" in await loop.sock_recv(raw, 4096)
    body = json.dumps(command).encode()
    assert len(body) < 126
    # RFC 6455 §5.2: one masked text frame.
    await loop.sock_sendall(raw, bytes([0x81, 0x80 | len(body)]) + bytes(4) + body)


async def flood(node: Node, run: str, *, events_of_50_kib: int) -> None:
    claim = await node.worker.claim(run)
    await node.worker.append(claim, [events.AgentStarted(agent="echo", message=claim.message)])
    for n in range(events_of_50_kib):
        await node.worker.append(claim, [events.Custom(name=f"n{n}", value="x" * 50_000)])


@pytest.mark.timeout(40)
async def test_a_reader_that_never_reads_is_dropped_and_nobody_else_notices() -> None:
    settings = GatewaySettings(connection=ConnectionSettings(stall_s=0.5), abort_s=0.2)
    async with running(settings) as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        data = (await ann.ask(op="send", content="hi"))["data"]
        raw = raw_socket(node)
        await upgraded(node, raw, "ann", {"op": "subscribe", "id": "1", "thread": data["thread"], "after": 0})
        async with asyncio.TaskGroup() as group:
            group.create_task(flood(node, data["run"], events_of_50_kib=200))
            while len(ann.events) < 202:
                ann.apply(await ann.frame())
            await eventually(lambda: len(node.gateway.live) == 1)
        figures = node.gateway.metrics.text().decode()
        assert 'gateway_closes_total{code="4008"} 1.0' in figures
        # The connection itself is gone, not only our half of it.
        async with asyncio.timeout(10):
            try:
                while await asyncio.get_running_loop().sock_recv(raw, 1 << 20):
                    pass
            except ConnectionResetError:
                pass
        raw.close()
        ann.events.clear()
        answer = await ann.ask(op="subscribe", thread=data["thread"], after=0)
        while ann.last[data["thread"]] < answer["head"]:
            ann.apply(await ann.frame())
        assert len(ann.events) == 202


@pytest.mark.timeout(40)
async def test_a_reader_that_begins_to_read_in_time_gets_bye_4008_and_resumes_exactly() -> None:
    settings = GatewaySettings(connection=ConnectionSettings(stall_s=0.3), abort_s=20.0)
    async with running(settings) as node, node.connect(max_queue=1) as websocket:
        ann = Reader(websocket)
        await ann.frame()
        data = (await ann.ask(op="send", content="hi"))["data"]
        await flood(node, data["run"], events_of_50_kib=400)
        await eventually(lambda: len(node.gateway.live) == 0)
        bye, code = await ann.closed()
        assert (bye["reconnect"], code) == (True, 4008)
        assert len(ann.events) < 402
        async with node.connect() as again:
            back = Reader(again)
            await back.frame()
            back.events = ann.events
            await back.ask(op="subscribe", thread=data["thread"], after=ann.last[data["thread"]])
            while len(back.events) < 402:
                back.apply(await back.frame())
            assert [event["seq"] for event in back.events] == list(range(1, 403))


# ── withdrawn access, drain ──────────────────────────────────────────────────────────────────────────────


async def test_withdrawn_access_closes_only_that_users_sockets() -> None:
    async with running() as node, node.connect() as one, node.connect("eve") as two:
        ann, eve = Reader(one), Reader(two)
        await ann.frame(), await eve.frame()
        node.identities.withdraw("usr_eve")
        bye, code = await eve.closed()
        assert (bye["reconnect"], code) == (False, 4507)
        assert (await ann.ask(op="send", content="hi"))["ok"]
        figure = node.gateway.metrics.registry.get_sample_value
        assert figure("runwire_revocation_seconds_count") == 1.0
        assert 0.7 <= (figure("runwire_revocation_seconds_sum") or 0.0) < 10, "since the change, not since it was heard"


async def test_no_command_and_no_event_after_access_was_withdrawn_even_if_nobody_calls_back() -> None:
    async with running() as node, node.connect("eve") as one, node.connect("eve") as two:
        eve, watching = Reader(one), Reader(two)
        await eve.frame(), await watching.frame()
        data = (await watching.ask(op="send", content="hi"))["data"]
        while not watching.events:
            watching.apply(await watching.frame())
        node.identities.view.withdrawn.add("usr_eve")  # the view moved; the call-back is lost
        await eve.say(op="send", content="let me")
        assert (await eve.closed())[1] == 4507
        assert len(await node.storage.runs.list("usr_eve")) == 1
        await node.worker.whole_run(data["run"])
        assert (await watching.closed())[1] == 4507
        assert len(watching.events) == 1


async def test_access_withdrawn_between_the_proof_and_the_index_finds_the_socket() -> None:
    async with running() as node:
        prove = node.identities.authenticate

        async def prove_then_withdraw(credential: str) -> Any:
            identity = await prove(credential)
            node.identities.withdraw(identity.user)
            return identity

        node.identities.authenticate = prove_then_withdraw  # type: ignore[method-assign]  # a pause, injected
        async with node.connect("eve") as websocket:
            assert (await Reader(websocket).closed())[1] == 4507
        assert len(node.gateway.live) == 0


@pytest.mark.timeout(30)
async def test_sockets_close_when_nobodys_standing_is_known() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        node.identities.freshness_is = "expired"
        bye, code = await ann.closed()
        assert (bye["reconnect"], code) == (True, 4013)


async def test_a_drain_says_so_and_closes_before_the_server_does() -> None:
    async with running() as node, node.connect() as websocket, httpx2.AsyncClient(base_url=node.url) as http:
        ann = Reader(websocket)
        await ann.frame()
        await ann.ask(op="send", content="hi")
        assert (await http.get("/health/ready")).status_code == 200
        async with asyncio.TaskGroup() as group:
            group.create_task(node.gateway.drain())
            frames: list[dict[str, Any]] = []
            while not frames or frames[-1]["op"] != "bye":
                frames.append(await ann.frame())
            assert [frame["op"] for frame in frames if frame["op"] != "event"] == ["notice", "bye"]
            assert frames[-1]["code"] == 4001
            assert 0 <= frames[-1]["after_s"] <= 5
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
        async with node.connect() as late:
            assert (await Reader(late).closed())[1] == 4001


async def test_a_socket_that_a_stop_cuts_is_no_fault_to_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The server cancels who is left when its time for a stop is over; that may be hundreds."""
    async with running() as node, node.connect() as websocket:
        await first_frame(websocket)
        node.gateway.live.is_draining = True
        (serving,) = (task for task in asyncio.all_tasks() if "run_asgi" in repr(task.get_coro()))
        serving.cancel()
        await asyncio.wait([serving])
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_server_drains_when_it_is_stopped() -> None:
    async with running(is_stoppable=True) as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        node.server.handle_exit(0, None)
        bye, code = await ann.closed()
        assert (bye["code"], code) == (4001, 4001)
