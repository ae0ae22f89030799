"""Token buckets: bursts, refill, giving back, and a bound on memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.resilience.limits import Buckets, network_of


@pytest.mark.parametrize(
    ("address", "party"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_one_party_has_one_ipv4_address_or_a_whole_network_of_ipv6(address: str, party: str) -> None:
    assert network_of(address) == party


def test_a_burst_passes_then_one_per_refill() -> None:
    buckets = Buckets(burst=3, refill_s=2.0)
    assert [buckets.take("a", now_s=100.0) for _ in range(4)] == [0, 0, 0, 2.0]
    assert buckets.take("a", now_s=101.5) == 0.5
    assert buckets.take("a", now_s=102.0) == 0
    assert buckets.take("a", now_s=102.0) == 2.0
    assert buckets.take("b", now_s=102.0) == 0


def test_a_refused_try_takes_nothing() -> None:
    buckets = Buckets(burst=1, refill_s=10.0)
    buckets.take("a", now_s=0.0)
    for now_s in range(1, 10):
        assert buckets.take("a", now_s=float(now_s)) == 10.0 - now_s
    assert buckets.take("a", now_s=10.0) == 0


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets(burst=2, refill_s=5.0)
    for _ in range(20):
        assert buckets.take("a", now_s=0.0) == 0
        buckets.give_back("a")
    buckets.give_back("never taken")
    assert [buckets.take("a", now_s=0.0) for _ in range(3)] == [0, 0, 5.0]


def test_giving_back_saves_up_no_more_than_a_burst() -> None:
    buckets = Buckets(burst=2, refill_s=5.0)
    buckets.take("a", now_s=0.0)
    for _ in range(10):
        buckets.give_back("a")
    assert [buckets.take("a", now_s=0.0) for _ in range(3)] == [0, 0, 5.0]


def test_a_flood_of_keys_costs_bounded_memory_and_keeps_the_busy_ones() -> None:
    buckets = Buckets(burst=1, refill_s=1e6, max_keys=100)
    for n in range(10_000):
        buckets.take(f"invented {n}", now_s=0.0)
    assert len(buckets._full_at_s) == 100
    assert buckets.take("invented 9999", now_s=0.0) > 0
    assert buckets.take("invented 0", now_s=0.0) == 0


def test_the_key_used_longest_ago_is_forgotten_first() -> None:
    buckets = Buckets(burst=2, refill_s=1e6, max_keys=2)
    for key in ("a", "b", "a", "c"):
        assert buckets.take(key, now_s=0.0) == 0
    assert buckets.take("a", now_s=0.0) > 0


@given(st.lists(st.floats(0, 3, allow_nan=False), max_size=60), st.integers(1, 5))
def test_never_more_than_the_burst_and_the_refill_passes(gaps_s: list[float], burst: int) -> None:
    buckets, now_s, passed = Buckets(burst=burst, refill_s=1.0), 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        passed += buckets.take("a", now_s=now_s) == 0
        assert passed <= burst + now_s + 1e-6


@pytest.mark.parametrize("burst", [1, 4])
def test_an_idle_bucket_is_full_again(burst: int) -> None:
    buckets = Buckets(burst=burst, refill_s=1.0)
    for now_s in (0.0, 1000.0):
        assert [buckets.take("a", now_s=now_s) for _ in range(burst + 1)] == [0.0] * burst + [1.0]
