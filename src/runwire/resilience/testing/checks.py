"""What a breaker promises, each as a check that raises if it is not so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from runwire.resilience.testing.calls import Down, asked, calling, check, down, fine, opened, ready
from runwire.resilience.testing.subject import KitTerms, Made

__all__ = ["CHECKS"]


async def opens_at_exactly_the_threshold(made: Made, terms: KitTerms) -> None:
    """Open with the last failure that it takes, and not with the one before."""
    subject, most = made(terms), terms.failures_in_row or 0
    for before in range(most):
        check(await asked(subject, down) == 1, f"open after {before} failures of {most}")
    check(await asked(subject, times=3) == 0, f"not open after {most} failures")


async def success_begins_a_row_anew(made: Made, terms: KitTerms) -> None:
    """Count failures in a row, not all that ever were."""
    subject = made(terms)
    for _ in range(3):
        await asked(subject, down, times=(terms.failures_in_row or 0) - 1)
        check(await asked(subject) == 1, "open by failures with a success between them")


async def stays_open_for_its_time(made: Made, terms: KitTerms) -> None:
    """Refuse until at least half of the time is over: the other half is jitter."""
    subject = await opened(made, terms)
    await subject.pass_time(terms.open_s * 0.4)
    check(await asked(subject, times=3) == 0, "a call was let through while it was open")
    await subject.pass_time(terms.open_s * 0.61)
    check(await asked(subject) == 1, "no call was let through after its time")


async def half_open_lets_exactly_its_probes_through(made: Made, terms: KitTerms) -> None:
    """Let as many through as there are probes, of 50 who call at once."""
    for probes in (1, 3):
        subject = await ready(made, replace(terms, probes=probes, successes=probes))
        async with calling(subject) as calls:
            through = await calls.begin(50)
            check(through == probes, f"{through} of 50 calls let through where {probes} may")
            check(calls.refused == 50 - probes, f"{50 - through - calls.refused} calls wait instead of being refused")


async def closes_after_exactly_its_successes(made: Made, terms: KitTerms) -> None:
    """Let one probe at a time through until enough have succeeded, then everybody."""
    subject = await ready(made, replace(terms, successes=3))
    async with calling(subject) as calls:
        for done in range(3):
            through = await calls.begin(20)
            check(through == 1, f"{through} of 20 calls let through after {done} of 3 successes")
            await calls.end()
        through = await calls.begin(20)
        check(through == 20, f"{through} of 20 calls let through after 3 successes")


async def successes_before_a_failed_probe_are_forgotten(made: Made, terms: KitTerms) -> None:
    """Count the successes of probes anew each time that it is half-open."""
    subject = await ready(made, replace(terms, successes=2))
    check(await asked(subject) == 1, "no probe was let through")
    check(await asked(subject, down) == 1, "no second probe was let through")
    await subject.pass_time(terms.open_s * 2.02)
    check(await asked(subject) == 1, "no probe was let through after the second pause")
    async with calling(subject) as calls:
        through = await calls.begin(10)
        check(through == 1, f"{through} of 10 calls let through after 1 of 2 successes")


async def failed_probe_opens_again(made: Made, terms: KitTerms) -> None:
    """Open with the first probe that fails."""
    subject = await ready(made, terms)
    check(await asked(subject, down) == 1, "no probe was let through")
    check(await asked(subject, times=5) == 0, "a call was let through after a probe had failed")


async def each_failed_probe_doubles_the_pause(made: Made, terms: KitTerms) -> None:
    """Wait longer with each probe that fails."""
    subject = await ready(made, terms)
    for factor in (2, 4):
        check(await asked(subject, down) == 1, f"no probe was let through after {factor / 2:g} times its time")
        await subject.pass_time(terms.open_s * factor * 0.45)
        check(await asked(subject) == 0, f"a probe was let through before {factor / 2:g} times its time was over")
        await subject.pass_time(terms.open_s * factor * 0.56)


async def late_success_does_not_close(made: Made, terms: KitTerms) -> None:
    """Drop the success of a call that was begun before it opened."""
    subject = made(terms)
    async with calling(subject) as calls:
        check(await calls.begin(2) == 2, "not closed at first")
        await asked(subject, down, times=terms.failures_in_row or 0)
        await calls.end(count=1)
        check(await asked(subject) == 0, "a late success closed it while it was open")
        await subject.pass_time(terms.open_s * 1.01)
        through = await calls.begin(1)  # the probe
        check(through == 1, "no probe was let through")
        await calls.end(count=1)
        through = await calls.begin(10)
        check(through == 0, f"{through} of 10 calls let through by a late success beside the probe")


async def late_failure_does_not_open(made: Made, terms: KitTerms) -> None:
    """Drop the failures of calls that were begun before it closed again."""
    subject, most = made(terms), terms.failures_in_row or 0
    async with calling(subject) as calls:
        await calls.begin(most)
        await asked(subject, down, times=most)
        await subject.pass_time(terms.open_s * 1.01)
        check(await asked(subject) == 1, "no probe was let through")
        await calls.end(error=Down("down"))
        check(await asked(subject) == 1, "late failures opened it again")


async def cancelled_probe_says_nothing(made: Made, terms: KitTerms) -> None:
    """Let the next probe through after one that was cancelled, and only one."""
    subject = await ready(made, terms)
    async with calling(subject) as calls:
        check(await calls.begin(1) == 1, "no probe was let through")
        await calls.cancel()
        through = await calls.begin(10)
        check(through == 1, f"{through} of 10 calls let through after a probe was cancelled")


async def thousand_cancelled_calls_leave_it_closed(made: Made, terms: KitTerms) -> None:
    """Take people who leave for nothing, by row and by rate."""
    for wanted in (terms, replace(terms, failures_in_row=None, failure_rate=0.5)):
        subject = made(wanted)
        async with calling(subject) as calls:
            check(await calls.begin(1_000) == 1_000, "not closed at first")
            await calls.cancel()
            check(await asked(subject) == 1, "cancelled calls opened it")


async def cancellation_leaves_a_row_as_it_is(made: Made, terms: KitTerms) -> None:
    """Go on with the row of failures that a cancelled call lies between."""
    subject = made(terms)
    await asked(subject, down, times=(terms.failures_in_row or 0) - 1)
    async with calling(subject) as calls:
        await calls.begin(5)
        await calls.cancel()
    await asked(subject, down)
    check(await asked(subject) == 0, "cancelled calls began the row of failures anew")


async def hung_probe_keeps_others_away_for_its_lease_only(made: Made, terms: KitTerms) -> None:
    """Let the next probe through when one has hung for its lease, and count each for one."""
    subject = await ready(made, terms)
    async with calling(subject) as calls:
        check(await calls.begin(1) == 1, "no probe was let through")
        await subject.pass_time(terms.lease_s * 0.9)
        check(await calls.begin(5) == 0, "a second probe was let through within the lease of the first")
        await subject.pass_time(terms.lease_s * 0.11)
        through = await calls.begin(5)
        check(through == 1, f"{through} of 5 calls let through after the lease of a hung probe")


async def late_probe_frees_nobody_elses_place(made: Made, terms: KitTerms) -> None:
    """Let no further probe through when one comes back whose lease has ended: its place is another's."""
    subject = await ready(made, replace(terms, successes=3))
    async with calling(subject) as calls:
        check(await calls.begin(1) == 1, "no probe was let through")
        await subject.pass_time(terms.lease_s * 1.01)
        check(await calls.begin(1) == 1, "no probe was let through after the lease")
        await calls.end(count=1)
        through = await calls.begin(5)
        check(through == 0, f"{through} of 5 calls let through beside a probe that is under way")


