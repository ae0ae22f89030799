"""The edges of a limit with hysteresis."""

from __future__ import annotations

from runwire.resilience.gate import Gate


def test_it_closes_over_the_limit_and_opens_at_four_fifths_of_it() -> None:
    gate = Gate(10)
    values = [0, 10, 10.1, 10, 9, 8.1, 8, 10, 11]
    assert [gate.look(value) for value in values] == [False, False, True, True, True, True, False, False, True]


def test_without_a_limit_it_never_closes() -> None:
    assert not Gate(None).look(1e9)
