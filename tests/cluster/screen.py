"""A screen that follows threads through whichever gateways are there, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import websockets
from tests.cluster.deployment import RoleProcess
from tests.outside import TERMINAL, Dismissed, Outside, assert_one_run

__all__ = ["Screen", "assert_same"]


class Screen(Outside):
    """One tab of a person. What it is shown twice, or with a gap, raises (`Outside`).

    Args:
        gateways: where it connects: the first that runs.
        token: whose it is.
    """

    def __init__(self, gateways: Sequence[RoleProcess], token: str) -> None:
        super().__init__("http://nowhere", token)
        self.gateways = gateways
        self.connections = 0
        self.byes: list[int] = []
        self.open: set[str] = set()  # runs that it waits for
        self._threads: list[str] = []
        self._seen = asyncio.Condition()

    @asynccontextmanager
    async def following(self, sents: Sequence[dict[str, Any]]) -> AsyncIterator[None]:
        """Follow the runs of these messages to their end; leaving the block waits for that."""
        self.open = {sent["run"] for sent in sents}
        self._threads = list(dict.fromkeys(sent["thread"] for sent in sents))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            yield
            await self.until_shown(lambda: not self.open, "the end of all runs")

    async def until_shown(self, is_so: Any, what: str, *, timeout_s: float = 60.0) -> None:
        """Wait until what it was shown makes something so."""
        try:
            async with asyncio.timeout(timeout_s), self._seen:
                await self._seen.wait_for(is_so)
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s} s: {what}; open {self.open}") from None

    async def until_more(self) -> None:
        """Wait until each run that is open has gone on from now."""
        now = {run: len(self.of(run)) for run in self.open}
        await self.until_shown(
            lambda: all(run not in self.open or len(self.of(run)) > now[run] + 1 for run in now), "all runs go on"
        )

    def of(self, run: str) -> list[dict[str, Any]]:
        """Return what it has applied of a run."""
        return [event for events in self.events.values() for event in events if event["run"] == run]

    async def _follow(self) -> None:
        while self.open:
            gateway = next((each for each in self.gateways if each.is_running), None)
            with suppress(OSError, websockets.WebSocketException, TimeoutError, Dismissed):
                if gateway is not None:
                    await self._listen(gateway)
            await asyncio.sleep(0.05)  # as a client does, but sooner

    async def _listen(self, gateway: RoleProcess) -> None:
        self.url, self.ws_url = gateway.url, gateway.url.replace("http", "ws", 1) + "/v1/ws"
        async with self.connected():
            self.connections += 1
            for thread in self._threads:
                await self.subscribe_again(thread)
            while self.open:
                frame = await self.frame(timeout_s=60)
                if frame["op"] == "bye":
                    self.byes.append(frame["code"])
                event = self.apply(frame)
                if event is not None and event["type"] in TERMINAL:
                    self.open.discard(event["run"])
                async with self._seen:
                    self._seen.notify_all()


async def assert_same(screens: Sequence[Screen], sents: Sequence[dict[str, Any]]) -> None:
    """Assert that all screens show the same, which is what the log has, and that each run is whole."""
    for sent in sents:
        stored: list[dict[str, Any]] = []
        through, head = 0, 1
        while through < head:
            path = f"/v1/threads/{sent['thread']}/events?after={through}"
            status, page = await asyncio.to_thread(screens[0].http, "GET", path)
            assert status == 200, page
            stored += page["events"]
            head = max(screen.last[sent["thread"]] for screen in screens)
            assert page["through"] > through, "the log ends before what a screen has shown"
            through = page["through"]
        for screen in screens:
            assert screen.events[sent["thread"]] == stored
        assert_one_run(stored, sent["run"])
