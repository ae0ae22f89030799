"""A standby takes over under two servers with runs and clients: they go on with what it has, and with nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.mission_critical.fleet import Fleet, Node, Watch, poll
from tests.outside import Outside
from tests.postgres import PostgresServer, url_of_all

pytestmark = pytest.mark.timeout(120)


class Seat(Watch):
    """A screen at one of the nodes that keeps what it held whenever it was told to begin again."""

    def __init__(self, fleet: Fleet, token: str, node: Node) -> None:
        super().__init__(fleet, token)
        self._node = node
        self.resets: list[tuple[str, str, list[dict[str, Any]]]] = []  # (thread, reason, what it held)

    def apply(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        if frame["op"] == "reset":
            self.resets.append((frame["thread"], frame["reason"], self.events.get(frame["thread"], [])))
        return super().apply(frame)

    @asynccontextmanager
    async def also_following(self, sents: list[dict[str, Any]]) -> AsyncIterator[None]:
        """Follow what another screen has sent, until all has ended."""
        self._sents, self._wanted = sents, {sent["run"] for sent in sents}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            yield
            await poll(lambda: not self._wanted, "the end of all runs")
        await self._compare()

    async def _listen(self, node: Node) -> None:
        await super()._listen(self._node)


class Stage:
    """A primary with a standby, two servers that know both, and runs under way, on a screen at each server."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer, fleet: Fleet, seats: list[Seat]) -> None:
        self.primary = primary
        self.standby = standby
        self.fleet = fleet
        self.seats = seats
        self.threads: list[str] = []  # one for each run

    def events(self) -> list[int]:
        """Return how many events each screen has of each thread."""
        return [len(seat.events.get(thread, ())) for seat in self.seats for thread in self.threads]

    async def go_on(self, events: int) -> None:
        """Wait until every screen has seen so many more of every thread."""
        before = self.events()
        await poll(
            lambda: all(now >= then + events for now, then in zip(self.events(), before, strict=True)),
            "runs that go on",
        )

    def logs(self) -> set[str]:
        return {str(seat.log[thread]) for seat in self.seats for thread in self.threads}

    async def rows(self, server: PostgresServer) -> int:
        """Return how many events a server's log has."""
        url = url_of_all([server], self.fleet.url or "").partition("?")[0]
        found = await server.execute(url, "SELECT sum(head)::bigint FROM thread")
        rows: int = found[0][0]
        return rows


@asynccontextmanager
async def runs_under_way(folder: Path, *, is_synchronous: bool = False) -> AsyncIterator[Stage]:
    """Have four runs walk, on two screens, until they come to their end; each screen then has what the log has."""
    async with AsyncExitStack() as stack:
        primary = await asyncio.to_thread(PostgresServer.start, folder)
        stack.callback(primary.remove)
        url = await primary.create_database()
        standby = await asyncio.to_thread(primary.standby)
        stack.callback(standby.remove)
        if is_synchronous:
            await primary.configure(synchronous_standby_names="*")
        fleet = Fleet(folder / "fleet", url_of_all([primary, standby], url), count=2, user_run_limit=20)
        stack.push_async_callback(_end, fleet)
        await fleet.start()
        ann = await fleet.nodes[0].create_user("ann")
        seats = [Seat(fleet, ann, node) for node in fleet.nodes]
        stage = Stage(primary, standby, fleet, seats)
        async with seats[0].following([("walking", "go")] * 4) as sents:
            stage.threads = [sent["thread"] for sent in sents]
            async with seats[1].also_following(sents):
                await stage.go_on(20)
                yield stage
                fleet.finish()


async def _end(fleet: Fleet) -> None:
    try:
        await fleet.end()
    finally:
        for node in fleet.nodes:
            await node.kill9()


async def test_standby_that_lacks_the_last_commits_takes_over_and_nothing_is_mixed(tmp_path: Path) -> None:
    async with runs_under_way(tmp_path) as stage:
        logs = stage.logs()
        await stage.primary.hold_back()
        ann = Outside(stage.fleet.nodes[1].url, stage.seats[0].token)
        async with ann.connected():
            lost = await ann.send("9", agent="working")
        await stage.go_on(20)
        held = {thread: seat.last[thread] for seat in stage.seats for thread in stage.threads}
        await asyncio.to_thread(stage.primary.kill)
        await stage.standby.promote()
        await poll(lambda: not stage.logs() & logs, "screens that know of the other log")
        await stage.go_on(20)
        for seat in stage.seats:
            first = {thread: (reason, events) for thread, reason, events in reversed(seat.resets)}
            assert {thread: reason for thread, (reason, _) in first.items()} == dict.fromkeys(
                stage.threads, "log_changed"
            )
            for thread, (_, events) in first.items():
                assert events[-1]["seq"] >= held[thread]
                assert seat.events[thread][: len(events)] != events, "it held what is no more, and dropped it"
        async with ann.connected():
            answer = await ann.command("subscribe", thread=lost["thread"], after=0)
        assert answer["error"]["code"] == "not_found"


async def test_synchronous_standby_takes_over_and_nothing_is_lost(tmp_path: Path) -> None:
    async with runs_under_way(tmp_path, is_synchronous=True) as stage:
        logs = stage.logs()
        await asyncio.to_thread(stage.primary.kill)
        await stage.standby.promote()
        await poll(lambda: not stage.logs() & logs, "screens that know of the other log")
        await stage.go_on(20)
        for seat in stage.seats:
            for thread, _, events in seat.resets:
                assert seat.events[thread][: len(events)] == events, "what was shown before is shown again"


async def test_servers_leave_an_old_primary_that_still_takes_writes(tmp_path: Path) -> None:
    async with runs_under_way(tmp_path) as stage:
        logs = stage.logs()
        await stage.primary.hold_back()
        await stage.standby.promote()  # two primaries: nobody has stopped the old one
        await poll(lambda: not stage.logs() & logs, "screens that know of the other log")
        await poll(lambda: all(node.logs(lines=9_999).count("database_moved") for node in stage.fleet.nodes), "moves")
        written = await stage.rows(stage.primary)
        await stage.go_on(20)
        assert await stage.rows(stage.primary) == written, "nobody writes to it any more"
