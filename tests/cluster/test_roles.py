"""Gateways, workers and an auth service as processes of their own: the promises hold between them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
import websockets
from tests.cluster.deployment import SECRET, Cluster, RoleProcess
from tests.cluster.screen import Screen, assert_same
from tests.outside import FIVE, Outside, assert_one_run, http, text_of

pytestmark = pytest.mark.timeout(180)  # a dozen processes start and end in here, each within a second of CPU

WITHDRAWN_S = 1.0  # DESIGN §7: on every node that reaches the log


async def ask(cluster: Cluster, name: str, count: int, agent: str = "walk") -> list[dict[str, Any]]:
    """Send messages, each into a new thread, by turns over all gateways."""
    sents = []
    for n in range(count):
        person = Outside(cluster.gateways[n % len(cluster.gateways)].url, await cluster.key(name))
        async with person.connected():
            sents.append(await person.send(f"message {n}", agent=agent))
    return sents


async def test_golden_path_leads_through_three_processes(cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        ada = Outside(gateway.url, await cluster.key("ada"))
        async with ada.connected():
            sent = await ada.send("whales", agent="golden")
            shown = await ada.until_end(sent["run"])
        assert_one_run(shown, sent["run"])
        assert [event["type"] for event in shown if event["type"] in FIVE] == FIVE
        assert text_of(shown, sent["run"]) == "I found all about whales "
        (found,) = [event["data"]["result"] for event in shown if event["type"] == "tool_completed"]
        assert int(found["by"]) in {worker.pid for worker in cluster.workers}, "nobody else has the user's code"


async def test_two_tabs_on_two_gateways_show_the_same_and_a_third_resumes_on_the_other(cluster: Cluster) -> None:
    key = await cluster.key("ada")
    sents = await ask(cluster, "ada", 2)
    first, second = cluster.gateways
    tabs = [Screen([first], key), Screen([second], key)]
    third = Outside(first.url, key)
    async with tabs[0].following(sents), tabs[1].following(sents):
        async with third.connected():
            await third.subscribe(sents[0]["thread"])
            await third.until(lambda event: event["type"] == "message_completed" or event["seq"] > 20)
        third.ws_url = second.url.replace("http", "ws", 1) + "/v1/ws"
        async with third.connected():
            await third.subscribe(sents[0]["thread"])  # from where it stood
            await third.until(lambda _event: True)
            (cluster.marks / "over").touch()
            await third.until_end(sents[0]["run"])
    await assert_same(tabs, sents)
    thread = sents[0]["thread"]
    assert third.events[thread] == tabs[0].events[thread]


async def test_each_role_may_be_killed_under_runs_and_every_screen_is_exact(cluster: Cluster) -> None:
    key = await cluster.key("ada")
    sents = await ask(cluster, "ada", 4)
    first, second = cluster.gateways
    tabs = [Screen([first, second], key), Screen([second, first], key)]
    async with tabs[0].following(sents), tabs[1].following(sents):
        await tabs[0].until_shown(
            lambda: all(any(e["type"] == "tool_completed" for e in tabs[0].of(sent["run"])) for sent in sents),
            "a step of each run",
        )
        holders = Counter(int(cluster.marked(f"walked-{sent['run']}")[-1]) for sent in sents)
        (pid, _count), *_ = holders.most_common(1)
        victim = next(worker for worker in cluster.workers if worker.pid == pid)
        await victim.kill9()
        await tabs[0].until_more()  # on the other worker, once the lease has run out
        await victim.start()
        for gateway in (first, second):
            await gateway.kill9()
            for tab in tabs:
                await tab.until_more()
            await gateway.start()
        await cluster.auths[0].kill9()
        await tabs[1].until_more()
        await cluster.auths[0].start()
        (cluster.marks / "over").touch()
    await assert_same(tabs, sents)
    assert all(tab.connections > 1 for tab in tabs)
    for sent in sents:
        said = text_of(tabs[0].of(sent["run"]), sent["run"])
        assert said == "".join(f"[{n}]" for n in range(said.count("["))), "something was said twice or never"
    assert any(event["type"] == "agent_retrying" for sent in sents for event in tabs[0].of(sent["run"]))


async def test_each_role_drains_when_it_is_told_to_stop(cluster: Cluster) -> None:
    key = await cluster.key("ada")
    sents = await ask(cluster, "ada", 2)
    first, second = cluster.gateways
    tab = Screen([first, second], key)
    async with tab.following(sents):
        await tab.until_more()
        for process in (cluster.workers[0], first, cluster.auths[0]):
            assert await process.stop() == 0
            await process.start()
            await tab.until_more()
        (cluster.marks / "over").touch()
    await assert_same([tab], sents)
    assert tab.byes == [4001], "the gateway said that it is draining"
    for sent in sents:
        reasons = [e["data"]["reason"] for e in tab.of(sent["run"]) if e["type"] == "agent_retrying"]
        assert set(reasons) <= {"drained"}, reasons


async def test_sign_in_at_one_gateway_is_good_at_all_and_sign_out_ends_it_at_all(cluster: Cluster) -> None:
    first, second = cluster.gateways
    await cluster.cli("user", "add", "eve", "--password-stdin", stdin="a password of eve\n")
    body = {"user": "eve", "password": "a password of eve"}
    status, granted = await asyncio.to_thread(http, "POST", f"{second.url}/auth/sessions", body)
    assert status == 201, granted
    status, keys = await asyncio.to_thread(http, "GET", f"{first.url}/.well-known/jwks.json")
    assert (status, len(keys["keys"]) > 0) == (200, True)
    people = [Outside(gateway.url, granted["access_token"]) for gateway in cluster.gateways]
    async with people[0].connected(), people[1].connected():
        url = f"{first.url}/auth/sessions/current"
        status, _ = await asyncio.to_thread(http, "DELETE", url, token=granted["access_token"])
        assert status == 204
        done_s = time.monotonic()
        assert [await until_bye(person) for person in people] == [4507, 4507]
        assert time.monotonic() - done_s < WITHDRAWN_S
    status, _ = await asyncio.to_thread(http, "GET", f"{second.url}/v1/threads", token=granted["access_token"])
    assert status == 401


async def test_dead_auth_service_makes_nobody_stale(cluster: Cluster) -> None:
    await cluster.cli("user", "add", "mallory", "--password-stdin", stdin="a password of mallory\n")
    url, key = cluster.gateways[1].url, (await cluster.cli("token", "create", "--user", "mallory")).strip()
    ada, mallory = Outside(url, await cluster.key("ada")), Outside(url, key)
    body = {"user": "mallory", "password": "a password of mallory"}
    async with ada.connected(), mallory.connected():
        await cluster.auths[0].kill9()
        sent = await ada.send("whales", agent="golden")
        await ada.until_end(sent["run"])
        status, problem = await asyncio.to_thread(http, "POST", f"{ada.url}/auth/sessions", body)
        assert (status, problem["code"], problem["retry_after_s"]) == (503, "unavailable", 1.0)
        await cluster.cli("user", "disable", "mallory")
        done_s = time.monotonic()
        assert await until_bye(mallory) == 4507
        assert time.monotonic() - done_s < WITHDRAWN_S
        # Who comes anew with a key that this gateway has seen, and a worker that starts anew, need no auth service.
        async with Outside(ada.url, ada.token).connected():
            pass
        await cluster.workers[0].kill9()
        await cluster.workers[0].start()
        assert await ready(cluster.gateways[1]) == await ready(cluster.workers[0]) == (200, {"status": "ok"})
        await cluster.auths[0].start()
        status, problem = await asyncio.to_thread(http, "POST", f"{ada.url}/auth/sessions", body)
        assert status == 401, "it answers again, and knows who was disabled meanwhile"


async def test_processes_without_sockets_answer_for_their_health_and_nothing_else(cluster: Cluster) -> None:
    for process in (cluster.workers[0], cluster.auths[0]):
        for path in ("/health/started", "/health/live", "/health/ready"):
            assert await asyncio.to_thread(http, "GET", process.url + path) == (200, {"status": "ok"})
        for path in ("/", "/v1/threads", "/v1/runs/x", "/metrics/../v1"):
            status, problem = await asyncio.to_thread(http, "GET", process.url + path)
            assert (status, problem["code"]) == (404, "not_found")
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(process.url.replace("http", "ws", 1) + "/v1/ws")
    status, _ = await asyncio.to_thread(http, "GET", f"{cluster.workers[0].url}/.well-known/jwks.json")
    assert status == 404


async def test_what_a_token_is_good_for_no_gateway_asks_for_others(cluster: Cluster) -> None:
    """Also of who knows the secret: an address that everybody reaches is no place to try one."""
    key = await cluster.key("ada")
    for path, body, found in (
        ("/auth/introspect", {"token": key}, "active"),
        ("/internal/introspect", {"keys": [key]}, "items"),
    ):
        at_its_own = await asyncio.to_thread(http, "POST", cluster.auths[0].url + path, body, token=SECRET)
        assert at_its_own[0] == 200
        assert at_its_own[1][found]
        status, answer = await asyncio.to_thread(http, "POST", cluster.gateways[0].url + path, body, token=SECRET)
        assert status in (404, 405), answer
        assert found not in answer


async def ready(process: RoleProcess) -> tuple[int, Any]:
    return await asyncio.to_thread(http, "GET", f"{process.url}/health/ready")


async def until_bye(person: Outside) -> int:
    """Return the code with which the server ends the socket."""
    while (frame := await person.frame())["op"] != "bye":
        pass
    code: int = frame["code"]
    return code
