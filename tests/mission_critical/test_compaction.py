"""Compaction and retention of a real server, as clients outside see them: nobody loses a place, nothing is missing."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, assert_one_run, text_of

DELTAS = {"text_delta", "thinking_delta", "tool_args_delta"}
SEED = 20_261_122
CLIENTS, RUNS_EACH, KILLS = 20, 4, 6
WORDS = "I found facts about "


@asynccontextmanager
async def deployed(folder: Path, **settings: Any) -> AsyncIterator[Deployment]:
    server = Deployment(folder, **settings)
    await server.start()
    try:
        yield server
    finally:
        await server.kill9()


async def get(client: Outside, path: str) -> Any:
    status, body = await asyncio.to_thread(client.http, "GET", path)
    assert status == 200, body
    return body


async def log_of(client: Outside, thread: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = (await get(client, f"/v1/threads/{thread}/events?after=0"))["events"]
    return events


async def until(fact: Callable[[], Any], *, timeout_s: float = 60) -> Any:
    """Ask until something is so, and give it."""
    end_s = time.monotonic() + timeout_s
    while not (found := await fact()):
        assert time.monotonic() < end_s, "it never became so"
        await asyncio.sleep(0.05)
    return found


async def compacted(client: Outside, thread: str) -> list[dict[str, Any]]:
    """Wait until a thread's log has no deltas, and give it."""

    async def without_deltas() -> list[dict[str, Any]]:
        events = await log_of(client, thread)
        return [] if any(event["type"] in DELTAS for event in events) else events

    found: list[dict[str, Any]] = await until(without_deltas)
    return found


