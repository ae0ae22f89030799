"""Processes that stand still: a stopped server, a laptop that sleeps, a second server on the same folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.campaign import Campaign
from tests.chaos.deployment import ROOT, ChaosServer
from tests.chaos.failpoints import Armed
from tests.chaos.oracle import DELTAS, stored_events
from tests.chaos.people import People
from tests.outside import TERMINAL, Outside, assert_one_run

START_S = 10.0  # a start takes half a second on an idle machine


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ChaosServer]:
    server = ChaosServer(tmp_path)
    await server.start()
    yield server
    await server.kill9()


@pytest.fixture
async def drowsy(tmp_path: Path) -> AsyncIterator[ChaosServer]:
    """A server that notices after 2 s that a client says nothing."""
    server = ChaosServer(tmp_path, ping_s=1.0, pong_s=1.0)
    await server.start()
    yield server
    await server.kill9()


# ── SIGSTOP and SIGCONT ─────────────────────────────────────────────────────────────────────────────────────


async def _stop_now_and_then(campaign: Campaign, pauses_s: Sequence[float]) -> None:
    rng = random.Random(campaign.seed)

    async def stop_now_and_then(_people: People) -> None:
        for pause_s in pauses_s:
            await asyncio.sleep(rng.uniform(0.2, 0.8))  # the moment is meant to be arbitrary
            campaign.server.send_signal(signal.SIGSTOP)
            await asyncio.sleep(pause_s)
            campaign.server.send_signal(signal.SIGCONT)

    await campaign.under_load(stop_now_and_then)


@pytest.mark.timeout(90)
async def test_a_server_that_stood_still_loses_nothing(tmp_path: Path) -> None:
    await _stop_now_and_then(Campaign(tmp_path, 3, users=2, conversations=2), (1.0, 0.1))


@pytest.mark.campaign
@pytest.mark.timeout(400)
async def test_a_server_that_stood_still_up_to_half_a_minute_loses_nothing(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    campaign = Campaign(tmp_path, 4, finish_s=90.0)
    pauses_s = (1, 30, 2, 9, 0.05, 5, 30, 17)
    await _stop_now_and_then(campaign, pauses_s)
    figures(f"a server that stood still for {pauses_s} s: {campaign.account.line()}")


# ── a laptop that sleeps ────────────────────────────────────────────────────────────────────────────────────


class Watcher:
    """A tab in its own process."""

    def __init__(self, server: ChaosServer, token: str, sent: dict[str, Any], view: str) -> None:
        words = [sys.executable, "-m", "tests.chaos.watcher", server.url, token, sent["thread"], sent["run"], view]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT, encoding="utf-8")
        assert self.process.stdout
        assert self.process.stdout.readline() == "watching\n"

    def result(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        seen: dict[str, Any] = json.loads(out)
        return seen


async def _sleep_and_wake(server: ChaosServer, *, pause_s: float, wakes_first: str) -> None:
    token = await server.key("ann")
    ann = Outside(server.url, token)
    async with ann.connected():
        sent = await ann.send("far away parts=12", agent="voyage")
    watchers = [await asyncio.to_thread(Watcher, server, token, sent, view) for view in ("all", "lifecycle")]
    clients = [watcher.process.pid for watcher in watchers]
    everything = [*clients, server.pid] if wakes_first == "clients" else [server.pid, *clients]
    for pid in everything:
        os.kill(pid, signal.SIGSTOP)
    begun = [e for e in server.effects(sent["run"]) if e["phase"] == "begun"]
    assert len(begun) < 12, "it fell asleep only after its run: nothing would be shown"
    await asyncio.sleep(pause_s)
    for pid in everything:
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.3)  # one is awake while the others still sleep
    every, lifecycle = [await asyncio.to_thread(watcher.result) for watcher in watchers]
    stored = await asyncio.to_thread(stored_events, ann, sent["thread"])
    assert_one_run(stored, sent["run"])
    assert stored[-1]["type"] == "agent_completed"
    assert every["events"] == stored
    assert [e["seq"] for e in lifecycle["events"]] == [e["seq"] for e in stored if e["type"] not in DELTAS]
    # It says no life (4012), or after half a minute that nobody's access is known (4013): come back, both of them.
    assert {*every["closes"], *lifecycle["closes"]} <= {4012, 4013}
    tools = [e for e in server.effects(sent["run"]) if e["phase"] == "begun"]
    assert len(tools) == 12  # nothing was lost, so nothing was done twice


@pytest.mark.timeout(60)
async def test_a_laptop_that_slept_goes_on(drowsy: ChaosServer) -> None:
    await _sleep_and_wake(drowsy, pause_s=2.5, wakes_first="clients")  # longer than ping and pong together


@pytest.mark.campaign
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("pause_s", "wakes_first"), [(2.5, "server"), (30.0, "clients"), (30.0, "server")])
async def test_a_laptop_that_slept_long_goes_on(drowsy: ChaosServer, pause_s: float, wakes_first: str) -> None:
    await _sleep_and_wake(drowsy, pause_s=pause_s, wakes_first=wakes_first)


# ── a second server ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(60)
async def test_a_second_server_is_refused_and_starts_at_once_when_the_first_is_dead(
    server: ChaosServer, tmp_path: Path
) -> None:
    ann = Outside(server.url, await server.key("ann"))
    second = ChaosServer(tmp_path / "second", data_dir=server.data_dir)
    try:
        async with ann.connected():
            sent = await ann.send("busy parts=8", agent="voyage")
            said = await second.refused()
            assert "ended with status 78" in said
            assert f"already served at {server.url} by process {server.pid}" in said
            assert "Traceback" not in said
            await ann.until_end(sent["run"])  # the first was not disturbed
            sent = await ann.send("busy again parts=8", agent="voyage", thread=sent["thread"])
            await ann.until(lambda e: e["type"] == "tool_executing")
        await server.kill9()
        began_s = time.monotonic()
        await second.start()
        assert time.monotonic() - began_s < START_S
        moved = Outside(second.url, ann.token)
        moved.events, moved.last, moved.log = ann.events, ann.last, ann.log
        async with moved.connected():
            await moved.subscribe(sent["thread"])
            await moved.until_end(sent["run"])
        assert_one_run(moved.events[sent["thread"]], sent["run"])
        assert moved.events[sent["thread"]][-1]["type"] == "agent_completed"
    finally:
        await second.kill9()


@pytest.mark.timeout(60)
async def test_of_servers_that_start_at_the_same_time_one_serves(tmp_path: Path) -> None:
    many = [ChaosServer(tmp_path / f"{n}", data_dir=tmp_path / "data") for n in range(3)]
    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(_status(one)) for one in many]
    try:
        ended = [start.result() for start in starts]
        assert ended.count("") == 1, ended
        assert all("ended with status 78" in said and "Traceback" not in said for said in ended if said), ended
        assert all("served" in said or "in use" in said for said in ended if said), ended
    finally:
        for one in many:
            await one.kill9()


async def _status(server: ChaosServer) -> str:
    """Start; return nothing, or how it failed."""
    try:
        await server.start()
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.timeout(90)
async def test_a_server_that_lost_its_lock_can_do_nothing_to_the_log(drowsy: ChaosServer, tmp_path: Path) -> None:
    await _wake_without_the_lock(drowsy, tmp_path)


@pytest.mark.campaign
@pytest.mark.timeout(90)
async def test_without_fence_and_ordinal_it_is_seen_to_write(drowsy: ChaosServer, tmp_path: Path) -> None:
    """Either of the two keeps it out, so both are left out; each alone is the contract suite's to see."""
    with pytest.raises((AssertionError, TimeoutError)):
        await _wake_without_the_lock(drowsy, tmp_path, mutant="no_fence,no_ordinal")


