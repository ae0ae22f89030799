"""The soak's verdict: what leaks is found, what only fluctuates is not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.fleet.load import Sizes
from tests.soak.soak import Soak
from tests.soak.verdict import Rest, judge, rest_findings

_SECONDS = 6.0
_VISITS_PER_S = 60.0  # at four gateways: at most fifteen a second each, six times as many as in a soak
_LEAKS = {"gateway2": "leaks descriptors", "gateway3": "leaks tasks", "gateway4": "leaks memory"}


@pytest.mark.timeout(90)
async def test_a_leak_of_one_thing_per_connection_is_found_and_nothing_else_is(tmp_path: Path) -> None:
    soak = Soak(
        tmp_path,
        seed=1,
        seconds=_SECONDS,
        every_s=0.4,
        sizes=Sizes(users=4, tabs=8),
        counts={"auth": 1, "gateway": 4},
        slow=0,
        visits_per_s=_VISITS_PER_S,
        leaks=_LEAKS,
        scale=25.0,  # 1,500 descriptors or tasks and 100,000 blocks an hour: one in twenty connections leaves one
        talks=False,
        collects=True,
    )
    outcome = await soak.run()
    # Resident memory is of no use in seconds: whole pages, still being filled.
    found = {
        (figure.process, figure.name) for figure in outcome.figures if figure.is_found and figure.name != "rss_kib"
    }
    assert ("gateway2", "descriptors") in found, outcome.findings
    assert ("gateway3", "tasks") in found, outcome.findings
    assert ("gateway4", "blocks") in found, outcome.findings
    assert {process for process, _ in found} == set(_LEAKS), outcome.findings
    assert {name for process, name in found if process == "gateway2"} <= {"descriptors", "blocks"}
    rests = [finding for finding in outcome.findings if "at rest" in finding]
    assert {finding.split(":")[0] for finding in rests} == {"gateway2", "gateway3"}


def test_a_steady_leak_is_found_below_noise_and_noise_alone_never() -> None:
    rng = random.Random(7)
    times = [10.0 * n for n in range(120)]  # twenty minutes
    noise = [100_000 + rng.gauss(0, 400) for _ in times]  # KiB: what the collector moves memory by
    leak = [value + t * 8 * 1024 / 3600 for t, value in zip(times, noise, strict=True)]  # 8 MiB an hour
    assert not any(figure.is_found for figure in judge("quiet", times, {"rss_kib": noise}))
    assert [figure.name for figure in judge("leaky", times, {"rss_kib": leak}) if figure.is_found] == ["rss_kib"]
    (quiet,) = judge("quiet", times, {"rss_kib": noise})
    assert quiet.line.lowest < 0 < quiet.line.highest
    assert quiet.seen_from < 6 * 1024


def test_one_jump_is_no_leak() -> None:
    times = [10.0 * n for n in range(120)]
    jump = [100.0 if t < 1000 else 105.0 for t in times]
    assert not any(figure.is_found for figure in judge("pool", times, {"descriptors": jump}))


def test_too_few_samples_are_no_finding() -> None:
    assert not any(figure.is_found for figure in judge("new", [0, 1, 2], {"tasks": [1.0, 1000.0, 2000.0]}))


def test_what_stays_at_rest_is_found() -> None:
    before = Rest(descriptors=20, tasks=10, threads=5)
    assert rest_findings("gateway1", before, Rest(descriptors=30, tasks=12, threads=6)) == []
    (found,) = rest_findings("gateway1", before, Rest(descriptors=60, tasks=12, threads=6))
    assert "descriptors at rest were 20 and are 60" in found
