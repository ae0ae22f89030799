"""Moving windows: never more than the limit within any stretch of time, honest times to wait, bounded memory."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from runwire.resilience.limits import MovingWindows

PERIOD_S = 60.0


@given(
    steps=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=80),
    limit=st.integers(5, 20),
)
def test_within_any_window_no_more_than_the_limit_passes(steps: list[tuple[float, int]], limit: int) -> None:
    windows = MovingWindows(period_s=PERIOD_S)
    now_s, passed = 1000.0, []
    for pause_s, amount in steps:
        now_s += pause_s
        wait_s = windows.take("a", amount, limit=limit, now_s=now_s)
        if wait_s == 0:
            passed.append((now_s, amount))
        else:
            assert 0 < wait_s <= PERIOD_S
            later = copy.deepcopy(windows)
            assert later.wait_s("a", amount, limit=limit, now_s=now_s + wait_s + 1e-6) == 0, "the time was honest"
    for began_s, _ in passed:
        within = [amount for at_s, amount in passed if began_s <= at_s < began_s + PERIOD_S - 1e-6]
        assert sum(within) <= limit


def test_what_is_taken_alone_counts_exactly_as_long_as_the_period() -> None:
    windows = MovingWindows(period_s=PERIOD_S)
    assert windows.take("a", limit=1, now_s=100.0) == 0
    assert windows.take("a", limit=1, now_s=130.0) == 30.0
    assert windows.take("a", limit=1, now_s=159.9) > 0
    assert windows.take("a", limit=1, now_s=160.0) == 0


def test_each_key_has_its_own_window_and_the_oldest_are_forgotten() -> None:
    windows = MovingWindows(period_s=PERIOD_S, max_keys=2)
    for key in ("a", "b", "c"):
        assert windows.take(key, limit=1, now_s=1.0) == 0
    assert windows.take("c", limit=1, now_s=2.0) > 0
    assert windows.take("b", limit=1, now_s=2.0) > 0
    assert windows.take("a", limit=1, now_s=2.0) == 0, "forgotten, as if it had taken nothing"
    assert len(windows._windows) == 2


def test_a_busy_key_costs_no_more_memory_than_a_fresh_one() -> None:
    windows = MovingWindows(period_s=PERIOD_S)
    for n in range(10_000):
        windows.add("a", 7, now_s=n * 0.06)  # ten periods
    window = windows._windows["a"]
    windows.wait_s("a", limit=1, now_s=600.0)
    assert len(window.entries) <= 22
    assert window.total == sum(amount for _, _, amount in window.entries)


def test_what_was_taken_already_counts_beyond_the_limit() -> None:
    windows = MovingWindows(period_s=PERIOD_S)
    windows.add("a", 25, now_s=0.0)
    windows.add("a", 5, now_s=30.0)
    assert windows.wait_s("a", limit=10, now_s=40.0) == 20.0
    assert windows.wait_s("a", limit=10, now_s=60.0) == 0
    assert windows.take("a", 99, limit=10, now_s=60.0) == PERIOD_S, "it never fits, and nothing is taken"
    assert windows.take("a", 5, limit=10, now_s=60.0) == 0


def test_what_comes_in_quick_succession_counts_until_the_last_of_it_is_old() -> None:
    windows = MovingWindows(period_s=PERIOD_S)
    assert windows.take("a", limit=2, now_s=0.0) == 0
    assert windows.take("a", limit=2, now_s=2.5) == 0
    assert windows.take("a", limit=2, now_s=61.0) == 1.5
    assert windows.take("a", limit=2, now_s=62.5) == 0
