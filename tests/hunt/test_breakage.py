"""What a stranger tried on the PostgreSQL adapter: late requests, cut requests, crowds of runs, values too long."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.contract.adapters import append, claim_one, send, started
from tests.postgres import PostgresServer

from runwire.errors import NotFound, ProtocolError, Unavailable
from runwire.protocol.events import AgentWaiting, emitted
from runwire.storage.base import Batch, CancelRequest, Claim, OpenedWait
from runwire.storage.postgres.storage import PostgresStorage

QUEUE = """
INSERT INTO run (id, thread_key, user_key, agent, message, status, created_at)
SELECT 'run_' || n, t.key, t.user_key, 'echo', 'msg_' || n, 'queued', 0 FROM thread t, generate_series(1, {count}) n
"""


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    made = await postgres_server.lend()
    yield made
    await postgres_server.take_back(made)


@asynccontextmanager
async def opened(url: str, *, lease_s: float = 60, limit_s: float | None = 5) -> AsyncIterator[PostgresStorage]:
    storage = await PostgresStorage.open(url, lease_s=lease_s, limit_s=limit_s)
    yield storage
    await storage.close()


def held_back(storage: PostgresStorage, name: str) -> list[tuple[Any, ...]]:
    """Keep the values of the calls that are made from now on, and answer them as a lost reply; return them."""
    kept: list[tuple[Any, ...]] = []
    fetch = storage.database.fetch

    async def keep(sql: str, *values: Any, **options: Any) -> Any:
        if name not in sql:
            return await fetch(sql, *values, **options)
        kept.append((sql, *values))
        raise Unavailable("the test says so")

    storage.database.fetch = keep  # type: ignore[method-assign]
    return kept


async def test_a_claim_that_is_executed_late_takes_nothing_from_its_own_worker(url: str) -> None:
    async with opened(url) as storage, opened(url) as network:
        await send(storage)
        late = held_back(network, "runwire_claim")
        claim: Callable[[PostgresStorage], Awaitable[list[Claim]]] = lambda one: one.runs.claim(  # noqa: E731
            "w1", agents=["echo"], limit=1, user_limit=1, holding=[]
        )
        with pytest.raises(Unavailable):
            await claim(network)
        await asyncio.sleep(0.002)  # the clock of the database has moved by a millisecond
        (held,) = await claim(storage)
        assert await storage.database.fetch(*late[0]) == []
        await append(storage, held, started(), ordinal=0)  # it is its own
        (again,) = await claim(storage)  # which it does not know of: the claim's reply was lost
        assert again.attempt == 2


async def test_a_claim_whose_second_look_fails_keeps_what_the_first_one_took(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url) as storage:
        await send(storage)
        await send(storage, user="usr_bob")
        fetch = storage.database.fetch
        looks = 0

        async def fail_the_second(sql: str, *values: Any, **options: Any) -> Any:
            nonlocal looks
            looks += "runwire_claim" in sql
            if looks == 2:
                raise Unavailable("the test says so")
            return await fetch(sql, *values, **options)

        monkeypatch.setattr(storage.database, "fetch", fail_the_second)
        async with storage.database.alone(statement_timeout_s=5) as other, other.transaction():
            await other.fetch("""SELECT 1 FROM "user" WHERE id = 'usr_bob' FOR NO KEY UPDATE""")
            claims = await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9)
        assert [claim.user for claim in claims] == ["usr_ada"]
        assert looks == 2


async def test_all_runs_of_a_user_are_called_off_however_many_they_are(
    postgres_server: PostgresServer, url: str
) -> None:
    async with opened(url, lease_s=6, limit_s=None) as storage:
        await storage.threads.create("usr_ada")
        await postgres_server.execute(url, QUEUE.format(count=6_000))
        cancelled = await storage.runs.cancel_user("usr_ada", CancelRequest(by="revoked"))
        assert len({one.run for one in cancelled}) == 6_000
        assert {one.status for one in cancelled} == {"cancelled"}


@pytest.mark.parametrize("what", ["deleted", "trimmed"])
async def test_an_answer_that_waited_for_its_threads_end_finds_no_run(url: str, what: str) -> None:
    async with opened(url) as storage:
        await send(storage)
        claim = await claim_one(storage)
        event = emitted(AgentWaiting(wait="wt_1", kind="input"), ts=1)
        waits = (OpenedWait(wait="wt_1", kind="input"),)
        batch = Batch(run=claim.run, attempt=1, ordinal=0, events=(event,), waits=waits)
        await storage.events.append([batch])
        async with asyncio.TaskGroup() as tasks, storage.database.alone(statement_timeout_s=5) as other:
            async with other.transaction():
                if what == "deleted":
                    await other.execute("UPDATE thread SET deleted_at = 1")
                else:
                    await other.execute("SELECT 1 FROM thread FOR NO KEY UPDATE")
                    for table in ("pinned", "wait", "segment", "run"):
                        await other.execute(f"DELETE FROM {table}")
                answer = tasks.create_task(_outcome(storage.runs.answer("usr_ada", claim.run, "wt_1", "x")))
                while not await other.fetchval(  # noqa: ASYNC110 - the database tells nobody
                    "SELECT count(*) FROM pg_locks WHERE NOT granted"
                ):
                    await asyncio.sleep(0.01)
            assert isinstance(await answer, NotFound)


async def _outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except Exception as error:
        return error


async def test_a_value_too_long_for_an_index_is_the_callers_fault(url: str) -> None:
    dice = random.Random(1)
    long = "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    async with opened(url) as storage:
        with pytest.raises(ProtocolError):
            await send(storage, user=long)
        with pytest.raises(ProtocolError):
            await send(storage, key=long, fingerprint="f")


async def test_a_server_that_takes_no_writes_any_more_is_left(postgres_server: PostgresServer) -> None:
    url = await postgres_server.create_database()
    async with opened(url) as storage:
        await send(storage)
        await storage.database.execute("SET default_transaction_read_only = on")  # as an operator does to every session
        with pytest.raises(Unavailable):
            await send(storage)
        await send(storage)  # over a new connection, which the URL's server takes writes on
    await postgres_server.drop_database(url)


async def test_who_does_not_take_an_answer_off_the_socket_is_dropped(postgres_server: PostgresServer, url: str) -> None:
    """What holds a lock and answers more than sockets take keeps it until the answer is sent."""
    async with opened(url, limit_s=2) as storage, opened(url, limit_s=2) as stopped:
        thread = (await storage.threads.create("usr_ada")).thread
        await postgres_server.execute(url, QUEUE.format(count=1))
        await stopped.threads.get("usr_ada", thread)
        connection = stopped.database._idle[-1].connection
        await connection.execute("SELECT 1")
        statement = await connection.prepare(
            "SELECT t.key, n, repeat('x', 1000) FROM thread t, generate_series(1, 20000) n FOR NO KEY UPDATE OF t"
        )
        connection._transport.pause_reading()  # type: ignore[attr-defined]  # as SIGSTOP would
        async with asyncio.TaskGroup() as tasks:
            began_s = time.monotonic()
            reading = tasks.create_task(_outcome(statement.fetch(timeout=15)))
            await asyncio.sleep(0.2)
            while isinstance(await _outcome(storage.threads.rename("usr_ada", thread, "x")), Unavailable):
                assert time.monotonic() - began_s < 10
            connection._transport.resume_reading()  # type: ignore[attr-defined]
            assert isinstance(await reading, Exception)
