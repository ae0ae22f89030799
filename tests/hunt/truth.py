"""What must be true of a database, whatever was done to it: while it is used, and in the end."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from tests.hunt.crowd import USER_LIMIT

__all__ = ["check_limits", "check_log", "deadlocks"]

# One snapshot each. An active run per thread, running runs per user.
_LIMITS: Final = """
SELECT 'user' AS whose, user_key AS key, count(*) FROM run WHERE status = 'running' GROUP BY 1, 2 HAVING count(*) > $1
UNION ALL
SELECT 'thread', thread_key, count(*) FROM run WHERE status IN ('running', 'waiting') GROUP BY 1, 2 HAVING count(*) > 1
"""

# Each returns the rows that break a law.
_LAWS: Final = {
    "every seq above the floor is in the log, once": """
        SELECT t.id, t.floor, t.head, s.first_seq, s.before FROM thread t JOIN (
          SELECT thread_key, first_seq, last_seq,
            lag(last_seq) OVER (PARTITION BY thread_key ORDER BY first_seq) AS before
          FROM segment) s ON s.thread_key = t.key
        WHERE s.first_seq > t.floor + 1 AND s.first_seq <> coalesce(s.before, t.floor) + 1
        UNION ALL
        SELECT t.id, t.floor, t.head, max(s.last_seq), NULL FROM thread t LEFT JOIN segment s ON s.thread_key = t.key
        GROUP BY t.key HAVING coalesce(max(s.last_seq), t.floor) <> t.head""",
    "a run that ended has one terminal event, its last": """
        SELECT r.id, r.status FROM run r JOIN thread t ON t.key = r.thread_key WHERE r.terminal_seq > t.floor AND (
          (SELECT count(*) FROM segment s WHERE s.run_key = r.key AND s.flags & 2 <> 0) <> 1
          OR (SELECT max(s.last_seq) FROM segment s WHERE s.run_key = r.key) <> r.terminal_seq)""",
    "a run that has not ended has none": """
        SELECT r.id FROM run r WHERE r.terminal_seq IS NULL
          AND EXISTS (SELECT 1 FROM segment s WHERE s.run_key = r.key AND s.flags & 2 <> 0)""",
    "what workers said of a run is there once": """
        SELECT r.id, r.ordinal FROM run r JOIN thread t ON t.key = r.thread_key
        WHERE r.compacted_at IS NULL AND r.seq > t.floor AND r.ordinal <> (
          SELECT coalesce(sum(s.last_seq - s.first_seq + 1), 0) FROM segment s
          WHERE s.run_key = r.key AND s.ordinal IS NOT NULL)""",
    "an attempt says nothing after the next one has begun": """
        SELECT * FROM (SELECT run_key, attempt, first_seq,
            lag(attempt) OVER (PARTITION BY run_key ORDER BY first_seq) AS before FROM segment) s
        WHERE attempt < before""",
    "no wait of a run that ended is open": """
        SELECT w.id FROM wait w JOIN run r ON r.key = w.run_key WHERE w."by" IS NULL AND r.terminal_seq IS NOT NULL""",
    "who is parked can be woken": """
        SELECT r.id FROM run r WHERE r.status = 'waiting' AND r.woken_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM wait w WHERE w.run_key = r.key AND w."by" IS NULL)""",
    "of one key there is one run": """
        SELECT user_key, idempotency_key FROM run GROUP BY 1, 2 HAVING count(*) > 1 AND idempotency_key IS NOT NULL""",
}


async def check_limits(connection: asyncpg.Connection[Any]) -> None:
    over = await connection.fetch(_LIMITS, USER_LIMIT)
    assert not over, f"more than allowed: {over}"


async def check_log(connection: asyncpg.Connection[Any]) -> None:
    for law, sql in _LAWS.items():
        broken = await connection.fetch(sql)
        assert not broken, f"not so: {law}: {broken[:3]}"


async def deadlocks(connection: asyncpg.Connection[Any]) -> int:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    count: int = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return count