def _figures(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        text: str = response.read().decode()
        return text


def lasting(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give what compaction leaves of events; `prev` belongs to the reading."""
    return [{name: event[name] for name in event if name != "prev"} for event in events if event["type"] not in DELTAS]


@pytest.mark.timeout(150)
async def test_client_in_mid_message_goes_on_in_the_compacted_log(tmp_path: Path) -> None:
    async with deployed(tmp_path, compact_after_s=1.0) as server:
        ann, tab = [Outside(server.url, await server.key("ann")) for _ in range(2)]
        async with ann.connected():
            sent = await ann.send("one trip", agent="journey")
            thread, run = sent["thread"], sent["run"]
            await ann.until(
                lambda e: e["type"] == "text_delta" and "[1.5]" in text_of(ann.events[e["thread"]], e["run"])
            )
        async with tab.connected():  # somebody else watches it all
            await tab.subscribe(thread, after=0)
            await tab.until_end(run)
        before = await get(tab, f"/v1/threads/{thread}")
        log = await compacted(ann, thread)
        held = ann.last[thread]
        assert held not in {event["seq"] for event in log}  # it stands at a delta that is gone
        async with ann.connected():
            assert (await ann.subscribe(thread))["op"] == "subscribed"
            first = (await ann.until(lambda _event: True))[0]
            assert first["prev"] < held < first["seq"]
            await ann.until_end(run)
        assert_one_run(ann.events[thread], run)
        assert text_of(ann.events[thread], run) == text_of(tab.events[thread], run)
        assert lasting(ann.events[thread]) == lasting(tab.events[thread]) == lasting(log)
        assert await get(ann, f"/v1/threads/{thread}") == before
        deltas = sum(event["type"] in DELTAS for event in tab.events[thread])

        async def is_counted() -> bool:
            return f"runtime_compacted_events_total {deltas:.1f}" in await asyncio.to_thread(_figures, server.url)

        await until(is_counted)
        again = Outside(server.url, ann.token)
        async with again.connected():
            await again.subscribe(thread, after=0)
            await again.until_end(run)
        assert again.events[thread] == log
        # The next run reads its history from the compacted log.
        async with ann.connected():
            await ann.subscribe(thread)
            later = await ann.send("and back", agent="plain", thread=thread)
            await ann.until_end(later["run"])
        assert text_of(ann.events[thread], later["run"]) == "echo and back"


def _is_complete(events: list[dict[str, Any]], run: str) -> bool:
    return any(event["run"] == run and event["type"] == "agent_completed" for event in events)


async def _talk(client: Outside, number: int, give_up: asyncio.Event) -> str:
    """Have a thread of some runs, over as many connections as it takes; return the thread."""
    thread: str | None = None
    for turn in range(RUNS_EACH):
        while True:
            assert not give_up.is_set()
            try:
                async with client.connected():
                    if thread is not None:
                        await client.subscribe(thread)
                    sent = await client.send(f"turn {turn}", agent="golden", thread=thread, key=f"{number}-{turn}")
                    thread, run = str(sent["thread"]), sent["run"]
                    if not _is_complete(client.events.get(thread, []), run):
                        await client.until_end(run, timeout_s=60)
                break
            except (OSError, websockets.WebSocketException, TimeoutError):
                # The server is down just now: come back as a client does, with jitter.
                await asyncio.sleep(random.uniform(0.02, 0.1))
    assert thread is not None
    return thread


@pytest.mark.timeout(150)
async def test_kills_while_it_compacts_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    give_up = asyncio.Event()
    async with deployed(tmp_path, compact_after_s=0.0) as server:
        keys = [await server.key(name) for name in ("ann", "bob")]
        clients = [Outside(server.url, keys[n % 2]) for n in range(CLIENTS)]
        async with asyncio.TaskGroup() as tasks:
            talks = [tasks.create_task(_talk(client, n, give_up)) for n, client in enumerate(clients)]
            for _ in range(KILLS):
                # The moment of the kill is meant to be arbitrary; the seed makes it the same arbitrary each time.
                await asyncio.sleep(rng.uniform(0.2, 0.6))
                await server.kill9()
                await server.start()
        for client, talk in zip(clients, talks, strict=True):
            thread = talk.result()
            where = f"{thread}, seed {SEED}"
            log = await compacted(client, thread)
            screen = client.events[thread]
            assert lasting(screen) == lasting(log), where
            runs = [event["run"] for event in log if event["type"] == "user_message"]
            assert len(runs) == RUNS_EACH, where
            for turn, run in enumerate(runs):
                assert_one_run([event for event in screen if event["run"] == run], run)
                assert text_of(screen, run) == f"{WORDS}turn {turn} ", where
            assert [event["type"] for event in screen].count("agent_completed") == RUNS_EACH, where
        await server.stop()
        with closing(sqlite3.connect(server.process.data_dir / "runwire.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            left = connection.execute("SELECT count(*) FROM run WHERE compacted_at IS NULL").fetchone()
            assert left == (0,)
            # A short run of one attempt is its message and one segment.
            (segments,) = connection.execute("SELECT count(*) FROM segment").fetchone()
            assert segments <= CLIENTS * RUNS_EACH * 2 + 2 * KILLS * CLIENTS


@pytest.mark.timeout(150)
async def test_trimmed_thread_tells_a_client_below_its_floor_and_says_nothing_wrong(tmp_path: Path) -> None:
    two_seconds = 2.0 / 86_400
    async with deployed(tmp_path, compact_after_s=0.5, retention_days=two_seconds) as server:
        ann = Outside(server.url, await server.key("ann"))
        async with ann.connected():
            first = await ann.send("first", agent="golden", key="k1")
            thread = first["thread"]
            await ann.until_end(first["run"])
            held = ann.last[thread]
            for content in ("second", "third"):
                last = await ann.send(content, agent="golden", thread=thread)
                await ann.until_end(last["run"])

        async def reset() -> Any:
            body = await get(ann, f"/v1/threads/{thread}/events?after={held}&log={first['log']}")
            return body.get("reset")

        frame = await until(reset)
        floor = last["seq"] - 1
        assert (frame["reason"], frame["from"], frame["log"]) == ("trimmed", floor, first["log"])

        late = Outside(server.url, ann.token)
        late.last[thread], late.log[thread] = held, first["log"]
        async with late.connected():
            await late.subscribe(thread)
            frame = await late.frame()
            assert (frame["op"], frame["reason"], frame["from"]) == ("reset", "trimmed", floor)
            late.apply(frame)
            await late.until_end(last["run"])
        assert {event["run"] for event in late.events[thread]} == {last["run"]}
        assert late.events[thread][0]["prev"] == floor
        exact = Outside(server.url, ann.token)
        exact.last[thread], exact.log[thread] = floor, first["log"]
        async with exact.connected():
            await exact.subscribe(thread)
            await exact.until_end(last["run"])  # at the floor there is nothing to be told
        assert exact.events == late.events

        shown = await get(ann, f"/v1/threads/{thread}")
        assert [message["content"] for message in shown["messages"]] == ["third", f"{WORDS}third "]
        assert [run["run"] for run in shown["runs"]] == [last["run"]]
        page = await get(ann, f"/v1/threads/{thread}/messages")
        assert [message["run"] for message in page["items"]] == [last["run"]] * 2
        assert page["next_cursor"] is None
        assert (await asyncio.to_thread(ann.http, "GET", f"/v1/runs/{first['run']}"))[0] == 404
        async with ann.connected():
            again = await ann.send("first", agent="golden", key="k1")  # kept as long as its run
            assert again["run"] != first["run"]
