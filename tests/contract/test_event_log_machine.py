"""The log under crashes, lost replies, stale attempts and void groups, against a model that is a list of events.

The model of a thread is the list of what was acknowledged, in order. After every step that could have touched it
the log must be exactly that list, numbered from 1, with one start and one terminal per run; without the deltas of
ended runs once they were compacted, and without what is below the floor once it was trimmed.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.contract.adapters import (
    Adapter,
    MemoryAdapter,
    PostgresAdapter,
    SqliteAdapter,
    completed,
    said,
    send,
    started,
    thought,
)
from tests.postgres import PostgresServer

from runwire.errors import Conflict, Unavailable
from runwire.protocol.events import EmittedEvent, MessageCompleted, TextDelta, emitted
from runwire.storage.base import AlreadyStored, Batch, CancelRequest, Claim, Fenced, RunEnd, Stored

T = TypeVar("T")
USERS = ("usr_ada", "usr_bob")
ON_ACTIVE = ("enqueue", "reject", "interrupt")
UNFINISHED = ("queued", "running")
EVER = 2**53  # later than every time


@dataclass
class Model:
    """A thread as its user must see it: words of `said`, with the run of each."""

    user: str
    log: list[tuple[str, str]] = field(default_factory=list)
    floor: int = 0

    def cut(self, status: dict[str, str]) -> int:
        """Return the highest seq below which only whole runs are that have ended, and behind which one begins."""
        if any(status.get(run) == "running" for run, _ in self.log):
            return self.floor
        for seq in range(len(self.log), self.floor, -1):
            before = {run for run, _ in self.log[:seq]}
            after = {run for run, _ in self.log[seq:]}
            if after and not before & after and all(status.get(run, "gone") not in UNFINISHED for run in before):
                return seq
        return self.floor


@dataclass
class Held:
    """A claim and what its worker believes."""

    claim: Claim
    ordinal: int
    last: tuple[Batch, int] | None = None  # the newest batch that was stored, and its first seq


class EventLogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="runwire-machine-"))
        self.runner = asyncio.Runner()
        self.adapter = self.run(self.opened())
        self.threads: dict[str, Model] = {}
        self.status: dict[str, str] = {}
        self.held: dict[str, Held] = {}
        self.stale: list[Held] = []
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}  # (user, key) -> (run, fingerprint)
        self.compacted: set[str] = set()  # runs without their deltas
        self.counter = 0

    async def opened(self) -> Adapter:
        return MemoryAdapter()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.adapter.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def word(self) -> str:
        self.counter += 1
        return f"w{self.counter}"

    # rules ------------------------------------------------------------------------------------------

    @rule(data=st.data(), user=st.sampled_from(USERS), on_active=st.sampled_from(ON_ACTIVE), is_new=st.booleans())
    def send(self, data: st.DataObject, user: str, on_active: str, is_new: bool) -> None:
        theirs = [thread for thread, model in self.threads.items() if model.user == user]
        thread = None if is_new or not theirs else data.draw(st.sampled_from(theirs), label="thread")
        unfinished = [] if thread is None else self.unfinished(thread)
        try:
            sent = self.run(send(self.adapter.storage, thread, user=user, on_active=on_active))
        except Conflict:
            assert on_active == "reject"
            assert unfinished
            return
        assert on_active != "reject" or not unfinished
        model = self.threads.setdefault(sent.thread, Model(user))
        assert sent.after == len(model.log)
        if on_active == "interrupt":
            for run in unfinished:
                if self.status[run] == "queued":
                    model.log.append((run, "agent_cancelled"))
                    self.status[run] = "cancelled"
            assert set(sent.stop) == {run for run in unfinished if self.status[run] == "running"}
        model.log.append((sent.run, "user_message"))
        assert sent.seq == len(model.log)
        self.status[sent.run] = "queued"

    @rule(user=st.sampled_from(USERS), key=st.sampled_from("kl"), fingerprint=st.sampled_from("fg"))
    def send_with_a_key(self, user: str, key: str, fingerprint: str) -> None:
        earlier = self.keys.get((user, key))
        try:
            sent = self.run(send(self.adapter.storage, user=user, key=key, fingerprint=fingerprint))
        except Conflict:
            assert earlier is not None
            assert earlier[1] != fingerprint
            return
        assert sent.is_new == (earlier is None)
        if earlier is not None:
            assert earlier == (sent.run, fingerprint)
            return
        self.keys[user, key] = (sent.run, fingerprint)
        self.threads[sent.thread] = Model(user, [(sent.run, "user_message")])
        self.status[sent.run] = "queued"

    @rule(limit=st.integers(1, 4), user_limit=st.integers(1, 3))
    def claim(self, limit: int, user_limit: int) -> None:
        claims = self.run(self.adapter.storage.runs.claim("w1", agents=["echo"], limit=limit, user_limit=user_limit))
        assert len(claims) <= limit
        for claim in claims:
            held = self.held.get(claim.run)
            if held is not None:
                assert claim.attempt == held.claim.attempt + 1
                assert claim.ordinal == held.ordinal
                self.stale.append(held)
            else:
                assert self.status[claim.run] == "queued"
                assert claim.attempt == 1
            self.held[claim.run] = Held(claim, claim.ordinal)
            self.status[claim.run] = "running"
        active = [self.thread_of(run) for run, status in self.status.items() if status == "running"]
        assert len(active) == len(set(active))

    @precondition(lambda self: self.owned())
    @rule(data=st.data(), size=st.integers(1, 3), ends=st.booleans())
    def append(self, data: st.DataObject, size: int, ends: bool) -> None:
        held = self.held[data.draw(st.sampled_from(self.owned()), label="run")]
        self.store([self.batch(held, size, ends=ends)])

    @precondition(lambda self: len(self.owned()) > 1)
    @rule(size=st.integers(1, 3))
    def append_for_all_at_once(self, size: int) -> None:
        self.store([self.batch(self.held[run], size, ends=False) for run in self.owned()])

    @precondition(lambda self: any(held.last for held in self.held.values()))
    @rule(data=st.data())
    def append_again_after_a_lost_reply(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from([one for one in self.held.values() if one.last]), label="held")
        assert held.last is not None
        batch, first = held.last
        (outcome,) = self.run(self.adapter.storage.events.append([batch]))
        stored = AlreadyStored(first_seq=first, last_seq=first + len(batch.events) - 1)
        is_changed = batch.run in self.compacted or batch.run not in self.status
        assert outcome in ((stored, Fenced()) if is_changed else (stored,))

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), ends=st.booleans())
    def append_with_a_stale_attempt(self, data: st.DataObject, ends: bool) -> None:
        batch = self.batch(data.draw(st.sampled_from(self.stale), label="stale"), 1, ends=ends)
        assert self.run(self.adapter.storage.events.append([batch])) == [Fenced()]

    @precondition(lambda self: self.status)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.status)), label="run")
        request = CancelRequest(by="user")
        result = self.run(self.adapter.storage.runs.cancel(None, run, request))
        if self.status[run] == "queued":
            assert len(result.committed) == 1
            self.threads[result.thread].log.append((run, "agent_cancelled"))
            self.status[run] = "cancelled"
        else:
            assert result.committed == ()
        assert result.status == self.status[run]

    @precondition(lambda self: self.owned())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.owned()), label="run")
        held = self.held[run]
        self.run(self.adapter.storage.runs.release(run, held.claim.attempt, reason="drained"))
        self.stale.append(held)

    @rule(runs=st.integers(1, 3))
    def compact(self, runs: int) -> None:
        has_more = True
        while has_more:
            has_more = self.run(self.adapter.storage.upkeep.compact(ended_before=EVER, runs=runs)).has_more
        self.compacted |= {run for run, status in self.status.items() if status not in UNFINISHED}

    @rule(runs=st.integers(1, 3))
    def trim(self, runs: int) -> None:
        upkeep = self.adapter.storage.upkeep
        floors: dict[str, int] = {}
        has_more = True
        while has_more:
            trimmed = self.run(upkeep.trim(ended_before=EVER, deleted_before=0, runs=runs))
            floors |= dict(trimmed.threads)
            has_more = trimmed.has_more
        moved = {thread: model.cut(self.status) for thread, model in self.threads.items()}
        assert floors == {thread: cut for thread, cut in moved.items() if cut > self.threads[thread].floor}
        for thread, cut in floors.items():
            model = self.threads[thread]
            for run, _ in model.log[model.floor : cut]:
                self.status.pop(run, None)
            model.floor = cut
        self.keys = {key: earlier for key, earlier in self.keys.items() if earlier[0] in self.status}

    @rule()
    def crash_and_reopen(self) -> None:
        self.stale += [self.held[run] for run in self.owned()]
        self.run(self.adapter.crash())

    # what must hold ---------------------------------------------------------------------------------

    @invariant()
    def log_is_what_was_acknowledged(self) -> None:
        for thread, model in self.threads.items():
            page = self.run(self.adapter.storage.events.read(thread, after=0, limit=10_000, size_bytes=10**9))
            expected = [
                (seq, run, word)
                for seq, (run, word) in enumerate(model.log, start=1)
                if seq > model.floor and not (word == "text_delta" and run in self.compacted)
            ]
            runs = [event.run for event in page.events]
            assert list(zip([event.seq for event in page.events], runs, said(page.events), strict=True)) == expected
            assert (page.head, page.through, page.floor) == (len(model.log), len(model.log), model.floor)

    @invariant()
    def run_ends_once_and_last(self) -> None:
        for model in self.threads.values():
            for run in {run for run, _ in model.log}:
                words = [word for whose, word in model.log if whose == run]
                ends = [place for place, word in enumerate(words) if word in ("agent_completed", "agent_cancelled")]
                assert ends in ([], [len(words) - 1])

    # ------------------------------------------------------------------------------------------------

    def owned(self) -> list[str]:
        """Return runs whose holder may append: running, and not stale."""
        return sorted(
            run for run, held in self.held.items() if self.status.get(run) == "running" and held not in self.stale
        )

    def thread_of(self, run: str) -> str:
        return next(thread for thread, model in self.threads.items() if (run, "user_message") in model.log)

    def unfinished(self, thread: str) -> list[str]:
        runs = [run for run, word in self.threads[thread].log if word == "user_message"]
        return [run for run in runs if self.status.get(run) in UNFINISHED]

    def batch(self, held: Held, size: int, *, ends: bool) -> Batch:
        claim = held.claim
        message = f"m_{claim.run}"
        delta = emitted(TextDelta(message=message, offset=0, text="x"), ts=1)
        events: list[EmittedEvent] = [delta if place % 2 else thought(self.word()) for place in range(size)]
        if held.ordinal == 0:
            events[0] = started()
        if ends:
            events += [emitted(MessageCompleted(message=message, content="x"), ts=1), completed()]
        end = RunEnd(status="completed") if ends else None
        return Batch(run=claim.run, attempt=claim.attempt, ordinal=held.ordinal, events=tuple(events), end=end)

    def store(self, batches: list[Batch]) -> None:
        for batch, outcome in zip(batches, self.run(self.adapter.storage.events.append(batches)), strict=True):
            assert isinstance(outcome, Stored)
            held = self.held[batch.run]
            model = self.threads[held.claim.thread]
            assert outcome.committed.first_seq == len(model.log) + 1
            held.last = (batch, outcome.committed.first_seq)
            held.ordinal += len(batch.events)
            model.log += [(batch.run, word) for word in said(batch.events)]
            if batch.end is not None:
                self.status[batch.run] = batch.end.status


class SqliteMachine(EventLogMachine):
    async def opened(self) -> Adapter:
        return await SqliteAdapter(self.folder).open()

    @precondition(lambda self: self.owned())
    @rule(data=st.data(), is_guilty_first=st.booleans())
    def append_in_a_group_that_becomes_void(self, data: st.DataObject, is_guilty_first: bool) -> None:
        """Somebody else's job makes SQLite roll the whole group back; this append must not notice."""
        held = self.held[data.draw(st.sampled_from(self.owned()), label="run")]
        batch = self.batch(held, 2, ends=False)
        storage = self.adapter.storage

        def void(connection: sqlite3.Connection) -> None:
            connection.execute("ROLLBACK")  # what SQLITE_FULL and SQLITE_IOERR do
            raise sqlite3.OperationalError("database or disk is full")

        async def both() -> None:
            assert isinstance(self.adapter, SqliteAdapter)
            database = self.adapter.storage.database

            async def guilty() -> None:
                with pytest.raises(Unavailable):
                    await database.write(void)

            async def innocent() -> None:
                (outcome,) = await storage.events.append([batch])
                assert isinstance(outcome, Stored)

            async with asyncio.TaskGroup() as group:
                for work in (guilty, innocent) if is_guilty_first else (innocent, guilty):
                    group.create_task(work())

        self.run(both())
        (outcome,) = self.run(storage.events.append([batch]))
        assert isinstance(outcome, AlreadyStored)
        held.last = (batch, outcome.first_seq)
        held.ordinal += 2
        self.threads[held.claim.thread].log += [(batch.run, word) for word in said(batch.events)]


class PostgresMachine(EventLogMachine):
    server: ClassVar[PostgresServer]

    async def opened(self) -> Adapter:
        return await PostgresAdapter(self.server).open()

    @rule()
    def crash_and_reopen(self) -> None:
        """A lease that has run out refuses nothing until somebody takes the run: somebody does, at once."""
        super().crash_and_reopen()
        self.claim(limit=100, user_limit=0)


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
TestMemory = EventLogMachine.TestCase
TestMemory.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None, suppress_health_check=CHECKS
)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, database=None, suppress_health_check=CHECKS
)


def test_postgres(postgres_server: PostgresServer) -> None:
    PostgresMachine.server = postgres_server
    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, database=None, suppress_health_check=CHECKS
        ),
    )
