"""Runs in SQLite: a message becomes one, a worker claims it, somebody may call it off."""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from runwire.errors import Conflict, NotFound, Unavailable
from runwire.protocol.events import EmittedEvent, UserMessage, emitted, pack
from runwire.protocol.ids import new_id
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
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.cancelling import Unfinished, call_off
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.log import Stretch, extend
from runwire.storage.sqlite.members import agents_elsewhere
from runwire.storage.sqlite.threads import add_thread, find_thread, user_key
from runwire.storage.sqlite.waiting import Parked, answer, answers, due, fire, park

__all__ = ["SqliteRuns"]

_SQL: Final = load("sqlite.sql")
_INTERRUPTED: Final = CancelRequest(by="policy", reason="interrupt")
_LOST_KEPT: Final = 64  # attempts that a claim tells of


class SqliteRuns:
    """Runs and who owns them, in one SQLite file; the owner is an incarnation, no clock decides anything."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def send(self, message: IncomingMessage) -> Sent:
        """Store a message and its run in one write; see `Runs.send`."""
        draft = _Draft(message)
        log = self._database.log
        return await self._database.write(lambda connection: _send(connection, log, draft))

    async def sent(self, user: str, key: str, fingerprint: str) -> Sent | None:
        """Return what a key stored; see `Runs.sent`."""
        log = self._database.log
        return await self._database.read(lambda connection: _sent_earlier(connection, log, user, key, fingerprint))

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
        """Take runs: lost ones, woken ones, queued ones; see `Runs.claim`. Without leases none can run out."""
        owner = self._database.incarnation
        held = None if holding is None else msgspec.json.encode([*holding]).decode()
        own = msgspec.json.encode([*agents]).decode()

        def work(connection: sqlite3.Connection) -> builtins.list[Claim]:
            ((newest,),) = connection.execute(_SQL["owner"]).fetchall()
            if newest != owner:
                # Its lock file was removed: every run of the new owner would look like one that was lost.
                raise Unavailable("Another server owns this data file now: stop this one.")
            elsewhere = agents_elsewhere(connection, worker) if take_orphans else None
            lost = connection.execute(_SQL["lost_runs"], (owner, limit, worker, held, own, elsewhere)).fetchall()
            claims = [_claim(connection, key, owner=owner, worker=worker) for (key,) in lost]
            # Each after those before it were taken: they count against their users' limits.
            for block in ("woken_runs", "queued_runs"):
                values = (user_limit, limit - len(claims), own, elsewhere)
                for (key,) in connection.execute(_SQL[block], values).fetchall():
                    ((turn,),) = connection.execute(_SQL["next_turn"]).fetchall()
                    connection.execute(_SQL["serve_user"], (key, turn))
                    claims.append(_claim(connection, key, owner=owner, worker=worker))
            return claims

        return await self._database.write(work)

    async def release(self, run: str, attempt: int, *, reason: Literal["drained", "deploy", "worker_lost"]) -> None:
        """Give a run back at once; see `Runs.release`."""
        values = (run, attempt, self._database.incarnation, reason)
        await self._database.write(lambda connection: connection.execute(_SQL["release_run"], values).rowcount)

    async def waiting(self, *, limit: int, user_limit: int) -> Waiting:
        """Count the runs that wait for a worker; see `Runs.waiting`."""
        values = (limit, user_limit)
        rows = await self._database.read(lambda db: db.execute(_SQL["waiting_runs"], values).fetchall())
        now = now_ms()
        oldest = {agent: max(0, now - since) / 1000 for agent, _, since in rows}
        return Waiting(runs=sum(count for _, count, _ in rows), oldest_s=oldest)

    async def renew(self, worker: str, held: Mapping[str, int]) -> None:
        """Do nothing: there are no leases."""

    async def park(
        self, run: str, attempt: int, *, ordinal: int, waits: Collection[str], closing: Sequence[EmittedEvent]
    ) -> bool:
        """Put a run aside that waits for people or times; see `Runs.park`."""
        one = Parked(run, attempt, ordinal, waits, pack(closing))
        owner = self._database.incarnation
        return await self._database.write(lambda connection: park(connection, one, owner=owner))

    async def signals(self, worker: str, held: Mapping[str, int], waits: Collection[str] = ()) -> builtins.list[Signal]:
        """Report what this worker must learn of its runs; see `Runs.signals`."""
        values = (msgspec.json.encode(held).decode(), self._database.incarnation, worker)

        def work(connection: sqlite3.Connection) -> builtins.list[Signal]:
            closed = answers(connection, waits)
            news = {row[0]: row[1:] for row in connection.execute(_SQL["signals"], values)}
            return [
                _signal(run, news.get(run, (attempt, True, None, None)), closed.get(run, ()))
                for run, attempt in held.items()
                if run in news or run in closed
            ]

        return await self._database.read(work)

    async def answer(self, user: str, run: str, wait: str, value: Any) -> Answered:
        """Answer a wait of this user's run; see `Runs.answer`."""
        log = self._database.log
        return await self._database.write(
            lambda connection: answer(connection, log, user=user, run=run, wait=wait, value=value)
        )

    async def fire_timers(self, *, limit: int = 100) -> builtins.list[Answered]:
        """Resume waits whose time has come; see `Runs.fire_timers`. It writes only if there are any."""
        log = self._database.log
        if not await self._database.read(lambda connection: due(connection, limit)):
            return []
        return await self._database.write(lambda connection: fire(connection, log, limit))

    async def cancel(self, user: str | None, run: str, request: CancelRequest) -> Cancelled:
        """Ask a run to end; see `Runs.cancel`."""
        log = self._database.log

        def work(connection: sqlite3.Connection) -> Cancelled:
            row = connection.execute(_SQL["run_to_cancel"], (run, user)).fetchone()
            if row is None:
                raise _no_run()
            return _cancel(connection, log, row, request)

        return await self._database.write(work)

    async def cancel_user(self, user: str, request: CancelRequest) -> builtins.list[Cancelled]:
        """Cancel all unfinished runs of a user."""
        log = self._database.log

        def work(connection: sqlite3.Connection) -> builtins.list[Cancelled]:
            rows = connection.execute(_SQL["unfinished_of_user"], (user,)).fetchall()
            return [_cancel(connection, log, row, request) for row in rows]

        return await self._database.write(work)

    async def get(self, user: str, run: str) -> RunRow:
        """Return a run of this user. Raises NotFound."""
        row = await self._database.read(lambda connection: connection.execute(_SQL["run_row"], (run, user)).fetchone())
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
        rows = await self._database.read(lambda connection: connection.execute(_SQL["list_runs"], values).fetchall())
        return [_run_row(row) for row in rows]