async def opens_by_rate(made: Made, terms: KitTerms) -> None:
    """Open when half of the calls fail, with successes between them: counting in a row never would."""
    subject = made(replace(terms, failures_in_row=None, failure_rate=0.5))
    through = 0
    for _ in range(terms.minimum_calls):
        through += await asked(subject, down) + await asked(subject)
    check(through == terms.minimum_calls, f"{through} of 20 calls let through, where {terms.minimum_calls} were enough")


async def sheds_most_of_what_fails_mostly(made: Made, terms: KitTerms) -> None:
    """Shed at least 80 of 100 calls of which four in five would fail."""
    subject = made(replace(terms, failure_rate=0.5))
    shed = 0
    for number in range(100):
        shed += await asked(subject, fine if number % 5 == 4 else down) == 0
    check(shed >= 80, f"{shed} of 100 calls shed")


async def few_calls_are_no_rate(made: Made, terms: KitTerms) -> None:
    """Stay closed by rate until there were enough calls."""
    subject = made(replace(terms, failures_in_row=None, failure_rate=0.5))
    through = await asked(subject, down, times=terms.minimum_calls - 1)
    check(through + await asked(subject) == terms.minimum_calls, "open by the rate of too few calls")


async def failures_within_the_window_are_not_forgotten(made: Made, terms: KitTerms) -> None:
    """Count failures by rate that are spread over most of the window."""
    subject = made(replace(terms, failures_in_row=None, failure_rate=0.5))
    for _ in range(terms.minimum_calls - 1):
        await asked(subject, down)
        await subject.pass_time(terms.window_s * 0.8 / terms.minimum_calls)
    await asked(subject, down)
    check(await asked(subject) == 0, f"not open after {terms.minimum_calls} failures within its window")


