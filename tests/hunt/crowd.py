"""People and workers who all want the same few threads of one database, and what each of them may count on.

An operation is a promise to somebody: it is repeated until its outcome is known, as whoever asked would do, and the
time from its first call to that outcome is what must not be longer than a lease and two seconds.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from runwire.errors import Conflict, NotFound, Unavailable
from runwire.protocol.events import (
    AgentCancelled,
    AgentCompleted,
    AgentResumed,
    AgentStarted,
    AgentThinking,
    AgentWaiting,
    emitted,
)
from runwire.storage.base import (
    AlreadyStored,
    Batch,
    Busy,
    CancelRequest,
    Claim,
    IncomingMessage,
    OnActive,
    OpenedWait,
    Outcome,
    RunEnd,
    Stored,
    WaitKind,
)
from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["USERS", "USER_LIMIT", "Crowd", "Stalled", "Tally"]

USERS: Final = 3
_POLICIES: Final[list[OnActive]] = ["enqueue", "interrupt", "reject"]
USER_LIMIT: Final = 2
THREADS: Final = 9
_MARGIN_S: Final = 2.0
_OPEN: Final = """
SELECT w.id AS wait, r.id AS run, u.id AS person FROM wait w JOIN run r ON r.key = w.run_key
  JOIN "user" u ON u.key = r.user_key WHERE w."by" IS NULL AND w.kind = 'input' ORDER BY w.key LIMIT 5
