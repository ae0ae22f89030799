"""What processes, PostgreSQL and Redis hold at a moment, from outside: /proc, /metrics, statistics tables."""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
from tests.fleet.deployment import Deployment, Node

__all__ = ["Sample", "Sampler", "Services"]

_ANSWER_S: Final = 8.0
_TASKS_OF_SOCKET: Final = 2  # what serves it, and what reads from it
_LINE: Final = re.compile(rb"^(\w+)(?:\{[^}]*code=\"(\w+)\"[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)
_TABLES: Final = """
SELECT relname, pg_table_size(relid) AS bytes, pg_indexes_size(relid) AS index_bytes, n_live_tup, n_dead_tup
FROM pg_stat_user_tables ORDER BY 1
"""
_CONNECTIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    at_s: float
    process: str
    rss_kib: int
    uss_kib: int
    all_descriptors: int
    sockets: int  # of people; a descriptor each
    threads: int
    tasks: int
    agent_tasks: int
    blocks: int
    dropped: int  # sockets ended with 4008 since its start

    @property
    def descriptors(self) -> int:
        """Return those that are nobody's socket."""
        return self.all_descriptors - self.sockets

    @property
    def own_tasks(self) -> int:
        """Return those that are nobody's socket: one of these has two, and people move from gateway to gateway."""
        return self.tasks + self.agent_tasks - _TASKS_OF_SOCKET * self.sockets

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "descriptors": self.descriptors, "own_tasks": self.own_tasks}


@dataclass(frozen=True, slots=True)
class Services:
    """What the processes stand on, and how it feels, at one moment."""

    at_s: float
    postgres_connections: int
    redis_connections: int
    redis_bytes: int
    tables: dict[str, tuple[int, int, int, int]]  # name -> bytes, bytes of its indexes, rows, dead rows


class Sampler:
    """Takes samples of a deployment; a process that does not answer in time is left out of that round."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._began_s = time.monotonic()
        self._connection: asyncpg.Connection[Any] | None = None
        self.missed = 0

    async def processes(self) -> list[Sample]:
        """Return a sample of each process that answers."""
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._process(node)) for node in self._deployment.nodes]
        found = [task.result() for task in asked]
        self.missed += found.count(None)
        return [sample for sample in found if sample is not None]

    async def _process(self, node: Node) -> Sample | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                figures = await _figures(node.port)
        except (OSError, ValueError):  # a TimeoutError is an OSError
            return None
        status = _fields(Path(f"/proc/{node.pid}/status"))
        memory = _fields(Path(f"/proc/{node.pid}/smaps_rollup"))
        return Sample(
            at_s=round(time.monotonic() - self._began_s, 1),
            process=node.name,
            rss_kib=status["VmRSS"],
            uss_kib=memory["Private_Clean"] + memory["Private_Dirty"],
            all_descriptors=len(os.listdir(f"/proc/{node.pid}/fd")),
            sockets=int(figures.get("gateway_listeners", 0)),
            threads=status["Threads"],
            tasks=int(figures["process_tasks"]),
            agent_tasks=int(figures.get("process_agent_tasks", 0)),
            blocks=int(figures["process_allocated_blocks"]),
            dropped=int(figures.get("gateway_closes_total/4008", 0)),
        )

    async def services(self) -> Services:
        """Return what PostgreSQL and Redis say."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._deployment.url, timeout=_ANSWER_S)
        rows = await self._connection.fetch(_TABLES, timeout=_ANSWER_S)
        connections = await self._connection.fetchval(_CONNECTIONS, timeout=_ANSWER_S)
        said = b""
        if self._deployment.redis is not None:
            said = await asyncio.to_thread(self._deployment.redis.execute, "INFO")
        return Services(
            at_s=round(time.monotonic() - self._began_s, 1),
            postgres_connections=connections,
            redis_connections=_info(said, b"connected_clients"),
            redis_bytes=_info(said, b"used_memory"),
            tables={row[0]: (row[1], row[2], row[3], row[4]) for row in rows},
        )

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


async def _figures(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
        text = await reader.read()
        while more := await reader.read():
            text += more
    finally:
        writer.close()
    figures: dict[str, float] = {}
    for name, code, value in _LINE.findall(text):
        figures[f"{name.decode()}/{code.decode()}" if code else name.decode()] = float(value)
    return figures


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file of /proc, KiB where it has a unit."""
    found = re.findall(r"^(\w+):\s+(\d+)", path.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    return {name: int(value) for name, value in found}


def _info(said: bytes, name: bytes) -> int:
    found = re.search(rb"^" + name + rb":(\d+)", said, re.MULTILINE)
    return int(found[1]) if found else 0
