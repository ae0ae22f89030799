"""Two servers on two PostgreSQL: everybody has the whole product, wherever placed, and an outage is that of some."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.deployment import Cluster, RoleProcess
from tests.outside import FIVE, Outside, assert_one_run, text_of
from tests.postgres import PASSWORD, PostgresServer

from runwire.auth.service import users
from runwire.errors import Unavailable
from runwire.storage.open import open_storage
from runwire.storage.placed import PlaceOf, place_of

AWAY_S = 10.0
USUAL_S = 3.0  # for a whole golden path: 50 ms on a quiet machine
BACK_S = 30.0  # for what takes a second or two after an outage


class TwoPlaces:
    """Two processes with all roles, on two databases; two people live in each."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        self.urls = urls
        self._cluster = Cluster(folder, urls[0], gateways=1, workers=1, auths=1, database_url=urls)
        self.nodes: list[RoleProcess] = [self._cluster.add(("gateway", "worker", "auth")) for _ in range(2)]
        self.late = self._cluster.add(("gateway", "worker", "auth"))
        self._cluster.processes = self.nodes
        self._cluster.auths = self.nodes[:1]
        self.keys: tuple[list[str], list[str]] = ([], [])  # of the people of each database

    @property
    def marks(self) -> Path:
        return self._cluster.marks

    async def start(self) -> None:
        told = await self._cluster.cli("migrate")
        assert told.count("\n") == 2, told
        assert PASSWORD not in told
        await self._invite()
        await self._cluster.start()
        self.nodes.append(self.late)  # from now on it is ended with them

    async def end(self) -> None:
        await self._cluster.end()

    async def cli(self, *words: str) -> str:
        return await self._cluster.cli(*words)

    async def _invite(self) -> None:
        """Make accounts, all in the first database, until two people are placed in each."""
        storage = await open_storage(self.urls[0], place=PlaceOf(number=0, places=2))
        for number in range(40):
            name = f"person{number}"
            row = await users.add_user(storage.auth, name)
            keys = self.keys[place_of(row.user, places=2)]
            if len(keys) < 2:
                keys.append(await users.create_api_key(storage.auth, name))
        await storage.close()
        assert [len(keys) for keys in self.keys] == [2, 2]

    def screen(self, place: int, person: int = 0, *, node: int = 0) -> Outside:
        return Outside(self.nodes[node].url, self.keys[place][person])


