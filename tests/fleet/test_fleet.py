"""The fault campaign: each kind of fault in every test run, the long ones with and without Redis in `make chaos`."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fleet import report
from tests.fleet.campaign import Campaign, Outcome
from tests.fleet.faults import KINDS
from tests.fleet.load import Sizes

_POLL_MS = 100  # how often a gateway looks for itself when no hint comes (DESIGN §2)


@pytest.fixture
def folder() -> Path:
    """What is kept goes where `FLEET_FOLDER` says, else to a temporary folder; never into the tree."""
    place = os.environ.get("FLEET_FOLDER")  # noqa: TID251 - no setting of the server
    return Path(tempfile.mkdtemp(prefix="runwire-fleet-", dir=place))


async def _judged(campaign: Campaign, figures: Callable[[str], None]) -> Outcome:
    outcome = await campaign.run()
    print(report.write(outcome))
    runs, late = outcome.went_on
    figures(
        f"seed {outcome.seed}{'' if campaign.has_redis else ' without Redis'}: {len(outcome.disturbances)} faults,"
        f" {outcome.judge.runs:,} runs, {outcome.judge.events.total():,} events,"
        f" {outcome.load.counts['events shown']:,} shown; {runs - late} of {runs} runs in flight went on in time;"
        f" {outcome.seconds:.0f} s"
    )
    assert not outcome.faults, f"seed {outcome.seed}: {outcome.faults[0]}; evidence in {outcome.folder}"
    assert not outcome.complaints, f"seed {outcome.seed}: {outcome.complaints[0]}"
    assert late <= 0.01 * runs, f"seed {outcome.seed}: {late} of {runs} runs went on late; see {outcome.folder}"
    return outcome


@pytest.mark.timeout(400)
async def test_nothing_is_lost_doubled_or_crossed_in_faults_of_each_kind(
    folder: Path, figures: Callable[[str], None]
) -> None:
    campaign = Campaign(
        folder,
        seed=secrets.randbelow(10**6),
        faults=len(KINDS) + 3,
        every_s=1.1,
        sizes=Sizes(users=20, tabs=50, runs_per_s=3.0, at_once=24, events=60),
        away_s=4.0,
        longest_s=12.0,  # a half-open socket is noticed after PING_S + PONG_S, a stopped worker after LEASE_S
        uses_disk=False,
    )
    outcome = await _judged(campaign, figures)
    assert outcome.judge.runs > 50
    shutil.rmtree(folder)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost_doubled_or_crossed_in_three_hundred_faults(
    folder: Path, seed: int, figures: Callable[[str], None]
) -> None:
    outcome = await _judged(Campaign(folder, seed=seed, faults=334, fails_over=True), figures)
    assert outcome.most_online >= 500
    assert outcome.judge.runs >= 6_700
    assert outcome.judge.events.total() >= 670_000


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_without_redis_nothing_is_lost_and_events_come_within_two_polls(
    folder: Path, figures: Callable[[str], None]
) -> None:
    outcome = await _judged(Campaign(folder, seed=4, faults=100, every_s=12.0, has_redis=False), figures)
    late_ms = outcome.load.recovery.latency_ms(0.99, is_quiet=True)
    figures(f"without Redis, made → shown, p99 away from faults: {late_ms} ms")
    assert late_ms <= 2 * _POLL_MS
