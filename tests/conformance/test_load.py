"""`runwire bench`: a server that keeps its promises under cuts, and small wrong ones that must be named."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest
from tests.conformance.faulty_commands import Broadcasts
from tests.conformance.faulty_servers import DoublesOne, LosesOne, LosesTheEnd, SwapsTwo, TwoTerminals
from tests.conformance.minimal_server import MinimalServer

from runwire.conformance.load import shown
from runwire.conformance.load.drive import Load, Plan
from runwire.conformance.load.histogram import Histogram


async def _bench(*words: str, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runwire", "bench", *words),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in out.decode()
    return process.returncode, out.decode()


@pytest.mark.timeout(120)
async def test_a_server_of_our_own_loses_nothing_under_cuts_and_the_reports_say_so(tmp_path: Path) -> None:
    status, out = await _bench(
        *("local", "--users", "6", "--rate", "15", "--duration", "3", "--cuts", "240", "--gap-ms", "10"),
        *("--report", "json", "a.json", "--report", "html", "b", "--report", "c.md"),
        cwd=tmp_path,
    )
    assert status == 0, out
    report = json.loads((tmp_path / "a.json").read_bytes())
    figures = report["figures"]
    assert (figures["sent"], figures["completed"]) == (45, 45)
    assert figures["cuts"] > 0
    assert figures["resumes"] > 0
    assert sum(bar["runs"] for bar in report["histogram"]) == 45
    page = (tmp_path / "b").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "http" not in page.replace("http://127.0.0.1", "")  # it works without network
    assert (tmp_path / "c.md").read_text("utf-8").startswith("## Runwire bench")
    assert "each came once, in order, to the right user" in out


@pytest.mark.parametrize(
    ("server", "counter"),
    [
        (MinimalServer, None),
        (LosesOne, "lost"),
        (DoublesOne, "doubled"),
        (TwoTerminals, "doubled"),
        (SwapsTwo, "out of order"),
        (Broadcasts, "crossed"),
        (LosesTheEnd, "without an end"),
    ],
)
@pytest.mark.timeout(60)
async def test_a_wrong_server_is_named_by_its_counter(server: type[MinimalServer], counter: str | None) -> None:
    async with server().running() as url:
        plan = Plan(users=2, rate=20, duration_s=0.5, timeout_s=2)
        load = Load(url, ["good-token", "other-token"], plan)
        await load.run()
    figures = shown.figures(load)
    assert figures["sent"] == 10
    assert shown.exit_code(load) == (0 if counter is None else 1), load.tally.notes
    if counter is not None:
        assert figures[counter] > 0, load.tally.notes
        assert f"{figures[counter]} {counter}" in shown.verdict(load)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("http://127.0.0.1:9", "--token", "t"), "cannot be reached"),
        (("local", "--token", "t"), "`local` makes its own users"),
        (("local", "--users", "0"), "--users"),
        (("local", "--report", "junit", "x"), "--report"),
        (("http://127.0.0.1:9", "http://127.0.0.1:9", "--token", "t"), "one deployment at a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_cannot_be_measured_is_no_success(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    status, out = await _bench(*words, cwd=tmp_path)
    assert status == 2, out
    assert said in " ".join(out.replace("│", " ").split())


def test_quantiles_are_within_their_buckets() -> None:
    chance = random.Random(7)
    times = sorted(chance.lognormvariate(-4, 2) for _ in range(20_000))
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    for share in (0.5, 0.95, 0.99):
        assert histogram.quantile_s(share) == pytest.approx(times[int(share * len(times)) - 1], rel=0.04)
    assert histogram.quantile_s(1.0) == times[-1]
    assert sum(count for *_, count in histogram.bars()) == len(times)
