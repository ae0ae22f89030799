"""The short form of the revocation trials; `python -m tests.identity` has all kinds, and a thousand sockets."""

from __future__ import annotations

from itertools import product

import pytest
from tests.identity.house import House
from tests.identity.trials import CONDITIONS, Crowd, run_trials

MAX_S = 3.0  # the campaign keeps 1 s (p99) and 2 s


@pytest.mark.timeout(300)
async def test_withdrawn_access_ends_every_socket_it_concerns_and_no_other_whatever_fails(house: House) -> None:
    crowd = Crowd(house, people=10, each=6)
    outcome = await run_trials(crowd, [*product(("logout", "key"), CONDITIONS)])
    assert outcome.sockets == 60
    assert max(trial.took_s for trial in outcome.trials) < MAX_S, outcome.text()
    assert sum(trial.wrong for trial in outcome.trials) == 0, outcome.text()
    assert sum(trial.said_after for trial in outcome.trials) == 0, outcome.text()
    figures = [(await house.http.get(f"{gateway.url}/metrics")).text for gateway in house.gateways]
    assert all("runwire_revocation_seconds_count" in text for text in figures)
