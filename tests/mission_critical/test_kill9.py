"""`kill -9` of the server under load: every client resumes, every run ends once, nothing is shown twice."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from typing import Any

import pytest
import websockets
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, assert_one_run, text_of

KILLS = 12
RUNS = 20
PARTS, PIECES = 24, 10  # of the agent `journey`
SEED = 20_261_122


async def _follow(client: Outside, sent: dict[str, Any], give_up: asyncio.Event) -> None:
    """Apply the run's events over as many connections as it takes."""
    thread = sent["thread"]
    while not give_up.is_set():
        try:
            async with client.connected():
                await client.subscribe(thread)
                await client.until_end(sent["run"], timeout_s=60)
                return
        except (OSError, websockets.WebSocketException, TimeoutError):
            # The server is down just now: come back as a client does, with jitter.
            await asyncio.sleep(random.uniform(0.02, 0.1))


class Lives:
    """Count the lives in which a run got no further: after five the server gives it up, and is right to.

    On a slow machine the server may need longer for its start than the next kill leaves it.
    """

    def __init__(self, clients: list[Outside], sents: list[dict[str, Any]]) -> None:
        self._runs = list(zip(clients, sents, strict=True))
        self._done = [0.0] * len(self._runs)
        self._idle = [0] * len(self._runs)

    async def until_fair(self) -> None:
        """Wait until no run would be killed for the fourth time without having done a step in between."""
        while any(idle >= 3 and self._steps(n) == self._done[n] for n, idle in enumerate(self._idle)):  # noqa: ASYNC110 - of many
            await asyncio.sleep(0.02)
        for n, done in enumerate(self._done):
            now = self._steps(n)
            self._idle[n] = self._idle[n] + 1 if now == done else 0
            self._done[n] = now

    def _steps(self, n: int) -> float:
        client, sent = self._runs[n]
        events = client.events.get(sent["thread"], ())
        if any(event["type"] == "agent_completed" for event in events):
            return float("inf")
        # A try that a takeover closes is no step done.
        return len([event for event in events if event["type"] == "tool_completed" and event["data"]["final"]])


@pytest.mark.timeout(150)
async def test_twelve_kills_under_twenty_runs_lose_and_double_nothing(own_deployment: Deployment) -> None:
    server = own_deployment
    rng = random.Random(SEED)
    keys = [await server.key(name) for name in ("ann", "bob")]  # ten active runs each: all twenty at once
    clients = [Outside(server.url, keys[n % 2]) for n in range(RUNS)]
    sents: list[dict[str, Any]] = []
    for n, client in enumerate(clients):
        async with client.connected():
            sents.append(await client.send(f"trip {n}", agent="journey"))
    give_up = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for client, sent in zip(clients, sents, strict=True):
            tasks.create_task(_follow(client, sent, give_up))
        lives = Lives(clients, sents)
        for _ in range(KILLS):
            # The moment of the kill is meant to be arbitrary; the seed makes it the same arbitrary each time.
            await asyncio.sleep(rng.uniform(0.3, 0.9))
            await lives.until_fair()
            await server.kill9()
            await server.start()

    for n, (client, sent) in enumerate(zip(clients, sents, strict=True)):
        events = client.events[sent["thread"]]
        where = f"trip {n}, seed {SEED}"
        stored = (await asyncio.to_thread(client.http, "GET", f"/v1/threads/{sent['thread']}/events?after=0"))[1]
        assert stored["events"] == events, where  # what was applied is what the log has
        assert [e["seq"] for e in events] == list(range(1, len(events) + 1)), where  # dense: no internal events here
        assert_one_run(events, sent["run"])
        assert events[-1]["type"] == "agent_completed", (where, events[-1])
        assert not [e for e in events if e["type"] == "superseded" and e["data"]["reason"] == "differs"], where
        thoughts = Counter(e["data"]["text"] for e in events if e["type"] == "agent_thinking")
        assert thoughts == Counter(f"part {p} of trip {n}" for p in range(PARTS)), where
        pieces = re.findall(r"\[\d+\.\d+\]", text_of(events, sent["run"]))
        assert pieces == [f"[{p}.{k}]" for p in range(PARTS) for k in range(PIECES)], where
        done = Counter(e["data"]["step"] for e in events if e["type"] == "tool_completed" and e["data"]["final"])
        assert list(done.values()) == [1] * PARTS, where
        for part in range(PARTS):  # a tool whose result was stored was not called again
            name = f"journey-{sent['run']}-{part}"
            tries = [e for e in events if e["type"] == "tool_executing" and e["data"]["args"]["name"] == name]
            assert 1 <= server.marks(name).count("begun") <= len(tries), (where, name)
    retried = sum(e["type"] == "agent_retrying" for c in clients for t in c.events.values() for e in t)
    assert retried >= RUNS, f"the kills must have hit running runs, but only {retried} takeovers were seen"


@pytest.mark.timeout(60)
async def test_a_deterministic_agent_goes_on_in_mid_message(own_deployment: Deployment) -> None:
    server = own_deployment
    ann = Outside(server.url, await server.key("ann"))
    async with ann.connected():
        sent = await ann.send("one trip", agent="pausing")
        await ann.until(lambda e: e["type"] == "text_delta" and "[2.5]" in text_of(ann.events[e["thread"]], e["run"]))
    await server.kill9()
    await asyncio.to_thread((server.probes / "go on").touch)
    await server.start()
    async with ann.connected():
        await ann.subscribe(sent["thread"])
        await ann.until_end(sent["run"])
    events = ann.events[sent["thread"]]
    kinds = [e["type"] for e in events]
    assert kinds.count("agent_retrying") == 1
    at = kinds.index("agent_retrying")
    before = [e["data"]["message"] for e in events[:at] if e["type"] == "text_delta"][-1]
    after = next(e["data"]["message"] for e in events[at:] if e["type"] == "text_delta")
    assert before == after  # the same message, not a new one
    assert kinds.count("message_started") == 3
    assert text_of(events, sent["run"]) == "".join(f"[{part}.{n}]" for part in range(3) for n in range(10))
    assert "superseded" not in kinds


@pytest.mark.timeout(60)
async def test_a_message_acknowledged_just_before_the_kill_runs(own_deployment: Deployment) -> None:
    server = own_deployment
    ann = Outside(server.url, await server.key("ann"))
    async with ann.connected():
        sent = await ann.send("was I heard?", agent="golden", key="once")
        await server.kill9()
    await server.start()
    async with ann.connected():
        again = await ann.send("was I heard?", agent="golden", key="once")
        assert again["run"] == sent["run"]
        await ann.subscribe(sent["thread"], after=0)
        await ann.until_end(sent["run"])
