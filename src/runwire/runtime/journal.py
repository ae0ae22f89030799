"""What an attempt must know before it begins: the run's log, and what the first attempt read beside it.

What was read once is pinned with `agent_started`, so that every later attempt reads the same: who the person
was, the deadline, and up to which seq of the thread the history goes. The log below a seq never changes, so
that number is enough to read the same history again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from runwire.agents.context import User
from runwire.agents.payload import is_ref
from runwire.errors import NotFound, Unavailable
from runwire.protocol.events import EventType, StoredEvent, decode_data
from runwire.protocol.journal import Journal, LoggedWait, Try
from runwire.protocol.view import ThreadView
from runwire.runtime.clock import now_ms
from runwire.storage.base import Claim, Storage

__all__ = ["Past", "Pinned", "charged_s", "history_of", "is_short", "read_past", "text_of", "used_s", "when_available"]

T = TypeVar("T")

# So much is gone through in a millisecond, and to have a thread do it takes a third of one (measured under load).
_SHORT_EVENTS: Final = 100
_SHORT_BYTES: Final = 65_536

_HISTORY_TYPES: Final = frozenset(
    {
        EventType.USER_MESSAGE,
        EventType.MESSAGE_STARTED,
        EventType.MESSAGE_COMPLETED,
        EventType.SUPERSEDED,
        EventType.AGENT_COMPLETED,
        EventType.AGENT_FAILED,
        EventType.AGENT_CANCELLED,
    }
)

_ACT_TYPES: Final = frozenset(
    {
        EventType.TOOL_EXECUTING,
        EventType.TOOL_COMPLETED,
        EventType.STEP_STARTED,
        EventType.STEP_COMPLETED,
        EventType.AGENT_WAITING,
        EventType.AGENT_RESUMED,
        EventType.SUBAGENT_STARTED,
        EventType.SUBAGENT_COMPLETED,
        EventType.SUBAGENT_FAILED,
    }
)


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """What the first attempt read, stored with `agent_started` as JSON."""

    through: int  # seq of the thread up to which the history was read
    deadline_s: float
    user: str
    name: str
    roles: list[str]
    version: str | None = None
    is_alone: bool = False  # its message is the whole history: a later attempt need not look for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What an attempt starts from."""

    logged: Sequence[StoredEvent]  # of the run, its user_message first
    message: str  # what the person wrote
    history: Sequence[dict[str, Any]]  # [{"role": "user", "content": "…"}, …], the run's own message last
    pinned: Pinned
    used_s: float  # running time of earlier attempts, as far as the log shows it
    charged_s: float  # what they took of the deadline

    @property
    def user(self) -> User:
        """Return the person as pinned."""
        return User(id=self.pinned.user, name=self.pinned.name, roles=frozenset(self.pinned.roles))


async def read_past(storage: Storage, claim: Claim, *, user: User, deadline_s: float, version: str | None) -> Past:
    """Read what the attempt starts from; of what is pinned already the arguments count for nothing.

    Waits while the database does not answer.
    """
    pinned = msgspec.json.decode(claim.pinned, type=Pinned) if claim.pinned else None
    if pinned and pinned.is_alone:
        logged = await when_available(lambda: storage.events.read_run(claim.run))
        events, through = logged[:1], pinned.through
    else:
        events, through = await _read_thread(storage, claim.thread, through=pinned.through if pinned else None)
        # Of a run that no worker has said anything in there is its message only, and that is part of the history.
        logged = [event for event in events if event.run == claim.run] if claim.ordinal == 0 else []
        # More than that was said by another worker, which took the run over while this one stood still. What a history
        # needs of it is not all of it.
        if len(logged) != 1:
            logged = await when_available(lambda: storage.events.read_run(claim.run))
    if pinned is None:
        pinned = Pinned(
            through=through,
            deadline_s=deadline_s,
            user=user.id,
            name=user.name,
            roles=sorted(user.roles),
            version=version,
            is_alone=all(event.run == claim.run for event in events),
        )
    if is_short(events):
        history = history_of(events, claim.run)
    else:
        history = await asyncio.to_thread(history_of, events, claim.run)
    for turn in history:
        if is_ref(turn["content"]):
            turn["content"] = await _read_blob(storage, claim.user, turn["content"]["$ref"])
        turn["content"] = text_of(turn["content"])
    message = history[-1]["content"] if history else text_of(decode_data(logged[0]).content)
    return Past(
        logged=logged,
        message=message,
        history=history,
        pinned=pinned,
        used_s=used_s(logged),
        charged_s=charged_s(logged, until_ms=now_ms(), attempt=claim.attempt, lost=claim.lost),
    )


def is_short(events: Sequence[StoredEvent]) -> bool:
    """Return whether a loop may go through these events itself: a longer log must not hold up anybody's."""
    return len(events) <= _SHORT_EVENTS and sum(len(event.data) for event in events) <= _SHORT_BYTES


