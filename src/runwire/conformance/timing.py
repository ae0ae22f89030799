"""The category `timing`: how long people wait, measured over some runs, against the budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from runwire.conformance.case import Case, Subject
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, found
from runwire.conformance.stage import play as open_stage
from runwire.conformance.wire import Closed, Silence, require_staying
from runwire.protocol import frames
from runwire.protocol.events import EventType
from runwire.protocol.frames import Event

__all__ = ["CASES", "Timed", "play"]

_KINDS: Final = ("reply_ms", "first_event_ms", "gap_ms", "end_to_end_ms")


@dataclass(slots=True, kw_only=True)
class Timed:
    """What was measured, in milliseconds, one value for each run."""

    stage: Stage
    values: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    fault: str | None = None

    def p(self, kind: str, share: float) -> float:
        """Return the value that this share of the runs does not exceed (nearest rank)."""
        ordered = sorted(self.values[kind])
        return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


async def play(subject: Subject) -> Timed:
    """Ask some times, one after the other, each on a socket that is open already.

    Raises:
        CouldNotCheck: not reached, or not let in.
    """
    timed = Timed(stage=await open_stage(subject))
    try:
        for _ in range(subject.rounds):
            await _once(timed)
    except (Silence, Closed) as error:
        require_staying(error)
        timed.fault = error.message
    for kind, values in timed.values.items():
        if values:
            for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0)):
                subject.figures[f"{kind.removesuffix('_ms')}_{name}_ms"] = round(timed.p(kind, share), 1)
    return timed


async def _once(timed: Timed) -> None:
    async with timed.stage.talk() as talk:
        began_s = time.monotonic()
        sent = await talk.send(timed.stage.question)
        await talk.until_end(sent.run)
        reply_s = next(seen.at_s for seen in talk.wire.seen if isinstance(seen.frame, frames.Reply))
        own = [seen for seen in talk.wire.seen if isinstance(seen.frame, Event) and seen.frame.run == sent.run]
    # The message itself comes with its reply; people wait for the first sign of the agent.
    agents = [s.at_s for s in own if isinstance(s.frame, Event) and s.frame.type != EventType.USER_MESSAGE]
    gaps = [later - sooner for sooner, later in pairwise(agents)]
    readings = {
        "reply_ms": reply_s - began_s,
        "first_event_ms": agents[0] - began_s,
        "gap_ms": max(gaps, default=0.0),
        "end_to_end_ms": agents[-1] - began_s,
    }
    for kind, value_s in readings.items():
        timed.values[kind].append(value_s * 1000)


def _within(kind: str, what: str) -> Callable[[Timed], list[Evidence]]:
    def look(timed: Timed) -> list[Evidence]:
        limit_ms = timed.stage.subject.budget[kind]
        values = timed.values[kind]
        if not values:
            return [found(f"{what} within {limit_ms:g} ms", timed.fault or "no run was seen")]
        p95 = timed.p(kind, 0.95)
        if p95 <= limit_ms:
            return []
        shown = ", ".join(f"{value:.0f}" for value in values)
        figures = (
            f"p50 {timed.p(kind, 0.5):.0f}, p95 {p95:.0f}, max {timed.p(kind, 1.0):.0f} ms of {len(values)}: {shown}"
        )
        return [found(f"{what} within {limit_ms:g} ms (p95)", figures)]

    return look


CASES: Final[tuple[Case[Timed], ...]] = (
    Case(name="reply", promise="A message is acknowledged within the budget", look=_within("reply_ms", "a reply")),
    Case(
        name="first_event",
        promise="The agent's first event comes within the budget",
        look=_within("first_event_ms", "the agent's first event"),
        needs=("reply",),
    ),
    Case(name="gap", promise="No gap between two events is over the budget", look=_within("gap_ms", "each next event")),
    Case(
        name="end_to_end",
        promise="A run is over within the budget",
        look=_within("end_to_end_ms", "the end"),
        needs=("first_event", "gap"),
    ),
)
