"""Check a deployment from outside: play the scenes, look at the cases, report."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from runwire.client.token import Token, text_of
from runwire.conformance import conversation, cuts, golden_path, resume
from runwire.conformance.case import Case, Expect, Subject, judge_all
from runwire.conformance.report import Report, Result
from runwire.conformance.wire import CouldNotCheck
from runwire.errors import ConfigurationError, RunwireError

__all__ = ["CATEGORIES", "check"]

_Play = Callable[[Subject], Awaitable[Any]]

CATEGORIES: Final[Mapping[str, tuple[_Play, Sequence[Case[Any]]]]] = MappingProxyType(
    {
        "golden_path": (conversation.play, golden_path.CASES),
        "resume": (cuts.play, resume.CASES),
    }
)
"""Name → what is done, and what is looked at afterwards."""

_QUESTIONS: Final = ("What is a thread?", "How does a client resume after a lost connection?")


async def check(
    url: str,
    credentials: Token,
    *,
    categories: Sequence[str] = ("golden_path", "resume"),
    expect: Expect = "any",
    agent: str | None = None,
    questions: tuple[str, str] = _QUESTIONS,
    timeout_s: float = 30.0,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Check what a deployment promises, as an outside client sees it; nothing is healed or retried.

    Args:
        url: `http(s)://host[:port][/prefix]`.
        credentials: an access token or API key, or an async callable that returns one.
        categories: what to check, in this order.
        expect: `five`: the agent uses a tool, and the five events must come; `any`: whatever it does must be in order.
        agent: which agent to ask; None: the deployment's default.
        questions: two messages to ask; a nonce is added to each.
        timeout_s: for each run and each answer.
        on_result: is told of each result at once.

    Returns:
        The report; `report.exit_code` is 0, 1 if a promise is broken, 2 if it could not be checked.

    Raises:
        ConfigurationError: there is no such category.
    """
    if unknown := [name for name in categories if name not in CATEGORIES]:
        raise ConfigurationError(
            [f"There is no category {name!r}; there are {', '.join(CATEGORIES)}." for name in unknown]
        )
    began_s, started_at = time.monotonic(), datetime.now(tz=UTC)
    results: list[Result] = []
    problem: str | None = None
    server: str | None = None
    figures: dict[str, float] = {}
    for category in categories:
        play, cases = CATEGORIES[category]
        if problem is not None:
            results += _unchecked(cases, category, problem, on_result)
            continue
        try:
            subject = Subject(
                url=url.rstrip("/"),
                token=await text_of(credentials),
                expect=expect,
                agent=agent,
                questions=questions,
                timeout_s=timeout_s,
                figures=figures,
            )
            scene = await play(subject)
            results += await judge_all(cases, scene, category=category, tell=on_result)
            server = getattr(getattr(scene, "welcome", None), "server", server)
        except RunwireError as error:
            problem = error.message if isinstance(error, CouldNotCheck) else f"No token could be had: {error.message}"
            results += _unchecked(cases, category, problem, on_result)
    return Report(
        url=url,
        expect=expect,
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - began_s, 2),
        server=server,
        results=tuple(results),
        problem=problem,
        figures=figures,
    )


def _unchecked(cases: Sequence[Case[Any]], category: str, why: str, tell: Callable[[Result], None]) -> list[Result]:
    results = [
        Result(
            case=case.name,
            category=category,
            priority=case.priority,
            promise=case.promise,
            status="not_checked",
            why=why,
        )
        for case in cases
    ]
    for result in results:
        tell(result)
    return results
