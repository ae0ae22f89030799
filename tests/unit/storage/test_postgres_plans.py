"""No statement walks through a table, though all were planned when the tables were empty: the history may grow."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from tests.contract.adapters import completed, send, started, thought
from tests.postgres import PostgresServer

from runwire.protocol.events import AgentWaiting, emitted
from runwire.storage.base import Batch, CancelRequest, Member, OpenedWait, RunEnd
from runwire.storage.postgres.storage import PostgresStorage

DONE = RunEnd(status="completed")
PAST = 5_000  # runs of one user in one thread, ended, and as many segments
BOUND = 400  # rows and index entries that a whole life of a run may look at; 50 calls or so

# What years leave behind. As bulk rows: through the port it would take half a minute.
HISTORY = f"""
WITH made AS (
  INSERT INTO run (id, thread_key, user_key, agent, message, after, seq, status, attempt, ordinal, started_seq,
    terminal_seq, fingerprint, created_at, ended_at, compacted_at)
  SELECT 'run_past' || n, t.key, t.user_key, 'echo', 'msg', t.head + n, t.head + n, 'completed', 1, 1, t.head + n,
    t.head + n, '', 0, 0, 0
  FROM thread t, generate_series(1, {PAST}) n WHERE t.id = '%s'
  RETURNING key, thread_key, seq
), events AS (
  INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, ordinal, flags, events)
  SELECT thread_key, seq, seq, key, 1, 0, 0, '[[0,"custom",1,{{}},""]]'::bytea FROM made
)
UPDATE thread SET head = head + {PAST} WHERE id = '%s'
"""
# A crowd that waits for a worker which is not this one: of one user, and of many.
CROWD = """
WITH people AS (
  INSERT INTO "user" (id, iss, sub, created_at)
  SELECT 'usr_' || n, 'crowd', 'usr_' || n, 0 FROM generate_series(1, 101) n RETURNING key
), ranked AS (
  SELECT key, row_number() OVER (ORDER BY key) AS place FROM people
), threads AS (
  INSERT INTO thread (id, user_key, created_at, updated_at)
  SELECT 'th_crowd' || n, p.key, 0, 0
  FROM generate_series(1, 10000) n JOIN ranked p ON p.place = CASE WHEN n % 2 = 0 THEN 1 ELSE n % 100 + 2 END
  RETURNING key, user_key
)
INSERT INTO run (id, thread_key, user_key, agent, message, status, created_at)
SELECT 'run_crowd' || key, key, user_key, 'theirs', 'msg', 'queued', 0 FROM threads
"""
LOOKED_AT = """
SELECT pg_stat_clear_snapshot(), coalesce(sum(seq_tup_read), 0), (
  SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes
) FROM pg_stat_user_tables WHERE relname IN ('run', 'thread', 'segment', 'wait', 'user', 'pinned', 'blob', 'member')
"""


@pytest.fixture
async def storage(postgres_server: PostgresServer) -> AsyncIterator[PostgresStorage]:
    url = await postgres_server.create_database()
    opened = await PostgresStorage.open(url, lease_s=60)
    yield opened
    await opened.close()
    await postgres_server.drop_database(url)


async def life(storage: PostgresStorage, thread: str | None = None) -> str:
    """Do once what there is to do; one after another, so that it is one connection and its plans."""
    runs, events, threads = storage.runs, storage.events, storage.threads
    key = str(time.monotonic_ns())
    sent = await send(storage, thread, key=key, fingerprint="f")
    await send(storage, sent.thread, on_active="interrupt")
    (claim,) = await runs.claim("w1", agents=["echo"], limit=5, user_limit=50)
    wait = f"wt_{claim.run}"
    first = Batch(
        run=claim.run, attempt=1, ordinal=0, events=(started(), thought("x")), pinned=b"{}", blobs={"b": b"1"}
    )
    event = emitted(AgentWaiting(wait=wait, kind="input"), ts=1)
    second = Batch(run=claim.run, attempt=1, ordinal=2, events=(event,), waits=(OpenedWait(wait=wait, kind="input"),))
    for batch in (first, second, second):
        await events.append([batch])
    held = {claim.run: 1}
    await runs.renew("w1", held)
    await runs.signals("w1", held, [wait])
    await runs.park(claim.run, 1, ordinal=3, waits=[wait], closing=[])
    await runs.fire_timers()
    await runs.answer("usr_ada", claim.run, wait, 1)
    (claim,) = await runs.claim("w1", agents=["echo"], limit=5, user_limit=50)
    await runs.release(claim.run, 2, reason="drained")
    await runs.claim("w1", agents=["echo"], limit=5, user_limit=50)
    last = Batch(run=claim.run, attempt=3, ordinal=3, events=(completed(),), end=DONE)
    await events.append([last])
    for cut in (True, False):
        other = await send(storage)
        await (
            runs.cancel("usr_ada", other.run, CancelRequest(by="user"))
            if cut
            else threads.delete("usr_ada", other.thread)
        )
    await runs.list("usr_ada", limit=5)
    await threads.list("usr_ada", limit=5)
    await threads.rename("usr_ada", sent.thread, "new")
    await runs.get("usr_ada", sent.run)
    await runs.sent("usr_ada", key, "f")
    await threads.reset_from(sent.thread)
    await events.read(sent.thread, after=sent.seq)
    await events.read_run(claim.run)
    await events.heads({sent.thread: 0})
    await events.run_blob(claim.run, "b")
    return sent.thread


async def looked_at(storage: PostgresStorage) -> tuple[int, int]:
    await storage.database.fetch("SELECT pg_stat_force_next_flush()")
    row = await storage.database.fetchrow(LOOKED_AT)
    assert row is not None
    return int(row[1]), int(row[2])


async def test_a_long_past_costs_a_run_nothing(storage: PostgresStorage) -> None:
    thread = await life(storage)
    await life(storage, thread)
    await storage.database.execute(HISTORY % (thread, thread), timeout_s=20)
    walked, found = await looked_at(storage)
    await life(storage, thread)
    now_walked, now_found = await looked_at(storage)
    assert now_walked == walked
    assert now_found - found < BOUND


async def test_a_crowd_of_runs_for_other_workers_costs_a_claim_nothing(storage: PostgresStorage) -> None:
    """Neither those that it leaves to them, nor (of its own) more than it takes and looks past."""
    for node, agent in (("w1", "echo"), ("w2", "theirs")):
        await storage.members.announce(Member(node=node, roles=("worker",), agents=(agent,)))
    for number in range(20):
        await send(storage, user=f"usr_few_{number}")
    await storage.runs.claim("w1", agents=["echo"], limit=1, user_limit=9)  # what is planned, is planned by now
    await storage.database.execute(CROWD, timeout_s=30)
    walked, found = await looked_at(storage)
    claims = await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9)
    now_walked, now_found = await looked_at(storage)
    assert len(claims) == 9
    assert now_walked == walked
    assert now_found - found < BOUND


async def test_a_look_at_the_queue_costs_no_more_than_it_may_count(storage: PostgresStorage) -> None:
    await send(storage)
    await storage.runs.waiting(limit=500, user_limit=10)  # planned by now
    await storage.database.execute(CROWD, timeout_s=30)
    walked, found = await looked_at(storage)
    assert (await storage.runs.waiting(limit=500, user_limit=10)).runs == 500
    now_walked, now_found = await looked_at(storage)
    assert now_walked == walked
    assert now_found - found < 500 * 30
