"""The rules of append, lease, takeover, park and answer: every history is looked at, and each rule is needed.

The searches are exhaustive within the scenarios' numbers of runs, workers and faults. A history that breaks a promise
is printed from its first step, as short as any there is: `python -m tests.model wait --without "first answer wins"`.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
from tests.model import table
from tests.model.rules import RULES, Rule
from tests.model.scenarios import CAMPAIGN, FAULTS, SCENARIOS, Scenario
from tests.model.search import Found, search

LONGEST = 16  # steps that somebody can follow

_LINK = re.compile(r"\]\(\.\./\.\./(tests/[\w/]+\.py)(?:#(\w+))?\)")


@cache
def without(rule: Rule) -> Found:
    return search(SCENARIOS[rule.scenario], rule.name)


@cache
def whole(name: str) -> Found:
    return search(SCENARIOS[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_history_breaks_a_promise(name: str) -> None:
    found = whole(name)
    assert not found.broken, str(found)
    assert found.states > 500, "hardly anything was looked at"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "_"))
def test_without_a_rule_a_promise_breaks(rule: Rule) -> None:
    found = without(rule)
    print(f"without: {rule.name}\n{found}")
    assert found.broken == rule.breaks
    assert 0 < len(found.trace) <= LONGEST


def test_every_rule_that_the_model_knows_is_left_out_once() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names) >= 18
    assert set(names) == frozenset().union(*(whole(name).asked for name in SCENARIOS))


def test_every_kind_of_fault_happens_in_some_scenario() -> None:
    assert {kind for scenario in SCENARIOS.values() for kind in scenario.faults} == set(FAULTS)


def test_the_page_tells_what_the_model_finds() -> None:
    rows = [line for line in table.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for rule in RULES:
        found = without(rule)
        row = f"| {rule.name} | {table.told(found)} | {found.broken} |"
        assert row in rows, "python -m tests.model --write"


def test_every_test_that_the_page_names_exists() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    root = table.PAGE.parents[2]
    links = _LINK.findall(page)
    assert len(links) >= 12, "the failure table names the test of each row"
    for path, name in links:
        source = (root / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, f"{path} has no {name}"


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CAMPAIGN)
def test_campaign_no_longer_history_breaks_a_promise(name: str) -> None:
    scenario: Scenario = CAMPAIGN[name]
    found = search(scenario)
    print(f"{name}: {found.states} states, {found.steps} steps")
    assert not found.broken, str(found)
