"""A server that is killed while it drains has lost nothing: what it said stands, and the resume is exact."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, assert_one_run


@pytest.mark.timeout(60)
async def test_d2_killed_in_its_drain_a_server_resumes_as_after_any_crash(own_deployment: Deployment) -> None:
    server = own_deployment
    ann = Outside(server.url, await server.key("ann"))
    async with ann.connected():
        sent = await ann.send("kill my drain", agent="journey")
        await ann.until(lambda e: e["type"] == "text_delta")
        os.kill(server.process.pid, signal.SIGTERM)
        while (frame := await ann.frame())["op"] != "notice":
            ann.apply(frame)
        assert frame["kind"] == "draining"
        await server.kill9()
    await server.start()
    async with ann.connected():
        await ann.subscribe(sent["thread"])
        if ann.events[sent["thread"]][-1]["type"] != "agent_completed":
            await ann.until_end(sent["run"])
    assert_one_run(ann.events[sent["thread"]], sent["run"])
    assert ann.events[sent["thread"]][-1]["type"] == "agent_completed"
    assert (await asyncio.to_thread(ann.http, "GET", f"/v1/runs/{sent['run']}"))[1]["status"] == "completed"
