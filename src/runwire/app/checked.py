"""The agents that `runwire check` asks, beside those of the operator."""

from __future__ import annotations

from dataclasses import replace

from runwire.agents.load import Agents
from runwire.conformance.agents import agents as made_for_checks

__all__ = ["with_conformance_agents"]


def with_conformance_agents(own: Agents) -> Agents:
    """Return the operator's agents and those of checks; a name that both have stays the operator's.

    Who answers a message that names nobody is who it was before: one agent alone stays the default.
    """
    added = Agents.of(made_for_checks)
    return replace(own, by_name={**added.by_name, **own.by_name}, is_default_chosen=own.default is not None)