def history_of(events: Sequence[StoredEvent], run: str) -> list[dict[str, Any]]:
    """Return what was said in runs that had ended, in run order, then this run's own message.

    A run that was sent again counts for nothing: the message of the later one is the same. What sub-agents said was
    never said to the person.
    """
    view = ThreadView()
    for event in events:
        view.apply(event)
    shown = [*(each for each in view.runs if each != run and view.runs[each].is_ended), run]
    messages = {event.run: decode_data(event) for event in events if event.type == EventType.USER_MESSAGE}
    retried = {messages[each].retry_of for each in shown if each in messages}
    return [
        {"role": message.role, "content": message.content}
        for each in shown
        if each not in retried
        for message in view.messages.values()
        if message.run == each and message.span is None and (each != run or message.role == "user")
    ]


def text_of(content: Any) -> str:
    """Return the text of a message: itself, or its text parts joined."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return str(content)


def used_s(logged: Iterable[StoredEvent]) -> float:
    """Return the running time of the attempts in a run's log: each from its first event to its last, without waits."""
    stretches = _stretches(logged)
    return sum(each.length_ms for each in stretches if each.of == each.before and not each.is_waiting) / 1000


def charged_s(logged: Iterable[StoredEvent], *, until_ms: int, attempt: int, lost: Collection[int]) -> float:
    """Return what earlier attempts took of the deadline, silent time included.

    An attempt that was lost may have run until the next one began, and nobody can tell how long: it is charged with
    all of it, or an agent that hangs and is lost again and again would never meet its deadline. One that was handed
    over, or parked, is charged up to its last event. Time in which the run waited is never charged, whoever held it.

    Args:
        logged: every stored event of the run, in order.
        until_ms: when the attempt that now begins did, ms UTC.
        attempt: its number.
        lost: the attempts before it whose worker was lost (`Claim.lost`); some of them may have said nothing.
    """
    return (
        sum(
            each.length_ms
            for each in _stretches(logged, until_ms=until_ms, attempt=attempt)
            if not each.is_waiting
            and (each.of == each.before or any(each.of <= number < each.before for number in lost))
        )
        / 1000
    )


class _Stretch(NamedTuple):
    """The time between two events of a run."""

    of: int  # attempt of the one
    before: int  # attempt of the other
    length_ms: int
    is_waiting: bool  # something waits, and no step goes on beside it: what branches do in silence nobody can tell


def _stretches(logged: Iterable[StoredEvent], *, until_ms: int | None = None, attempt: int = 0) -> Iterator[_Stretch]:
    """Yield what lies between the events of workers, and between the last and now."""
    journal, is_waiting = Journal(), False
    last: StoredEvent | None = None
    for event in logged:
        if not event.attempt:
            continue
        if last:
            yield _Stretch(last.attempt, event.attempt, max(event.ts - last.ts, 0), is_waiting)
        last = event
        if event.type in _ACT_TYPES:
            journal.add(event)
            is_waiting = _is_waiting(journal)
    if last and until_ms is not None:
        yield _Stretch(last.attempt, attempt, max(until_ms - last.ts, 0), is_waiting)


def _is_waiting(journal: Journal) -> bool:
    """Return whether a wait is open, and in each step that is open too."""
    waits = [each for each in journal.open.values() if isinstance(each, LoggedWait)]
    within = {scope for each in waits for scope in journal.chain(each.parent)}
    return bool(waits) and all(each.scope in within for each in journal.open.values() if isinstance(each, Try))


async def when_available(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the database answers; ends by cancellation only. Every call must be one that may be repeated."""
    pause_s = 0.05
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause_s = min(pause_s * 2, 2.0)


async def _read_thread(storage: Storage, thread: str, *, through: int | None) -> tuple[list[StoredEvent], int]:
    """Read what a history needs of a thread, up to a seq or to its present head."""
    events: list[StoredEvent] = []
    after = 0
    while through is None or after < through:
        try:
            page = await when_available(lambda at=after: storage.events.read(thread, after=at))  # type: ignore[misc] # mypy cannot infer a lambda's default
        except NotFound:  # deleted a moment ago; its runs are being cancelled
            return events, after if through is None else through
        through = page.head if through is None else through
        events += [event for event in page.events if event.type in _HISTORY_TYPES and event.seq <= through]
        if page.through <= after:
            break
        after = page.through
    return events, through or 0


async def _read_blob(storage: Storage, user: str, ref: str) -> Any:
    try:
        stored = await when_available(lambda: storage.events.blob(user, ref))
        return await asyncio.to_thread(msgspec.json.decode, stored)
    except NotFound:  # cannot happen while the message stands; a history with a hole is better than no run
        return ""
