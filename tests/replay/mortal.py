"""A real storage as a worker sees it that dies: for each run so many events are committed, and nothing any more.

From its last event on a run gets no answer but `Busy`, as if its rows were locked for ever: to a worker that is no
news, so it waits, and what it would do without the commit shows. When the whole worker dies, no call goes through.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec
from tests.replay.programs import Outside

from runwire.errors import Unavailable
from runwire.protocol.events import EmittedEvent, EventType, StoredEvent, decode_data
from runwire.storage.base import AlreadyStored, Answered, Batch, Busy, Claim, Outcome, Storage, Stored

__all__ = ["CRASHED", "Fate", "MortalStorage"]

CRASHED = frozenset({"worker_lost", "drained", "deploy"})  # codes of tries that a change of worker cut off

# What may close the run in the batch of its terminal event; that batch is never cut there.
_LAST_WORDS = frozenset(
    {
        EventType.MESSAGE_COMPLETED,
        EventType.AGENT_THINKING,
        EventType.SUPERSEDED,
        EventType.TOOL_COMPLETED,
        EventType.STEP_COMPLETED,
        EventType.SUBAGENT_FAILED,
        EventType.AGENT_RESUMED,
    }
)


@dataclass(slots=True)
class Fate:
    """What is to happen to a run in one worker's life, and what is known of it."""

    run: str
    outside: Outside
    limit: float = math.inf  # so many of its workers' events are committed in the end
    dies_parking: bool = False
    is_dead: bool = False
    is_over: bool = False
    is_parked: bool = False
    attempt: int = 0
    stored: int = 0  # events of its workers
    waits: dict[str, Any] = field(default_factory=dict)  # open ones, and the prompt of each

    def begin(self, logged: Sequence[StoredEvent]) -> None:
        """Learn all that is committed, when a worker begins."""
        self.is_dead = self.dies_parking = False
        self.stored, self.limit = 0, math.inf
        self.waits.clear()
        for set_ in (self.outside.begun, self.outside.finished, self.outside.raised):
            set_.clear()
        for event in logged:
            self.learn(event)
            self.stored += event.attempt > 0 and not self.is_of_gateway(event)

    @staticmethod
    def is_of_gateway(event: StoredEvent | EmittedEvent) -> bool:
        """Return whether this is an answer or a timer, and not a worker's event."""
        return event.type == EventType.AGENT_RESUMED and decode_data(event).by != "ended"

    def learn(self, event: StoredEvent | EmittedEvent) -> None:
        """Learn what is committed; before the worker does, so that it cannot be ahead of us."""
        match event.type:
            case EventType.TOOL_EXECUTING | EventType.STEP_STARTED:
                self.outside.begun.add(f"{self.run}:{decode_data(event).step}")
            case EventType.TOOL_COMPLETED | EventType.STEP_COMPLETED:
                data = decode_data(event)
                key = f"{self.run}:{data.step}"
                if data.final:
                    self.outside.finished.add(key)
                elif data.error.code not in CRASHED:
                    self.outside.raised[key] += 1
            case EventType.AGENT_WAITING:
                data = decode_data(event)
                self.waits[data.wait] = data.prompt
            case EventType.AGENT_RESUMED:
                self.waits.pop(decode_data(event).wait, None)
            case EventType.AGENT_COMPLETED | EventType.AGENT_FAILED | EventType.AGENT_CANCELLED:
                self.is_over = True

    def cut(self, batch: Batch) -> Batch | None:
        """Return what of a batch is still committed; None: nothing. The run is dead if that is not all."""
        room = self.limit - batch.ordinal
        if self.is_dead or room < len(batch.events):
            count = 0 if self.is_dead else max(0, min(int(room), _first_of_last_words(batch)))
            self.is_dead = True
            return _prefix(batch, count) if count else None
        return batch


class _Log:
    def __init__(self, storage: MortalStorage) -> None:
        self._storage = storage
        self._inner = storage.inner.events

    def __getattr__(self, name: str) -> Any:
        return self._storage.around(getattr(self._inner, name))

    async def append(self, batches: Sequence[Batch]) -> list[Outcome]:
        storage = self._storage
        await storage.alive()
        asked = [storage.fates[batch.run].cut(batch) for batch in batches]
        sent = [batch for batch in asked if batch]
        outcomes = {batch.run: each for batch, each in zip(sent, await self._inner.append(sent), strict=True)}
        for batch in sent:
            storage.learn(batch, outcomes[batch.run])
        await storage.alive()
        if storage.chance.random() < 0.01:
            raise Unavailable("the reply was lost")
        return [
            Busy() if cut is not batch or storage.chance.random() < 0.1 else outcomes[batch.run]
            for batch, cut in zip(batches, asked, strict=True)
        ]


