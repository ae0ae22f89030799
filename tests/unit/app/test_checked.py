"""The agents of checks beside those of an operator."""

from __future__ import annotations

from typing import Any

from runwire.agents.load import Agents
from runwire.app.checked import with_conformance_agents


async def mine(ctx: Any, message: str) -> str:
    return message


def test_one_agent_alone_stays_the_default_beside_those_of_checks() -> None:
    both = with_conformance_agents(Agents.of({"mine": mine}))
    assert {"mine", "check_plain", "check_slow", "check_asks", "check_provider"} <= set(both.names)
    assert (both.default, both.is_default_chosen) == ("mine", True)


def test_of_two_agents_none_becomes_the_default_and_names_stay_the_operators() -> None:
    own = Agents.of({"mine": mine, "check_plain": mine})
    both = with_conformance_agents(own)
    assert (both.default, both.is_default_chosen) == (None, False)
    assert both.get("check_plain") is own.get("check_plain")