class _Draft:
    """A message with its new ids and its packed event: the same however often its write is executed."""

    def __init__(self, message: IncomingMessage) -> None:
        self.message = message
        self.new_thread = new_id("th")
        self.run = new_id("run")
        self.id = new_id("msg")
        self.now = now_ms()
        data = UserMessage(
            message=self.id, content=message.content, metadata=message.metadata, retry_of=message.retry_of
        )
        self.packed = pack([emitted(data, ts=self.now)])


def _send(connection: sqlite3.Connection, log: str, draft: _Draft) -> Sent:
    message = draft.message
    if message.key is not None:
        earlier = _sent_earlier(connection, log, message.user, message.key, message.fingerprint)
        if earlier is not None:
            return earlier
    owner_key = user_key(connection, message.user, now=draft.now)
    if message.thread is None:
        thread, after = draft.new_thread, 0
        thread_key = add_thread(connection, owner_key, thread=thread, title=None, now=draft.now)
    else:
        thread = message.thread
        thread_key, after = find_thread(connection, message.user, thread)
    committed, stop = _make_way(connection, log, thread_key, message)
    values = (draft.run, thread_key, owner_key, message.agent, draft.id, after)
    ((run_key,),) = connection.execute(
        _SQL["add_run"], (*values, message.key, message.fingerprint, draft.now)
    ).fetchall()
    (said,) = extend(connection, log, [Stretch(thread_key, run_key, draft.run, 0, None, 1, 0, draft.packed)])
    connection.execute(_SQL["place_run"], (run_key, said.first_seq))
    return Sent(
        log=log,
        thread=thread,
        run=draft.run,
        message=draft.id,
        seq=said.first_seq,
        after=after,
        is_new=True,
        committed=(*committed, said),
        stop=tuple(stop),
    )


