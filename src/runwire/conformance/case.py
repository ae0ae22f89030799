"""A case as data: its name, what it promises, and the function that looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from runwire.conformance.report import Evidence, Result
from runwire.conformance.wire import Closed, Silence

__all__ = ["Case", "Subject", "judge_all"]

Expect = Literal["five", "any"]
Scene = TypeVar("Scene")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked, and how."""

    url: str
    token: str
    expect: Expect = "any"
    agent: str | None = None  # None: the deployment's default
    questions: tuple[str, str] = ("What is a thread?", "How does a client resume after a lost connection?")
    timeout_s: float = 30.0  # for each run and each answer
    figures: dict[str, float] = field(default_factory=dict)  # what is measured on the way


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Generic[Scene]):
    """One promise and how it is looked at.

    A case whose `needs` are not kept is not checked: its fault would only repeat theirs under another name.
    """

    name: str
    promise: str
    look: Callable[[Scene], list[Evidence]] | Callable[[Scene], Awaitable[list[Evidence]]]
    needs: tuple[str, ...] = ()
    priority: Literal["p1", "p2"] = "p1"
    applies: Callable[[Scene], str | None] = lambda scene: None  # why not, if it does not apply here


async def judge_all(
    cases: Sequence[Case[Scene]], scene: Scene, *, category: str, tell: Callable[[Result], None]
) -> list[Result]:
    """Look at each case in order; a case that needs one that is not kept is left out, with the reason."""
    results: dict[str, Result] = {}
    for case in cases:
        unkept = [name for name in case.needs if results[name].status != "kept"]
        why = f"needs {', '.join(unkept)}" if unkept else case.applies(scene)
        evidence = () if why else tuple(await _look(case, scene))
        result = Result(
            case=case.name,
            category=category,
            priority=case.priority,
            promise=case.promise,
            status="not_checked" if why else "broken" if evidence else "kept",
            evidence=evidence,
            why=why,
        )
        results[case.name] = result
        tell(result)
    return list(results.values())


async def _look(case: Case[Scene], scene: Scene) -> list[Evidence]:
    try:
        found = case.look(scene)
        return found if isinstance(found, list) else await found
    except (Silence, Closed) as error:
        return [Evidence(expected=case.promise, seen=error.message)]
    except (KeyError, TypeError, ValueError, AttributeError, asyncio.InvalidStateError) as error:
        # Only the deployment's data can be that strange here, and it must not end the check of the rest.
        return [Evidence(expected="data of the shape that PROTOCOL gives", seen=f"{type(error).__name__}: {error}")]
