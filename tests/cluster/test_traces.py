"""One trace of processes that know nothing of each other: a gateway, a worker that is killed, and the next one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cluster.deployment import Cluster
from tests.collector import Collector
from tests.outside import Outside
from tests.postgres import PostgresServer

from runwire.app.tracing import ids

pytestmark = pytest.mark.timeout(120)

AGENTS = Path(__file__).resolve().parents[1] / "agents" / "traced.py"


async def test_a_run_is_one_trace_through_a_gateway_and_two_workers(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with Collector() as collector:
        url = await postgres_server.create_database()
        cluster = Cluster(tmp_path / "traced", url, gateways=1, agents=AGENTS, otel_endpoint=collector.url)
        await cluster.start()
        try:
            ada = Outside(cluster.gateways[0].url, await cluster.key("ada"))
            async with ada.connected():
                sent = await ada.send("hello", agent="killed")
                trace = f"{ids.trace_of(sent['run']):032x}"
                await ada.until(lambda event: event["type"] == "tool_executing" and event["data"]["name"] == "waits")
                await collector.until(lambda: {"send message", "execute_tool look_up"} <= set(collector.names(trace)))
                holder = next(one for one in cluster.workers if sent["run"] in one.logs())
                await holder.kill9()
                await asyncio.to_thread((cluster.marks / "over").touch)
                await ada.until_end(sent["run"])
            await collector.until(
                lambda: collector.names(trace)["invoke_agent killed"] == 2 and "deliver end" in collector.names(trace)
            )
        finally:
            await cluster.end()
    spans = collector.of(trace)
    assert collector.names(trace)["execute_tool look_up"] == 1
    assert {span.parent for span in spans} - {span.id for span in spans} == {""}, "something hangs in the air"
    lost, ended = sorted((s for s in spans if s.name == "invoke_agent killed"), key=lambda s: s.start_ns)
    assert [s.attributes["runwire.outcome"] for s in (lost, ended)] == ["lost", "completed"]
    assert len({span.resource["service.instance.id"] for span in spans}) == 3
