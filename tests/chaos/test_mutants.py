"""The campaign must go red when a promise is left out: it is run against servers that are broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.campaign import NOISE, Campaign, Life, points
from tests.chaos.failpoints import Action, Armed

APPEND_LOST, SEND_LOST = NOISE[0], NOISE[2]
CLAIM_LOST = Armed("claim.reply", 1, "lose")  # the first of each life, with everything that is taken over


def _at(name: str, *counts: int, action: Action = "kill") -> list[Life]:
    return [Life(points(name)[0], count, action=action) for count in counts]


FINISH_S = 20.0
# Mutant, the lives in which it must be seen, and whether it is looked at in `make test` too.
SHORT = {
    "publish_before_commit": _at("append.before_commit", 30, 40, action="late"),
}
WHOLE = {
    "no_key": [Life(None, noise=SEND_LOST)] * 3,
    "no_ordinal": [Life(None, noise=APPEND_LOST)] * 3,
    "no_offer": [Life(None, noise=CLAIM_LOST)] * 3,
    "call_before_commit": _at("step.before_call", 2, 3, 4, 5, 6),
    "no_takeover": [Life(None)] * 2,
}


async def _is_seen(folder: Path, mutant: str, lives: list[Life]) -> None:
    # The noise of its lives goes on while everything finishes: a kill would repair what was lost without one.
    noise = tuple({life.noise for life in lives if life.noise})
    campaign = Campaign(folder, 7, users=2, conversations=2, mutant=mutant, finish_s=FINISH_S, last=noise)
    with pytest.raises((AssertionError, BaseExceptionGroup)) as seen:
        await campaign.run(lives)
    print(f"{mutant}: {_first(seen.value)}")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AssertionError), "not a judgement"
    return error


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", SHORT)
async def test_a_broken_server_is_seen(tmp_path: Path, mutant: str) -> None:
    await _is_seen(tmp_path, mutant, SHORT[mutant])


@pytest.mark.campaign
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", WHOLE)
async def test_a_broken_server_is_seen_by_the_campaign(tmp_path: Path, mutant: str) -> None:
    await _is_seen(tmp_path, mutant, WHOLE[mutant])