class _Runs:
    def __init__(self, storage: MortalStorage) -> None:
        self._storage = storage
        self._inner = storage.inner.runs

    def __getattr__(self, name: str) -> Any:
        return self._storage.around(getattr(self._inner, name))

    async def claim(self, worker: str, **options: Any) -> list[Claim]:
        await self._storage.alive()
        # As a worker that has been connected for a whole lease.
        claims = await self._inner.claim(worker, **{**options, "take_lost": True})
        await self._storage.alive()
        for claim in claims:
            fate = self._storage.fates[claim.run]
            fate.attempt, fate.is_parked = claim.attempt, False
        return claims

    async def fire_timers(self, **options: Any) -> list[Answered]:
        await self._storage.alive()
        fired: list[Answered] = await self._inner.fire_timers(**options)
        for each in fired:
            fate = self._storage.fates[each.run]
            fate.waits.pop(each.wait, None)
            fate.is_parked = False
        await self._storage.alive()
        return fired

    async def park(self, run: str, attempt: int, **options: Any) -> bool:
        storage = self._storage
        fate = storage.fates[run]
        await storage.alive()
        if fate.dies_parking:
            fate.is_dead = True
        if fate.is_dead:
            raise Unavailable("it is dead")
        await storage.before_parking(fate)
        is_parked = await self._inner.park(run, attempt, **options)
        await storage.alive()
        # What was answered on the way wakes it; who waits for it to rest will see it claimed.
        if attempt == fate.attempt:  # else a reply was lost, and it goes on already
            fate.is_parked = is_parked and set(options["waits"]) <= set(fate.waits)
        if storage.chance.random() < 0.1:
            raise Unavailable("the reply was lost")
        return is_parked


class MortalStorage:
    """All ports of a database, until `die`."""

    def __init__(
        self,
        inner: Storage,
        fates: dict[str, Fate],
        chance: random.Random,
        before_parking: Callable[[Fate], Awaitable[None]],
    ) -> None:
        self.inner = inner
        self.fates = fates
        self.chance = chance
        self.before_parking = before_parking
        self.lease_s = inner.lease_s
        self.events: Any = _Log(self)
        self.runs: Any = _Runs(self)
        self.threads, self.auth, self.upkeep = inner.threads, inner.auth, inner.upkeep
        self.members, self.people, self.erasure = inner.members, inner.people, inner.erasure
        self._is_dead = False

    @property
    def log(self) -> str:
        return self.inner.log

    def die(self) -> None:
        """Let no call through and no answer out from now on: the process is gone."""
        self._is_dead = True

    async def alive(self) -> None:
        """Go on if the worker lives; else never."""
        if self._is_dead:
            await self._never()

    def around(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def mortal(*args: Any, **options: Any) -> Any:
            await self.alive()
            answer = await call(*args, **options)
            await self.alive()
            return answer

        return mortal

    def learn(self, batch: Batch, outcome: Outcome) -> None:
        fate = self.fates[batch.run]
        if isinstance(outcome, Stored | AlreadyStored) and fate.stored < batch.ordinal + len(batch.events):
            fate.stored = batch.ordinal + len(batch.events)
            for event in batch.events:
                fate.learn(event)

    async def ping(self) -> None:
        await self.inner.ping()

    async def close(self) -> None:
        await self.inner.close()

    async def _never(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("not reached")


def _first_of_last_words(batch: Batch) -> int:
    """Return how many of its events may be committed without the last one, which may be terminal."""
    count = len(batch.events) - 1
    while batch.end and count and batch.events[count - 1].type in _LAST_WORDS:
        count -= 1
    return count


def _prefix(batch: Batch, count: int) -> Batch:
    events = batch.events[:count]
    waits = {decode_data(event).wait for event in events if event.type == EventType.AGENT_WAITING}
    closed = {decode_data(event).wait for event in events if event.type == EventType.AGENT_RESUMED}
    return msgspec.structs.replace(
        batch,
        events=events,
        end=None,
        pinned=batch.pinned if any(event.type == EventType.AGENT_STARTED for event in events) else None,
        waits=tuple(wait for wait in batch.waits if wait.wait in waits),
        closes=tuple(wait for wait in batch.closes if wait in closed),
    )
