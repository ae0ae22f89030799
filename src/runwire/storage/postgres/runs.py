"""Runs in PostgreSQL: a message becomes one, a worker leases it, somebody may call it off."""

from __future__ import annotations

import asyncio
import builtins
import random
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from runwire.errors import Conflict, NotFound, Unavailable
from runwire.protocol.events import EmittedEvent, UserMessage, pack
from runwire.protocol.ids import new_id
from runwire.storage.answers import check_answer, check_repeated, encoded, no_wait
from runwire.storage.base import (
    Answer,
    Answered,
    Cancelled,
    CancelledBy,
    CancelRequest,
    Claim,
    Committed,
    IncomingMessage,
    RunRow,
    RunStatus,
    Sent,
    Signal,
    Waiting,
)
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.postgres.stamping import cancelled, halves, resumed
from runwire.storage.postgres.threads import ISSUER, no_thread
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["PostgresRuns"]

_SQL: Final = load("postgres.sql")
# A claim passes over what another one holds for the time of a commit, and looks again: else, of two workers that hear
# of two runs at once, one would wait for its next poll.
_LOOKS: Final = 5
_COMMIT_S: Final = 0.002
_CANCEL_RUNS: Final = 500  # of a user called off by one write, whose locks others wait for (measured: 40 ms)
_INTERRUPTED: Final = cancelled(CancelRequest(by="policy", reason="interrupt"))


