"""Every kind of bad frame that PROTOCOL §3 names is refused as it says; none is acknowledged, none starts a run."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import websockets
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, http

REFUSED: dict[str, tuple[str, str, str | None]] = {
    "unknown op": ('{"op":"dance","id":"x"}', "bad_request", "op"),
    "misnamed field": ('{"op":"send","id":"x","contents":"hi"}', "bad_request", "contents"),
    "unknown field": ('{"op":"send","id":"x","content":"hi","user_id":"usr_1"}', "bad_request", "user_id"),
    "empty text": ('{"op":"send","id":"x","content":"   "}', "bad_request", "content"),
    "wrong type": ('{"op":"send","id":"x","content":5}', "bad_request", "content"),
    "not a number": ('{"op":"send","id":"x","content":"hi","metadata":{"a":NaN}}', "bad_request", "metadata"),
    "lone surrogate": ('{"op":"send","id":"x","content":"\\ud800"}', "bad_request", "content"),
    "parts other than text": (
        '{"op":"send","id":"x","content":[{"type":"image","url":"u"}]}',
        "unsupported",
        "content",
    ),
    "unknown agent": ('{"op":"send","id":"x","content":"hi","agent":"nobody"}', "bad_request", "agent"),
    "no agent among several": ('{"op":"send","id":"x","content":"hi"}', "bad_request", "agent"),
    "unknown thread": ('{"op":"send","id":"x","thread":"th_0","content":"hi","agent":"plain"}', "not_found", "thread"),
    "subscribe to unknown": ('{"op":"subscribe","id":"x","thread":"th_0","after":0}', "not_found", "thread"),
    "cancel unknown": ('{"op":"cancel","id":"x","run":"run_0"}', "not_found", "run"),
    "bad view": ('{"op":"subscribe","id":"x","thread":"th_0","after":0,"view":"some"}', "bad_request", "view"),
    "bad policy": ('{"op":"send","id":"x","content":"hi","on_active":"maybe"}', "bad_request", "on_active"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_object_is_refused_by_name_and_starts_nothing(deployment: Deployment, case: str) -> None:
    text, code, field = REFUSED[case]
    ann = Outside(deployment.url, await deployment.key("ann"))
    before = (await asyncio.to_thread(ann.http, "GET", "/v1/runs"))[1]
    async with ann.connected():
        await ann.socket.send(text)
        reply = await ann.frame()
        assert reply["op"] == "reply", reply
        assert reply["id"] == "x"
        assert reply["ok"] is False
        assert reply["error"]["code"] == code, reply
        assert reply["error"]["field"] == field, reply
        assert reply["error"]["message"]
        # The socket lives on and still serves.
        assert (await ann.command("unsubscribe", thread="th_0"))["op"] == "unsubscribed"
    assert (await asyncio.to_thread(ann.http, "GET", "/v1/runs"))[1] == before


BROKEN: dict[str, str | bytes] = {
    "not json": "hello",
    "half an object": '{"op":"send"',
    "binary": b"\x00\x01",
    "too deep": '{"op":"send","id":"x","content":"hi","metadata":' + '{"a":' * 70 + "1" + "}" * 71,
    "a bare number": "5",
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_is_no_frame_ends_the_socket_with_4500(deployment: Deployment, case: str) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected():
        await ann.socket.send(BROKEN[case])
        bye = await ann.frame()
        assert bye["op"] == "bye"
        assert bye["code"] == 4500
        assert bye["reconnect"] is False
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await ann.frame()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4500


async def test_a_frame_over_the_limit_ends_the_socket_with_1009(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected() as welcome:
        text = "x" * (welcome["limits"]["frame_bytes"] + 1)
        await ann.socket.send(json.dumps({"op": "send", "id": "x", "agent": "plain", "content": text}))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await ann.frame()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_the_65th_subscription_is_refused(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("many"))
    threads = [(await asyncio.to_thread(ann.http, "POST", "/v1/threads", {}))[1]["thread"] for _ in range(65)]
    async with ann.connected():
        for thread in threads[:64]:
            assert (await ann.subscribe(thread, after=0))["op"] == "subscribed"
        refused = await ann.subscribe(threads[64], after=0)
        assert refused["ok"] is False
        assert refused["error"]["code"] == "rate_limited"
        refused = await ann.command("send", content="hi", agent="plain")
        assert refused["error"]["code"] == "rate_limited"
    assert (await asyncio.to_thread(ann.http, "GET", "/v1/runs"))[1]["items"] == []


async def _bye(deployment: Deployment, **options: Any) -> tuple[int, int | None]:
    url = deployment.url.replace("http", "ws", 1) + "/v1/ws"
    async with asyncio.timeout(10), websockets.connect(url, **options) as socket:
        first = json.loads(await socket.recv())
        frame = first if isinstance(first, dict) else first[0]
        assert frame["op"] == "bye", frame
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    return frame["code"], closed.value.rcvd.code if closed.value.rcvd else None


async def test_a_wrong_token_is_told_so_after_the_upgrade(deployment: Deployment) -> None:
    assert await _bye(deployment, additional_headers={"Authorization": "Bearer nonsense"}) == (4501, 4501)
    assert await _bye(deployment, subprotocols=["runwire.v1", "bearer.nonsense"]) == (4501, 4501)
    assert await _bye(deployment, subprotocols=["other.v9"], additional_headers={"Authorization": "Bearer x"}) == (
        4506,
        4506,
    )


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/ws?token=abc", {}, 400),
        ("/v1/ws", {"Origin": "https://evil.example"}, 403),
        ("/v1/ws", {"Origin": "null"}, 403),
    ],
)
async def test_before_the_upgrade_only_origin_and_query_tokens_are_refused(
    deployment: Deployment, path: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(deployment.url.replace("http", "ws", 1) + path, additional_headers=headers):
            pass
    assert refused.value.response.status_code == status


async def test_hello_subprotocol_and_ticket_sign_in_as_the_header_does(deployment: Deployment) -> None:
    key = await deployment.key("ann")
    url = deployment.url.replace("http", "ws", 1) + "/v1/ws"
    _, ticket = await asyncio.to_thread(http, "POST", deployment.url + "/v1/ws-ticket", {}, token=key)
    ways: list[tuple[str, list[websockets.Subprotocol], str | None]] = [
        (url, [websockets.Subprotocol("runwire.v1")], json.dumps({"op": "hello", "token": key, "client": "t/1"})),
        (url, [websockets.Subprotocol("runwire.v1"), websockets.Subprotocol(f"bearer.{key}")], None),
        (f"{url}?ticket={ticket['ticket']}", [], None),
    ]
    users = []
    for address, subprotocols, hello in ways:
        async with asyncio.timeout(10), websockets.connect(address, subprotocols=subprotocols or None) as socket:
            assert socket.subprotocol in ("runwire.v1", None)
            if hello:
                await socket.send(hello)
            first = json.loads(await socket.recv())
            welcome = first if isinstance(first, dict) else first[0]
            assert welcome["op"] == "welcome", welcome
            users.append(welcome["user"])
    assert len(set(users)) == 1
    assert (await _bye_of_ticket(deployment, ticket["ticket"])) == 4501


async def _bye_of_ticket(deployment: Deployment, ticket: str) -> int:
    url = deployment.url.replace("http", "ws", 1) + f"/v1/ws?ticket={ticket}"
    async with asyncio.timeout(10), websockets.connect(url) as socket:
        first = json.loads(await socket.recv())
        code: int = first["code"]
        return code
