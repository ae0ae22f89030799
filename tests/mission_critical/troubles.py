"""Trials in which no worker is lost: it gives its runs back, its database is away, or one user wants everything."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
from tests.mission_critical.fleet import LEASE_S, Fleet, Watch, poll
from tests.outside import Outside, assert_one_run

__all__ = ["Crowding", "hand_over", "most_at_a_time", "overlapping", "quantile", "survive_outages"]

_RUNNING: Final = """
SELECT u.id, count(*) FROM run r JOIN "user" u ON u.key = r.user_key WHERE r.status = 'running' GROUP BY u.id
"""


def quantile(values: list[float], share: float) -> float:
    """Return the value that so large a share of them does not pass; the nearest one, none made up."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _holders(fleet: Fleet, runs: list[str]) -> dict[str, int]:
    return {run: fleet.lines(f"effects-{run}")[-1]["pid"] for run in runs}


async def hand_over(fleet: Fleet, token: str, *, runs: int) -> tuple[list[float], list[float]]:
    """Stop a server (SIGTERM) whose runs take short steps.

    Returns:
        Of each of its runs, in seconds: from the last word of the one to the first of the other, and from the signal
        to when a screen saw that.
    """
    watch = Watch(fleet, token)
    fleet.finish(is_over=False)
    async with watch.following([("walking", "for ever")] * runs) as sents:
        names = [sent["run"] for sent in sents]
        await poll(lambda: all(fleet.lines(f"effects-{run}") for run in names), "all runs take steps")
        holders = _holders(fleet, names)
        pid = Counter(holders.values()).most_common(1)[0][0]
        node, hit = fleet.holder(pid), [run for run in names if holders[run] == pid]
        assert node is not None
        fleet.shunned.add(node)
        watch.cut()
        told_s = time.monotonic()
        assert await node.stop() == 0
        await poll(lambda: all(watch.attempt(run) > 1 for run in hit), "all its runs go on elsewhere")
        fleet.finish()
    await node.start()
    fleet.shunned.discard(node)
    gaps_s, seen_s = list[float](), list[float]()
    for run in names:
        events = watch.events_of(run)
        assert_one_run(events, run)
        assert events[-1]["type"] == "agent_completed", events[-1]
        begun = Counter(line["step"] for line in fleet.lines(f"effects-{run}") if line["phase"] == "begun")
        assert set(begun.values()) == {1}, "a hand-over at a step boundary repeats nothing"
        retried = [n for n, event in enumerate(events) if event["type"] == "agent_retrying"]
        assert len(retried) == (run in hit), events
        for n in retried:
            assert events[n]["data"]["reason"] == "drained"
            gaps_s.append((events[n]["ts"] - events[n - 1]["ts"]) / 1000)
            seen_s.append(watch.seen_s[events[n]["thread"], events[n]["seq"]] - told_s)
    return gaps_s, seen_s


async def survive_outages(fleet: Fleet, token: str, *outages: Callable[[], Awaitable[None]]) -> list[float]:
    """Have the database away while runs go on; return how long after it was back all had gone on, each time."""
    watch = Watch(fleet, token)
    fleet.finish(is_over=False)
    gone_on_s, away = list[float](), list[tuple[float, float]]()
    async with watch.following([(agent, "for ever") for agent in ("walking", "ticking") * 3]) as sents:
        runs = [sent["run"] for sent in sents]
        await poll(lambda: all(fleet.lines(f"effects-{run}") for run in runs), "all runs do something")
        for outage in outages:
            began_s = time.monotonic()
            await outage()
            back_s = time.monotonic()
            away.append((began_s + LEASE_S, back_s))
            await _all_go_on(watch, runs[::2])
            gone_on_s.append(time.monotonic() - back_s)
        # Until any of them would have been taken over.
        await asyncio.sleep(max(0.0, back_s + LEASE_S + 1.0 - time.monotonic()))
        fleet.finish()
    for run in runs:
        events = watch.events_of(run)
        assert_one_run(events, run)
        assert events[-1]["type"] == "agent_completed", events[-1]
        assert {event["attempt"] for event in events} <= {0, 1}, "it was replayed although its worker lived"
        lines = fleet.lines(f"effects-{run}")
        assert len({line["pid"] for line in lines}) == 1
        begun_s = [line["at_s"] for line in lines if line["phase"] == "begun"]
        blind = [at_s for at_s in begun_s if any(since_s < at_s < back_s for since_s, back_s in away)]
        assert not blind, "it began steps without a lease"
    return gone_on_s


