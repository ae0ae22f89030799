"""The socket of a client, against a server of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import websockets

from runwire.client.link import Link
from runwire.client.token import Token
from runwire.errors import Forbidden, Unavailable

WELCOME = {
    "op": "welcome",
    "protocol": 1,
    "server": "test",
    "connection": "cn_1",
    "user": "usr_1",
    "log": "l",
    "ping_s": 25,
    "pong_s": 10,
    "expires_at": None,
    "limits": {"frame_bytes": 65536, "subscriptions": 64, "commands_in_flight": 32, "replay_events": 20000},
}


@asynccontextmanager
async def linked(token: Token) -> AsyncIterator[Link]:
    """Run a link to a server that lets everybody in."""

    async def serve(socket: websockets.ServerConnection) -> None:
        await socket.send(json.dumps(WELCOME))
        async for _ in socket:
            pass

    async with websockets.serve(serve, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("runwire.v1")]) as server:
        link = Link(f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", token, client="test/0")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(link.run())
            yield link
            running.cancel()


@pytest.mark.parametrize("error", [OSError("token service down"), KeyError("access_token"), Unavailable("busy")])
def test_a_token_that_cannot_be_had_now_is_asked_for_again(error: Exception) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise error
        return "at last"

    async def body() -> None:
        async with linked(token) as link:
            assert (await link.welcomed(timeout_s=10)).user == "usr_1"

    asyncio.run(body())
    assert asked == 3


def test_while_no_token_can_be_had_the_caller_is_told_why() -> None:
    async def token() -> str:
        raise OSError("the secret address")

    async def body() -> None:
        async with linked(token) as link:
            with pytest.raises(Unavailable, match="No token could be had: OSError") as error:
                await link.welcomed(timeout_s=0.2)
            assert "secret" not in error.value.message

    asyncio.run(body())


def test_a_token_function_that_says_never_ends_the_link() -> None:
    async def token() -> str:
        raise Forbidden("This account is closed.")

    async def body() -> None:
        async with linked(token) as link:
            with pytest.raises(Forbidden):
                await link.welcomed(timeout_s=10)

    asyncio.run(body())
