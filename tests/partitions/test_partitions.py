"""Networks that carry nothing between two roles, or one way only, or late and not all: nothing is lost or doubled.

What is cut here is silent, as a cable that was pulled or a rule of a firewall: no connection is refused or reset.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import websockets
from tests.cluster.deployment import LEASE_S, RoleProcess
from tests.cluster.screen import Screen, assert_same
from tests.outside import Dismissed, Outside
from tests.partitions.conftest import Apart

pytestmark = pytest.mark.timeout(600)

HEALED_S = 10.0  # everything goes on so soon after the network is whole again
STALE_S = 30.0  # until then what is committed comes over Redis, and nobody need be told; then 4013
BUSY = 3.0  # what a machine may add on which all of it runs beside other tests


class Roaming(Screen):
    """A screen that tries the gateways by turns, and notes what it was told."""

    def __init__(self, gateways: list[RoleProcess], token: str) -> None:
        super().__init__(gateways, token)
        self.notices: list[str] = []
        self.heard_s: dict[str, float] = {}  # run -> when it last showed something of it
        self.attempts: dict[str, dict[int, float]] = {}  # run -> attempt -> when it was first seen
        self.at = 0

    def apply(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        if frame["op"] == "notice":
            self.notices.append(frame["kind"])
        event = super().apply(frame)
        if event is not None:
            self.heard_s[event["run"]] = time.monotonic()
            self.attempts.setdefault(event["run"], {}).setdefault(event["attempt"], time.monotonic())
        return event

    async def _follow(self) -> None:
        while self.open:
            with suppress(OSError, websockets.WebSocketException, TimeoutError, Dismissed):
                await self._listen(self.gateways[self.at % len(self.gateways)])
            self.at += 1
            await asyncio.sleep(0.1)


class Scene:
    """Runs that go on and on, two screens that start at different gateways, and what was found out."""

    def __init__(self, apart: Apart) -> None:
        self.apart = apart
        first, second = apart.cluster.gateways
        self.screens = [Roaming([first, second], apart.key), Roaming([second, first], apart.key)]
        self.sents: list[dict[str, Any]] = []
        self.said: list[str] = []

    async def send(self, count: int) -> None:
        (self.apart.cluster.marks / "over").unlink(missing_ok=True)
        person = Outside(self.apart.cluster.gateways[0].url, self.apart.key)
        async with person.connected():
            self.sents = [await person.send(f"message {n}", agent="walk") for n in range(count)]

    async def cut(
        self,
        *ways: tuple[str, str],
        for_s: float,
        lost: float = 1.0,
        delay_s: float = 0.0,
        until: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Have a network fail for a while, and until something has happened; see that all goes on when it is back."""
        network = self.apart.network
        began_s = time.monotonic()
        for source, target in ways:
            network.rule(source, target, lost=lost, delay_s=delay_s)
        try:
            await asyncio.sleep(for_s)
            if until is not None:
                await until()
        finally:
            for source, target in ways:
                network.rule(source, target)
        healed_s = time.monotonic()
        for screen in self.screens:
            await screen.until_more()
        took_s = time.monotonic() - healed_s
        what = ", ".join(f"{source} → {target}" for source, target in ways)
        self.said.append(f"{what} for {healed_s - began_s:.1f} s: all goes on {took_s:.1f} s after it")
        assert took_s <= HEALED_S * BUSY, self.said[-1]

    def holder(self) -> tuple[RoleProcess, set[str]]:
        """Return the worker with the most runs, and those."""
        cluster = self.apart.cluster
        held: dict[int, set[str]] = {}
        for sent in self.sents:
            held.setdefault(int(cluster.marked(f"walked-{sent['run']}")[-1]), set()).add(sent["run"])
        pid, runs = max(held.items(), key=lambda item: len(item[1]))
        return next(worker for worker in cluster.workers if worker.pid == pid), runs

    async def end(self) -> None:
        """Let the runs end; compare what each screen shows with the log."""
        (self.apart.cluster.marks / "over").touch()
        for screen in self.screens:
            await screen.until_shown(lambda s=screen: not s.open, "the end of all runs")

    async def judge(self) -> None:
        await assert_same(self.screens, self.sents)
        for sent in self.sents:
            shown = self.screens[0].of(sent["run"])
            attempts = [event["attempt"] for event in shown]
            assert attempts == sorted(attempts), "who was cut off wrote after others had its run"
            assert shown[-1]["type"] == "agent_completed", shown[-1]
            finished = Counter(e["data"]["step"] for e in shown if e["type"] == "tool_completed" and e["data"]["final"])
            assert set(finished.values()) == {1}, "a step was finished twice"


