"""B8–B10, B14, B15, B22: sessions that are refreshed, stolen, exchanged, over, or taken away in the middle of work."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import httpx2
from tests.hostile.identity.household import Household
from tests.hostile.raw import Raw, say, socket
from tests.outside import Outside

_CUT_OFF_S = 3 * 1.0  # a withdrawal reaches a socket in one second; the machine may be busy


async def refreshed(http: httpx2.AsyncClient, token: str) -> httpx2.Response:
    return await http.post("/auth/token", data={"grant_type": "refresh_token", "refresh_token": token})


async def is_good(http: httpx2.AsyncClient, token: str) -> bool:
    status = (await http.get("/v1/me", headers={"authorization": f"Bearer {token}"})).status_code
    assert status in (200, 401)
    return status == 200


async def ended(raw: Raw) -> int | None:
    async with asyncio.timeout(_CUT_OFF_S):
        return await raw.ending()


async def test_b08_of_fifty_refreshes_at_once_all_get_one_successor_and_every_tab_lives(household: Household) -> None:
    async with household.http() as http:
        for _ in range(3):
            granted = await household.sign_in("ada")
            async with asyncio.TaskGroup() as tasks:
                tabs = [tasks.create_task(refreshed(http, granted["refresh_token"])) for _ in range(50)]
            answers = [tab.result() for tab in tabs]
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.json()["refresh_token"] for answer in answers}) == 1
            for answer in answers[:5]:
                assert await is_good(http, answer.json()["access_token"])


async def test_b09_a_lost_answer_to_a_refresh_is_given_again(household: Household) -> None:
    granted = await household.sign_in("ada")
    async with household.http() as http:
        first, again = [await refreshed(http, granted["refresh_token"]) for _ in range(2)]
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json()["refresh_token"] == again.json()["refresh_token"]
        assert (await refreshed(http, first.json()["refresh_token"])).status_code == 200


async def test_b10_a_stolen_refresh_token_used_late_ends_the_session_and_its_sockets(household: Household) -> None:
    granted, other = await household.sign_in("ada"), await household.sign_in("ada")
    async with household.http() as http:
        second = (await refreshed(http, granted["refresh_token"])).json()
        third = (await refreshed(http, second["refresh_token"])).json()
        async with (
            socket(household.port, third["access_token"]) as hers,
            socket(household.port, other["access_token"]) as elsewhere,
        ):
            thief = await refreshed(http, granted["refresh_token"])
            assert (thief.status_code, thief.json()["error"]) == (400, "invalid_grant")
            assert await ended(hers) == 4507
            for token in (granted["access_token"], third["access_token"]):
                assert not await is_good(http, token)
            assert (await refreshed(http, third["refresh_token"])).status_code == 400
            await elsewhere.write(say({"op": "unsubscribe", "id": "x", "thread": "th_0"}))
            assert (await elsewhere.reply("x"))["op"] == "unsubscribed", "her other session goes on"
    assert "refresh_token_reused" in household.process.logs(lines=10_000)


async def test_b14_a_socket_keeps_its_person(household: Household) -> None:
    ada, bob = await household.sign_in("ada"), await household.sign_in("bob")
    async with socket(household.port, ada["access_token"]) as raw:
        await raw.write(say({"op": "refresh", "id": "x", "token": bob["access_token"]}))
        assert await ended(raw) == 4503
    async with socket(household.port, ada["access_token"]) as raw:
        fresh = (await household.sign_in("ada"))["access_token"]
        await raw.write(say({"op": "refresh", "id": "x", "token": fresh}))
        assert (await raw.reply("x"))["ok"] is True, "another session of hers is hers"


async def test_b15_a_token_that_ends_during_a_run_ends_the_socket_and_not_the_run(household: Household) -> None:
    """The socket says so before; who comes back with a fresh token sees each event once."""
    mint = await household.mint("ada")
    now_s = int(time.time())  # noqa: TID251 - the server's clock
    ending = replace(mint, now_s=now_s).signed(mint.claims(iat=now_s - 10, exp=now_s + 3))
    ada = Outside(household.url, ending)
    said: list[dict[str, Any]] = []
    async with ada.connected():
        sent = await ada.send("go on", agent="steady")
        async with asyncio.timeout(20):
            while not said or said[-1]["op"] != "bye":
                frame = await ada.frame()
                ada.apply(frame)
                said += [frame] if frame["op"] in ("notice", "bye") else []
    assert [frame.get("kind", frame.get("code")) for frame in said] == ["token_expiring", 4005]
    ada.token = mint.signed()
    async with ada.connected():
        await ada.subscribe(sent["thread"])
        assert await ada.until(lambda event: event["type"] == "text_delta"), "the run goes on"
        await ada.command("cancel", run=sent["run"])
        if ada.events[sent["thread"]][-1]["type"] != "agent_cancelled":
            await ada.until_end(sent["run"])
    seqs = [event["seq"] for event in ada.events[sent["thread"]]]
    assert seqs == sorted(set(seqs))


async def test_b22_a_revoked_api_key_ends_its_socket_in_the_middle_of_a_stream(household: Household) -> None:
    key, other = [await household.api_key("bob") for _ in range(2)]
    bob = Outside(household.url, other)
    async with bob.connected(), socket(household.port, key) as raw, household.http() as http:
        sent = await bob.send("go on", agent="steady")
        await raw.write(say({"op": "subscribe", "id": "x", "thread": sent["thread"], "after": 0, "view": "all"}))
        assert (await raw.reply("x"))["op"] == "subscribed"
        assert (await http.post("/auth/revoke", data={"token": key})).status_code == 200
        assert await ended(raw) == 4507
        assert not await is_good(http, key)
        assert await bob.until(lambda event: event["type"] == "text_delta"), "his other key goes on"
        await bob.command("cancel", run=sent["run"])
