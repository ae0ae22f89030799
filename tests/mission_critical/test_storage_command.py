"""`runwire storage stats|compact` beside a running server and on a folder that nobody uses."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1"}


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A server that compacts nothing by itself."""
    server = Deployment(tmp_path, compact_after_s=86_400)
    await server.start()
    yield server
    await server.kill9()


async def _storage(*words: str, cwd: Path, data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runwire", "storage", *words, "--data-dir", str(data)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, env=_ENVIRONMENT
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


async def _events(client: Outside, thread: str) -> list[dict[str, Any]]:
    status, page = await asyncio.to_thread(client.http, "GET", f"/v1/threads/{thread}/events?after=0")
    assert status == 200
    found: list[dict[str, Any]] = page["events"]
    return found


@pytest.mark.timeout(120)
async def test_figures_and_compaction_are_the_same_beside_a_server_and_without(kept: Deployment) -> None:
    ann, data = Outside(kept.url, await kept.key("ann")), kept.process.data_dir

    async def storage(*words: str) -> str:
        done = await _storage(*words, cwd=kept.probes, data=data)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with ann.connected():
        sents = [await ann.send("one two three", agent="golden") for _ in range(3)]
        for sent in sents:
            if not any(e["type"] == "agent_completed" for e in ann.events.get(sent["thread"], [])):
                await ann.until_end(sent["run"])
    pages = [await _events(ann, sent["thread"]) for sent in sents]
    before = pages[0]
    figures = json.loads(await storage("stats", "--json"))
    assert (figures["counts"]["runs"], figures["compactable_runs"]) == (3, 3)
    assert "compacted 0 runs" in await storage("compact"), "not before the time that is set"
    assert "compacted 0 runs" in await storage("compact", "--older-than", "1h")
    said = await storage("compact", "--older-than", "0s")
    deltas = sum(e["type"] == "text_delta" for page in pages for e in page)
    assert f"compacted 3 runs ({deltas} deltas deleted)" in said, said
    after = await _events(ann, sents[0]["thread"])
    assert after == _linked([e for e in before if e["type"] != "text_delta"])
    beside = json.loads(await storage("stats", "--json"))
    assert beside["compactable_runs"] == 0
    assert await kept.stop() == 0
    alone = json.loads(await storage("stats", "--json"))
    assert {name: alone[name] for name in ("log", "counts", "event_bytes", "compactable_runs")} == {
        name: beside[name] for name in ("log", "counts", "event_bytes", "compactable_runs")
    }
    assert f"log             {beside['log']}" in await storage("stats")
    assert "compacted 0 runs" in await storage("compact", "--older-than", "0s")


def _linked(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each event the `prev` that it has when others are gone."""
    prevs = [0, *(event["seq"] for event in events)]
    return [event | {"prev": prev} for event, prev in zip(events, prevs, strict=False)]


@pytest.mark.timeout(120)
async def test_retention_that_is_set_is_carried_out_now(kept: Deployment) -> None:
    ann, data = Outside(kept.url, await kept.key("ann")), kept.process.data_dir
    async with ann.connected():
        first = await ann.send("first", agent="plain")
        await ann.until_end(first["run"])
        second = await ann.send("second", agent="plain", thread=first["thread"])
        await ann.until_end(second["run"])
    with (kept.probes / "runwire.toml").open("a", encoding="utf-8") as file:
        file.write("retention_days = 0.000001\n")  # 86 ms; the server that runs has not read it
    done = await _storage("compact", cwd=kept.probes, data=data)
    assert done.returncode == 0, done.stderr
    assert "deleted 1 old runs" in done.stdout, "the last one of a thread stays"
    status, page = await asyncio.to_thread(ann.http, "GET", f"/v1/threads/{first['thread']}/events?after=0")
    assert (status, page["reset"]["reason"]) == (200, "trimmed")


@pytest.mark.timeout(120)
async def test_mistakes_are_explained(tmp_path: Path) -> None:
    for words in (("compact", "--older-than", "soon"), ("compact", "--older-than", "-1s"), ("backup",), ("export",)):
        wrong = await _storage(*words, cwd=tmp_path, data=tmp_path / "data")
        assert wrong.returncode == 2, wrong
    for call in ("stats", "compact", "backup x.db", "export x.jsonl"):
        nowhere = await _storage(*call.split(), cwd=tmp_path, data=tmp_path / "data")
        assert nowhere.returncode == 1, nowhere
        assert "There is no database" in nowhere.stderr
    assert not os.listdir(tmp_path), "nothing is made by a mistake"
    (tmp_path / "runwire.toml").write_text('database_url = "memory://"\n', encoding="utf-8")
    nowhere = await _storage("backup", "x.db", cwd=tmp_path, data=tmp_path / "data")
    assert nowhere.returncode == 78
    assert "database file" in nowhere.stderr