def both(one: str, other: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (one, other), (other, one)


async def _begun(scene: Scene) -> None:
    for screen in scene.screens:
        await screen.until_more()
        await screen.until_shown(
            lambda s=screen: all(any(e["type"] == "tool_completed" for e in s.of(sent["run"])) for sent in scene.sents),
            "a step of each run, so that it is known who works on it",
        )


async def _cut_a_worker_off(scene: Scene, for_s: float) -> None:
    """Whoever cannot reach the database loses its runs to the others, while it is away and not when it is back."""
    worker, runs = scene.holder()
    before = {run: max(scene.screens[0].attempts[run]) for run in runs}
    screen = scene.screens[0]
    began_s = time.monotonic()

    def after(run: str) -> list[float]:
        return [seen_s for number, seen_s in screen.attempts[run].items() if number > before[run]]

    async def taken_over() -> None:
        left_s = began_s + (LEASE_S + 2) * BUSY - time.monotonic()
        await screen.until_shown(lambda: all(map(after, runs)), "others have its runs", timeout_s=max(left_s, 0.1))

    # However long that takes: were it cut for a fixed time, a slow machine would be taken for runs that wait for it.
    await scene.cut(*both(worker.name, "database"), for_s=for_s, until=taken_over)
    late_s = [min(after(run)) - began_s for run in runs]
    scene.said.append(f"{len(runs)} runs of it taken over within {max(late_s):.1f} s (lease {LEASE_S:g} s)")


async def _cut_a_gateway_off(scene: Scene, for_s: float) -> None:
    """Its sockets are told, and their people go on at the other one."""
    byes = [len(screen.byes) for screen in scene.screens]
    connections = [screen.connections for screen in scene.screens]
    there = [screen.url for screen in scene.screens]
    gateway = scene.apart.cluster.gateways[1]
    await scene.cut(*both(gateway.name, "database"), for_s=for_s)
    for n, screen in enumerate(scene.screens):
        if there[n] == gateway.url and for_s >= STALE_S:
            told = [*screen.notices, *screen.byes[byes[n] :]]
            scene.said.append(f"its people were told {told}")
            assert "stalled" in told or 4013 in told or screen.connections > connections[n]


@pytest.mark.timeout(120)
async def test_who_is_cut_off_loses_its_runs_and_its_people_and_nothing_else(
    apart: Apart, request: pytest.FixtureRequest
) -> None:
    scene = Scene(apart)
    await scene.send(3)
    async with scene.screens[0].following(scene.sents), scene.screens[1].following(scene.sents):
        await _begun(scene)
        await _cut_a_worker_off(scene, LEASE_S)
        await scene.end()
    await scene.judge()
    request.node.user_properties.append(("fleet", f"partitions: {'; '.join(scene.said)}"))


@pytest.mark.campaign
async def test_every_way_between_roles_may_fail(apart: Apart, request: pytest.FixtureRequest) -> None:
    scene = Scene(apart)
    await scene.send(6)
    try:
        async with scene.screens[0].following(scene.sents), scene.screens[1].following(scene.sents):
            await _begun(scene)
            for for_s, stale_s in ((6.0, 20.0), (20.0, STALE_S + 6)):
                await _cut_a_worker_off(scene, for_s)
                await _cut_a_gateway_off(scene, stale_s)
            for name in ("worker1", "gateway1"):
                for other in ("database", "redis"):
                    await scene.cut((name, other), for_s=8.0)
                    await scene.cut((other, name), for_s=8.0)
                    ways = both(name, other)
                    await scene.cut(*ways, for_s=10.0, lost=0.05, delay_s=0.1)
            await scene.cut(*both("worker2", "redis"), *both("gateway2", "redis"), for_s=15.0)
            await scene.cut(*both("gateway1", "auth1"), *both("gateway2", "auth1"), for_s=10.0)
            await scene.end()
    finally:
        print(*scene.said, sep="\n")
    await scene.judge()
    request.node.user_properties.append(("fleet", f"partitions: {'; '.join(scene.said)}"))
