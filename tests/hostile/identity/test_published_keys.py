"""B4, B5: floods of unknown signing keys, and a service that shows its keys badly, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

import httpx2
import pytest
from joserfc.jwk import ECKey
from tests.jwt.corpus import AUDIENCE, ISSUER, KID, NOW_S, b64, claims, signed

from runwire.auth import tokens
from runwire.auth.background import Background
from runwire.auth.remote import Jwks, Remote
from runwire.errors import Unavailable

_DEADLINE_S: Final = 0.5
_HUGE: Final = 100 * 1024 * 1024
_KEY: Final = tokens.read_signing_key(tokens.new_signing_key(KID))
Mode = Literal["good", "500", "empty", "hangs", "trickles", "huge"]


class Service:
    """An HTTP server that shows keys, or does what it is told instead."""

    def __init__(self) -> None:
        self.mode: Mode = "good"
        self.asked = 0
        self.sent_bytes = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(task := asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    self.asked += 1
                    await self._answer(reader, writer)
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def end(self) -> None:
        """Let go of whoever is still connected."""
        while self._serving:
            for task in tuple(self._serving):
                if task:
                    task.cancel()
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # in which the loop closes what was aborted

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"keys": [tokens.public_jwk(KID, _KEY)]}).encode() if self.mode == "good" else b""
        status = "500 Oops" if self.mode == "500" else "200 OK"
        length = {"huge": _HUGE, "trickles": 10_000}.get(self.mode, len(body))
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        if self.mode == "hangs":
            await reader.read()  # until who asked has had enough
            return
        await self._send(writer, head.encode() + body)
        if self.mode == "trickles":
            while not reader.at_eof():
                await self._send(writer, b" ")
                await asyncio.sleep(0.05)  # the attack itself
        if self.mode == "huge":
            for _ in range(_HUGE // 65_536):
                await self._send(writer, b" " * 65_536)

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        self.sent_bytes += len(data)
        await writer.drain()


class Verifier:
    """A backend's keys, and the verifier that takes them."""

    def __init__(self, jwks: Jwks, clock: list[float]) -> None:
        self.jwks = jwks
        self.clock = clock  # one number: now

    async def is_taken(self, token: str) -> bool:
        """Return whether a token is good; raises Unavailable when that cannot be known."""
        for keys in (self.jwks.keys, self.jwks.after_unknown_kid):
            try:
                tokens.verify(token, await keys(), issuer=ISSUER, audience=AUDIENCE, now_s=float(NOW_S))
            except tokens.UnknownKid:
                continue
            return True
        return False


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Service, Verifier]]:
    service, background, clock = Service(), Background(), [1_000.0]
    listening = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, trust_env=False) as http:
        remote = Remote(http, background=background, service_secret="s" * 32, deadline_s=_DEADLINE_S)
        jwks = Jwks(remote.jwks, background=background, refetch_s=10.0, monotonic_s=lambda: clock[0])
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(background.run(asyncio.Event().wait()))  # type: ignore[arg-type]  # for ever
            await background.until_running()
            yield service, Verifier(jwks, clock)
            running.cancel()
        listening.close()
        await service.end()


def unknown(number: int) -> str:
    header = json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": f"k{number}x"}).encode()
    return f"{b64(header)}.{b64(json.dumps(claims()).encode())}.{b64(bytes(64))}"


async def test_b04_ten_thousand_unknown_keys_are_one_fetch_in_ten_seconds() -> None:
    async with wired() as (service, verifier):
        assert await verifier.is_taken(signed(_KEY))
        assert service.asked == 1
        for number in range(10_000):
            assert not await verifier.is_taken(unknown(number))
        assert service.asked == 2
        verifier.clock[0] += 9.9
        assert not await verifier.is_taken(unknown(0))
        assert service.asked == 2
        verifier.clock[0] += 0.2
        async with asyncio.TaskGroup() as tasks:
            for number in range(500):
                tasks.create_task(verifier.is_taken(unknown(number)))
        assert service.asked == 3
        assert await verifier.is_taken(signed(_KEY))


@pytest.mark.parametrize("mode", ["500", "empty", "hangs", "trickles", "huge"])
async def test_b05_keys_that_are_shown_badly_leave_the_last_good_ones_in_bounded_time_and_memory(mode: Mode) -> None:
    async with wired() as (service, verifier):
        assert await verifier.is_taken(signed(_KEY))
        service.mode = mode
        loop = asyncio.get_running_loop()
        began_s, sent_bytes = loop.time(), service.sent_bytes
        with pytest.raises(Unavailable):
            await verifier.is_taken(unknown(1))
        assert loop.time() - began_s < _DEADLINE_S + 5.0
        assert service.sent_bytes - sent_bytes < 16 * 1024 * 1024, "what is too much is not even read"
        for _ in range(100):
            assert await verifier.is_taken(signed(_KEY)), "the last good keys go on"
        service.mode = "good"
        verifier.clock[0] += 11
        assert not await verifier.is_taken(signed(ECKey.generate_key("P-256"), kid="k9")), "known to be unknown again"
