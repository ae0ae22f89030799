"""Random agents on the real Context, worker and database, lost before every event: one coherent run comes of it.

What a deterministic agent leaves on the screen equals, scope by scope, what it leaves uncrashed; of others it is what
the last attempt said and what had finished before. Functions of finished steps are not called again.

`CHAOS_SEED=n` plays the agent of that seed alone, here and in the campaign.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from tests.contract.adapters import Adapter, PostgresAdapter, SqliteAdapter
from tests.postgres import PostgresServer
from tests.replay import world
from tests.replay.mutants import MUTANTS, Mutant
from tests.replay.world import Failure, World, quick_tries

TOGETHER = 5  # agents whose runs share a worker
_ONE = os.environ.get("CHAOS_SEED")  # noqa: TID251 - of the tests, not of a server

# Seeds that failed when this was written: add yours.
FAILED_ONCE = (208,)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    quick_tries(monkeypatch)
    # Each of thousands of tools that raise on purpose would be printed with its traceback.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Adapter]:
    adapter = await SqliteAdapter(folder).open()
    try:
        yield adapter
    finally:
        await adapter.close()


@asynccontextmanager
async def postgres(server: PostgresServer) -> AsyncIterator[Adapter]:
    adapter = await PostgresAdapter(server).open()
    try:
        yield adapter
    finally:
        await adapter.close()


async def lived(adapter: Adapter, seeds: Iterable[int], *, together: int = TOGETHER) -> Counter[str]:
    """Let the agents live, some at a time; return what happened."""
    counts: Counter[str] = Counter()
    chosen = [int(_ONE)] if _ONE else list(seeds)
    for first in range(0, len(chosen), together):
        counts += await World(adapter, chosen[first : first + together]).live()
    return counts


def see(counts: Counter[str], *, deterministic: int, other_words: int) -> None:
    """Expect that there was something to see, and print what."""
    print(dict(counts))
    if not _ONE:
        assert counts["deterministic"] >= deterministic
        assert counts["other words"] >= other_words
        assert counts["crashes"] >= deterministic + other_words
        assert min(counts["answered while dead"], counts["answered at parking"]) > 0


@pytest.mark.timeout(180)
async def test_agents_lost_before_each_event_end_as_one_coherent_run(tmp_path: Path) -> None:
    async with sqlite(tmp_path) as adapter:
        see(await lived(adapter, range(10)), deterministic=40, other_words=40)


@pytest.mark.timeout(180)
async def test_agents_that_failed_once(tmp_path: Path) -> None:
    async with sqlite(tmp_path) as adapter:
        await lived(adapter, FAILED_ONCE)


@pytest.mark.timeout(180)
async def test_agents_lost_before_each_event_on_postgresql(postgres_server: PostgresServer) -> None:
    async with postgres(postgres_server) as adapter:
        see(await lived(adapter, range(1_000, 1_003)), deterministic=10, other_words=3)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
@pytest.mark.timeout(120)
async def test_the_property_sees_a_runtime_that(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "PATIENCE_S", 3.0)
    mutant.put(monkeypatch)
    async with sqlite(tmp_path) as adapter:
        with pytest.raises(Failure, match=mutant.seen):
            await lived(adapter, mutant.seeds, together=1)


@pytest.mark.campaign
@pytest.mark.timeout(7_200)
async def test_campaign_of_agents_lost_before_each_event(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for first in range(10_000, 10_300, 20):  # a data file for some of them: each death copies it
        folder = tmp_path / str(first)
        await asyncio.to_thread(folder.mkdir)
        async with sqlite(folder) as adapter:
            counts += await lived(adapter, range(first, first + 20))
    see(counts, deterministic=1_000, other_words=1_000)


@pytest.mark.campaign
@pytest.mark.timeout(7_200)
async def test_campaign_of_agents_lost_before_each_event_on_postgresql(postgres_server: PostgresServer) -> None:
    async with postgres(postgres_server) as adapter:
        see(await lived(adapter, range(20_000, 20_060)), deterministic=200, other_words=200)
