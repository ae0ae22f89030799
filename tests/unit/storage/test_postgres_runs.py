"""What only several processes on one PostgreSQL can do to each other: limits, locks, leases, and bad values."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.contract.adapters import append, claim_one, completed, said, send, started, thought
from tests.postgres import PostgresServer

from runwire.errors import Conflict, NotFound, ProtocolError, Unavailable
from runwire.protocol.events import AgentResumed, AgentWaiting, decode_data, emitted, unpack
from runwire.storage.base import (
    Batch,
    Busy,
    CancelRequest,
    Claim,
    Fenced,
    IncomingMessage,
    OpenedWait,
    Outcome,
    RunEnd,
    Stored,
    Unstorable,
)
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.sql import load

COMPLETED = RunEnd(status="completed")


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    made = await postgres_server.lend()
    yield made
    await postgres_server.take_back(made)


@asynccontextmanager
async def opened(url: str, count: int, *, lease_s: float = 60) -> AsyncIterator[list[PostgresStorage]]:
    """Open a database as so many processes would, each with its own connections."""
    storages = [await PostgresStorage.open(url, lease_s=lease_s, limit_s=5) for _ in range(count)]
    yield storages
    for storage in storages:
        await storage.close()


@pytest.fixture
async def storage(url: str) -> AsyncIterator[PostgresStorage]:
    async with opened(url, 1) as (one,):
        yield one


async def running(storage: PostgresStorage, user: str = "usr_ada") -> Claim:
    await send(storage, user=user)
    claim = await claim_one(storage)
    await append(storage, claim, started(), ordinal=0)
    return claim


async def test_limits_are_exact_under_eight_claimers_with_connections_of_their_own(url: str) -> None:
    users, user_limit = [f"usr_{number}" for number in range(5)], 3
    async with opened(url, 8) as storages:
        for number in range(200):
            await send(storages[0], user=users[number % 5])
        most: Counter[str] = Counter()
        ended: list[str] = []

        async def work(worker: int) -> None:
            storage = storages[worker]
            idle = 0
            while idle < 20 and len(ended) < 200:
                claims = await storage.runs.claim(f"w{worker}", agents=["echo"], limit=4, user_limit=user_limit)
                idle = 0 if claims else idle + 1
                rows = await storage.database.fetch(
                    'SELECT u.id, count(*) FROM run r JOIN "user" u ON u.key = r.user_key'
                    " WHERE r.status = 'running' GROUP BY u.id"
                )
                for user, count in rows:
                    most[user] = max(most[user], count)
                for claim in claims:
                    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
                    ended.append(claim.run)

        async with asyncio.TaskGroup() as group:
            for worker in range(8):
                group.create_task(work(worker))
        assert len(ended) == len(set(ended)) == 200
        assert max(most.values()) == user_limit  # reached, and never passed


class Crowd:
    """People and workers, each on connections of their own, who all want the same six threads for a while."""

    def __init__(self, threads: list[str], *, until_s: float) -> None:
        self.threads = threads
        self.until_s = until_s
        self.done: Counter[str] = Counter()

    def goes_on(self) -> bool:
        return asyncio.get_running_loop().time() < self.until_s

    async def person(self, storage: PostgresStorage, number: int) -> None:
        done = self.done
        while self.goes_on():
            place = (number + done["send"]) % 6
            on_active = "interrupt" if done["send"] % 3 else "enqueue"
            sent = await send(storage, self.threads[place], user=f"usr_{place % 2}", on_active=on_active)
            done["send"] += 1
            if done["send"] % 5 == 0:
                await storage.runs.cancel(None, sent.run, CancelRequest(by="user"))
            if done["send"] % 17 == 0:
                await storage.runs.cancel_user(f"usr_{place % 2}", CancelRequest(by="revoked"))

    async def worker(self, storage: PostgresStorage, name: str) -> None:
        held: dict[str, tuple[Claim, int]] = {}
        while self.goes_on():
            claims = await storage.runs.claim(name, agents=["echo"], limit=4, user_limit=9, holding=[*held])
            held |= {claim.run: (claim, claim.ordinal) for claim in claims}
            await storage.runs.renew(name, {run: claim.attempt for run, (claim, _) in held.items()})
            batches = [_next(claim, ordinal) for claim, ordinal in held.values()]
            for batch, outcome in zip(batches, await storage.events.append(batches), strict=True):
                self.done[type(outcome).__name__] += 1
                if isinstance(outcome, Stored):
                    held[batch.run] = (held[batch.run][0], batch.ordinal + 1)
                if isinstance(outcome, Fenced) or (isinstance(outcome, Stored) and batch.end):
                    del held[batch.run]


def _next(claim: Claim, ordinal: int) -> Batch:
    is_last = ordinal > 3
    events = (thought("x"), completed()) if is_last else (thought("x"),)
    end = COMPLETED if is_last else None
    return Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=events, end=end)


async def test_everything_at_once_deadlocks_nobody(postgres_server: PostgresServer, url: str) -> None:
    async with opened(url, 4) as storages:
        threads = [(await send(storages[0], user=f"usr_{number % 2}")).thread for number in range(6)]
        crowd = Crowd(threads, until_s=asyncio.get_running_loop().time() + 2.0)
        async with asyncio.TaskGroup() as group:
            for number, storage in enumerate(storages):
                group.create_task(crowd.person(storage, number))
                group.create_task(crowd.worker(storage, f"w{number}"))
        assert crowd.done["send"] > 50
        assert crowd.done["Stored"] > 20
        assert "deadlock" not in postgres_server.log()
        for thread in threads:  # and every log is whole
            page = await storages[0].events.read(thread, after=0, limit=10**6, size_bytes=10**9)
            assert [event.seq for event in page.events] == list(range(1, page.head + 1))


@pytest.mark.parametrize("table", ["thread", "run"])
async def test_what_somebody_holds_is_busy_and_is_stored_when_it_is_sent_again(
    storage: PostgresStorage, table: str
) -> None:
    held, free = await running(storage), await running(storage, "usr_bob")
    batches = [Batch(run=claim.run, attempt=1, ordinal=1, events=(thought("x"),)) for claim in (held, free)]
    async with storage.database.alone(statement_timeout_s=5) as connection, connection.transaction():
        row = held.thread if table == "thread" else held.run
        await connection.fetch(f"SELECT 1 FROM {table} WHERE id = $1 FOR NO KEY UPDATE", row)
        async with asyncio.timeout(2):
            outcomes = await storage.events.append(batches)
        assert [type(outcome) for outcome in outcomes] == [Busy, Stored]
        assert await storage.runs.claim("w2", agents=["echo"], limit=9, user_limit=9) == []
    (outcome,) = await storage.events.append(batches[:1])
    assert isinstance(outcome, Stored)


async def test_who_waits_for_a_lock_gives_up_in_time(url: str) -> None:
    async with opened(url, 1) as (storage,):
        claim = await running(storage)
    storage = await PostgresStorage.open(url, lease_s=60, limit_s=0.6)
    async with storage.database.alone(statement_timeout_s=5) as connection, connection.transaction():
        await connection.fetch("SELECT 1 FROM thread FOR NO KEY UPDATE")
        async with asyncio.timeout(3):
            with pytest.raises(Unavailable):
                await send(storage, claim.thread)
    assert (await send(storage, claim.thread)).seq == 3
    await storage.close()


async def test_value_that_breaks_a_write_ends_its_own_run_alone(storage: PostgresStorage) -> None:
    claims = [await running(storage, f"usr_{number}") for number in range(9)]
    waits = {3: "wt_\x00", 6: "wt_twice"}
    (first,) = await storage.events.append([_waiting(claims[8], "wt_twice", ordinal=1)])
    assert isinstance(first, Stored)
    outcomes = await storage.events.append(
        [_waiting(claim, waits.get(place, f"wt_{place}"), ordinal=1) for place, claim in enumerate(claims[:8])]
    )
    assert [type(outcome) for outcome in outcomes] == [Unstorable if place in waits else Stored for place in range(8)]
    await append(storage, claims[3], completed(), ordinal=1, end=COMPLETED)


def _waiting(claim: Claim, wait: str, *, ordinal: int) -> Batch:
    event = emitted(AgentWaiting(wait=wait.replace("\x00", "0"), kind="input"), ts=1)
    opened = OpenedWait(wait=wait, kind="input")
    return Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=(event,), waits=(opened,))


async def test_name_that_no_database_holds_is_refused_as_a_bad_request(storage: PostgresStorage) -> None:
    for call in (
        storage.threads.create("usr_ada", title="NUL \x00"),
        send(storage, key="k\x00", fingerprint="f"),
        storage.threads.get("usr_ada", "th_\x00"),
    ):
        with pytest.raises(ProtocolError) as refusal:
            await call
        assert refusal.value.code == "bad_request"
    # Content may have it: it is bytes.
    sent = await storage.runs.send(_message("NUL \x00"))
    (event,) = (await storage.events.read(sent.thread, after=0)).events
    assert decode_data(event).content == "NUL \x00"


def _message(content: str) -> IncomingMessage:
    return IncomingMessage(user="usr_ada", thread=None, agent="echo", content=content)


async def test_events_of_a_gateway_have_the_databases_time(storage: PostgresStorage) -> None:
    before = await storage.database.fetchval("SELECT runwire_now()")
    sent = await send(storage, metadata={"ts": 0})
    cancelled = await storage.runs.cancel("usr_ada", sent.run, CancelRequest(by="user"))
    after = await storage.database.fetchval("SELECT runwire_now()")
    events = [
        event
        for one in (*sent.committed, *cancelled.committed)
        for event in unpack(one.packed, first_seq=one.first_seq, run=one.run, attempt=one.attempt)
    ]
    assert said(events) == ["user_message", "agent_cancelled"]
    assert before <= events[0].ts <= events[1].ts <= after
    assert (await storage.events.read(sent.thread, after=0)).events == events


async def test_answer_is_seen_whether_it_comes_before_the_parking_or_after(storage: PostgresStorage) -> None:
    for number in range(15):
        claim = await running(storage)
        wait = f"wt_{number}"
        await storage.events.append([_waiting(claim, wait, ordinal=1)])
        async with asyncio.TaskGroup() as group:
            parked = group.create_task(storage.runs.park(claim.run, 1, ordinal=2, waits=[wait], closing=[]))
            group.create_task(storage.runs.answer("usr_ada", claim.run, wait, number))
        assert parked.result()
        (again,) = await storage.runs.claim("w2", agents=["echo"], limit=9, user_limit=9)
        assert (again.run, again.attempt, again.is_resumed) == (claim.run, 2, True)
        await append(storage, again, completed(), ordinal=2, end=COMPLETED)


async def test_of_an_answer_and_a_batch_that_closes_its_wait_one_is_first(storage: PostgresStorage) -> None:
    for number in range(15):
        claim = await running(storage)
        wait = f"wt_{number}"
        await storage.events.append([_waiting(claim, wait, ordinal=1)])
        ended = emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1)
        batch = Batch(run=claim.run, attempt=1, ordinal=2, events=(ended, completed()), end=COMPLETED, closes=(wait,))

        async def answer(run: str = claim.run, wait: str = wait) -> bool:
            try:
                await storage.runs.answer("usr_ada", run, wait, 1)
            except Conflict:
                return False
            return True

        async def close(batch: Batch = batch) -> str:
            outcome: Outcome = Busy()
            while isinstance(outcome, Busy):
                (outcome,) = await storage.events.append([batch])
            return type(outcome).__name__

        async with asyncio.TaskGroup() as group:
            answered, closed = group.create_task(answer()), group.create_task(close())
        assert (answered.result(), closed.result()) in ((True, "Overtaken"), (False, "Stored"))
        if answered.result():
            await append(storage, claim, completed(), ordinal=2, end=COMPLETED)


async def test_client_that_stops_reading_holds_no_lock(storage: PostgresStorage) -> None:
    claim = await running(storage)
    pinned = b"x" * (24 << 20)  # more than sockets take on by themselves
    await storage.events.append([Batch(run=claim.run, attempt=1, ordinal=1, events=(thought("x"),), pinned=pinned)])
    await storage.runs.release(claim.run, 1, reason="drained")
    async with storage.database.alone(statement_timeout_s=5) as connection:
        claim_all = await connection.prepare(load("postgres.sql")["claim"])
        connection._transport.pause_reading()  # type: ignore[attr-defined]  # as SIGSTOP would
        async with asyncio.TaskGroup() as group:
            stopped = group.create_task(
                claim_all.fetch("w2", ["echo"], False, 9, 9, None, 0, 2**62, 60_000, timeout=10)
            )
            until_s = asyncio.get_running_loop().time() + 3
            while (await storage.runs.get("usr_ada", claim.run)).attempt == 1:  # it is committed
                assert asyncio.get_running_loop().time() < until_s
                await asyncio.sleep(0.01)
            connection._transport.resume_reading()  # type: ignore[attr-defined]  # and SIGCONT
        (row,) = stopped.result()
        assert row["run"] == claim.run
    (again,) = await storage.runs.claim("w2", agents=["echo"], limit=9, user_limit=9, holding=[])
    assert again.pinned == pinned


async def test_long_values_go_in_several_statements(storage: PostgresStorage) -> None:
    claims = [await running(storage, f"usr_{number}") for number in range(4)]
    value = b'"' + b"x" * (5 << 20) + b'"'
    batches = [
        Batch(run=claim.run, attempt=1, ordinal=1, events=(thought("x"),), blobs={"blob_1": value}) for claim in claims
    ]
    outcomes = await storage.events.append(batches)
    assert [type(outcome) for outcome in outcomes] == [Stored] * 4
    assert await storage.events.run_blob(claims[3].run, "blob_1") == value


# leases -------------------------------------------------------------------------------------------


async def test_lease_runs_out_by_the_databases_clock_and_is_renewed_while_nobody_took_the_run(url: str) -> None:
    async with opened(url, 2, lease_s=0.4) as (holder, other):
        claim = await running(holder)
        assert await other.runs.claim("w2", agents=["echo"], limit=9, user_limit=9) == []
        until_s = asyncio.get_running_loop().time() + 10
        while not await holder.database.fetchval("SELECT lease_until < runwire_now() FROM run"):
            assert asyncio.get_running_loop().time() < until_s
            await asyncio.sleep(0.02)
        # Run out, and nobody took it: it goes on, renewed or not.
        await append(holder, claim, thought("late"), ordinal=1)
        assert await holder.runs.signals("w1", {claim.run: 1}) == []
        assert await other.runs.claim("w2", agents=["echo"], limit=9, user_limit=9, take_lost=False) == []
        assert await holder.runs.claim("w1", agents=["echo"], limit=9, user_limit=9, holding=[claim.run]) == []
        await holder.runs.renew("w1", {claim.run: 1})
        assert not await holder.database.fetchval("SELECT lease_until < runwire_now() - 300 FROM run")
        while not (taken := await other.runs.claim("w2", agents=["echo"], limit=9, user_limit=9)):
            assert asyncio.get_running_loop().time() < until_s
            await asyncio.sleep(0.02)
        assert (taken[0].attempt, taken[0].ordinal, taken[0].lost) == (2, 2, (1,))
        await holder.runs.renew("w1", {claim.run: 1})
        batch = Batch(run=claim.run, attempt=1, ordinal=2, events=(thought("zombie"),))
        assert await holder.events.append([batch]) == [Fenced()]


async def test_deleted_thread_is_gone_for_readers_and_keeps_its_journal(storage: PostgresStorage) -> None:
    claim = await running(storage)
    await storage.threads.delete("usr_ada", claim.thread)
    with pytest.raises(NotFound):
        await storage.events.read(claim.thread, after=0)
    assert said(await storage.events.read_run(claim.run)) == ["user_message", "agent_started"]
