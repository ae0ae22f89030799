"""All categories and their cases, in the order in which they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from runwire.conformance import (
    auth,
    breaker,
    cancel,
    concurrency,
    conversation,
    crash,
    cuts,
    golden_path,
    inputs,
    isolation,
    ordering,
    resume,
    slow_reader,
    stage,
    terminal,
    timing,
    waits,
)
from runwire.conformance.case import Category

__all__ = ["CATEGORIES", "GATE"]

GATE: Final = tuple(f"golden_path/{name}" for name in ("ends", "once", "ordered", "no_hole", "lifecycle"))
"""What all other categories rest on: where one is broken they are not looked at, for they would only repeat it."""

_AGENTS: Final = "`serve --with-conformance-agents`"

CATEGORIES: Final[Mapping[str, Category]] = MappingProxyType(
    {
        category.name: category
        for category in (
            Category(
                name="golden_path",
                about="From a message through its events to the stored answer, on a socket, over SSE and HTTP.",
                play=conversation.play,
                cases=golden_path.CASES,
            ),
            Category(
                name="ordering",
                about="Order across tabs, threads and commands.",
                play=stage.play,
                cases=ordering.CASES,
            ),
            Category(
                name="resume",
                about="Sockets that are cut anywhere come back with their position, to any gateway.",
                play=cuts.play,
                cases=resume.CASES,
            ),
            Category(
                name="terminal",
                about="How runs end, and that they stay so.",
                play=stage.play,
                cases=terminal.CASES,
                wants=f"{_AGENTS} for all but `stays_ended`",
            ),
            Category(
                name="isolation",
                about="What one user has, another neither sees nor can know of.",
                play=isolation.play,
                cases=isolation.CASES,
                wants="`--other-token`, the key of a second user",
            ),
            Category(
                name="auth",
                about="Ways in, what is refused at every door, and how soon a withdrawal is known.",
                play=stage.play,
                cases=auth.CASES,
                wants="`--expired-token` for `expired`; a person's sign-in for `revocation`",
            ),
            Category(
                name="cancel",
                about="Runs that are called off.",
                play=stage.play,
                cases=cancel.CASES,
                wants=f"an agent that takes a moment, or {_AGENTS}",
            ),
            Category(name="input", about="What is wrong is named.", play=stage.play, cases=inputs.CASES),
            Category(
                name="concurrency",
                about="Messages while a run is active, and messages sent many times.",
                play=stage.play,
                cases=concurrency.CASES,
                wants=f"an agent that takes a moment, or {_AGENTS}",
            ),
            Category(
                name="slow_reader",
                about="A socket that is not read.",
                play=slow_reader.play,
                cases=slow_reader.CASES,
            ),
            Category(
                name="waits",
                about="Runs that ask a person.",
                play=waits.play,
                cases=waits.CASES,
                wants=_AGENTS,
            ),
            Category(
                name="breaker",
                about="Runs whose provider fails.",
                play=breaker.play,
                cases=breaker.CASES,
                wants=_AGENTS,
            ),
            Category(
                name="timing",
                about="How long people wait, against the budget.",
                play=timing.play,
                cases=timing.CASES,
                is_alone=True,
            ),
            Category(
                name="crash",
                about="A process is killed in the middle of a run.",
                play=crash.play,
                cases=crash.CASES,
                wants="`--kill`, and an agent that takes some seconds",
                is_alone=True,
            ),
        )
    }
)
