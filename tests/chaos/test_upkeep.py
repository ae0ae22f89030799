"""`kill -9` while the database is made smaller or copied: nothing is lost that was to stay, and no half copy is one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.campaign import Campaign, Life, lives_of, points
from tests.chaos.deployment import ChaosServer
from tests.chaos.failpoints import Armed
from tests.chaos.oracle import judge_file
from tests.chaos.people import People
from tests.outside import Outside, assert_one_run

from runwire.errors import Unavailable

COMPACTING = ("compact.surveyed", "compact.before_commit", "compact.after_commit", "compact.after_mark")
TRIMMING = ("trim.before_floor", "trim.after_floor", "trim.after_runs")
HIT_S = 45.0
BACKUP_S = 60.0
MOMENT_DAYS = 1e-5  # of retention: 0.9 s


@pytest.mark.timeout(90)
async def test_a_kill_while_it_compacts_loses_no_message(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, 11, users=2, conversations=2, compact_after_s=0.1)
    await campaign.run([Life(points("compact.before_commit")[0]), Life(points("compact.after_commit")[0])])


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_kills_while_it_compacts_lose_no_message(tmp_path: Path, figures: Callable[[str], None]) -> None:
    campaign = Campaign(tmp_path, 12, compact_after_s=0.1)
    await campaign.run(lives_of(points(*COMPACTING), times=5, randoms=20, seed=12))
    for line in campaign.summary():
        figures(f"compacting, {line}")


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_kills_while_it_trims_lose_nothing_that_is_kept(tmp_path: Path) -> None:
    server = ChaosServer(tmp_path)
    await server.start()
    try:
        ann = Outside(server.url, await server.key("ann"))
        threads: list[str] = []
        async with ann.connected():
            for _ in range(12):
                thread: str | None = None
                for n in range(4):
                    sent = await ann.send(f"{n} parts=2", agent="troubled", thread=thread)
                    thread = sent["thread"]
                    await ann.until_end(sent["run"])
                assert thread is not None
                threads.append(thread)
        before = dict(ann.events)
        await server.kill9()
        server.configure(retention_days=MOMENT_DAYS)
        for point in TRIMMING * 2:
            armed = Armed(point, 1, "kill")
            server.armed = [armed]
            server.forget_marks()
            with contextlib.suppress(Unavailable):  # it may be dead before it is ready
                await server.start()
                await server.died(timeout_s=HIT_S)
            assert server.acted(armed), point
            await server.kill9()
            await asyncio.to_thread(judge_file, server, is_over=True)
        server.armed = []
        await server.start()
        for thread in threads:
            await _until_trimmed(ann, thread, before[thread])
    finally:
        await server.kill9()
    await asyncio.to_thread(judge_file, server, is_over=True)


async def _until_trimmed(ann: Outside, thread: str, before: list[dict[str, Any]]) -> None:
    """Wait until only the last run is left, and see that it is what it was."""
    last = before[-1]["run"]
    kept = [e for e in before if e["run"] == last]
    async with asyncio.timeout(HIT_S):
        while True:
            _, answer = await asyncio.to_thread(ann.http, "GET", f"/v1/threads/{thread}/events?after=0")
            if answer.get("reset"):
                start = answer["reset"]["from"]
                path = f"/v1/threads/{thread}/events?after={start}"
                status, left = await asyncio.to_thread(ann.http, "GET", path)
                assert (status, left["events"]) == (200, kept)
                return
            await asyncio.sleep(0.2)  # another process is asked again


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_a_backup_under_kills_is_whole_or_none(tmp_path: Path, figures: Callable[[str], None]) -> None:
    campaign = Campaign(tmp_path / "run", 13)
    rng = random.Random(13)
    copies: list[Path] = []
    killed = 0

    async def back_up_often(_people: People) -> None:
        nonlocal killed
        for n in range(12):
            await asyncio.sleep(rng.uniform(0.3, 0.8))  # the moment is meant to be arbitrary
            target = tmp_path / f"copy{n}.db"
            copying = _backup(campaign.server.data_dir, target)
            if n % 3 == 0:
                await asyncio.to_thread(_end, copying, rng.uniform(0.2, 1.0))
                killed += not target.exists()
            elif n % 3 == 1:
                await asyncio.sleep(rng.uniform(0.2, 0.8))
                await campaign.server.kill9()
                await campaign.server.start()
            await asyncio.to_thread(copying.wait, BACKUP_S)
            if target.exists():
                copies.append(target)

    await campaign.under_load(back_up_often)
    assert len(copies) >= 8, "of those that were not killed each is there"
    figures(f"backups: {len(copies)} whole, {killed} killed; under load: {campaign.account.line()}")
    for copy in copies:
        await _serves(copy, tmp_path / copy.stem, campaign.server)


def _backup(data_dir: Path, target: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "runwire", "storage", "backup", str(target), "--data-dir", str(data_dir)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes], after_s: float) -> None:
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()


async def _serves(copy: Path, folder: Path, of: ChaosServer) -> None:
    """Start a server on a copy: what was going on in it ends, and its file is right."""
    server = ChaosServer(folder)
    server.data_dir.mkdir()
    await asyncio.to_thread(shutil.copy, copy, server.file)
    await server.start()
    try:
        ann = Outside(server.url, await server.create_user("newcomer"))
        async with ann.connected():
            sent = await ann.send("hello parts=2", agent="troubled")
            await ann.until_end(sent["run"])
        assert_one_run(ann.events[sent["thread"]], sent["run"])
    finally:
        await server.kill9()
    await asyncio.to_thread(judge_file, server, is_over=False)
    assert of.file.exists()
