"""Counts in a real Redis: exact under a herd, bounded when it hangs, in units where there would be too many entries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.redis_server import PASSWORD, RedisServer

from runwire.errors import Unavailable
from runwire.resilience.quotas import ANSWER_S, Quota
from runwire.storage.redis.counts import RedisCounts

MINUTE = Quota(name="user_messages", limit=30, period_s=60)
DAY = Quota(name="user_tokens", limit=1_000_000, period_s=86_400, unit=1_000)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer.start(tmp_path_factory.mktemp("redis"), password=PASSWORD)
    yield server
    server.remove()


@pytest.fixture
async def counts(redis: RedisServer) -> AsyncIterator[RedisCounts]:
    made = RedisCounts(redis.url, prefix="test")
    yield made
    await made.close()


async def outcomes(counts: RedisCounts, who: str, tries: int) -> list[float | None]:
    """Take so many at once; return the waits, None for who got no answer."""

    async def take() -> float | None:
        try:
            return await counts.take(MINUTE, who, 1)
        except Unavailable:
            return None

    async with asyncio.TaskGroup() as tasks:
        taking = [tasks.create_task(take()) for _ in range(tries)]
    return [task.result() for task in taking]


async def test_of_fifty_at_once_exactly_the_limit_passes_and_the_others_learn_when_to_return(
    counts: RedisCounts,
) -> None:
    waits = await outcomes(counts, "usr_ann", 50)
    assert waits.count(0.0) == MINUTE.limit
    assert all(wait is not None and 0 <= wait <= 60 for wait in waits)
    assert min(wait for wait in waits if wait) > 50
    assert await counts.take(MINUTE, "usr_bob", 1) == 0


async def test_c12_whoever_finds_no_free_connection_waits_no_longer_than_for_an_answer(
    counts: RedisCounts, redis: RedisServer
) -> None:
    assert await counts.take(MINUTE, "usr_cyd", 1) == 0
    redis.pause()
    try:
        began_s = time.monotonic()
        assert set(await outcomes(counts, "usr_cyd", 200)) == {None}
        assert time.monotonic() - began_s < 3 * ANSWER_S + 1
    finally:
        redis.resume()
    async with asyncio.timeout(10):
        while await outcomes(counts, "usr_dan", 1) == [None]:
            pass


async def test_what_was_used_counts_in_units_and_no_piece_of_one_is_lost(counts: RedisCounts) -> None:
    assert await counts.add(DAY, "usr_ann", 999_400) == 0
    assert await counts.add(DAY, "usr_ann", 500) == 0, "900 of the last thousand"
    assert await counts.add(DAY, "usr_ann", 100) > 86_000
    assert await counts.wait_s(DAY, "usr_ann") > 86_000
    assert await counts.add(DAY, "usr_bob", 5_000_000) > 86_000, "more than the limit fills it"
    assert await counts.wait_s(DAY, "usr_cyd") == 0


async def test_a_restarted_redis_counts_anew_without_a_word_of_ours(counts: RedisCounts, redis: RedisServer) -> None:
    assert await counts.take(MINUTE, "usr_eve", 30) == 0
    redis.kill()
    with pytest.raises(Unavailable) as away:
        await counts.take(MINUTE, "usr_eve", 1)
    assert PASSWORD not in repr(away.value)
    await asyncio.to_thread(redis.restart)
    assert await counts.take(MINUTE, "usr_eve", 1) == 0
