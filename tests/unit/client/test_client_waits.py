"""Answers and retries of the client on a wire that loses replies: done once, however often they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.e2e.wire import Wire
from tests.unit.gateway.node import Node, running

import runwire
from runwire.client import Client, Run
from runwire.errors import Conflict, NotFound, ProtocolError, Unavailable
from runwire.protocol.events import AgentWaiting
from runwire.storage.base import RunStatus

APPROVAL = AgentWaiting(wait="wt_1", kind="approval", prompt="May I?")


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Node, Wire, Client]]:
    async with running() as node, Wire(node.port) as wire, runwire.connect(wire.url, "t-ann") as client:
        await client.http.me()  # its connection stays open, and is stalled with the socket
        yield node, wire, client


async def waiting(node: Node, client: Client) -> Run:
    run = await client.send("hi")
    await node.worker.wait(run.id, APPROVAL)
    return run


async def until(node: Node, run: str, fact: Callable[[list[str]], bool]) -> None:
    """Wait until a run's events in the log are so."""
    while not fact([event.type for event in await node.storage.events.read_run(run)]):  # noqa: ASYNC110  # what is waited for has no event: it is looked at from outside
        await asyncio.sleep(0.005)


async def test_an_answer_whose_reply_is_lost_is_given_again() -> None:
    async with wired() as (node, wire, client):
        run = await waiting(node, client)
        wire.stall(to_client=True)
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(run.answer("wt_1", True))
            await until(node, run.id, lambda types: types[-1] == "agent_resumed")
            assert not answering.done()
            wire.cut()
        types = [event.type for event in await node.storage.events.read_run(run.id)]
        assert types.count("agent_resumed") == 1
        assert wire.connections == 3  # socket, HTTP, and the socket again


async def test_an_answer_is_refused_with_its_reason() -> None:
    async with wired() as (node, _, client):
        run = await waiting(node, client)
        with pytest.raises(ProtocolError) as wrong:
            await run.answer("wt_1", "yes")
        assert (wrong.value.code, wrong.value.field) == ("bad_request", "value")
        with pytest.raises(NotFound):
            await run.answer("wt_9", True)
        await client.http.answer(run.id, "wt_1", False)
        with pytest.raises(Conflict, match="You have answered"):
            await run.answer("wt_1", True)


async def failed(node: Node, client: Client) -> Run:
    run = await client.send("hi")
    await node.worker.end(await node.worker.wait(run.id))
    return run


async def statuses(node: Node) -> list[RunStatus]:
    return [row.status for row in await node.storage.runs.list("usr_ann")]


async def test_a_retry_whose_reply_is_lost_starts_one_run() -> None:
    async with wired() as (node, wire, client):
        old = await failed(node, client)
        wire.stall(to_client=True)
        async with asyncio.TaskGroup() as group:
            trying = group.create_task(old.retry())
            while await statuses(node) != ["queued", "failed"]:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.005)
            wire.cut()
        new = trying.result()
        assert await statuses(node) == ["queued", "failed"]
        await node.worker.whole_run(new.id)
        seen = [item.type async for item in new.events(view="lifecycle")]
        assert (seen[0], seen[-1]) == ("user_message", "agent_completed")
        assert await new.result() == "word0 word1 word2 word3 word4 "


async def test_a_retry_is_refused_with_its_reason_and_gives_up_in_time() -> None:
    async with wired() as (node, wire, client):
        run = await client.send("hi")
        with pytest.raises(Conflict, match="has not ended"):
            await run.retry()
        await node.worker.end(await node.worker.wait(run.id))
        wire.stall()
        with pytest.raises(Unavailable):
            await client.retry(run.id, timeout_s=0.2)
        wire.cut()
        same = [await client.retry(run.id, key="k1") for _ in range(2)]
        assert same[0].id == same[1].id
