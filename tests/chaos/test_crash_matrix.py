"""`kill -9` at every named point and at random moments, under load: nothing is lost, doubled, or shown too early."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chaos.campaign import Campaign, Life, lives_of, points
from tests.chaos.failpoints import POINTS, resolve

KILLS = 300
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))  # noqa: TID251 - of the tests, not of a server
SHORT = (
    "send.after_commit",
    "claim.after_commit",
    "attempt.before_first_word",
    "append.before_commit",
    "append.after_commit",
    "terminal.before_commit",
    "terminal.before_publish",
    "step.after_call",
    "start.after_owner",
    "handover.after_commit",
)


def test_every_point_names_a_seam_that_exists() -> None:
    for point in POINTS:
        resolve(point.at)
    assert len({point.name for point in POINTS}) == len(POINTS)


async def _run(campaign: Campaign, lives: list[Life], figures: Callable[[str], None]) -> None:
    try:
        await campaign.run(lives)
    except BaseException as error:
        error.add_note(
            f"CHAOS_SEED={campaign.seed} plans the same again. The server said:\n{campaign.server.logs(lines=60)}"
        )
        raise
    finally:
        for line in campaign.summary():
            print(line)
            figures(line)


@pytest.mark.timeout(240)
async def test_kills_at_the_points_that_matter_most(tmp_path: Path, figures: Callable[[str], None]) -> None:
    campaign = Campaign(tmp_path, SEED, users=2, conversations=2)
    await _run(campaign, lives_of(points(*SHORT), times=1, randoms=4, seed=SEED), figures)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_three_hundred_kills_at_every_point_and_any_moment(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    campaign = Campaign(tmp_path, SEED)
    everywhere = points()
    times = 3
    lives = lives_of(everywhere, times=times, randoms=KILLS - times * len(everywhere), seed=SEED)
    await _run(campaign, lives, figures)
    assert campaign.account.kills.total() >= KILLS
