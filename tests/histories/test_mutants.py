"""Every clause of the rule, the reducers and the matcher, broken, is seen to be missed: each mutant must die."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.histories import node
from tests.histories.mutants import Mutant, loaded
from tests.histories.mutants_of_the_client import CLIENT
from tests.histories.mutants_of_the_matcher import MATCHER
from tests.histories.mutants_of_the_rule import RULE
from tests.histories.mutants_of_the_steps import STEPS
from tests.histories.world import SEED, World, play
from tests.unit.protocol import replay_simulator, replay_world

from runwire.errors import ProtocolError, RunFailed

pytestmark = pytest.mark.timeout(180)  # a machine may be busy; alone none takes 3 s

# The slowest dies within half of these.
SEEDS_OF_HISTORIES = 1_500
SEEDS_OF_THE_CLIENT = 300
SEEDS_OF_CRASHES = 150
SEEDS_OF_AGENTS = 1_500

# How a broken matcher shows: a check of the simulator, an illegal order, taking back what is not there, or
# an agent called nondeterministic that is not. Anything else would be a mutant that is broken itself.
_SEEN = (AssertionError, ProtocolError, KeyError, ValueError, RunFailed)


def named(mutant: Mutant) -> str:
    return mutant.name.replace(" ", "_")


def seeds_to_kill_rule(mutant: Mutant) -> int | None:
    with loaded(mutant) as rule:
        for seed in range(SEED, SEED + SEEDS_OF_HISTORIES):
            try:
                World(seed, rule=rule).live()
            except AssertionError:
                return seed - SEED + 1
    return None


def seeds_to_kill_matcher(mutant: Mutant) -> int | None:
    with loaded(mutant) as replay, pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_simulator, "replay", replay)
        for seed in range(SEEDS_OF_CRASHES):
            try:
                replay_simulator.campaign([seed], again=1)
            except _SEEN:
                return seed + 1
    return None


def seeds_to_kill_steps(mutant: Mutant) -> int | None:
    with loaded(mutant) as replay, pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_world, "replay", replay)
        for seed in range(SEEDS_OF_AGENTS):
            try:
                replay_world.campaign([seed])
            except (*_SEEN, IndexError):  # an address that is gone
                return seed + 1
    return None


@pytest.fixture(scope="module")
def recordings() -> Sequence[bytes]:
    return [play(seed).recording(str(seed)) for seed in range(SEED, SEED + SEEDS_OF_THE_CLIENT)]


@pytest.mark.parametrize("mutant", RULE, ids=named)
def test_the_histories_kill_a_rule_or_reducer_that(mutant: Mutant) -> None:
    assert seeds_to_kill_rule(mutant) is not None


@pytest.mark.parametrize("mutant", CLIENT, ids=named)
def test_the_histories_kill_a_javascript_client_that(
    mutant: Mutant, recordings: Sequence[bytes], tmp_path: Path
) -> None:
    broken = tmp_path / "runwire.mjs"
    broken.write_text(mutant.source, encoding="utf-8")
    assert node.first_difference(recordings, client=broken) is not None


@pytest.mark.parametrize("mutant", MATCHER, ids=named)
def test_the_simulator_kills_a_matcher_that(mutant: Mutant) -> None:
    assert seeds_to_kill_matcher(mutant) is not None


@pytest.mark.parametrize("mutant", STEPS, ids=named)
def test_random_agents_kill_a_matcher_that(mutant: Mutant) -> None:
    assert seeds_to_kill_steps(mutant) is not None


def test_a_mutant_that_the_source_no_longer_has_is_an_error() -> None:
    with pytest.raises(LookupError, match="0 times"):
        _ = Mutant("is gone", "view.py", "no such line", "").source


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_how_many_seeds_each_mutant_lives(recordings: Sequence[bytes], tmp_path: Path) -> None:
    lives = {f"rule: {mutant.name}": seeds_to_kill_rule(mutant) for mutant in RULE}
    for mutant in CLIENT:
        broken = tmp_path / "runwire.mjs"
        broken.write_text(mutant.source, encoding="utf-8")
        lives[f"client: {mutant.name}"] = node.first_difference(recordings, client=broken)
    lives |= {f"matcher: {mutant.name}": seeds_to_kill_matcher(mutant) for mutant in MATCHER}
    lives |= {f"steps: {mutant.name}": seeds_to_kill_steps(mutant) for mutant in STEPS}
    for name, seeds in lives.items():
        print(f"{seeds!s:>5} {name}")
    assert None not in lives.values()
