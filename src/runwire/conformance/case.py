"""A case as data: its name, what it promises, and the function that looks."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar

from runwire.conformance.report import Evidence, Priority, Result, without
from runwire.conformance.wire import Closed, CouldNotCheck, Silence, require_staying
from runwire.errors import RunwireError

__all__ = ["BUDGET", "QUESTIONS", "Broken", "Case", "Category", "NotHere", "Subject", "Verdicts", "judge_all"]

Expect = Literal["five", "any"]
Scene = TypeVar("Scene")
Found = TypeVar("Found")

QUESTIONS: Final = ("What is a thread?", "How does a client resume after a lost connection?")
BUDGET: Final[Mapping[str, float]] = MappingProxyType(
    {
        "reply_ms": 2_000.0,
        "first_event_ms": 5_000.0,
        "gap_ms": 30_000.0,
        "end_to_end_ms": 120_000.0,
        "cancel_ms": 10_000.0,
        "revocation_ms": 3_000.0,
    }
)
"""How long things may take at most, unless `--budget` says otherwise: wide, as models differ and networks too."""


# What a refusal looks like in evidence that says nothing of the promise: the server asks to come again (PROTOCOL §4).
_UNAVAILABLE: Final = re.compile(
    r'"error":\s*\{[^}]*"code":\s*"unavailable"|\b503: .*"code":\s*"unavailable"|\b0: no answer: ', re.DOTALL
)


class NotHere(RunwireError):
    """The deployment, or what the caller gave, lacks what a case needs: it is not checked, and that is no fault."""

    code = "unsupported"


class Broken(RunwireError):
    """A promise is broken; `evidence` says how."""

    code = "internal"

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence.seen)
        self.evidence = evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked, and how."""

    url: str
    token: str
    others: tuple[str, ...] = ()  # more gateways of the same deployment
    other_token: str | None = None  # of a second user
    expired_token: str | None = None  # one that was good once
    person: tuple[str, str] | None = None  # name and password of the first user
    expect: Expect = "any"
    agent: str | None = None  # None: the deployment's default
    questions: tuple[str, str] = QUESTIONS  # a nonce is added to each
    timeout_s: float = 30.0  # for each run and each answer
    rounds: int = 5  # of what is measured
    budget: Mapping[str, float] = field(default_factory=lambda: BUDGET)
    kill: Callable[[], Awaitable[None]] | None = None  # ends a process of the deployment, and has it come back
    figures: dict[str, float] = field(default_factory=dict)  # what is measured on the way

    @property
    def urls(self) -> tuple[str, ...]:
        """Return all gateways, the first one first."""
        return (self.url, *self.others)

    @property
    def short_s(self) -> float:
        """Return how long an answer may take that needs no run."""
        return min(self.timeout_s, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Generic[Scene]):
    """One promise and how it is looked at.

    A case whose `needs` are not kept is not checked: its fault would only repeat theirs under another name.
    """

    name: str  # unique within its category
    promise: str  # one sentence: what holds if the case passes
    look: Callable[[Scene], list[Evidence]] | Callable[[Scene], Awaitable[list[Evidence]]]
    needs: tuple[str, ...] = ()  # names in the same category
    priority: Priority = "p2"  # p1: what a release must never break
    applies: Callable[[Scene], str | None] = lambda scene: None  # why not, if it does not apply here


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """Cases that look at the same scene."""

    name: str
    about: str  # one sentence
    play: Callable[[Subject], Awaitable[Any]]
    cases: Sequence[Case[Any]]
    wants: str = ""  # what the caller or the deployment must give; empty: nothing
    is_alone: bool = False  # nothing else may go on meanwhile, because it measures or breaks


class Verdicts:
    """What was found so far, over all categories; bounded by the number of cases.

    Args:
        tell: is told of each result at once.
        fail_fast: look at nothing more after the first broken promise.
        secrets: are shown in no evidence.
    """

    def __init__(
        self, tell: Callable[[Result], None] = lambda result: None, *, fail_fast: bool = False, secrets: set[str]
    ) -> None:
        self.results: dict[str, Result] = {}
        self.problem: str | None = None  # why (part of) the check could not be done
        self.secrets = secrets
        self._tell = tell
        self._fail_fast = fail_fast

    @property
    def stopped(self) -> str | None:
        """Return why nothing more is looked at."""
        if self.problem is not None:
            return self.problem
        is_over = self._fail_fast and any(result.status == "broken" for result in self.results.values())
        return "stopped at the first broken promise" if is_over else None

    def unmet(self, needs: Iterable[str]) -> str | None:
        """Return why what needs these (`category/case`) is not looked at: the first reason, however far away."""
        for id_ in needs:
            if (result := self.results.get(id_)) is not None and result.status != "kept":
                return result.why or f"needs {id_}, which is broken"
        return None

    def add(
        self,
        category: str,
        case: Case[Any],
        *,
        evidence: Sequence[Evidence] = (),
        why: str | None = None,
        took_s: float = 0,
    ) -> None:
        """Take in a result and tell it."""
        result = Result(
            case=case.name,
            category=category,
            priority=case.priority,
            promise=case.promise,
            status="not_checked" if why else "broken" if evidence else "kept",
            evidence=tuple(without(each, self.secrets) for each in evidence),
            why=why,
            duration_s=round(took_s, 3),
        )
        self.results[f"{category}/{case.name}"] = result
        self._tell(result)


async def judge_all(category: str, cases: Sequence[Case[Scene]], scene: Scene, verdicts: Verdicts) -> None:
    """Look at each case in order; one that needs another that is not kept is left out, with the reason."""
    for case in cases:
        why = verdicts.stopped or verdicts.unmet(f"{category}/{name}" for name in case.needs) or case.applies(scene)
        began_s = time.monotonic()
        evidence: list[Evidence] = []
        if why is None:
            try:
                evidence = await _look(case, scene)
                _require_available(evidence)
            except NotHere as error:
                why = error.message
            except CouldNotCheck as error:
                evidence = []
                why = verdicts.problem = without(Evidence(expected="", seen=error.message), verdicts.secrets).seen
        verdicts.add(category, case, evidence=evidence, why=why, took_s=time.monotonic() - began_s)


async def _alone(work: Awaitable[Found]) -> Found:
    """Await work whose tasks may fail beside each other; the first failure is raised as it is, not in a group."""
    try:
        return await work
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def _require_available(evidence: Sequence[Evidence]) -> None:
    """Raise `CouldNotCheck` if something was refused only for now: a database that is away breaks no promise."""
    said = [text for each in evidence for text in (each.seen, *each.frames[-1:]) if _UNAVAILABLE.search(text)]
    if said:
        raise CouldNotCheck(f"The deployment said that it is unavailable, or gave no answer; try again. {said[0]}")


async def _look(case: Case[Scene], scene: Scene) -> list[Evidence]:
    try:
        found = case.look(scene)
        return found if isinstance(found, list) else await _alone(found)
    except Broken as error:
        return [error.evidence]
    except (Silence, Closed) as error:
        require_staying(error)
        return [Evidence(expected=case.promise, seen=error.message, frames=error.frames)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, asyncio.InvalidStateError) as error:
        # Only the deployment's data can be that strange here, and it must not end the check of the rest.
        return [Evidence(expected="data of the shape that PROTOCOL gives", seen=f"{type(error).__name__}: {error}")]
