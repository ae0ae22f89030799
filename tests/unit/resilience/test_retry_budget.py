"""Retries are a share of the calls, whatever fails, and what fails takes none from others."""

from __future__ import annotations

import pytest

from runwire.resilience.retry_budget import RATIO, RetryBudget, RetryBudgets

RESERVE = int(RetryBudget().tokens)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("calls", [10, 1_000])
def test_a_storm_is_at_most_a_quarter_more_than_the_calls_and_the_reserve(calls: int) -> None:
    budget = RetryBudget(now_s=Clock())
    retries = 0
    for _ in range(calls):
        budget.call()
        retries += sum(budget.retry() for _ in range(5))
    assert retries == RESERVE + int(calls * RATIO)
    assert retries <= RESERVE + calls * 0.25


def test_a_quiet_day_pays_for_no_storm() -> None:
    budget = RetryBudget(now_s=Clock())
    for _ in range(100_000):
        budget.call()
    assert sum(budget.retry() for _ in range(1_000)) == 20


def test_who_calls_now_and_then_may_try_again() -> None:
    clock = Clock()
    budget = RetryBudget(0.0, now_s=clock)
    assert [budget.retry() for _ in range(RESERVE + 1)] == [True] * RESERVE + [False]
    clock.now_s += 2
    assert [budget.retry() for _ in range(3)] == [True, True, False]
    clock.now_s += 1_000
    assert [budget.retry() for _ in range(RESERVE + 1)] == [True] * RESERVE + [False]


def test_what_fails_takes_no_retries_from_others_and_there_are_never_too_many() -> None:
    budgets = RetryBudgets(most=3, now_s=Clock())
    while budgets.of("crm").retry():
        pass
    assert budgets.of("search").retry()
    assert not budgets.of("crm").retry(), "the same budget again"
    for number in range(3):
        budgets.of(f"t{number}")
    assert budgets.of("crm").retry(), "forgotten, and new"
