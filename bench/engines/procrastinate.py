"""procrastinate as an engine: a task queue on PostgreSQL, without steps and without a fence.

python -m bench.engines.procrastinate URL
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any, Final

import procrastinate

from bench.engine import in_turns, serve

__all__ = ["main"]

_CONCURRENCY: Final = 50
_CONNECTIONS: Final = 10  # as Runwire has
_DONE_S: Final = 0.005
_PATIENCE_S: Final = 100.0


class _Queue:
    def __init__(self, url: str) -> None:
        self.app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=url, min_size=_CONNECTIONS, max_size=_CONNECTIONS)
        )
        self.task = self.app.task(name="empty")(_empty)

    async def runs(self, count: int, users: int) -> dict[str, Any]:
        before = await self._succeeded()
        began_ns = time.monotonic_ns()

        async def send(_: int) -> None:
            await self.task.defer_async()

        await in_turns(count, users, send)
        async with asyncio.timeout(_PATIENCE_S):
            while (done := await self._succeeded() - before) < count:  # noqa: ASYNC110 - it is in the database
                await asyncio.sleep(_DONE_S)
        return {"took_ns": time.monotonic_ns() - began_ns, "recorded": done}

    async def durability(self) -> dict[str, Any]:
        found = [await self.app.connector.execute_query_one_async(f"SHOW {n}") for n in ("synchronous_commit", "fsync")]
        return {"found": " ".join(str(value) for row in found for value in row.values())}

    async def _succeeded(self) -> int:
        sql = "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'succeeded'"
        row = await self.app.connector.execute_query_one_async(sql)
        return int(row["n"])


async def _empty() -> dict[str, int]:
    return {"ok": 1}


async def main(url: str) -> None:
    """Work until the orders end."""
    logging.disable(logging.WARNING)
    queue = _Queue(url)
    async with queue.app.open_async(), asyncio.TaskGroup() as tasks:
        await queue.app.schema_manager.apply_schema_async()
        worker = tasks.create_task(
            queue.app.run_worker_async(concurrency=_CONCURRENCY, install_signal_handlers=False, wait=True)
        )
        await serve({"runs": queue.runs, "durability": queue.durability})
        worker.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
