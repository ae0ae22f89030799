"""B11, B13, B24: pages of others, tickets that are used twice, and addresses that somebody makes up."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from tests.hostile.identity.household import PROXY, Household
from tests.hostile.raw import Closed, dialled, upgrade

_OTHER = "127.0.0.50"  # of this machine, and no proxy that anybody trusts
_TRIES = 60  # an address has 30 failed sign-ins at once, and one more each second


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
async def test_b11_a_page_of_somebody_else_opens_no_socket_whatever_its_cookies(
    household: Household, origin: str
) -> None:
    token = (await household.sign_in("ada"))["access_token"]
    lines = (f"Origin: {origin}", f"Cookie: access_token={token}; session={token}")
    async with dialled(household.port, upgrade(household.port, *lines, token=token)) as raw:
        assert (await raw.problem())["status"] == 403


async def test_b11_a_cookie_proves_nobody(household: Household) -> None:
    token = (await household.sign_in("ada"))["access_token"]
    async with household.http(cookies={"access_token": token, "session": token, "authorization": token}) as http:
        assert (await http.get("/v1/me")).status_code == 401


async def test_b13_of_many_who_use_one_ticket_at_once_one_gets_in_and_other_pages_none(household: Household) -> None:
    token = (await household.sign_in("ada"))["access_token"]
    origin = household.url
    async with household.http(headers={"authorization": f"Bearer {token}", "origin": origin}) as http:

        async def ticket() -> str:
            answer = await http.post("/v1/ws-ticket")
            assert answer.status_code in (200, 201), answer.text
            household.secrets.add(answer.json()["ticket"])
            made: str = answer.json()["ticket"]
            return made

        raced = await ticket()
        async with asyncio.TaskGroup() as tasks:
            many = [tasks.create_task(_entered(household, raced, origin)) for _ in range(20)]
        assert sorted(task.result() for task in many) == [0] + [4501] * 19
        assert await _entered(household, raced, origin) == 4501
        for line in ("", "http://localhost:" + str(household.port)):
            bound = await ticket()
            assert await _entered(household, bound, line) == 4501, "from another page, or from none"
            assert await _entered(household, bound, origin) == 4501, "and it is used up by that"


async def _entered(household: Household, ticket: str, origin: str) -> int:
    """Open a socket with a ticket; 0 if it was let in, else the code that it was closed with."""
    lines = [f"Origin: {origin}"] if origin else []
    async with dialled(household.port, upgrade(household.port, *lines, path=f"/v1/ws?ticket={ticket}")) as raw:
        status, head = await raw.head()
        assert status == 101, head
        try:
            while True:
                said = await raw.next()
                if said["op"] == "welcome":
                    return 0
        except Closed as closed:
            return closed.code


async def test_b24_an_address_that_somebody_makes_up_frees_nobody_from_a_limit(household: Household) -> None:
    """Links are tried, since their refusals cost no hash; what counts is the address, in the same way."""
    statuses = await _tried(
        household, _OTHER, lambda n: {"x-forwarded-for": f"203.0.113.{n}", "forwarded": f"for=192.0.2.{n}"}
    )
    assert set(statuses) == {401, 429}
    assert statuses.count(401) < _TRIES - 10, "one address, whatever it says"
    assert set(await _tried(household, "127.0.0.51", lambda _: {"x-forwarded-for": _OTHER}, tries=2)) == {401}, (
        "nor can somebody use up what another one may"
    )


async def test_b24_a_trusted_proxy_is_believed_whom_it_speaks_for(household: Household) -> None:
    statuses = await _tried(household, PROXY, lambda n: {"x-forwarded-for": f"198.51.100.{n}"}, tries=_TRIES)
    assert set(statuses) == {401}, "each is another one"
    one = await _tried(household, PROXY, lambda _: {"x-forwarded-for": "198.51.100.200"}, tries=_TRIES)
    assert 429 in one
    chain = await _tried(household, PROXY, lambda n: {"x-forwarded-for": f"192.0.2.{n}, 198.51.100.200"}, tries=3)
    assert set(chain) == {429}, "what stands before the proxy's own word is the client's"


async def _tried(household: Household, source: str, headers: object, *, tries: int = _TRIES) -> list[int]:
    assert callable(headers)
    transport = httpx2.AsyncHTTPTransport(local_address=source, verify=False)
    async with household.http(transport=transport) as http, asyncio.TaskGroup() as tasks:
        # At once: while they come one by one the limit fills up again.
        trying = [
            tasks.create_task(http.post("/auth/sessions", json={"link": f"nonsense{n}"}, headers=headers(n)))
            for n in range(tries)
        ]
    return [task.result().status_code for task in trying]