async def _wake_without_the_lock(first: ChaosServer, folder: Path, *, mutant: str = "") -> None:
    """A stopped server, its lock file removed by somebody, another one on the same folder; then the first wakes up."""
    second = ChaosServer(folder / "second", data_dir=first.data_dir)
    first.environment["CHAOS_MUTANT"] = second.environment["CHAOS_MUTANT"] = mutant
    ann = Outside(first.url, await first.key("ann"))
    await first.kill9()
    # Between two transactions: within one, SQLite's own locks would keep the other out.
    stop = Armed("append.after_commit", 30, "stop")
    first.armed = [stop]
    await first.start()
    async with ann.connected():
        sents = [await ann.send(f"number {n} parts=8", agent=agent) for n, agent in enumerate(("voyage", "blocking"))]
        async with asyncio.timeout(30):
            while not first.acted(stop):
                with contextlib.suppress(TimeoutError):
                    await ann.until(lambda _e: False, timeout_s=0.2)
    try:
        first.file.with_name("runwire.db.lock").unlink()
        await second.start()
        moved = Outside(second.url, ann.token)
        moved.events, moved.last, moved.log = ann.events, ann.last, ann.log
        async with moved.connected():
            for sent in sents:
                await moved.subscribe(sent["thread"])
            await moved.until(lambda e: e["type"] == "agent_retrying")
            first.send_signal(signal.SIGCONT)
            later = await moved.send("one more parts=8", agent="voyage")
            for sent in (*sents, later):
                if not _has_ended(moved, sent):
                    await moved.until_end(sent["run"])
        for sent in (*sents, later):
            events = moved.events[sent["thread"]]
            stored = await asyncio.to_thread(stored_events, moved, sent["thread"])
            assert stored == events
            assert_one_run(events, sent["run"])
            assert events[-1]["type"] == "agent_completed"
            attempts = [e["attempt"] for e in events]
            assert attempts == sorted(attempts), attempts
            assert attempts[-1] == (1 if sent is later else 2), "the first one took a run back"
    finally:
        await second.kill9()


def _has_ended(client: Outside, sent: dict[str, Any]) -> bool:
    return any(e["run"] == sent["run"] and e["type"] in TERMINAL for e in client.events.get(sent["thread"], ()))