async def _all_go_on(watch: Watch, runs: list[str]) -> None:
    seen = {run: len(watch.events_of(run)) for run in runs}
    await poll(lambda: all(len(watch.events_of(run)) > seen[run] for run in runs), "all runs go on")


class Crowding:
    """One user with a long queue, and how long another one waits for the first event of his own run.

    Args:
        fleet: on either database.
        many: name and key of the one; he is disabled in the end, which empties the queue.
        other: key of the other.
        queued: runs of the one, in threads of their own.
    """

    def __init__(self, fleet: Fleet, *, many: tuple[str, str], other: str, queued: int) -> None:
        self.fleet = fleet
        self.many = many
        self.other = other
        self.queued = queued
        self.idle_s: list[float] = []
        self.crowded_s: list[float] = []
        self.left = 0  # in the queue when the last sample had been taken

    async def run(self, samples: int) -> None:
        """Measure so often while nobody else is there, before and after, and as often beside the queue."""
        node = self.fleet.open()
        assert node is not None
        await self._sample(node.url, samples // 2, self.idle_s)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(self._send(node.url, self.queued // 4))
        await self._sample(node.url, samples, self.crowded_s)
        begun = [line for line in self.fleet.lines("working") if line["phase"] == "begun"]
        self.left = self.queued + samples + samples // 2 - len(begun)
        await node.cli("user", "disable", self.many[0])
        await self._sample(node.url, samples - samples // 2, self.idle_s)

    async def _send(self, url: str, count: int) -> None:
        client = Outside(url, self.many[1])
        async with client.connected():
            for _ in range(count):
                sent = await client.send("1", agent="working")
                await client.command("unsubscribe", thread=sent["thread"])  # a socket has 64 at most

    async def _sample(self, url: str, count: int, into: list[float]) -> None:
        client = Outside(url, self.other)
        async with client.connected():
            for _ in range(count):
                began_s = time.monotonic()
                sent = await client.send("0", agent="working")
                await client.until(lambda e: e["type"] == "agent_started")
                into.append(time.monotonic() - began_s)
                await client.until_end(sent["run"])
                await client.command("unsubscribe", thread=sent["thread"])

    def line(self) -> str:
        """Return the figures, for people."""
        figures = ", ".join(
            f"{name} p50 {quantile(values, 0.5) * 1000:.1f} ms p95 {quantile(values, 0.95) * 1000:.1f} ms"
            for name, values in (("idle", self.idle_s), (f"beside {self.queued} runs", self.crowded_s))
        )
        return f"start of another user's run: {figures} ({len(self.crowded_s)} each; {self.left} were still queued)"


async def most_at_a_time(url: str, is_over: asyncio.Event) -> dict[str, int]:
    """Look at the database again and again; return how many runs of each user were running at most."""
    most: dict[str, int] = {}
    connection = await asyncpg.connect(url)
    try:
        while not is_over.is_set():
            for user, count in await connection.fetch(_RUNNING):
                most[user] = max(count, most.get(user, 0))
            await asyncio.sleep(0.005)
    finally:
        await connection.close()
    return most


def overlapping(lines: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many runs of each user were at work at the same time, by what they noted themselves."""
    now, most = Counter[str](), Counter[str]()
    for line in sorted(lines, key=lambda line: float(line["at_s"])):
        now[line["user"]] += 1 if line["phase"] == "begun" else -1
        most[line["user"]] = max(most[line["user"]], now[line["user"]])
    return dict(most)
