"""The category `breaker`: while a provider fails, runs fail at once and say when to come back; then they work again."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Final

from runwire.conformance import judge
from runwire.conformance.case import Case, NotHere, Subject
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, find_end, found
from runwire.conformance.stage import play as open_stage
from runwire.conformance.wire import Closed, Silence, require_staying
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import EventType
from runwire.protocol.frames import Event

__all__ = ["CASES", "Failing", "play"]

_FAILURES: Final = 60  # at most: each process that runs agents finds out for itself, from ten
_AT_ONCE: Final = 10
_PATIENCE_S: Final = 15.0  # for `retry_after_s`; a breaker that has just opened asks for less
_TRIES: Final = 4  # of the provider that works again: several processes may each need one


@dataclass(slots=True, kw_only=True)
class Failing:
    """Runs that asked a provider which failed, and then one which works."""

    stage: Stage
    why: str | None = None
    fault: str | None = None
    failed: list[Event] = field(default_factory=list)  # their terminal events, in the order they came
    after: list[Event] = field(default_factory=list)  # of runs after `retry_after_s`

    @property
    def refused(self) -> list[Event]:
        """Return the ends of runs that the breaker refused."""
        return [end for end in self.failed if judge.data_of(end).get("code") == RunFailure.CIRCUIT_OPEN]


async def play(subject: Subject) -> Failing:
    """Let a provider of our own fail until runs are refused, wait as they say, and let it work.

    Raises:
        CouldNotCheck: not reached, or not let in.
    """
    failing = Failing(stage=await open_stage(subject))
    try:
        await _play(failing, failing.stage.needed("check_provider"))
    except NotHere as error:
        failing.why = error.message
    except (Silence, Closed) as error:
        require_staying(error)
        failing.fault = error.message
    return failing


async def _play(failing: Failing, agent: str) -> None:
    name = secrets.token_hex(6)
    while not failing.refused and len(failing.failed) < _FAILURES:
        failing.failed += await _ask(failing, agent, f"fail {name}", times=_AT_ONCE)
    if not failing.refused:
        return
    after_s = max(float(judge.data_of(end).get("retry_after_s") or 0) for end in failing.refused)
    if after_s > _PATIENCE_S:
        return
    await asyncio.sleep(after_s)
    for _ in range(_TRIES):
        failing.after += await _ask(failing, agent, f"work {name}", times=1)
        if failing.after[-1].type == EventType.AGENT_COMPLETED:
            return
        await asyncio.sleep(min(_PATIENCE_S, float(judge.data_of(failing.after[-1]).get("retry_after_s") or 1)))


async def _ask(failing: Failing, agent: str, message: str, *, times: int) -> list[Event]:
    async with failing.stage.talk() as talk:
        sents = [await talk.send(message, agent=agent) for _ in range(times)]
        ends = [find_end(await talk.until_end(sent.run)) for sent in sents]
    return [end for end in ends if end]


def _opens(failing: Failing) -> list[Evidence]:
    shown = [judge.show(end) for end in failing.failed[-3:]]
    if not failing.refused:
        said = failing.fault or f"{len(failing.failed)} runs, none of them refused"
        return [found("circuit_open for runs after many failures of what they ask", said, shown=shown)]
    return []


def _says_when(failing: Failing) -> list[Evidence]:
    for end in failing.refused:
        after_s = judge.data_of(end).get("retry_after_s")
        if not isinstance(after_s, int | float) or after_s <= 0:
            return [found("retry_after_s over 0 in the refusal", after_s, position=end.seq, shown=[judge.show(end)])]
    return []


def _closes(failing: Failing) -> list[Evidence]:
    if failing.after and failing.after[-1].type == EventType.AGENT_COMPLETED:
        return []
    shown = [judge.show(end) for end in failing.after]
    said = failing.fault or f"{len(failing.after)} runs, none of which completed"
    return [found("agent_completed once the provider works again and the time is over", said, shown=shown)]


CASES: Final[tuple[Case[Failing], ...]] = (
    Case(name="opens", promise="Runs are refused while what they ask fails", look=_opens, applies=lambda f: f.why),
    Case(
        name="says_when",
        promise="A refusal says when to come back",
        look=_says_when,
        needs=("opens",),
        applies=lambda failing: failing.why,
    ),
    Case(
        name="closes",
        promise="Runs work again when what they ask does",
        look=_closes,
        needs=("opens", "says_when"),
        applies=lambda failing: failing.why,
    ),
)
