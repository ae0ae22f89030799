"""B7 and B19 on a server of their own: a stolen signing key, and two hundred who sign in at once."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import websockets
from tests.hostile.identity.household import PROXY, Household, started

_MIB = 2**20


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    running = started(tmp_path_factory.mktemp("crowds"))
    yield running
    asyncio.run(running.end())


async def test_b07_a_revoked_signing_key_ends_live_sockets_and_no_session(own: Household) -> None:
    granted = await own.sign_in("bob")
    kid, _ = own.signing_key()
    url = own.url.replace("http", "ws", 1) + "/v1/ws"
    async with websockets.connect(url) as socket, own.http() as http:
        await socket.send(json.dumps({"op": "hello", "token": granted["access_token"]}))
        assert json.loads(await socket.recv())["op"] == "welcome"
        root = {"authorization": f"Bearer {(await own.sign_in('root'))['access_token']}"}
        assert (await http.delete(f"/auth/signing-keys/{kid}", headers=root)).status_code == 204
        async with asyncio.timeout(3):
            await socket.wait_closed()
        assert socket.close_code == 4507
        bearer = {"authorization": f"Bearer {granted['access_token']}"}
        assert (await http.get("/v1/me", headers=bearer)).status_code == 401
        form = {"grant_type": "refresh_token", "refresh_token": granted["refresh_token"]}
        again = await http.post("/auth/token", data=form)
        assert again.status_code == 200, "nobody has to sign in again"
        assert await _who(http, again.json()["access_token"]) == 200


async def _who(http: httpx2.AsyncClient, token: str) -> int:
    return (await http.get("/v1/me", headers={"authorization": f"Bearer {token}"})).status_code


async def test_b19_of_two_hundred_sign_ins_at_once_some_wait_and_nobody_else_does(own: Household) -> None:
    """Two hashes at a time are 128 MiB, 64 wait, and the others are told when to come; the loop hashes nothing."""
    loop = asyncio.get_running_loop()
    before_bytes = most_bytes = _resident_bytes(own)
    waits_s: list[float] = []
    # Two hundred people of as many addresses: no limit but that of the hashes holds any of them.
    proxied = httpx2.AsyncHTTPTransport(local_address=PROXY, verify=False)
    async with own.http(transport=proxied) as http, own.http() as other:
        assert (await other.get("/health/live")).status_code == 200
        async with asyncio.TaskGroup() as tasks:
            crowd = [tasks.create_task(_tried(http, n)) for n in range(200)]
            statuses: Counter[int] = Counter()
            while statuses[401] < 4 or statuses[503] < 200 - 2 - 64 - statuses[401]:
                began_s = loop.time()
                assert (await other.get("/health/live")).status_code == 200
                waits_s.append(loop.time() - began_s)
                most_bytes = max(most_bytes, _resident_bytes(own))
                await asyncio.sleep(0.02)
                statuses = Counter(each.result() for each in crowd if each.done())
            for each in crowd:
                each.cancel()
    assert set(statuses) == {401, 503}, statuses
    assert most_bytes - before_bytes < 3 * 128 * _MIB, "not 64 MiB for each of them"
    assert sorted(waits_s)[len(waits_s) // 2] < 1.0, "half of all requests beside them wait for nothing"


async def _tried(http: httpx2.AsyncClient, number: int) -> int:
    answer = await http.post(
        "/auth/sessions",
        json={"user": f"somebody{number}", "password": "whatever it is"},
        headers={"x-forwarded-for": f"198.51.100.{number}"},
    )
    assert answer.status_code != 503 or "retry-after" in answer.headers
    return answer.status_code


def _resident_bytes(household: Household) -> int:
    status = Path(f"/proc/{household.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