@pytest.fixture
async def second(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    server = await asyncio.to_thread(PostgresServer.start, tmp_path / "second")
    yield server
    server.remove()


@pytest.fixture
async def two(tmp_path: Path, postgres_server: PostgresServer, second: PostgresServer) -> AsyncIterator[TwoPlaces]:
    urls = [await postgres_server.create_database(), await second.create_database()]
    deployment = TwoPlaces(tmp_path / "cluster", urls)
    await deployment.start()
    yield deployment
    await deployment.end()


async def golden_path(screen: Outside, content: str, **fields: Any) -> float:
    """Send a message on a connected screen and see the whole run of it; return how long that took."""
    began_s = time.monotonic()
    sent = await screen.send(content, agent="golden", **fields)
    events = await screen.until_end(sent["run"])
    took_s = time.monotonic() - began_s
    assert_one_run(events, sent["run"])
    assert [e["type"] for e in events if e["type"] in FIVE] == FIVE
    assert text_of(events, sent["run"]).strip() == f"I found facts about {content}"
    return took_s


async def until_it_speaks(screen: Outside, run: str) -> None:
    await screen.until(lambda e: e["run"] == run and e["type"] == "text_delta")


async def visit(screen: Outside, content: str) -> str:
    async with screen.connected() as welcome:
        await golden_path(screen, content)
    log: str = welcome["log"]
    return log


@asynccontextmanager
async def people_at_work(two: TwoPlaces, place: int) -> AsyncIterator[list[float]]:
    """Have a person of a database go on with golden paths, one on each node; give how long each took."""
    took: list[float] = []
    is_over = asyncio.Event()

    async def work(node: int) -> None:
        screen = two.screen(place, node, node=node)
        async with screen.connected():
            first = await screen.send("hello", agent="plain")
            await screen.until_end(first["run"])
            while not is_over.is_set():
                took.append(await golden_path(screen, f"work {len(took)}", thread=first["thread"]))
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for node in range(2):
            tasks.create_task(work(node))
        yield took
        is_over.set()


async def until_back(screen: Outside, content: str) -> None:
    """Come back as a client does, until a golden path is whole."""
    async with asyncio.timeout(BACK_S):
        while True:
            with suppress(AssertionError, Exception):
                await visit(screen, content)
                return
            await asyncio.sleep(0.2)


def _figures(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


async def ready(two: TwoPlaces) -> tuple[int, Any]:
    return await asyncio.to_thread(two.screen(0).http, "GET", "/health/ready")


@pytest.mark.timeout(120)
async def test_people_of_two_databases_have_the_whole_product_and_an_outage_is_that_of_some(
    two: TwoPlaces, second: PostgresServer
) -> None:
    # Everybody has the golden path, on both nodes; those of one database are on one log.
    everybody = [(place, person, node) for place in (0, 1) for person in (0, 1) for node in (0, 1)]
    async with asyncio.TaskGroup() as tasks:
        visits = [
            tasks.create_task(visit(two.screen(place, person, node=node), f"hello {place} {person}"))
            for place, person, node in everybody
        ]
    logs = [{visit.result() for visit in visits[:4]}, {visit.result() for visit in visits[4:]}]
    assert [len(of_place) for of_place in logs] == [1, 1]
    assert logs[0] != logs[1]
    assert (await ready(two)) == (200, {"status": "ok"})
    figures = await asyncio.to_thread(_figures, two.nodes[0].url)
    for database in "12":
        assert f'runtime_leases_lost_total{{database="{database}"}} 0.0' in figures
    assert figures.count("# TYPE runtime_leases_lost_total counter") == 1

    told = await two.cli("storage", "stats")
    assert [line[:2] for line in told.splitlines() if "postgresql://" in line] == ["1.", "2."]
    assert told.count("users           2") == 2
    with pytest.raises(Unavailable, match="several databases; say which one by --place: 1 "):
        await two.cli("storage", "export", "all.jsonl")
    assert "2 threads" not in await two.cli("storage", "export", "second.jsonl", "--place", "2")

    # Nobody finds what is another's, whether it is in the same database or not.
    mine = await asyncio.to_thread(two.screen(1).http, "GET", "/v1/runs")
    run = mine[1]["items"][0]["run"]
    for place, person in ((1, 1), (0, 0)):
        assert (await asyncio.to_thread(two.screen(place, person).http, "GET", f"/v1/runs/{run}"))[0] == 404

    # A process is killed under runs of both: the other one goes on with them.
    screens = [two.screen(place, node=1) for place in (0, 1)]
    async with screens[0].connected(), screens[1].connected():
        sents = [await screen.send("on the way", agent="pausing") for screen in screens]
        for screen, sent in zip(screens, sents, strict=True):
            await until_it_speaks(screen, sent["run"])
        await two.nodes[0].kill9()
        (two.marks / "go on").touch()
        for screen, sent in zip(screens, sents, strict=True):
            assert (await screen.until_end(sent["run"]))[-1]["type"] == "agent_completed"
    await two.nodes[0].start()

    # One database goes away. Whoever lives in the other notices nothing; the rest are told, and go on after it.
    (two.marks / "go on").unlink()
    waiting = two.screen(1)
    async with people_at_work(two, 0) as took, waiting.connected():
        underway = await waiting.send("through the outage", agent="pausing")
        await until_it_speaks(waiting, underway["run"])
        second.pause()  # at first it is there and does not answer
        away_s = time.monotonic()
        before = len(took)
        refused = await asyncio.wait_for(waiting.command("send", content="now", agent="golden"), 10)  # noqa: TID251 - one reply, in a test
        assert (refused["ok"], refused["error"]["code"]) == (False, "unavailable")
        assert (await ready(two)) == (200, {"status": "ok", "unavailable_databases": [2]})
        await asyncio.sleep(AWAY_S / 2 - (time.monotonic() - away_s))
        await asyncio.to_thread(second.kill)  # then it is gone
        await two.late.start()  # a process can start all the same
        await visit(two.screen(0, node=2), "hello to the late one")
        await asyncio.sleep(AWAY_S - (time.monotonic() - away_s))
        during = took[before:]
        assert len(during) > 10
        assert max(during) < USUAL_S, sorted(during)[-5:]
        await asyncio.to_thread(second.restart)
        (two.marks / "go on").touch()
        ended = await waiting.until_end(underway["run"], timeout_s=BACK_S)  # on the socket that was there all the time
        assert ended[-1]["type"] == "agent_completed"
    for node in (0, 1, 2):
        await until_back(two.screen(1, 1, node=node), f"back on {node}")
    assert (await ready(two)) == (200, {"status": "ok"})
