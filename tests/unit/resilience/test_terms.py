"""Terms as an operator writes them: each level over the one above, and every mistake named."""

from __future__ import annotations

import re

import pytest

from runwire.resilience.breaker import State, Terms
from runwire.resilience.breakers import Breakers, Kind, Order
from runwire.resilience.terms import KINDS, TermsTable, read_terms

SET = {
    "open_s": 2,
    "minimum_calls": 4,
    "model": {"slow_first_s": 8},
    "model/openai/gpt": {"minimum_calls": 20, "failure_rate": False},
}


def test_one_has_what_is_set_for_it_over_its_kind_over_all() -> None:
    table = read_terms(SET)
    assert table.of("tool", "crm") == Terms(open_s=2.0, minimum_calls=4)
    assert table.of("model", "else") == Terms(open_s=2.0, minimum_calls=4, slow_first_s=8.0)
    assert table.of("model", "openai/gpt") == Terms(open_s=2.0, minimum_calls=20, slow_first_s=8.0, failure_rate=None)
    assert TermsTable().of("model", "else") == Terms()


def test_terms_that_something_comes_with_are_changed_by_name_or_kind_only() -> None:
    own = Terms(failures_in_row=3, failure_rate=None)
    assert read_terms(SET).of("auth", "x", own=own) == own
    assert read_terms({"auth": {"open_s": 1}}).of("auth", "x", own=own) == Terms(
        failures_in_row=3, failure_rate=None, open_s=1.0
    )


def test_a_long_pause_needs_no_longer_longest_one() -> None:
    assert read_terms({"open_s": 600}).of("tool", "crm").longest_open_s == 600


def test_text_is_json() -> None:
    assert read_terms('{"tool/crm": {"probes": 2}}').of("tool", "crm").probes == 2
    assert read_terms(read_terms({"probes": 2})).of("tool", "crm").probes == 2


def test_the_kinds_are_those_that_there_are() -> None:
    assert list(KINDS) == list(Kind)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"minimum_cals": 4}, "`minimum_cals` is no term of a breaker (did you mean `minimum_calls`?)"),
        ({"tool": {"opens": 4}}, "`tool.opens` is no term of a breaker (did you mean `open_s`?)"),
        ({"modell": {}}, "`modell` is neither a term nor a kind, nor a kind and a name (did you mean `model`?)"),
        ({"model/": {}}, "`model/` is neither"),
        ({"open_s": "secret"}, "`open_s` is a number"),
        ({"open_s": True}, "`open_s` is a number"),
        ({"slow_s": True}, "`slow_s` is a number, or false"),
        ({"probes": 1.5}, "`probes` is a whole number"),
        ({"probes": 0}, "`probes` of a breaker is at least 1."),
        ({"tool/crm": {"failure_rate": 2}}, "tool/crm: `failure_rate` of a breaker is over 0 and at most 1."),
        ("[", "write JSON"),
        ([], "write tables"),
        ({f"tool/{number}": {} for number in range(1_001)}, "at most 1,000 tables"),
    ],
)
def test_what_is_wrong_is_named_and_no_value_repeated(given: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}") as refused:
        read_terms(given)
    assert "secret" not in str(refused.value)


def test_the_breakers_of_a_process_have_the_terms_that_are_set() -> None:
    breakers = Breakers({Kind.AUTH: Terms(open_s=3.0)}, table=read_terms(SET))
    assert breakers.of(Kind.MODEL, "openai/gpt").terms.minimum_calls == 20
    assert breakers.of(Kind.AUTH, "x").terms == Terms(open_s=3.0)
    assert breakers.of(Kind.BUS, "redis", own=Terms(probes=7)).terms == Terms(probes=7)


def test_what_has_a_breaker_only_if_it_is_set_has_none_else() -> None:
    breakers = Breakers(table=read_terms({"agent/guide": {"open_s": 1}}))
    assert breakers.set_for(Kind.AGENT, "other") is None
    assert breakers.shown() == []
    guide = breakers.set_for(Kind.AGENT, "guide")
    assert guide is breakers.of(Kind.AGENT, "guide")
    breakers.obey(Order.FORCE_OPEN, Kind.AGENT, "other")
    assert breakers.set_for(Kind.AGENT, "other") is breakers.of(Kind.AGENT, "other")


def test_an_order_does_what_its_word_says() -> None:
    breakers = Breakers()
    for order, state in (
        (Order.FORCE_OPEN, State.FORCED_OPEN),
        (Order.DISABLE, State.DISABLED),
        (Order.RESET, State.CLOSED),
    ):
        breakers.obey(order, Kind.TOOL, "crm")
        assert breakers.one(Kind.TOOL, "crm").state is state