class PostgresRuns:
    """Runs and who owns them, in one PostgreSQL database; whose lease it is, the database's clock decides."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._lease_ms = int(database.lease_s * 1000)

    async def send(self, message: IncomingMessage) -> Sent:
        """Store a message and its run in one write; see `Runs.send`."""
        id_ = new_id("msg")
        data = UserMessage(message=id_, content=message.content, metadata=message.metadata, retry_of=message.retry_of)
        names = (message.user, ISSUER, message.thread, new_id("th"), new_id("run"), id_, message.agent)
        row = await self._one(
            "send", *names, message.on_active, message.key, message.fingerprint, *halves(data), *_INTERRUPTED
        )
        outcome = row["outcome"]
        if outcome == "key_used":
            raise _key_used()
        if outcome == "no_thread":
            raise no_thread()
        if outcome == "run_active":
            raise Conflict("A run of this thread has not ended; wait for it, or interrupt it.", code="run_active")
        is_new = outcome == "stored"
        thread = row["thread"]
        columns = (row[name] for name in ("runs", "attempts", "firsts", "lasts", "packed"))
        return Sent(
            log=self._database.log,
            thread=thread,
            run=row["run"],
            message=row["message"],
            seq=row["seq"],
            after=row["after"],
            is_new=is_new,
            committed=tuple(self._committed(message.user, thread, *values) for values in zip(*columns, strict=True))
            if is_new
            else (),
            stop=tuple(row["stop"]) if is_new else (),
        )

    async def sent(self, user: str, key: str, fingerprint: str) -> Sent | None:
        """Return what a key stored; see `Runs.sent`."""
        row = await self._database.fetchrow(_SQL["run_by_idempotency_key"], user, key)
        if row is None:
            return None
        if row["fingerprint"] != fingerprint:
            raise _key_used()
        if row["deleted_at"] is not None:
            raise no_thread()
        return Sent(
            log=self._database.log,
            thread=row["thread"],
            run=row["run"],
            message=row["message"],
            seq=row["seq"],
            after=row["after"],
            is_new=False,
            committed=(),
        )

    async def claim(
        self,
        worker: str,
        *,
        agents: Sequence[str],
        limit: int,
        user_limit: int,
        holding: Collection[str] | None = None,
        take_lost: bool = True,
        take_orphans: bool = True,
    ) -> builtins.list[Claim]:
        """Take runs: lost ones, woken ones, queued ones; see `Runs.claim`."""
        claims: builtins.list[Claim] = []
        as_of, lost_until = await self._as_of(worker)
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(_COMMIT_S * look * (0.5 + random.random()))  # noqa: S311 - to meet once only
            held = None if holding is None else [*holding, *(claim.run for claim in claims)]
            limits = (max(limit - len(claims), 0), max(user_limit, 0))
            asked = (worker, [*agents], take_orphans, *limits)
            values = (*asked, held, as_of, lost_until if take_lost else 0, self._lease_ms)
            try:
                rows = await self._database.fetch(_SQL["claim"], *values, is_urgent=True)
                pinned = await self._pinned([row["run"] for row in rows if row["has_pinned"]])
            except Unavailable:
                if not claims:
                    raise
                break  # what was claimed before is held; what this look took, the next claim takes
            claims += [_claim(row, pinned) for row in rows if row["run"] is not None]
            if not rows or rows[-1]["run"] is not None:
                break
        return claims

    async def _as_of(self, worker: str) -> tuple[int, int]:
        """Return the database's time, and until when a claim may take over what has run out; 0: nothing has.

        A statement that was sent before an outage may be executed at its end, when every lease has run out. So it says
        itself how long it is good for: much less than others have left of a lease that they renewed before. And it says
        of when its list of runs is: its worker may have claimed again meanwhile, and hold what is not in that list.
        """
        ((now, is_any_lost),) = await self._database.fetch(_SQL["as_of"], worker, is_urgent=True)
        return now, now + self._lease_ms // 6 if is_any_lost else 0

    async def waiting(self, *, limit: int, user_limit: int) -> Waiting:
        """Count the runs that wait for a worker; see `Runs.waiting`."""
        rows = await self._database.fetch(_SQL["waiting_runs"], limit, user_limit)
        oldest = {row["agent"]: max(0, row["waited_ms"]) / 1000 for row in rows}
        return Waiting(runs=sum(row["runs"] for row in rows), oldest_s=oldest)

    async def renew(self, worker: str, held: Mapping[str, int]) -> None:
        """Renew this worker's leases; see `Runs.renew`."""
        if held:
            await self._database.look()  # who keeps runs must not stay on a history that is over
            values = (worker, [*held], [*held.values()], self._lease_ms)
            await self._database.execute(_SQL["renew"], *values, is_urgent=True)

    async def release(self, run: str, attempt: int, *, reason: Literal["drained", "deploy", "worker_lost"]) -> None:
        """Give a run back at once; see `Runs.release`."""
        await self._database.execute(_SQL["release"], run, attempt, reason, is_urgent=True)

    async def park(
        self, run: str, attempt: int, *, ordinal: int, waits: Collection[str], closing: Sequence[EmittedEvent]
    ) -> bool:
        """Put a run aside that waits for people or times; see `Runs.park`."""
        is_parked: bool = await self._database.fetchval(_SQL["park"], run, attempt, ordinal, [*waits], pack(closing))
        return is_parked

    async def signals(self, worker: str, held: Mapping[str, int], waits: Collection[str] = ()) -> builtins.list[Signal]:
        """Report what this worker must learn of its runs; see `Runs.signals`."""
        closed: dict[str, builtins.list[Answer]] = {}
        if waits:
            for row in await self._database.fetch(_SQL["answers"], [*waits], is_urgent=True):
                closed.setdefault(row["run"], []).append(_answer(row))
        values = (worker, [*held], [*held.values()])
        rows = await self._database.fetch(_SQL["signals"], *values, is_urgent=True) if held else []
        news = {row["run"]: row for row in rows}
        return [
            _signal(run, attempt, news.get(run), closed.get(run, ()))
            for run, attempt in held.items()
            if run in news or run in closed
        ]

    async def answer(self, user: str, run: str, wait: str, value: Any) -> Answered:
        """Answer a wait of this user's run; see `Runs.answer`."""
        data = encoded(value)
        row = await self._one("answer", user, run, wait, data, isinstance(value, bool), *resumed(wait, value, by=user))
        if row["outcome"] == "no_run":
            raise _no_run()
        if row["outcome"] == "no_wait":
            raise no_wait()
        if row["outcome"] == "closed":
            check_answer(row["kind"], value)
            check_repeated(user, value, by=row["by"], stored=row["value"])
        committed = None
        if row["outcome"] == "resumed":
            spans = (row["attempt"], row["first_seq"], row["last_seq"], row["packed"])
            committed = self._committed(user, row["thread"], run, *spans)
        return Answered(run=run, thread=row["thread"], wait=wait, committed=committed, is_parked=row["is_parked"])

    async def fire_timers(self, *, limit: int = 100) -> builtins.list[Answered]:
        """Resume waits whose time has come; see `Runs.fire_timers`. It writes only if there are any."""
        waits = [row[0] for row in await self._database.fetch(_SQL["due_waits"], limit)] if limit > 0 else []
        if not waits:
            return []
        events = [resumed(wait, None, by="timer") for wait in waits]
        columns = ([event.before for event in events], [event.behind for event in events])
        return [
            Answered(
                run=row["run"],
                thread=row["thread"],
                wait=row["wait"],
                committed=self._committed(
                    row["person"],
                    row["thread"],
                    *(row[name] for name in ("run", "attempt", "first_seq", "last_seq", "packed")),
                ),
                is_parked=row["is_parked"],
            )
            for row in await self._database.fetch(_SQL["fire_timers"], waits, *columns)
        ]

    async def cancel(self, user: str | None, run: str, request: CancelRequest) -> Cancelled:
        """Ask a run to end; see `Runs.cancel`."""
        found, _ = await self._cancel(user, run, request)
        if not found:
            raise _no_run()
        return found[0]

    async def cancel_user(self, user: str, request: CancelRequest) -> builtins.list[Cancelled]:
        """Cancel all unfinished runs of a user, in several writes if there are many."""
        cancelled: builtins.list[Cancelled] = []
        last: int | None = 0
        while last is not None:
            found, last = await self._cancel(user, None, request, after=last)
            cancelled += found
        return cancelled

    async def get(self, user: str, run: str) -> RunRow:
        """Return a run of this user. Raises NotFound."""
        row = await self._database.fetchrow(_SQL["run_row"], run, user)
        if row is None:
            raise _no_run()
        return _run_row(row)

    async def list(
        self,
        user: str,
        *,
        thread: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> builtins.list[RunRow]:
        """List a user's runs, newest first."""
        values = (user, thread, status, agent, before, limit)
        return [_run_row(row) for row in await self._database.fetch(_SQL["list_runs"], *values)]

    async def _cancel(
        self, user: str | None, run: str | None, request: CancelRequest, *, after: int = 0
    ) -> tuple[builtins.list[Cancelled], int | None]:
        """Cancel what one write may; return it, and the key behind which there may be more."""
        values = (user, run, request.by, request.reason, *cancelled(request), after, _CANCEL_RUNS)
        rows = await self._database.fetch(_SQL["cancel"], *values)
        found = [
            Cancelled(
                run=row["run"],
                thread=row["thread"],
                status=row["status"],
                committed=tuple(
                    self._committed(row["person"], row["thread"], row["run"], row["attempt"], *spans)
                    for spans in zip(row["firsts"] or (), row["lasts"] or (), row["packed"] or (), strict=True)
                ),
            )
            for row in rows
        ]
        return found, rows[-1]["key"] if len(rows) == _CANCEL_RUNS else None

    async def _pinned(self, runs: builtins.list[str]) -> dict[str, bytes]:
        rows = await self._database.fetch(_SQL["pinned"], runs, is_urgent=True) if runs else []
        return {run: data for run, data in rows}  # noqa: C416 - rows are no pairs to the type checker

    async def _one(self, block: str, *values: object) -> Record:
        (row,) = await self._database.fetch(_SQL[block], *values)
        return row

    def _committed(
        self, user: str, thread: str, run: str, attempt: int, first_seq: int, last_seq: int, packed: bytes
    ) -> Committed:
        return Committed(
            log=self._database.log,
            user=user,
            thread=thread,
            run=run,
            attempt=attempt,
            first_seq=first_seq,
            last_seq=last_seq,
            packed=packed,
        )


def _claim(row: Record, pinned: Mapping[str, bytes]) -> Claim:
    return Claim(
        run=row["run"],
        thread=row["thread"],
        user=row["person"],
        agent=row["agent"],
        message=row["message"],
        attempt=row["attempt"],
        ordinal=row["ordinal"],
        created_at=row["created_at"],
        pinned=pinned.get(row["run"]),
        cancel=_request(row["cancel_by"], row["cancel_reason"]),
        handed_over=row["handed_over"],
        is_resumed=row["is_resumed"],
        lost=tuple(int(number) for number in row["lost"].split(",") if number),
    )


def _signal(run: str, attempt: int, news: Record | None, closed: Sequence[Answer]) -> Signal:
    if news is None:
        return Signal(run=run, attempt=attempt, answers=tuple(closed))
    if not news["is_held"]:
        return Signal(run=run, attempt=news["attempt"], is_lost=True)
    cancel = _request(news["cancel_by"], news["cancel_reason"])
    return Signal(run=run, attempt=attempt, cancel=cancel, answers=tuple(closed))


def _answer(row: Record) -> Answer:
    value = None if row["value"] is None else msgspec.json.decode(row["value"])
    return Answer(wait=row["wait"], value=value, by=row["by"])


def _request(by: CancelledBy | None, reason: str | None) -> CancelRequest | None:
    return None if by is None else CancelRequest(by=by, reason=reason)


def _run_row(row: Record) -> RunRow:
    run, thread, user, agent, status, attempt, message, seq, started, terminal, error, created_at, ended_at = row
    return RunRow(
        run=run,
        thread=thread,
        user=user,
        agent=agent,
        status=status,
        attempt=attempt,
        message=message,
        seq=seq,
        started_seq=started,
        terminal_seq=terminal,
        error=None if error is None else msgspec.json.decode(error),
        created_at=created_at,
        ended_at=ended_at,
    )


def _key_used() -> Conflict:
    return Conflict("This key was used with another message; take a new one.", field="key")


def _no_run() -> NotFound:
    return NotFound("There is no such run.", field="run")
