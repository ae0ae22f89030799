"""The matcher against random agents with branches, sub-agents, waits and tries, lost, parked and answered anywhere.

`tests/histories/test_mutants.py` breaks the matcher; the real Context on real databases is not here.
"""

from __future__ import annotations

import pytest
from tests.unit.protocol.replay_world import campaign


def test_agents_lost_at_any_event_end_as_one_coherent_run() -> None:
    counts = campaign(range(500))
    assert min(counts["deterministic"], counts["other words"], counts["called off"]) > 300
    assert counts["not what was approved"] > 30


def test_agents_lost_after_each_event() -> None:
    assert campaign(range(20_000, 20_010), crashes=None).total() > 500


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
def test_campaign_of_agents_lost_at_any_event() -> None:
    counts = campaign(range(100_000, 130_000))
    print(dict(counts))
    assert counts["deterministic"] > 30_000


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
def test_campaign_of_agents_lost_after_each_event() -> None:
    counts = campaign(range(200_000, 200_400), crashes=None)
    print(dict(counts))