def _sent_earlier(connection: sqlite3.Connection, log: str, user: str, key: str, of_body: str) -> Sent | None:
    """Return what this user's key stored before, if it did. Raises Conflict, NotFound."""
    found = connection.execute(_SQL["run_by_idempotency_key"], (user, key)).fetchone()
    if found is None:
        return None
    thread, run, id_, seq, after, fingerprint, deleted_at = found
    if fingerprint != of_body:
        raise Conflict("This key was used with another message; take a new one.", field="key")
    if deleted_at is not None:
        raise NotFound("There is no such thread.", field="thread")
    return Sent(log=log, thread=thread, run=run, message=id_, seq=seq, after=after, is_new=False, committed=())


def _make_way(
    connection: sqlite3.Connection, log: str, thread_key: int, message: IncomingMessage
) -> tuple[builtins.list[Committed], builtins.list[str]]:
    """Apply `on_active`; return what was committed for it and the runs whose holders must stop."""
    if message.on_active == "enqueue":
        return [], []
    runs = [Unfinished(*row) for row in connection.execute(_SQL["unfinished_of_thread"], (thread_key,))]
    if message.on_active == "interrupt":
        committed = call_off(connection, log, runs, _INTERRUPTED)
        return committed, [run.run for run in runs if run.status == "running"]
    if runs:
        raise Conflict("A run of this thread has not ended; wait for it, or interrupt it.", code="run_active")
    return [], []


def _claim(connection: sqlite3.Connection, key: int, *, owner: int, worker: str) -> Claim:
    ((*named, attempt, ordinal, created_at, pinned, by, reason, handed_over, status, holder, text),) = (
        connection.execute(_SQL["claimed_run"], (key,)).fetchall()
    )
    run, thread, user, agent, message = named
    lost = [int(number) for number in text.split(",") if number]
    if status == "running" and holder not in (None, owner):
        lost.append(attempt - 1)
    kept = "".join(f"{number}," for number in lost[-_LOST_KEPT:])
    connection.execute(_SQL["claim_run"], (key, owner, worker, kept))
    return Claim(
        run=run,
        thread=thread,
        user=user,
        agent=agent,
        message=message,
        attempt=attempt,
        ordinal=ordinal,
        created_at=created_at,
        pinned=pinned,
        cancel=_request(by, reason),
        handed_over=handed_over,
        is_resumed=status == "waiting",
        lost=tuple(lost),
    )


def _signal(run: str, news: tuple[Any, ...], closed: Sequence[Answer]) -> Signal:
    attempt, is_held, by, reason = news
    if not is_held:
        return Signal(run=run, attempt=attempt, is_lost=True)
    return Signal(run=run, attempt=attempt, cancel=_request(by, reason), answers=tuple(closed))


def _request(by: CancelledBy | None, reason: str | None) -> CancelRequest | None:
    return None if by is None else CancelRequest(by=by, reason=reason)


def _cancel(connection: sqlite3.Connection, log: str, row: tuple[Any, ...], request: CancelRequest) -> Cancelled:
    *values, thread = row
    run = Unfinished(*values)
    committed: builtins.list[Committed] = []
    status = run.status
    if status in ("queued", "running", "waiting"):
        committed = call_off(connection, log, [run], request)
    if committed:
        status = "cancelled"
    return Cancelled(run=run.run, thread=thread, status=status, committed=tuple(committed))


def _run_row(row: tuple[Any, ...]) -> RunRow:
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


def _no_run() -> NotFound:
    return NotFound("There is no such run.", field="run")
