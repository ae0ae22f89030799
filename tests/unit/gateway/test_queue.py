"""While too many runs wait for a worker, or one for too long, no message begins another; all else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httpx2
import pytest
from tests.contract.adapters import send
from tests.unit.gateway.node import Node, Reader, running

from runwire.errors import Unavailable
from runwire.gateway.admission import NotAdmitted
from runwire.gateway.app import GatewaySettings
from runwire.gateway.queue import Queue
from runwire.protocol.events import AgentWaiting
from runwire.storage.base import Runs, Waiting
from runwire.storage.memory.storage import MemoryStorage


async def seen(node: Node, is_so: Callable[[Queue], bool]) -> Queue:
    """Wait until the node has looked at its queue and found it so."""
    queue = node.gateway.desks.first.queue
    async with asyncio.timeout(10):
        while not is_so(queue):  # noqa: ASYNC110 - a look that comes each second; it wakes nobody
            await asyncio.sleep(0.05)
    return queue


async def refused_sends(node: Node) -> dict[str, float]:
    async with httpx2.AsyncClient(base_url=node.url) as http:
        text = (await http.get("/metrics")).text
    lines = [line.split() for line in text.splitlines() if line.startswith("gateway_refused_sends_total{")]
    return {name.partition('reason="')[2].rstrip('"}'): float(value) for name, value in lines}


async def test_what_would_begin_a_run_is_refused_while_the_queue_is_full_and_nothing_else() -> None:
    settings = GatewaySettings(max_queued_runs=2)
    async with running(settings) as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        first = await ann.ask(op="send", content="hi", key="k1")
        run, thread = first["data"]["run"], first["data"]["thread"]
        await node.worker.wait(run, AgentWaiting(wait="w_1", kind="input"))
        others = [await send(node.storage, user=f"usr_{number}") for number in range(3)]
        await seen(node, lambda queue: queue.waiting == 3)

        refused = await ann.ask(op="send", content="ho", key="k2")
        assert refused["error"]["code"] == "unavailable"
        assert 2 <= refused["error"]["retry_after_s"] <= 10
        async with httpx2.AsyncClient(base_url=node.url, headers={"authorization": "Bearer t-ann"}) as http:
            answer = await http.post(f"/v1/threads/{thread}/messages", json={"content": "ho"})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 2
        assert len(await node.storage.runs.list("usr_ann")) == 1, "nothing was stored"
        assert await refused_sends(node) == {"queue_length": 2}

        assert (await ann.ask(op="send", content="hi", key="k1"))["data"] == first["data"], "it was accepted before"
        assert (await ann.ask(op="answer", run=run, wait="w_1", value="yes"))["ok"]
        assert (await ann.ask(op="cancel", run=run))["ok"]
        async with node.connect("bob") as other:
            assert (await Reader(other).frame())["op"] == "welcome"
        assert (await ann.ask(op="subscribe", thread=thread, after=0))["op"] == "subscribed"

        await node.worker.claim(others[0].run)
        await seen(node, lambda queue: queue.waiting == 0)
        assert (await ann.ask(op="send", content="ho", key="k2"))["ok"], "a refused command does not use its key"


async def test_an_ended_run_is_not_begun_again_while_the_queue_is_full() -> None:
    async with running(GatewaySettings(max_queued_runs=1)) as node:
        sent = await send(node.storage, user="usr_ann")
        await node.worker.end(await node.worker.wait(sent.run))
        for number in range(2):
            await send(node.storage, user=f"usr_{number}")
        await seen(node, lambda queue: queue.waiting == 2)
        async with httpx2.AsyncClient(base_url=node.url, headers={"authorization": "Bearer t-ann"}) as http:
            answer = await http.post(f"/v1/runs/{sent.run}/retry", json={})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_an_agent_whose_runs_wait_too_long_gets_no_more_and_others_do() -> None:
    settings = GatewaySettings(max_queue_age_s=0.2)
    async with running(settings, agents=("echo", "other")) as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        waiting = await send(node.storage)
        await seen(node, lambda queue: queue.oldest_s > 0.2)
        refused = await ann.ask(op="send", content="hi", agent="echo", key="k1")
        assert refused["error"]["code"] == "unavailable"
        assert await refused_sends(node) == {"queue_age": 1}
        assert (await ann.ask(op="send", content="hi", agent="other", key="k2"))["ok"]
        await node.worker.claim(waiting.run)
        await seen(node, lambda queue: queue.oldest_s == 0 and queue.waiting == 0)
        assert (await ann.ask(op="send", content="hi", agent="echo", key="k1"))["ok"]


class _Blind:
    """The runs of a real storage; whether they can be counted, the test says."""

    def __init__(self, inner: Runs) -> None:
        self._inner = inner
        self.looks = 0
        self.is_away = False

    async def waiting(self, *, limit: int, user_limit: int) -> Waiting:
        self.looks += 1
        if self.is_away:
            raise Unavailable("The database does not answer.")
        return await self._inner.waiting(limit=limit, user_limit=user_limit)


async def test_a_queue_that_cannot_be_looked_at_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that stores the message decides; an old figure must not keep people out."""
    monkeypatch.setattr("runwire.gateway.queue._EVERY_S", 0.01)
    monkeypatch.setattr("runwire.gateway.queue._GOOD_S", 0.2)
    storage = MemoryStorage()
    runs = _Blind(storage.runs)
    queue = Queue(cast(Runs, runs), max_runs=1, max_age_s=60, user_limit=10)  # it has the method that is needed
    queue.check("echo")  # not looked at yet
    for _ in range(3):
        await send(storage)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        looking = group.create_task(queue.run())
        while queue.waiting < 2:  # noqa: ASYNC110 - it wakes nobody
            await asyncio.sleep(0.01)
        with pytest.raises(NotAdmitted):
            queue.check("echo")
        runs.is_away = True
        looks = runs.looks
        while runs.looks < looks + 30:  # noqa: ASYNC110 - a look each 0.01 s, so that 0.2 s are over
            await asyncio.sleep(0.01)
        queue.check("echo")
        looking.cancel()
