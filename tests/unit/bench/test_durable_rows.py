"""The rows of durable runs: what was not measured is told, and no figure is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from bench.engine import Spent, check_durability
from bench.figures import Faulty
from bench.rows.journal import replayed_ms
from bench.rows.start import wait_ms
from bench.rows.step import per_step
from bench.rows.throughput import rate


def _spent(**said: Any) -> Spent:
    return Spent(said=said, wall_ns=3_000_000_000, engine_ns=60_000_000, database_ns=20_000_000)


def test_a_step_costs_what_all_of_them_took() -> None:
    assert per_step("dbos", _spent(took_ns=2_000_000_000, recorded=1_000), 1_000) == (2.0, 60.0, 20.0)


@pytest.mark.parametrize("recorded", [0, 999, 1_001])
def test_steps_that_are_not_recorded_are_no_figure(recorded: int) -> None:
    with pytest.raises(Faulty, match=f"dbos recorded {recorded} steps of 1000"):
        per_step("dbos", _spent(took_ns=1, recorded=recorded), 1_000)


def test_a_rate_is_runs_by_the_time_that_the_engine_took() -> None:
    assert rate("runwire", _spent(took_ns=2_000_000_000, recorded=500), 500) == 250.0


@pytest.mark.parametrize("recorded", [0, 499, 501])
def test_runs_that_have_not_ended_are_no_figure(recorded: int) -> None:
    with pytest.raises(Faulty, match=f"procrastinate: {recorded} runs of 500"):
        rate("procrastinate", _spent(took_ns=1, recorded=recorded), 500)


def test_a_wait_is_from_the_commit_to_the_start() -> None:
    assert wait_ms({"committed_ns": 1_000_000}, {"started_ns": 3_500_000}) == 2.5


def test_a_run_that_begins_before_its_message_is_no_figure() -> None:
    with pytest.raises(Faulty, match=r"began 1\.000 ms before"):
        wait_ms({"committed_ns": 3_000_000}, {"started_ns": 2_000_000})


def test_a_replay_takes_what_it_took_unless_steps_were_called_again() -> None:
    assert replayed_ms(_spent(took_ns=60_000_000, executed=1_000), 1_000) == 60.0
    with pytest.raises(Faulty, match="3 of 1000 recorded steps were called again"):
        replayed_ms(_spent(took_ns=60_000_000, executed=1_003), 1_000)


@pytest.mark.parametrize(
    ("kind", "found"),
    [("SQLite", "delete 2"), ("SQLite", "wal 1"), ("PostgreSQL", "off on"), ("PostgreSQL", "on off")],
)
def test_an_engine_that_commits_otherwise_is_not_compared(kind: str, found: str) -> None:
    with pytest.raises(Faulty, match=f"dbos commits to {kind} with `{found}`"):
        check_durability("dbos", kind, found)


def test_engines_that_commit_alike_are_compared() -> None:
    check_durability("dbos", "SQLite", "wal 2")
    check_durability("dbos", "PostgreSQL", "on on")
