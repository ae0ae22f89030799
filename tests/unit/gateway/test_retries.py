"""A run that has ended, tried again: a new run with the same message."""

from __future__ import annotations

import httpx2
import pytest
from tests.unit.gateway.node import Node, Reader, running

from runwire.protocol.events import AgentWaiting
from runwire.storage.open import open_storage

PARTS = [{"type": "text", "text": "hi "}, {"type": "text", "text": "there"}]


def person(node: Node, name: str = "ann") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer t-{name}"}, timeout=10)


async def failed(node: Node, http: httpx2.AsyncClient) -> dict[str, str]:
    """Give a run that failed."""
    thread = (await http.post("/v1/threads")).json()["thread"]
    body = {"content": PARTS, "agent": "echo", "metadata": {"a": [1]}}
    sent: dict[str, str] = (await http.post(f"/v1/threads/{thread}/messages", json=body)).json()
    await node.worker.end(await node.worker.wait(sent["run"]))
    return sent


async def test_a_retry_is_a_new_run_with_the_message_of_the_old_one() -> None:
    async with running() as node, person(node) as http, node.connect() as websocket:
        old = await failed(node, http)
        ann = Reader(websocket)
        await ann.frame()
        await ann.ask(op="subscribe", thread=old["thread"])
        answer = await http.post(f"/v1/runs/{old['run']}/retry")
        assert answer.status_code == 202, answer.text
        new = answer.json()
        assert set(new) == {"thread", "log", "run", "message", "seq"}
        assert new["thread"] == old["thread"]
        assert new["run"] != old["run"]
        assert new["message"] != old["message"]
        while sum(each["type"] == "user_message" for each in ann.events) < 2:  # it was announced
            ann.apply(await ann.frame())
        first, second = [each["data"] for each in ann.events if each["type"] == "user_message"]
        assert second == first | {"message": new["message"], "retry_of": old["run"]}
        assert (await http.get(f"/v1/runs/{new['run']}")).json()["agent"] == "echo"
        await node.worker.end(await node.worker.wait(new["run"]))
        again = (await http.post(f"/v1/runs/{new['run']}/retry", json={})).json()
        assert (await http.get(f"/v1/runs/{again['run']}")).json()["status"] == "queued"


async def test_a_key_makes_the_repetition_of_a_retry_harmless() -> None:
    async with running() as node, person(node) as http:
        old = await failed(node, http)
        path, headers = f"/v1/runs/{old['run']}/retry", {"Idempotency-Key": "k1"}
        first, second = [await http.post(path, headers=headers) for _ in range(2)]
        assert first.status_code == second.status_code == 202
        assert first.json() == second.json()
        other = await http.post(path, json={"on_active": "reject"}, headers=headers)
        assert (other.status_code, other.json()["code"], other.json()["field"]) == (409, "conflict", "key")
        message = await http.post(f"/v1/threads/{old['thread']}/messages", json={"content": "hi"}, headers=headers)
        assert (message.status_code, message.json()["field"]) == (409, "key")
        assert len((await http.get("/v1/runs")).json()["items"]) == 2


async def test_a_run_that_goes_on_is_not_tried_again() -> None:
    async with running() as node, person(node) as http:
        old = await failed(node, http)
        sent = (await http.post(f"/v1/threads/{old['thread']}/messages", json={"content": "ho"})).json()
        for is_begun in (False, True):
            if is_begun:
                await node.worker.wait(sent["run"], AgentWaiting(wait="wt_1", kind="approval"), is_parked=True)
            refused = await http.post(f"/v1/runs/{sent['run']}/retry", headers={"Idempotency-Key": "k"})
            assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (409, "conflict", "run")
        rejected = await http.post(f"/v1/runs/{old['run']}/retry", json={"on_active": "reject"})
        assert (rejected.status_code, rejected.json()["code"]) == (409, "run_active")
        taken = await http.post(f"/v1/runs/{old['run']}/retry", json={"on_active": "interrupt"})
        assert taken.status_code == 202
        assert (await http.get(f"/v1/runs/{sent['run']}")).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "field"), [(b'{"content":"x"}', "content"), (b'{"on_active":"maybe"}', "on_active"), (b"[]", None)]
)
async def test_a_wrong_body_is_refused_by_name_and_starts_nothing(body: bytes, field: str | None) -> None:
    async with running() as node, person(node) as http:
        old = await failed(node, http)
        refused = await http.post(f"/v1/runs/{old['run']}/retry", content=body)
        assert (refused.status_code, refused.json()["field"]) == (400, field)
        assert len((await http.get("/v1/runs")).json()["items"]) == 1


async def test_the_runs_of_others_do_not_exist() -> None:
    async with running() as node, person(node) as ann, person(node, "bob") as bob:
        old = await failed(node, ann)
        foreign, unknown = [await bob.post(f"/v1/runs/{run}/retry") for run in (old["run"], "run_" + "0" * 32)]
        assert (foreign.status_code, foreign.text) == (404, unknown.text)
        await ann.delete(f"/v1/threads/{old['thread']}")
        assert (await ann.post(f"/v1/runs/{old['run']}/retry")).status_code == 404


async def test_a_retry_without_its_agent_is_refused_but_a_known_key_is_answered_alike() -> None:
    storage = await open_storage("memory://")
    headers = {"Idempotency-Key": "k1"}
    async with running(storage=storage) as node, person(node) as http:
        old = await failed(node, http)
        before = await http.post(f"/v1/runs/{old['run']}/retry", headers=headers)
    async with running(storage=storage, agents=["other"]) as node, person(node) as http:
        fresh = await http.post(f"/v1/runs/{old['run']}/retry")
        assert (fresh.status_code, fresh.json()["code"], fresh.json()["field"]) == (400, "bad_request", "agent")
        again = await http.post(f"/v1/runs/{old['run']}/retry", headers=headers)
        assert (again.status_code, again.json()) == (202, before.json())
    await storage.close()


async def test_a_run_that_is_no_longer_kept_is_not_found_but_a_known_key_is_answered_alike() -> None:
    headers = {"Idempotency-Key": "k1"}
    async with running() as node, person(node) as http:
        old = await failed(node, http)
        before = await http.post(f"/v1/runs/{old['run']}/retry", headers=headers)
        await node.worker.end(await node.worker.wait(before.json()["run"]))
        await node.storage.upkeep.trim(ended_before=2**52, deleted_before=0)
        refused = await http.post(f"/v1/runs/{old['run']}/retry")
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (404, "not_found", "run")
        again = await http.post(f"/v1/runs/{old['run']}/retry", headers=headers)
        assert (again.status_code, again.json()) == (202, before.json())
