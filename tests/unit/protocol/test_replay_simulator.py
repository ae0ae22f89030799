"""The replay matcher against random agents crashed everywhere; `tests/histories/test_mutants.py` breaks the matcher."""

from __future__ import annotations

import pytest
from tests.unit.protocol.replay_simulator import campaign


def test_runs_crashed_before_every_append_end_as_one_coherent_run() -> None:
    counts = campaign(range(20))
    assert counts["deterministic"] > 500
    assert counts["other words"] > 500


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_campaign_of_crashed_runs() -> None:
    counts = campaign(range(10_000, 10_040), again=None)
    print(dict(counts))
    assert counts.total() > 28_000
