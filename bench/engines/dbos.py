"""DBOS as an engine: its own process, its defaults but for what makes it comparable.

    python -m bench.engines.dbos URL

On SQLite it gets WAL and an fsync per commit, as Runwire has (its own default is the rollback journal, which is
slower). Its queue is asked every 10 ms (default: 1 s), which is what served it best here, and only once there is one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig
from dbos import _dbos as internals  # to read how its connections are set

from bench.engine import in_turns, serve

__all__ = ["main"]

_QUEUE: Final = "bench"
_POLL_S: Final = 0.01
_DONE_S: Final = 0.005  # how often it is looked whether all are over
_PATIENCE_S: Final = 100.0


@DBOS.step()
async def _trivial(number: int) -> int:
    return number


@DBOS.workflow()
async def _empty() -> dict[str, int]:
    return {"ok": 1}


@DBOS.workflow()
async def _stepping(steps: int) -> dict[str, int]:
    await _trivial(0)
    began_ns = time.monotonic_ns()
    for number in range(steps):
        await _trivial(number)
    return {"took_ns": time.monotonic_ns() - began_ns}


async def _steps(count: int) -> dict[str, Any]:
    handle = await DBOS.start_workflow_async(_stepping, count)
    took = await handle.get_result()
    recorded = len(await DBOS.list_workflow_steps_async(handle.workflow_id)) - 1  # the one that warmed up
    return {"took_ns": took["took_ns"], "recorded": recorded}


async def _runs(count: int, users: int) -> dict[str, Any]:
    """Start workflows in this process: nobody has to find them."""
    before = await asyncio.to_thread(_succeeded)
    began_ns = time.monotonic_ns()
    async with asyncio.TaskGroup() as tasks:

        async def send(_: int) -> None:
            handle = await DBOS.start_workflow_async(_empty)
            tasks.create_task(handle.get_result())

        await in_turns(count, users, send)
    took_ns = time.monotonic_ns() - began_ns
    return {"took_ns": took_ns, "recorded": await asyncio.to_thread(_succeeded) - before}


async def _queued(count: int, users: int) -> dict[str, Any]:
    """Put workflows into a queue, from which this process takes them."""
    await DBOS.register_queue_async(_QUEUE, polling_interval_sec=_POLL_S)
    before = await asyncio.to_thread(_succeeded)
    began_ns = time.monotonic_ns()

    async def send(_: int) -> None:
        await DBOS.enqueue_workflow_async(_QUEUE, _empty)

    await in_turns(count, users, send)
    async with asyncio.timeout(_PATIENCE_S):
        while (done := await asyncio.to_thread(_succeeded) - before) < count:  # noqa: ASYNC110 - it is in the database
            await asyncio.sleep(_DONE_S)
    return {"took_ns": time.monotonic_ns() - began_ns, "recorded": done}


def _succeeded() -> int:
    with _engine().connect() as connection:
        schema = "" if connection.dialect.name == "sqlite" else "dbos."
        found = connection.execute(sa.text(f"SELECT count(*) FROM {schema}workflow_status WHERE status = 'SUCCESS'"))
        return int(found.scalar_one())


async def _durability() -> dict[str, Any]:
    return {"found": await asyncio.to_thread(_read_durability)}


def _read_durability() -> str:
    """Say how its connections commit, in the database's own words."""
    with _engine().connect() as connection:
        if connection.dialect.name == "sqlite":
            names = ("PRAGMA journal_mode", "PRAGMA synchronous")
        else:
            names = ("SHOW synchronous_commit", "SHOW fsync")
        return " ".join(str(connection.execute(sa.text(name)).scalar_one()) for name in names)


def _engine() -> sa.Engine:
    instance = internals._get_dbos_instance()  # noqa: SLF001 - to look into the database as it does
    engine: sa.Engine = instance._sys_db.engine  # noqa: SLF001
    return engine


@sa.event.listens_for(sa.Engine, "connect")
def _as_ours(connection: Any, _record: object) -> None:
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")


async def main(url: str) -> None:
    """Work until the orders end."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url.replace("postgresql://", "postgresql+psycopg://"),
        "log_level": "ERROR",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        await serve({"steps": _steps, "runs": _runs, "queued": _queued, "durability": _durability})
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
