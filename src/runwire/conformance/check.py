"""Check a deployment from outside: play the scenes, look at the cases, report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runwire.client.token import Token, text_of
from runwire.conformance.case import BUDGET, QUESTIONS, Case, Category, Expect, Subject, Verdicts, judge_all
from runwire.conformance.registry import CATEGORIES, GATE
from runwire.conformance.report import Priority, Report, Result
from runwire.conformance.wire import CouldNotCheck
from runwire.errors import ConfigurationError, RunwireError

__all__ = ["Options", "check", "wanted_cases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is checked of a deployment, and how; the names are those of the command line."""

    categories: Sequence[str] = tuple(CATEGORIES)
    skip: Sequence[str] = ()
    priority: Priority = "p2"  # p1: only what a release must never break; p2: all
    fail_fast: bool = False
    workers: int = 1  # categories at once
    expect: Expect = "any"  # five: the agent uses a tool, and the five events must come
    agent: str | None = None  # None: the deployment's default
    questions: tuple[str, str] = QUESTIONS
    timeout_s: float = 30.0  # for each run and each answer
    rounds: int = 5  # of what is measured
    budget: Mapping[str, float] = field(default_factory=lambda: BUDGET)
    others: Sequence[str] = ()  # URLs of more gateways
    other_token: str | None = None
    expired_token: str | None = None
    person: tuple[str, str] | None = None
    kill: Callable[[], Awaitable[None]] | None = None


async def check(
    url: str,
    credentials: Token,
    *,
    on_result: Callable[[Result], None] = lambda result: None,
    **options: Any,
) -> Report:
    """Check what a deployment promises, as an outside client sees it; nothing is healed or retried.

    Args:
        url: `http(s)://host[:port][/prefix]`.
        credentials: an access token or API key, or an async callable that returns one.
        on_result: is told of each result at once.
        options: fields of `Options`.

    Returns:
        The report; `report.exit_code` is 0, 1 if a promise is broken, 2 if it could not be checked.

    Raises:
        ConfigurationError: there is no such category or budget.
    """
    chosen = Options(**options)
    faults = _faults(chosen)
    if faults:
        raise ConfigurationError(faults)
    known = {chosen.other_token, chosen.expired_token, *(chosen.person or ())[1:]} - {None}
    verdicts = Verdicts(on_result, fail_fast=chosen.fail_fast, secrets={str(secret) for secret in known})
    began_s, started_at = time.monotonic(), datetime.now(tz=UTC)
    running = _Check(url, credentials, chosen, verdicts)
    await running.run()
    order = [f"{category.name}/{case.name}" for category in CATEGORIES.values() for case in category.cases]
    return Report(
        url=url,
        expect=chosen.expect,
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - began_s, 2),
        server=running.server,
        results=tuple(verdicts.results[id_] for id_ in order if id_ in verdicts.results),
        problem=verdicts.problem,
        figures=running.figures,
        budget={**BUDGET, **chosen.budget},
        agent=chosen.agent,
        others=tuple(chosen.others),
    )


def wanted_cases(options: Options) -> dict[str, list[Case[Any]]]:
    """Return what will be looked at: category → cases, in order."""
    chosen = [CATEGORIES[name] for name in CATEGORIES if name in options.categories and name not in options.skip]
    cases = {
        category.name: [case for case in category.cases if options.priority == "p2" or case.priority == "p1"]
        for category in chosen
    }
    return {name: wanted for name, wanted in cases.items() if wanted}


def _faults(options: Options) -> list[str]:
    names = [*options.categories, *options.skip]
    faults = [f"There is no category {n!r}; there are {', '.join(CATEGORIES)}." for n in names if n not in CATEGORIES]
    return faults + [
        f"The budget has no {name!r}; there are {', '.join(BUDGET)}." for name in options.budget if name not in BUDGET
    ]


class _Check:
    """One check of one deployment: the golden path first, as all others rest on it; then the others, some at once."""

    def __init__(self, url: str, credentials: Token, options: Options, verdicts: Verdicts) -> None:
        self.server: str | None = None
        self.figures: dict[str, float] = {}
        self._url = url
        self._credentials = credentials
        self._options = options
        self._verdicts = verdicts
        self._cases = wanted_cases(options)

    async def run(self) -> None:
        """Look at everything that is wanted."""
        names = list(self._cases)
        together = [name for name in names if name != "golden_path" and not CATEGORIES[name].is_alone]
        if "golden_path" in self._cases:
            await self._category(CATEGORIES["golden_path"])
        free = asyncio.Semaphore(max(1, self._options.workers))

        async def one(name: str) -> None:
            async with free:
                await self._category(CATEGORIES[name])

        async with asyncio.TaskGroup() as tasks:
            for name in together:
                tasks.create_task(one(name))
        for name in names:
            if CATEGORIES[name].is_alone:
                await self._category(CATEGORIES[name])

    async def _category(self, category: Category) -> None:
        cases = self._cases[category.name]
        why = self._verdicts.stopped or self._gated(category)
        if why is None:
            try:
                scene = await category.play(await self._subject())
            except RunwireError as error:
                why = error.message if isinstance(error, CouldNotCheck) else f"No token could be had: {error.message}"
                self._verdicts.problem = why
            else:
                self.server = getattr(getattr(scene, "welcome", None), "server", None) or self.server
                await judge_all(category.name, cases, scene, self._verdicts)
                return
        for case in cases:
            self._verdicts.add(category.name, case, why=why)

    def _gated(self, category: Category) -> str | None:
        if category.name == "golden_path":
            return None
        return self._verdicts.unmet(GATE)

    async def _subject(self) -> Subject:
        token = await text_of(self._credentials)
        self._verdicts.secrets.add(token)
        options = self._options
        return Subject(
            url=self._url.rstrip("/"),
            others=tuple(other.rstrip("/") for other in options.others),
            token=token,
            other_token=options.other_token,
            expired_token=options.expired_token,
            person=options.person,
            expect=options.expect,
            agent=options.agent,
            questions=options.questions,
            timeout_s=options.timeout_s,
            rounds=options.rounds,
            budget={**BUDGET, **options.budget},
            kill=options.kill,
            figures=self.figures,
        )