async def old_failures_are_forgotten(made: Made, terms: KitTerms) -> None:
    """Count no failure by rate that is older than the window."""
    subject = made(replace(terms, failures_in_row=None, failure_rate=0.5))
    await asked(subject, down, times=terms.minimum_calls - 1)
    await subject.pass_time(terms.window_s * 1.01)
    check(await asked(subject, down) == 1, "not closed at first")
    check(await asked(subject) == 1, "open by failures that are older than its window")


async def opens_by_slow_calls(made: Made, terms: KitTerms) -> None:
    """Open when calls succeed too slowly."""
    subject = made(replace(terms, failures_in_row=None, failure_rate=0.5, slow_s=terms.open_s / 10))
    for _ in range(terms.minimum_calls):
        await asked(subject, lambda: subject.pass_time(terms.open_s / 5))
    check(await asked(subject) == 0, f"not open after {terms.minimum_calls} slow calls")


async def time_limit_is_a_failure(made: Made, terms: KitTerms) -> None:
    """Count a call that met its own time limit."""

    async def hangs() -> None:
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()

    subject = made(terms)
    await asked(subject, hangs, times=terms.failures_in_row or 0)
    check(await asked(subject) == 0, "time limits did not open it")


CHECKS: Final = (
    opens_at_exactly_the_threshold,
    success_begins_a_row_anew,
    stays_open_for_its_time,
    half_open_lets_exactly_its_probes_through,
    closes_after_exactly_its_successes,
    successes_before_a_failed_probe_are_forgotten,
    failed_probe_opens_again,
    each_failed_probe_doubles_the_pause,
    late_success_does_not_close,
    late_failure_does_not_open,
    cancelled_probe_says_nothing,
    thousand_cancelled_calls_leave_it_closed,
    cancellation_leaves_a_row_as_it_is,
    hung_probe_keeps_others_away_for_its_lease_only,
    late_probe_frees_nobody_elses_place,
    opens_by_rate,
    sheds_most_of_what_fails_mostly,
    few_calls_are_no_rate,
    failures_within_the_window_are_not_forgotten,
    old_failures_are_forgotten,
    opens_by_slow_calls,
    time_limit_is_a_failure,
)
"""All, in the order in which they are best read."""
