"""A13 in simulated time: the auth service is away for ten minutes, and comes back to a crowd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
from tests.unit.auth.house import House, all_at_once
from tests.unit.auth.test_client import MEMORY, PASSWORD, Suite, Wires, in_house, refusal_of

from runwire.auth.service import users
from runwire.errors import Unauthenticated, Unavailable

__all__ = ["in_house"]  # the fixture

STEP_S = 10
AWAY_S = 600
CROWD = 200
BACK_S = 20.0  # of this machine's time; the breaker lets somebody ask again after 4 s at most


class Busy(httpx2.AsyncBaseTransport):
    """A way that notes how many ask at a time."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self._now = 0
        self.most = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            return await self._inner.handle_async_request(request)
        finally:
            self._now -= 1


def gone() -> httpx2.Response:
    raise httpx2.ConnectError("connection refused")


@MEMORY
def test_a13_ten_minutes_without_the_auth_service_end_no_live_work_and_no_herd_comes_after(in_house: Suite) -> None:
    """A13: who is connected stays so to their token's end; who comes is told when to; few ask, then and afterwards."""
    wires = Wires()
    options = wires.options()
    through: Callable[[Any], Any] = options["transport"]
    busy: list[Busy] = []

    def counted(inner: httpx2.AsyncBaseTransport) -> Any:
        busy.append(Busy(inner))
        return through(busy[0])

    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        key, other = [await users.create_api_key(house.store, "ada") for _ in range(2)]
        by_token, by_key = [await house.client.authenticate(credential) for credential in (token, key)]
        wires.way.answer = gone
        wires.way.paths.clear()
        refused = await refusal_of(house.client.authenticate(other))  # nobody has asked about this one yet
        assert isinstance(refused, Unavailable)
        assert (refused.retry_after_s or 0) >= 1
        for passed_s in range(STEP_S, AWAY_S + 1, STEP_S):
            house.clock.move(STEP_S)
            assert isinstance(await refusal_of(house.client.authenticate(other)), Unavailable)
            if passed_s < house.settings.access_ttl_s:
                assert (await house.client.authenticate(token)).user == by_token.user
            await house.client._follower.confirm()
            assert house.client.freshness() == "fresh", "the database is asked, not the service"
            assert house.client.view.is_current(by_token)
            assert house.client.view.is_current(by_key)
        assert isinstance(await refusal_of(house.client.authenticate(token)), Unauthenticated), "over, as it said"
        assert len(wires.way.paths) < AWAY_S // STEP_S, "not everybody who wants something asks"
        await come_back(house)

    async def come_back(house: House) -> None:
        keys = [await users.create_api_key(house.store, "ada") for _ in range(CROWD)]
        wires.way.answer = None
        wires.way.paths.clear()
        busy[0].most = 0

        told: list[float] = []

        async def until_in(key: str) -> str:
            while True:
                try:
                    return (await house.client.authenticate(key)).user
                except Unavailable as error:
                    told.append(error.retry_after_s or 0)
                    await asyncio.sleep(0.05)  # more impatient than they were told to be

        async with asyncio.timeout(BACK_S):
            assert len(set(await all_at_once([until_in(key) for key in keys]))) == 1
        assert len(wires.way.paths) <= CROWD / 5, "they are asked about together"
        assert busy[0].most <= 32
        assert all(told_s >= 1 for told_s in told)  # or nobody was: the probe may have had them all

    in_house(check, **{**options, "transport": counted})
