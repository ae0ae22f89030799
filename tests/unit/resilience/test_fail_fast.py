"""A peer that does not answer is left alone for a while, and then asked by one."""

from __future__ import annotations

import pytest

from runwire.resilience.fail_fast import FailFast


def made() -> FailFast:
    return FailFast(after=3, first_s=1.0, most_s=4.0, probe_s=10.0)


def failed(times: int, *, now_s: float, chance: float = 1.0) -> FailFast:
    peer = made()
    for _ in range(times):
        peer.failed(now_s=now_s, chance=chance)
    return peer


def test_failures_with_an_answer_between_them_close_nothing() -> None:
    peer = failed(2, now_s=0.0)
    peer.answered()
    peer.failed(now_s=0.0, chance=1.0)
    assert peer.wait_s(now_s=0.0) == 0


@pytest.mark.parametrize(("times", "pause_s"), [(3, 1.0), (4, 2.0), (5, 4.0), (6, 4.0), (5_000, 4.0)])
def test_each_failure_in_a_row_doubles_the_pause_up_to_the_longest(times: int, pause_s: float) -> None:
    assert failed(times, now_s=100.0).wait_s(now_s=100.0) == pause_s
    assert failed(times, now_s=100.0, chance=0.0).wait_s(now_s=100.0) == pause_s / 2


def test_after_the_pause_one_asks_and_the_others_wait_for_its_answer() -> None:
    peer = failed(3, now_s=0.0)
    assert peer.wait_s(now_s=0.5) == 0.5
    assert [peer.wait_s(now_s=1.0) for _ in range(3)] == [0.0, 10.0, 10.0]
    peer.answered()
    assert [peer.wait_s(now_s=1.1) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_first_one_that_never_comes_back_keeps_the_others_no_longer_than_its_time() -> None:
    peer = failed(3, now_s=0.0)
    assert peer.wait_s(now_s=1.0) == 0
    assert peer.wait_s(now_s=10.9) > 0
    assert peer.wait_s(now_s=11.0) == 0


def test_a_first_one_that_fails_too_closes_for_longer() -> None:
    peer = failed(3, now_s=0.0)
    assert peer.wait_s(now_s=1.0) == 0
    peer.failed(now_s=1.0, chance=1.0)
    assert peer.wait_s(now_s=1.0) == 2.0
