"""The kit finds what is wrong with a breaker: each of these copies of ours has one mistake, and none passes."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import pytest

from runwire.resilience import breaker, window
from runwire.resilience.testing import CHECKS, examine, subject_of

_PERMIT_COUNT = "if len(self._probes) < self.terms.probes:"
_GENERATION = "if permit.generation != self._generation:"

# What is wrong: the line as it is, the line as it is not to be, and a check that must see it.
MUTANTS = {
    "one failure too late": (
        "self._row == terms.failures_in_row",
        "self._row - 1 == terms.failures_in_row",
        "opens at exactly the threshold",
    ),
    "one failure too early": (
        "self._row == terms.failures_in_row",
        "self._row + 1 == terms.failures_in_row",
        "opens at exactly the threshold",
    ),
    "never leaves failures behind": (
        "self._row + 1 if is_failed else 0",
        "self._row + is_failed",
        "success begins a row anew",
    ),
    "half-open lets everybody through": (
        _PERMIT_COUNT,
        "if True:",
        "half open lets exactly its probes through",
    ),
    "one probe too many": (
        _PERMIT_COUNT,
        "if len(self._probes) <= self.terms.probes:",
        "half open lets exactly its probes through",
    ),
    "always one probe": (
        _PERMIT_COUNT,
        "if not self._probes:",
        "half open lets exactly its probes through",
    ),
    "old results count": (_GENERATION, "if False:", "late success does not close"),
    "old results count once it is closed": (
        _GENERATION,
        "if permit.generation != self._generation and self._state is not State.CLOSED:",
        "late failure does not open",
    ),
    "a cancelled probe keeps its place": (
        "            self._probes.pop(permit, None)\n\n    # ──",
        "\n    # ──",
        "cancelled probe says nothing",
    ),
    "a cancelled call is a failure": (
        "        else:\n            self.ignore()",
        "        else:\n            self.failure()",
        "thousand cancelled calls leave it closed",
    ),
    "a cancelled call is a success": (
        "        else:\n            self.ignore()",
        "        else:\n            self.success()",
        "cancellation leaves a row as it is",
    ),
    "a hung probe keeps its place for good": (
        "if until_s <= now_s]",
        "if until_s <= 0]",
        "hung probe keeps others away for its lease only",
    ),
    "a probe has no lease": (
        "if until_s <= now_s]",
        "if True]",
        "hung probe keeps others away for its lease only",
    ),
    "a late probe frees another's place": (
        "        self._probes.pop(permit, None)\n        if is_bad:",
        "        self._probes.popitem()\n        if is_bad:",
        "late probe frees nobody elses place",
    ),
    "one success is enough": (
        "if self._successes < self.terms.successes:",
        "if False:",
        "closes after exactly its successes",
    ),
    "one success too many is wanted": (
        "if self._successes < self.terms.successes:",
        "if self._successes <= self.terms.successes:",
        "closes after exactly its successes",
    ),
    "successes of an earlier time count": (
        "        self._successes = 0\n        self._row",
        "        self._row",
        "successes before a failed probe are forgotten",
    ),
    "a probe that fails is a try": (
        'return self._open("a probe failed", now_s)',
        "return None",
        "failed probe opens again",
    ),
    "the pause does not grow": ("self._openings += 1", "pass", "each failed probe doubles the pause"),
    "opens for no time": ("max(now_s + pause_s, self._retry_at_s)", "now_s", "stays open for its time"),
    "opens for good": ("max(now_s + pause_s, self._retry_at_s)", "now_s + 1e9", "stays open for its time"),
    "no rate": ("failures >= terms.failure_rate * calls", "False", "opens by rate"),
    "a rate of few": ("if calls < terms.minimum_calls:", "if calls < 1:", "few calls are no rate"),
    "slow calls are good ones": ("if slow and slow >=", "if False and slow >=", "opens by slow calls"),
    "forgets nothing": ("if now_s >= self._end_s:", "if False:", "old failures are forgotten"),
    "forgets everything with each tenth": (
        "max(self._at + 1, at - BUCKETS + 1)",
        "at - BUCKETS + 1",
        "failures within the window are not forgotten",
    ),
    "a time limit says nothing": (
        "if classify(error) is Outcome.FAILURE:",
        "if classify(error) is Outcome.FAILURE and not isinstance(error, TimeoutError):",
        "time limit is a failure",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_breaker_with_one_mistake_does_not_pass(name: str) -> None:
    old, new, seen_by = MUTANTS[name]
    mutant = _copy(old, new)
    check = next(each for each in CHECKS if each.__name__.replace("_", " ") == seen_by)
    (verdict,) = await examine(lambda terms: subject_of(terms, mutant.Breaker), checks=[check])
    assert not verdict.is_kept
    assert verdict.found


def test_each_check_finds_somebody() -> None:
    assert {check.__name__.replace("_", " ") for check in CHECKS} - {seen_by for _, _, seen_by in MUTANTS.values()} == {
        "sheds most of what fails mostly"  # what other libraries are told apart by; ours cannot fail it alone
    }


async def test_a_copy_without_a_change_passes() -> None:
    same = _copy(_PERMIT_COUNT, _PERMIT_COUNT)
    assert [each for each in await examine(lambda terms: subject_of(terms, same.Breaker)) if not each.is_kept] == []


async def test_what_never_answers_is_found_out() -> None:
    class Deaf:
        async def call(self, work: Callable[[], Awaitable[object]]) -> None:
            raise RuntimeError("no breaker at all")

        async def pass_time(self, seconds: float) -> None: ...

    verdicts = await examine(lambda _terms: Deaf())
    assert [each for each in verdicts if each.is_kept] == []
    assert "no breaker at all" in verdicts[0].found


def _copy(old: str, new: str) -> ModuleType:
    """Return the breaker's module with one text changed, its window with it."""
    texts = [_text(window), _text(breaker)]
    assert sum(text.count(old) for text in texts) == 1, f"the source has changed: {old!r}"
    names = ("mutant_window", "mutant_breaker")
    made = [ModuleType(name) for name in names]
    try:
        for name, module, text in zip(names, made, texts, strict=True):
            sys.modules[name] = module
            changed = text.replace(old, new).replace("runwire.resilience.window", "mutant_window")
            exec(compile(changed, f"<{name}>", "exec"), module.__dict__)
    finally:
        for name in names:
            sys.modules.pop(name, None)
    return made[1]


def _text(module: ModuleType) -> str:
    assert module.__file__
    return Path(module.__file__).read_text(encoding="utf-8")
