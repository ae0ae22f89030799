"""A circuit breaker by examples; what holds in every order of events is in `test_breaker_machine.py`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from runwire.resilience.breaker import Breaker, CircuitOpen, Permit, State, Terms, Transition
from runwire.resilience.testing import examine, subject_of

ROW = Terms(failures_in_row=3, failure_rate=None, open_s=2.0, longest_open_s=16.0, lease_s=10.0)


class Stand:
    """A breaker, its clock, and what it told."""

    def __init__(self, terms: Terms = ROW, *, chance: float = 1.0) -> None:
        self.now_s = 1_000.0
        self.told: list[Transition] = []
        self.breaker = Breaker(
            "crm", terms, now_s=lambda: self.now_s, chance=lambda: chance, on_change=self.told.append
        )

    def call(self, *, ok: bool = True, times: int = 1, retry_after_s: float | None = None) -> None:
        for _ in range(times):
            permit = self.breaker.acquire()
            permit.success() if ok else permit.failure(retry_after_s=retry_after_s)

    def open(self) -> Stand:
        self.call(ok=False, times=3)
        assert self.breaker.state is State.OPEN
        return self

    def probe(self) -> Permit:
        """Wait until there is a probe, and return it."""
        self.now_s += self.refused_s()
        permit = self.breaker.acquire()
        assert self.breaker.state is State.HALF_OPEN
        return permit

    def refused_s(self) -> float:
        with pytest.raises(CircuitOpen) as caught:
            self.breaker.acquire()
        assert caught.value.retry_after_s is not None
        return caught.value.retry_after_s


def opened(*, chance: float = 1.0) -> Stand:
    return Stand(chance=chance).open()


async def test_ours_keeps_every_promise_of_the_kit() -> None:
    assert [verdict for verdict in await examine(subject_of) if not verdict.is_kept] == []


def test_a_refusal_says_who_and_when_to_try_again() -> None:
    stand = opened()
    with pytest.raises(CircuitOpen, match=r"^crm fails too often and is left alone; try again in 2 s\.$") as caught:
        stand.breaker.acquire()
    assert (caught.value.code, caught.value.retry_after_s) == ("circuit_open", 2.0)
    assert stand.breaker.retry_after_s == 2.0


@pytest.mark.parametrize(("chance", "pause_s"), [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)])
def test_a_pause_is_half_chance(chance: float, pause_s: float) -> None:
    assert opened(chance=chance).refused_s() == pause_s


def test_the_pause_doubles_up_to_the_longest_and_begins_anew_when_it_was_closed() -> None:
    stand = opened()
    pauses = []
    for _ in range(5):
        pauses.append(stand.refused_s())
        stand.probe().failure()
    assert pauses == [2.0, 4.0, 8.0, 16.0, 16.0]
    stand.probe().success()
    assert stand.open().refused_s() == 2.0


def test_the_other_side_is_left_alone_for_as_long_as_it_asks() -> None:
    stand = Stand()
    stand.call(ok=False, retry_after_s=30.0)
    stand.now_s += 10
    stand.call(ok=False, times=2)  # the one that opens it did not say so
    assert stand.refused_s() == 20.0


def test_nobody_can_ask_to_be_left_alone_for_good() -> None:
    stand = Stand()
    stand.call(ok=False, times=3, retry_after_s=1e9)
    assert stand.refused_s() == ROW.longest_retry_after_s


def test_a_probe_that_fails_may_ask_for_longer() -> None:
    stand = opened()
    stand.probe().failure(retry_after_s=60.0)
    assert stand.refused_s() == 60.0


def test_what_was_asked_for_before_it_closed_counts_no_more() -> None:
    stand = Stand()
    stand.call(ok=False, times=3, retry_after_s=100.0)
    stand.probe().success()
    assert stand.open().refused_s() == 2.0


def test_while_a_probe_is_under_way_others_come_back_before_its_lease_ends() -> None:
    stand = opened()
    stand.probe()
    assert stand.refused_s() == ROW.open_s
    stand.now_s += 9
    assert stand.refused_s() == 1.0


def test_an_operator_opens_and_closes_whatever_calls_come_to() -> None:
    stand = Stand()
    before = stand.breaker.acquire()
    stand.breaker.force_open()
    assert stand.refused_s() == ROW.longest_open_s
    before.success()
    stand.now_s += 1e6
    assert stand.refused_s() > 0
    stand.breaker.disable()
    stand.call(ok=False, times=50)
    assert (stand.breaker.state, stand.breaker.counted) == (State.DISABLED, (0, 0, 0))
    stand.breaker.reset()
    stand.call(ok=False, times=2)
    assert (stand.breaker.state, stand.breaker.counted) == (State.CLOSED, (2, 2, 0))
    stand.call(ok=False)
    stand.breaker.reset()
    stand.call()


def test_each_change_is_told_once_with_its_reason() -> None:
    stand = opened()
    stand.probe().failure()
    stand.probe().success()
    stand.breaker.force_open()
    assert [(each.before, each.after, each.reason, each.retry_after_s) for each in stand.told] == [
        ("closed", "open", "3 failures in a row", 2.0),
        ("open", "half_open", "its time is over", 0.0),
        ("half_open", "open", "a probe failed", 4.0),
        ("open", "half_open", "its time is over", 0.0),
        ("half_open", "closed", "probes succeeded", 0.0),
        ("closed", "forced_open", "an operator's word", 16.0),
    ]
    assert [each.generation for each in stand.told] == [1, 2, 3, 4, 5, 6]
    assert {each.name for each in stand.told} == {"crm"}


def test_a_listener_may_ask_the_breaker() -> None:
    heard: list[float] = []
    breaker = Breaker("crm", ROW, on_change=lambda _change: heard.append(breaker.retry_after_s))
    breaker.force_open()
    assert heard == [ROW.longest_open_s]


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (Terms(minimum_calls=4), "2 of 4 calls failed"),
        (Terms(minimum_calls=4, failure_rate=None, slow_s=1.0, slow_rate=0.5), "2 of 4 calls were slow"),
    ],
)
def test_a_rate_counts_with_the_call_that_makes_enough_of_them(terms: Terms, reason: str) -> None:
    stand = Stand(terms)
    for is_bad in (True, True, False, False):
        permit = stand.breaker.acquire()
        if is_bad and terms.failure_rate:
            permit.failure()
        else:
            permit.success(1.1 if is_bad else 1.0)
    assert [each.reason for each in stand.told] == [reason]


def test_the_window_moves_by_tenths() -> None:
    stand = Stand(Terms(window_s=10.0))
    for _ in range(12):
        stand.call(ok=False)
        stand.now_s += 1
        if stand.breaker.state is State.OPEN:
            break
    assert stand.told[0].reason == "10 of 10 calls failed"
    stand = Stand(Terms(window_s=10.0))
    for _ in range(30):
        stand.call(ok=False)
        stand.now_s += 1.25
    assert stand.told == [], "never ten within ten seconds"


def test_a_clock_that_is_read_late_counts_in_the_present() -> None:
    stand = Stand()
    stand.call(ok=False)
    stand.now_s -= 500.0
    stand.call(ok=False)
    assert stand.breaker.counted == (2, 2, 0)


# ── permits ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_word_of_a_permit_counts() -> None:
    words: list[Callable[[Permit], None]] = [Permit.success, Permit.failure, Permit.ignore, Permit.first_token]
    stand = Stand(Terms(slow_first_s=0.5))
    for word in words[:3]:
        permit = stand.breaker.acquire()
        stand.now_s += 1
        word(permit)
        before = stand.breaker.counted
        for other in words:
            other(permit)
        assert stand.breaker.counted == before
    assert stand.breaker.counted == (2, 1, 0)


async def test_a_time_limit_within_is_a_failure_and_one_outside_is_not() -> None:
    stand = Stand()

    async def within() -> None:
        with stand.breaker.acquire():
            async with asyncio.timeout(0):
                await asyncio.sleep(60)

    async def outside() -> None:
        async with asyncio.timeout(0):
            with stand.breaker.acquire():
                await asyncio.sleep(60)

    for call in (within, outside):
        with pytest.raises(TimeoutError):
            await call()
    with stand.breaker.acquire():
        pass
    assert stand.breaker.counted == (2, 1, 0)


def test_a_failure_tells_its_retry_after_by_itself() -> None:
    class Overloaded(Exception):
        status_code = 503
        headers = {"retry-after": "40"}  # noqa: RUF012 - as an SDK may have it

    stand = Stand()
    for _ in range(3):
        with pytest.raises(Overloaded), stand.breaker.acquire():
            raise Overloaded
    assert stand.refused_s() == 40.0


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────

STREAMS = Terms(
    failures_in_row=2,
    failure_rate=None,
    minimum_calls=2,
    slow_s=5.0,
    slow_first_s=1.0,
    slow_rate=1.0,
    lease_s=10.0,
)


def test_a_long_stream_is_not_slow_and_one_that_is_cut_has_failed() -> None:
    stand = Stand(STREAMS)
    for is_cut in (False, True):
        permit = stand.breaker.acquire()
        stand.now_s += 1
        permit.first_token()
        stand.now_s += 500
        permit.failure() if is_cut else permit.success()
    assert stand.breaker.counted == (1, 1, 0), "the window has forgotten the first"


def test_streams_that_are_cut_open_it_however_well_they_began() -> None:
    stand = Stand(STREAMS)
    for _ in range(2):
        permit = stand.breaker.acquire()
        permit.first_token()
        permit.failure()
    assert stand.breaker.state is State.OPEN


def test_a_slow_beginning_counts_at_once_and_once() -> None:
    stand = Stand(STREAMS)
    permits = [stand.breaker.acquire(), stand.breaker.acquire()]
    stand.now_s += 1.1
    permits[0].first_token()
    permits[0].first_token()
    assert stand.breaker.counted == (1, 0, 1)
    permits[0].success()
    assert stand.breaker.counted == (1, 0, 1)
    permits[1].first_token()
    assert stand.told[0].reason == "2 of 2 calls were slow"


def test_a_person_who_leaves_a_stream_says_nothing_of_it() -> None:
    stand = Stand(STREAMS)
    permit = stand.breaker.acquire()
    permit.first_token(0.5)
    permit.ignore()
    assert stand.breaker.counted == (0, 0, 0)


def test_the_lease_of_a_probe_begins_again_with_its_first_token() -> None:
    stand = Stand(STREAMS)
    stand.call(ok=False, times=2)
    probe = stand.probe()
    stand.now_s += 9
    probe.first_token(0.9)
    stand.now_s += 9
    assert stand.refused_s() == 1.0
    probe.success()
    assert stand.breaker.state is State.CLOSED


def test_a_probe_that_begins_slowly_has_failed() -> None:
    stand = Stand(STREAMS)
    stand.call(ok=False, times=2)
    stand.probe().first_token(1.1)
    assert stand.breaker.state is State.OPEN


def test_a_probe_that_outlives_its_lease_still_says_how_it_is() -> None:
    for ok, after in ((True, State.CLOSED), (False, State.OPEN)):
        stand = opened()
        late = stand.probe()
        stand.now_s += 11
        stand.breaker.acquire()
        late.success() if ok else late.failure()
        assert stand.breaker.state is after


# ── bounds, threads ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "field",
    [
        *("minimum_calls", "probes", "successes", "window_s", "lease_s", "open_s"),
        *("slow_s", "slow_first_s", "failures_in_row", "failure_rate", "slow_rate", "longest_open_s"),
    ],
)
def test_terms_out_of_their_bounds_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}` of a breaker"):
        Terms(**{field: -1})


def test_threads_get_exactly_the_probes_and_no_count_is_lost() -> None:
    stand = Stand(Terms(minimum_calls=100_000, probes=3))
    barrier = threading.Barrier(8)
    permits: list[Permit] = []

    def calls() -> None:
        barrier.wait(10)
        for _ in range(500):
            stand.call()

    def probes() -> None:
        barrier.wait(10)
        for _ in range(50):
            try:
                permits.append(stand.breaker.acquire())
            except CircuitOpen:
                continue

    _all(calls)
    assert stand.breaker.counted == (4_000, 0, 0)
    stand = Stand(Terms(minimum_calls=1, probes=3))
    stand.call(ok=False)
    stand.now_s += 5
    _all(probes)
    assert len(permits) == 3


def _all(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
