"""The breaker and a model of a few lines agree, whatever is called, comes back late, or is ordered by an operator."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runwire.resilience.breaker import Breaker, CircuitOpen, Permit, State, Terms
from runwire.resilience.testing import Model

TERMS = st.builds(
    Terms,
    failure_rate=st.sampled_from([0.5, None, 1.0]),
    minimum_calls=st.integers(2, 5),
    failures_in_row=st.sampled_from([3, None, 1]),
    window_s=st.sampled_from([10.0, 60.0]),
    slow_s=st.just(1.0),
    slow_rate=st.sampled_from([0.5, 1.0]),
    probes=st.integers(1, 3),
    successes=st.integers(1, 4),
    lease_s=st.sampled_from([4.0, 30.0]),
    open_s=st.just(4.0),
    longest_open_s=st.sampled_from([4.0, 16.0]),
)


class BreakerMachine(RuleBasedStateMachine):
    """Calls that begin and end in any order, and what the model says of each."""

    @initialize(terms=TERMS)
    def begin(self, terms: Terms) -> None:
        self.now_s = 1_024.0
        self.breaker = Breaker("b", terms, now_s=lambda: self.now_s, chance=lambda: 1.0)
        self.model = Model(terms)
        self.under_way: list[tuple[int, Permit]] = []
        self.calls = 0

    @rule()
    def call(self) -> None:
        self.calls += 1
        is_through = self.model.let_through(self.calls, self.now_s)
        try:
            permit = self.breaker.acquire()
        except CircuitOpen:
            assert not is_through
            assert self.breaker.retry_after_s > 0
        else:
            assert is_through
            self.under_way.append((self.calls, permit))

    @rule(which=st.integers(0, 9), is_failed=st.booleans(), is_slow=st.booleans())
    def settle(self, which: int, is_failed: bool, is_slow: bool) -> None:
        if self.under_way:
            number, permit = self.under_way.pop(which % len(self.under_way))
            is_slow = is_slow and not is_failed
            self.model.settle(number, permit.generation, self.now_s, is_failed=is_failed, is_slow=is_slow)
            if is_failed:
                permit.failure()
            else:
                permit.success(1.5 if is_slow else 0.5)

    @rule(is_failed=st.booleans(), times=st.sampled_from([1, 2, 6]))
    def call_and_settle(self, is_failed: bool, times: int) -> None:
        for _ in range(times):
            before = len(self.under_way)
            self.call()
            if len(self.under_way) > before:
                number, permit = self.under_way.pop()
                self.model.settle(number, permit.generation, self.now_s, is_failed=is_failed, is_slow=False)
                permit.failure() if is_failed else permit.success(0.5)

    # Left to chance alone it would hardly ever be half-open, with something under way from before.

    @rule(left=st.integers(0, 2))
    def fail(self, left: int) -> None:
        for _ in range(left):
            self.call()
        for _ in range(6):
            if self.model.state is State.CLOSED:
                self.call_and_settle(is_failed=True, times=1)

    @rule(calls=st.integers(1, 4))
    def come_when_it_may_be_asked(self, calls: int) -> None:
        self.now_s += self.breaker.retry_after_s
        for _ in range(calls):
            self.call()

    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        if self.under_way:
            number, permit = self.under_way.pop(which % len(self.under_way))
            self.model.probes.pop(number, None)
            permit.ignore()

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 4.0, 8.0, 16.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(order=st.sampled_from([State.FORCED_OPEN, State.DISABLED, State.CLOSED]), chance=st.integers(0, 5))
    def order(self, order: State, chance: int) -> None:
        if chance < 5 and self.breaker.state in (State.CLOSED, State.OPEN, State.HALF_OPEN):
            return  # else it would not be let alone for long enough to get anywhere
        self.model.move(order)
        orders = {State.FORCED_OPEN: self.breaker.force_open, State.DISABLED: self.breaker.disable}
        orders.get(order, self.breaker.reset)()

    @invariant()
    def they_agree(self) -> None:
        if hasattr(self, "breaker"):
            assert (self.breaker.state, self.breaker.generation) == (self.model.state, self.model.generation)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)


def test_they_agree_on_long_walks_too() -> None:
    """Go where few short ones come: half-open for the third time, with calls under way from before the first."""
    chance = random.Random(7)
    for _ in range(500):
        machine = BreakerMachine()
        machine.begin(
            Terms(
                failure_rate=chance.choice([0.5, None, 1.0]),
                minimum_calls=chance.randint(2, 8),
                failures_in_row=chance.choice([3, None]),
                window_s=10.0,
                slow_s=1.0,
                slow_rate=chance.choice([0.5, 1.0]),
                probes=chance.randint(1, 3),
                successes=chance.randint(1, 4),
                lease_s=4.0,
                open_s=4.0,
                longest_open_s=16.0,
            )
        )
        is_bad = 0.5  # the share of calls that fail, for a while
        for _ in range(80):
            match chance.randrange(12):
                case 0 | 1 | 2:
                    machine.call()
                case 3 | 4 | 5:
                    is_failed = chance.random() < is_bad
                    machine.settle(chance.randrange(10), is_failed=is_failed, is_slow=chance.random() < 0.2)
                case 6:
                    machine.call_and_settle(is_failed=chance.random() < is_bad, times=chance.randint(1, 4))
                case 7:
                    machine.leave(chance.randrange(10))
                case 8:
                    machine.come_when_it_may_be_asked(chance.randint(1, 4))
                case 9:
                    machine.wait(chance.choice([0.5, 1.0, 3.0, 4.0, 9.5]))
                case 10:
                    is_bad = chance.choice([0.0, 0.5, 1.0])
                case _:
                    machine.order(chance.choice([State.CLOSED, State.DISABLED]), chance.randint(0, 5))
            machine.they_agree()
