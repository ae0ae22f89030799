"""Sockets that have not said hello: so many at a time, and who has said it makes room."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import websockets
from tests.unit.gateway.node import Reader, eventually, running

from runwire.gateway.app import GatewaySettings
from runwire.protocol.connection import ConnectionSettings

HELLO = '{"op":"hello","token":"t-ann","client":"t/1"}'
TWO = GatewaySettings(greetings=2)


async def test_one_silent_socket_too_many_is_told_to_come_back_and_programs_are_not_concerned() -> None:
    async with running(TWO) as node, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(websockets.connect(node.ws_url))
        await eventually(lambda: node.gateway.live.waiting == 2)
        async with websockets.connect(node.ws_url) as third:
            bye, code = await Reader(third).closed()
            assert (bye["code"], bye["reconnect"], code) == (4029, True, 4029)
            assert 1 <= bye["after_s"] <= 5
        async with node.connect() as program:
            assert (await Reader(program).frame())["op"] == "welcome"
        assert node.gateway.live.waiting == 2


async def test_one_address_too_many_times_leaves_room_for_others() -> None:
    async with running(GatewaySettings(greetings=50, greetings_per_address=2)) as node, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(websockets.connect(node.ws_url))
        await eventually(lambda: node.gateway.live.waiting == 2)
        async with websockets.connect(node.ws_url) as third:
            assert (await Reader(third).closed())[1] == 4029
        async with websockets.connect(node.ws_url, local_addr=("127.0.0.9", 0)) as other:
            await other.send(HELLO)
            assert (await Reader(other).frame())["op"] == "welcome"
        assert node.gateway.live.waiting == 2
    assert not node.gateway.live._waiting_from, "who is gone is forgotten"


@pytest.mark.parametrize("way", ["says hello", "leaves", "is wrong"])
async def test_who_waits_no_more_makes_room(way: str) -> None:
    async with running(TWO) as node, AsyncExitStack() as stack:
        first, _ = [await stack.enter_async_context(websockets.connect(node.ws_url)) for _ in range(2)]
        await eventually(lambda: node.gateway.live.waiting == 2)
        await first.send("[]")  # says nothing, and frees nothing
        if way == "says hello":
            await first.send(HELLO)
            assert (await Reader(first).frame())["op"] == "welcome"
        elif way == "leaves":
            await first.close()
        else:
            await first.send('{"op":"pong"}')
            assert (await Reader(first).closed())[1] == 4501
        await eventually(lambda: node.gateway.live.waiting == 1)
        async with websockets.connect(node.ws_url) as third:
            await third.send(HELLO)
            assert (await Reader(third).frame())["op"] == "welcome"


async def test_an_empty_message_is_no_hello() -> None:
    settings = GatewaySettings(greetings=1, connection=ConnectionSettings(hello_s=0.3))
    async with running(settings) as node, websockets.connect(node.ws_url) as first:
        await first.send("[]")
        await eventually(lambda: node.gateway.live.waiting == 1)
        async with websockets.connect(node.ws_url) as second:
            assert (await Reader(second).closed())[1] == 4029
        assert (await Reader(first).closed())[1] == 4002
        await eventually(lambda: node.gateway.live.waiting == 0)
