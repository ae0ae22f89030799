"""What a send is refused for, and that a known key is answered before any of it: alike on a socket and over HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.unit.gateway.node import Node, Reader, running

from runwire.gateway.app import GatewaySettings
from runwire.storage.open import open_storage

GROWING = "[" + ",".join(["1e15"] * 12_000) + "]"  # 60 kB as it comes, 228 kB as it is stored


def person(node: Node) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers={"Authorization": "Bearer t-ann"}, timeout=10)


@pytest.mark.parametrize("agent", [None, "echo"])
async def test_a_known_key_is_answered_alike_after_the_agents_changed(agent: str | None) -> None:
    storage = await open_storage("memory://")
    command = {"op": "send", "key": "k1", "content": "hi", "agent": agent}
    async with running(storage=storage) as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        before = await ann.ask(**command)
        assert before["ok"], before
    async with running(storage=storage, agents=["other", "another"]) as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        again = await ann.ask(**command)
        assert again["ok"], again
        assert again["data"] == before["data"]
        changed = await ann.ask(**command | {"content": "ho"})
        assert (changed["error"]["code"], changed["error"]["field"]) == ("conflict", "key")
        fresh = await ann.ask(**command | {"key": "k2"})
        assert (fresh["error"]["code"], fresh["error"]["field"]) == ("bad_request", "agent")
        assert len(await storage.runs.list("usr_ann")) == 1
    await storage.close()


async def test_a_known_idempotency_key_is_answered_alike_after_the_agents_changed() -> None:
    storage = await open_storage("memory://")
    thread = (await storage.threads.create("usr_ann")).thread
    path, headers = f"/v1/threads/{thread}/messages", {"Idempotency-Key": "k1"}
    async with running(storage=storage) as node, person(node) as http:
        before = await http.post(path, json={"content": "hi"}, headers=headers)
    async with running(storage=storage, agents=["other", "another"]) as node, person(node) as http:
        again = await http.post(path, json={"content": "hi"}, headers=headers)
        assert (again.status_code, again.json()) == (202, before.json())
        fresh = await http.post(path, json={"content": "hi"})
        assert (fresh.status_code, fresh.json()["field"]) == (400, "agent")
    await storage.close()


async def test_metadata_that_grows_over_64_kib_is_refused_by_name_on_a_socket() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        await websocket.send('{"op":"send","id":"x","content":"hi","key":"k","metadata":{"a":' + GROWING + "}}")
        reply = await ann.frame()
        assert (reply["id"], reply["ok"]) == ("x", False), reply
        assert (reply["error"]["code"], reply["error"]["field"]) == ("too_large", "metadata")
        assert await node.storage.threads.list("usr_ann") == []
        assert (await ann.ask(op="send", content="hi", key="k"))["ok"]  # a refused command does not use its key


async def test_metadata_that_grows_over_64_kib_is_refused_by_name_over_http() -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        body = '{"content":"hi","metadata":{"a":' + GROWING + "}}"
        refused = await http.post(f"/v1/threads/{thread}/messages", content=body)
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (413, "too_large", "metadata")
        assert (await http.get("/v1/runs")).json()["items"] == []


@pytest.mark.parametrize(
    ("content", "is_taken"),
    [
        ("x" * 65_534, True),
        ("x" * 65_535, False),
        ([{"type": "text", "text": "x" * 65_509}], True),
        ([{"type": "text", "text": "x" * 65_510}], False),
    ],
)
async def test_content_of_64_kib_encoded_is_taken_and_more_is_refused(content: Any, is_taken: bool) -> None:
    assert (len(json.dumps(content, separators=(",", ":"))) <= 65_536) is is_taken
    async with running(GatewaySettings(body_bytes=200_000)) as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        answer = await http.post(f"/v1/threads/{thread}/messages", json={"content": content})
        assert answer.status_code == (202 if is_taken else 413), answer.text
        if not is_taken:
            assert (answer.json()["code"], answer.json()["field"]) == ("too_large", "content")
