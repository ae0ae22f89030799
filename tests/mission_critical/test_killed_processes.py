"""`kill -9` of a worker and of a gateway, and access that is withdrawn, in a deployment of many processes."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
import websockets
from tests.cluster.deployment import Cluster, RoleProcess
from tests.mission_critical.staging import OwnStaging
from tests.outside import Outside, assert_one_run, text_of

pytestmark = pytest.mark.timeout(90)  # the first test waits for processes to start: some seconds on a quiet machine

REVOKED = 4507


@pytest.fixture
def cluster(own_staging: OwnStaging) -> Cluster:
    """Return the deployment, with everybody there whom a test before has killed."""
    (own_staging.cluster.marks / "over").unlink(missing_ok=True)
    asyncio.run(own_staging.cluster.wake())
    return own_staging.cluster


def _worker_of(cluster: Cluster, run: str) -> RoleProcess:
    pid = int(cluster.marked(f"walked-{run}")[-1])
    return next(worker for worker in cluster.workers if worker.pid == pid)


async def test_access_that_is_withdrawn_ends_a_live_socket_within_a_second(cluster: Cluster) -> None:
    eve = Outside(cluster.gateways[1].url, await cluster.key("eve"))
    async with eve.connected():
        await eve.send("walk", agent="walk")
        await eve.until(lambda event: event["type"] == "tool_completed")
        await cluster.cli("user", "disable", "eve")
        done_s = time.monotonic()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await eve.until(lambda _: False)
        took_s = time.monotonic() - done_s
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == REVOKED
    assert took_s < 1, f"closed after {took_s:.2f} s"


async def test_a_run_whose_worker_is_killed_goes_on_and_says_nothing_twice(cluster: Cluster) -> None:
    ann = Outside(cluster.gateways[0].url, await cluster.key("ann"))
    async with ann.connected():
        sent = await ann.send("walk", agent="walk")
        await ann.until(lambda event: "[3]" in text_of(ann.events[sent["thread"]], sent["run"]))
        await _worker_of(cluster, sent["run"]).kill9()
        await ann.until(lambda event: event["type"] == "agent_retrying")
        await asyncio.to_thread((cluster.marks / "over").touch)
        await ann.until_end(sent["run"])
    events = ann.events[sent["thread"]]
    assert_one_run(events, sent["run"])
    said = [int(n) for n in re.findall(r"\[(\d+)\]", text_of(events, sent["run"]))]
    assert said == list(range(len(said)))
    assert len(said) > 3
    assert "superseded" not in [event["type"] for event in events if event["data"].get("reason") == "differs"]


async def test_a_reader_whose_gateway_is_killed_goes_on_at_the_other(own_staging: OwnStaging) -> None:
    cluster = own_staging.cluster  # a worker is enough, whoever is missing
    (cluster.marks / "over").unlink(missing_ok=True)
    bob = Outside(cluster.gateways[0].url, await cluster.key("bob"))
    async with bob.connected():
        sent = await bob.send("walk", agent="walk")
        await bob.until(lambda event: event["type"] == "tool_completed")
        await cluster.gateways[0].kill9()
        with pytest.raises((OSError, websockets.ConnectionClosed)):
            await bob.until_end(sent["run"])
    await asyncio.to_thread((cluster.marks / "over").touch)
    bob.ws_url = cluster.gateways[1].url.replace("http", "ws", 1) + "/v1/ws"
    async with bob.connected():
        await bob.subscribe_again(sent["thread"])
        if bob.events[sent["thread"]][-1]["type"] != "agent_completed":
            await bob.until_end(sent["run"])
    events = bob.events[sent["thread"]]
    assert_one_run(events, sent["run"])
    assert {event["attempt"] for event in events if event["type"] != "user_message"} == {1}, "no worker noticed"
