"""Whose identity is proven when: nobody waits behind those whose proof hangs, and nobody is proven who has left."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.unit.gateway.node import Node, Reader, eventually, running

from runwire.auth.identity import Identity


class Hanging:
    """Proofs of `t-key` hang, as those of API keys do while the auth service hangs; those of others do not."""

    def __init__(self, node: Node) -> None:
        self._authenticate = node.identities.authenticate
        self.go_on = 0

    async def authenticate(self, credential: str) -> Identity:
        if credential == "t-key":
            self.go_on += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.go_on -= 1
        return await self._authenticate(credential)


async def test_who_can_be_proven_does_not_wait_for_those_whose_proof_hangs() -> None:
    async with running() as node, AsyncExitStack() as stack:
        hanging = Hanging(node)
        node.identities.authenticate = hanging.authenticate  # type: ignore[method-assign]  # an outage, injected
        for _ in range(64):
            await stack.enter_async_context(node.connect("key"))
        await eventually(lambda: hanging.go_on >= 32)
        async with node.connect("ann") as websocket:
            assert (await Reader(websocket).frame())["op"] == "welcome"  # within 5 s: half of what a proof may take


async def test_who_has_left_is_not_proven_and_takes_nobody_the_turn() -> None:
    async with running() as node, AsyncExitStack() as stack:
        hanging = Hanging(node)
        node.identities.authenticate = hanging.authenticate  # type: ignore[method-assign]  # an outage, injected
        for _ in range(40):
            socket = await node.connect("key")
            stack.push_async_callback(socket.close)
        await eventually(lambda: hanging.go_on >= 32)
        await stack.aclose()
        async with asyncio.timeout(5):  # half of what a proof may take
            await eventually(lambda: hanging.go_on == 0)
