"""A node that lags takes on nothing new, and lets those who are here go on."""

from __future__ import annotations

import asyncio

from tests.unit.gateway.node import Reader, running

from runwire.gateway.admission import Admission
from runwire.resilience.gate import Gate


async def test_a_node_that_lags_refuses_messages_and_sockets_and_serves_who_is_here() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        first = await ann.ask(op="send", content="hi", key="k1")
        assert first["ok"], first
        admission = node.gateway.admission
        admission.gate = Gate(1e-9)  # every loop lags so much: what is measured closes it
        async with asyncio.timeout(10):
            while not admission.is_full:  # noqa: ASYNC110 - a measured figure; it wakes nobody
                await asyncio.sleep(0.05)

        refused = await ann.ask(op="send", content="ho", key="k2")
        assert refused["error"]["code"] == "unavailable"
        assert 1 <= refused["error"]["retry_after_s"] <= 5
        assert len(await node.storage.runs.list("usr_ann")) == 1, "nothing was stored"
        assert (await ann.ask(op="send", content="hi", key="k1"))["data"] == first["data"]
        assert (await ann.ask(op="cancel", run=first["data"]["run"]))["ok"]
        async with node.connect() as other:
            bye = await Reader(other).frame()
            assert (bye["op"], bye["code"], bye["reconnect"]) == ("bye", 4013, True)
            assert 1 <= bye["after_s"] <= 5

        admission.gate = Gate(30.0)
        assert (await ann.ask(op="send", content="ho", key="k2"))["ok"], "a refused command does not use its key"


def test_one_stall_that_is_over_is_no_overload() -> None:
    admission = Admission(max_loop_lag_s=1.0)
    for lag_s in (9.0, 0.0, 9.0, 9.0):
        admission.lagged(lag_s)
    assert not admission.is_full
    admission.lagged(9.0)
    assert admission.is_full