"""
_UNFINISHED: Final = "SELECT count(*) FROM run WHERE status IN ('queued', 'running')"
T = TypeVar("T")


class Stalled(AssertionError):
    """An operation of somebody who was never stopped took too long."""


@dataclass
class Tally:
    """What happened: how often, at worst how long, and the server's complaints by SQLSTATE."""

    done: Counter[str] = field(default_factory=Counter)
    worst_s: dict[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def note(self, name: str, took_s: float) -> None:
        self.done[name] += 1
        self.worst_s[name] = max(took_s, self.worst_s.get(name, 0.0))

    def refuse(self, error: BaseException) -> None:
        cause = error.__cause__
        self.refused[str(getattr(cause, "sqlstate", None) or type(cause).__name__)] += 1


@dataclass
class _Held:
    claim: Claim
    ordinal: int
    batch: Batch | None = None  # frozen when it was first sent
    since_s: float = 0.0  # when that was
    is_called_off: bool = False


class Crowd:
    """Everybody of one process, at work on one database until told to end.

    Args:
        storages: as many as there are to be workers; everybody else shares the first.
        name: of this process, part of its workers' names.
        seed: of what each does.
        is_stopped: this process is one that is stopped now and then: it promises no times.
    """

    def __init__(self, storages: list[PostgresStorage], *, name: str, seed: int, is_stopped: bool = False) -> None:
        self.tally = Tally()
        self.bound_s = float("inf") if is_stopped else storages[0].lease_s + _MARGIN_S
        self._storages = storages
        self._name = name
        self._seed = seed
        self._ends = asyncio.Event()  # nothing new is begun
        self._leaves = asyncio.Event()  # workers go home, too

    async def work(self, *, senders: int = 4) -> None:
        """Have everybody at work until `leave`."""
        shared = self._storages[0]
        async with asyncio.TaskGroup() as tasks:
            for number, storage in enumerate(self._storages):
                _Worker(self, storage, f"{self._name}{number}", self.dice(f"worker{number}")).begin(tasks)
            for number in range(senders):
                tasks.create_task(self._each(0.02, self._sender(shared, number)))
            tasks.create_task(self._each(0.03, self._canceller(shared)))
            tasks.create_task(self._each(0.02, self._answerer(shared), until=self._leaves))
            tasks.create_task(self._each(0.05, self._keeper(shared)))

    def end(self) -> None:
        """Let nobody begin anything; workers end what there is."""
        self._ends.set()

    def leave(self) -> None:
        """Let workers go home as well."""
        self._ends.set()
        self._leaves.set()

    @property
    def is_over(self) -> bool:
        return self._leaves.is_set()

    @property
    def is_ending(self) -> bool:
        return self._ends.is_set()

    def dice(self, whose: str) -> random.Random:
        return random.Random(f"{self._seed} {self._name} {whose}")

    async def do(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Do something until its outcome is known. Raises Stalled."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(None if self.bound_s == float("inf") else self.bound_s):
                while True:
                    try:
                        return await call()
                    except Unavailable as error:
                        self.tally.refuse(error)
                        await asyncio.sleep(0.01)
        except TimeoutError:
            raise Stalled(f"{name} took longer than {self.bound_s} s; refused: {dict(self.tally.refused)}") from None
        finally:
            self.tally.note(name, time.monotonic() - began_s)

    async def _each(
        self, pause_s: float, act: Callable[[], Awaitable[None]], until: asyncio.Event | None = None
    ) -> None:
        dice = self.dice(repr(act))
        while not (until or self._ends).is_set():
            await act()
            await asyncio.sleep(pause_s * dice.random())

    def _sender(self, storage: PostgresStorage, number: int) -> Callable[[], Awaitable[None]]:
        dice = self.dice(f"sender{number}")
        sent = 0

        async def send() -> None:
            nonlocal sent
            if await self.do("look", lambda: storage.database.fetchval(_UNFINISHED)) > 60:
                return
            sent += 1
            user = f"usr_{dice.randrange(USERS)}"
            threads = await self.do("list", lambda: storage.threads.list(user, limit=THREADS // USERS))
            is_new = len(threads) < THREADS // USERS
            message = IncomingMessage(
                user=user,
                thread=None if is_new else dice.choice(threads).thread,
                agent="echo",
                content="hello",
                on_active=dice.choices(_POLICIES, [5, 3, 1])[0],
                key=f"{self._name} {number} {sent}",
            )
            try:
                await self.do(f"send {message.on_active}", lambda: storage.runs.send(message))
            except (Conflict, NotFound):  # a run is active; the thread was deleted
                self.tally.done["refused"] += 1

        return send

    def _canceller(self, storage: PostgresStorage) -> Callable[[], Awaitable[None]]:
        dice = self.dice("canceller")

        async def cancel() -> None:
            user = f"usr_{dice.randrange(USERS)}"
            match dice.choices(["run", "user", "thread", "rename"], [12, 2, 1, 2])[0]:
                case "run":
                    rows = await self.do("list", lambda: storage.runs.list(user, limit=6))
                    if rows:
                        run = dice.choice(rows).run
                        with suppress(NotFound):  # its thread was deleted, or it was trimmed
                            await self.do("cancel", lambda: storage.runs.cancel(user, run, CancelRequest(by="user")))
                case "user":
                    await self.do("cancel_user", lambda: storage.runs.cancel_user(user, CancelRequest(by="revoked")))
                case what:
                    threads = await self.do("list", lambda: storage.threads.list(user, limit=THREADS))
                    thread = dice.choice(threads).thread if threads else "th_none"
                    with suppress(NotFound):
                        if what == "thread":
                            await self.do("delete", lambda: storage.threads.delete(user, thread))
                        else:
                            await self.do("rename", lambda: storage.threads.rename(user, thread, "x"))

        return cancel

    def _answerer(self, storage: PostgresStorage) -> Callable[[], Awaitable[None]]:
        async def answer_all() -> None:
            for row in await self.do("look", lambda: storage.database.fetch(_OPEN)):
                answer = functools.partial(storage.runs.answer, row["person"], row["run"], row["wait"], "yes")
                with suppress(Conflict, NotFound):
                    await self.do("answer", answer)
            await self.do("fire_timers", storage.runs.fire_timers)

        return answer_all

    def _keeper(self, storage: PostgresStorage) -> Callable[[], Awaitable[None]]:
        async def keep() -> None:
            now = await self.do("look", lambda: storage.database.fetchval("SELECT runwire_now()"))
            await self.do("compact", lambda: storage.upkeep.compact(ended_before=now - 300))
            await self.do("trim", lambda: storage.upkeep.trim(ended_before=now - 600, deleted_before=now - 600))

        return keep


class _Worker:
    """Claims, appends, parks, hands over; renews beside it, as a worker does."""

    def __init__(self, crowd: Crowd, storage: PostgresStorage, name: str, dice: random.Random) -> None:
        self._crowd = crowd
        self._storage = storage
        self._name = name
        self._dice = dice
        self._held: dict[str, _Held] = {}
        self._waits = 0

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self._work())
        tasks.create_task(self._renew())

    async def _renew(self) -> None:
        while not self._crowd.is_over:
            held = {run: one.claim.attempt for run, one in self._held.items()}
            await self._crowd.do("renew", functools.partial(self._storage.runs.renew, self._name, held))
            await asyncio.sleep(self._storage.lease_s / 3 * self._dice.random())

    async def _work(self) -> None:
        runs = self._storage.runs
        while not self._crowd.is_over or self._held:
            if len(self._held) < 4 and not self._crowd.is_over:
                for claim in await self._crowd.do("claim", self._claim):
                    self._held[claim.run] = _Held(claim, claim.ordinal)
            held = {run: one.claim.attempt for run, one in self._held.items()}
            for signal in await self._crowd.do("signals", functools.partial(runs.signals, self._name, held)):
                if signal.is_lost:
                    del self._held[signal.run]
                else:
                    self._held[signal.run].is_called_off = signal.cancel is not None
            await self._append()
            await asyncio.sleep(0.005 * self._dice.random())

    async def _claim(self) -> list[Claim]:
        return await self._storage.runs.claim(
            self._name, agents=["echo"], limit=4 - len(self._held), user_limit=USER_LIMIT, holding=[*self._held]
        )

    async def _append(self) -> None:
        for one in self._held.values():
            if one.batch is None:
                one.batch, one.since_s = self._next(one), time.monotonic()
        batches = [one.batch for one in self._held.values() if one.batch is not None]
        self._dice.shuffle(batches)
        outcomes = await self._crowd.do("append", lambda: self._storage.events.append(batches))
        for batch, outcome in zip(batches, outcomes, strict=True):
            await self._hear(self._held[batch.run], batch, outcome)

    async def _hear(self, one: _Held, batch: Batch, outcome: Outcome) -> None:
        tally = self._crowd.tally
        tally.done[type(outcome).__name__] += 1
        took_s = time.monotonic() - one.since_s
        if took_s > self._crowd.bound_s:
            raise Stalled(f"a batch was not stored within {self._crowd.bound_s} s: {type(outcome).__name__}")
        if isinstance(outcome, Busy):
            return
        tally.note("until stored", took_s)
        one.batch = None
        if not isinstance(outcome, (Stored, AlreadyStored)) or batch.end is not None:
            del self._held[batch.run]  # it has ended, or is another's
            return
        one.ordinal += len(batch.events)
        if batch.waits:
            await self._park(one, batch)
        elif self._dice.random() < 0.05:
            del self._held[batch.run]
            call = lambda: self._storage.runs.release(batch.run, batch.attempt, reason="drained")  # noqa: E731
            await self._crowd.do("release", call)

    async def _park(self, one: _Held, batch: Batch) -> None:
        waits = [wait.wait for wait in batch.waits]
        closing = [emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1) for wait in waits]
        del self._held[batch.run]
        await self._crowd.do(
            "park",
            lambda: self._storage.runs.park(
                batch.run, batch.attempt, ordinal=one.ordinal, waits=waits, closing=closing
            ),
        )

    def _next(self, one: _Held) -> Batch:
        """Return what an agent would say now."""
        claim, dice = one.claim, self._dice
        events: list[Any] = []
        if one.ordinal == 0:
            events.append(AgentStarted(agent="echo", message=claim.message))
        events += [AgentThinking(text="x") for _ in range(dice.randrange(3))]
        waits: tuple[OpenedWait, ...] = ()
        end = None
        if one.is_called_off or claim.cancel is not None:
            events.append(AgentCancelled(by="user"))
            end = RunEnd(status="cancelled")
        elif dice.random() < 0.3 or self._crowd.is_ending:
            events.append(AgentCompleted(output="done", duration_ms=1))
            end = RunEnd(status="completed")
        elif dice.random() < 0.3:
            self._waits += 1
            name = f"wt_{claim.run}_{claim.attempt}_{self._waits}"
            kind: WaitKind = dice.choice(["timer", "input"])
            due_at = claim.created_at + 100 if kind == "timer" else None
            events.append(AgentWaiting(wait=name, kind=kind, due_at=due_at))
            waits = (OpenedWait(wait=name, kind=kind, due_at=due_at),)
        packed = tuple(emitted(data, ts=1) for data in events or [AgentThinking(text="y")])
        return Batch(
            run=claim.run,
            attempt=claim.attempt,
            ordinal=one.ordinal,
            events=packed,
            end=end,
            pinned=b"{}" if one.ordinal == 0 else None,
            waits=waits,
        )
