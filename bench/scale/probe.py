"""Reading a deployment from outside: CPU and memory of each process tree, what the database and Redis have counted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import redis.asyncio
from tests.cluster.deployment import Cluster
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

from bench import cpu

__all__ = ["Probe", "Reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What had been spent and written at one moment."""

    cpu_ns: dict[str, int]  # of each process tree
    commits: int
    wal_bytes: int
    database_bytes: int
    redis_bytes: int  # in and out

    def since(self, before: Reading) -> dict[str, float]:
        """Return what came since: `cpu gateway1` in µs, and so on."""
        spent = {f"cpu {name}": (ns - before.cpu_ns[name]) / 1e3 for name, ns in self.cpu_ns.items()}
        return spent | {
            "commits": self.commits - before.commits,
            "wal": self.wal_bytes - before.wal_bytes,
            "database": self.database_bytes - before.database_bytes,
            "redis": self.redis_bytes - before.redis_bytes,
        }


class Probe:
    """Reads; what it asks itself costs a handful of statements."""

    def __init__(self, cluster: Cluster, postgres: PostgresServer, cache: RedisServer) -> None:
        self._cluster, self._postgres, self._cache = cluster, postgres, cache

    async def read(self) -> Reading:
        """Read everything once."""
        connection = await asyncpg.connect(self._cluster.url)
        client = redis.asyncio.Redis.from_url(self._cache.url)
        try:
            row = await connection.fetchrow(
                "SELECT xact_commit, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal, "
                "pg_database_size(datname) AS size FROM pg_stat_database WHERE datname = current_database()"
            )
            assert row
            told = await client.info("stats")
        finally:
            await connection.close()
            await client.aclose()
        spent = {one.name: cpu.cpu_ns(one.pid) for one in self._cluster.processes if one.is_running}
        spent |= {"postgresql": cpu.cpu_with_ended_ns(self._postgres.pid), "redis": cpu.cpu_ns(self._cache.pid)}
        return Reading(
            cpu_ns=spent,
            commits=row["xact_commit"],
            wal_bytes=row["wal"],
            database_bytes=row["size"],
            redis_bytes=told["total_net_input_bytes"] + told["total_net_output_bytes"],
        )

    def connections(self) -> dict[str, int]:
        """Return how many connections to PostgreSQL each process has open."""
        inodes = set()
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            _, _, remote, state, *rest = line.split()
            if state == "01" and int(remote.rpartition(":")[2], 16) == self._postgres.port:
                inodes.add(f"socket:[{rest[5]}]")
        return {
            one.name: sum(_link(fd) in inodes for fd in Path(f"/proc/{one.pid}/fd").iterdir())
            for one in self._cluster.processes
            if one.is_running
        }


def _link(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:
        return ""
