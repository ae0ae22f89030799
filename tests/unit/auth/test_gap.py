"""A9: access withdrawn in the gap between the proof of a token and the index of live sockets.

The gateway, the client, the follower and the view are the real ones, in one process and without a network; what is made
up are pauses: after the proof, where a gateway may be busy, and before the withdrawal.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.auth.house import House, open_house

from runwire.auth import tokens
from runwire.auth.client import AuthClient
from runwire.auth.identity import Identity
from runwire.auth.service import users
from runwire.gateway.app import make_gateway
from runwire.gateway.clock import wall_ms
from runwire.gateway.socket_protocol import EXTENSION
from runwire.protocol.codes import CloseCode
from runwire.protocol.ids import new_id
from runwire.storage.base import SigningKeyRow, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.open import open_storage
from runwire.storage.placed import alone

MOST_PAUSES = 12  # turns of the event loop
ENDED_S = 5.0  # a wake-up and two turns; the poll after 0.25 s would be in time, too


@dataclass(eq=False)
class Wire:
    """The client's end of a socket: a `SocketTransport` that keeps what is said."""

    said: list[dict[str, Any]] = field(default_factory=list)
    code: int | None = None

    def buffered_amount(self) -> int:
        return 0

    def write(self, message: bytes) -> None:
        frames = json.loads(message)
        self.said += frames if isinstance(frames, list) else [frames]

    def close(self, code: int, reason: str, *, abort_after_s: float) -> None:
        self.code = code

    def on_drained(self, call: Callable[[], None]) -> None:
        pass


class Slow:
    """The client of the auth service, and a pause after each proof."""

    def __init__(self, client: AuthClient, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self.in_gap = 0  # how often access went in that pause

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def authenticate(self, credential: str) -> Identity:
        identity = await self._client.authenticate(credential)
        await turns(self._chance.randrange(MOST_PAUSES))
        if not self._client.view.is_current(identity):
            self.in_gap += 1
        return identity


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("times", [500, pytest.param(10_000, marks=[pytest.mark.campaign, pytest.mark.timeout(600)])])
async def test_a09_a_socket_that_is_being_opened_when_access_goes_is_ended_every_time(
    tmp_path: Path, times: int
) -> None:
    """A9: found by the check after its registration or by the one of the withdrawal: there is no third way."""
    chance = random.Random(9)
    storage = await open_storage("memory://")
    async with open_house("memory", tmp_path) as house:
        house.clock.now_s = wall_ms() / 1000  # which is the gateway's
        await users.add_user(house.store, "ada", settings=house.settings)
        (signer,) = await house.store.signing_keys()
        slow = Slow(house.client, chance)
        gateway = make_gateway(alone(storage, LocalBus()), slow)  # the client, but for a pause
        async with asyncio.TaskGroup() as group:
            running = group.create_task(gateway.run())
            for _ in range(times):
                # One by one: the withdrawal of somebody else's would have everybody looked at once more.
                async with asyncio.timeout(ENDED_S):
                    await attempt(house, gateway.asgi, signer, chance)
            assert len(gateway.live) == 0
            running.cancel()
    await storage.close()
    assert slow.in_gap > times / 20, "or it would not have been tried"


async def attempt(house: House, asgi: Any, signer: SigningKeyRow, chance: random.Random) -> None:
    """Open a socket while its session is revoked; returns when the gateway has ended it."""
    session, token = await signed_in(house, signer)
    wire = Wire()
    scope = {
        "type": "websocket",
        "path": "/v1/ws",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "extensions": {EXTENSION: wire},
    }
    events = iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        event = next(events, None)
        if event is None:
            await asyncio.Event().wait()
        return event or {}

    async def send(_: dict[str, Any]) -> None:
        pass

    async def withdraw() -> None:
        await turns(chance.randrange(4 * MOST_PAUSES))
        assert await house.store.revoke_session(session, reason="signed_out")
        house.bus.publish(Wake(topic="auth"))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(withdraw())
        await asgi(scope, receive, send)
    assert wire.code in (CloseCode.REVOKED, CloseCode.UNAUTHENTICATED), wire.said
    goodbyes = [frame["op"] for frame in wire.said].index("bye")
    assert wire.said[goodbyes + 1 :] == [], "nothing is said after a goodbye"


async def signed_in(house: House, signer: SigningKeyRow) -> tuple[str, str]:
    """Return a session of ada's and its access token, as the service makes them."""
    ada = await house.store.user_by_name("ada")
    assert ada is not None
    now_s, session = int(house.clock.s()), new_id("ses")
    await house.store.create_session(
        ada.user, session=session, epoch=ada.epoch, client="runwire", refresh_key=b"k" * 32, ttl_s=600
    )
    claims = tokens.AccessToken(
        iss=house.settings.issuer,
        sub=ada.user,
        aud=house.settings.audience,
        exp=now_s + 300,
        iat=now_s,
        jti=new_id("jti"),
        sid=session,
        client_id="runwire",
        scope="runwire",
        epo=ada.epoch,
    )
    return session, tokens.mint(claims, kid=signer.kid, key=tokens.read_signing_key(signer.private_jwk))
