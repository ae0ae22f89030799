"""What is allowed although it is unsafe is said again and again, and stands in the figures."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from runwire.app.unsafe import remind
from runwire.settings import load


async def test_each_allowed_rule_is_said_each_hour_and_is_a_figure() -> None:
    allowed = load({"database_url": "memory://", "allow_unsafe": "memory-database"}, environ={}).allowed
    registry = CollectorRegistry()
    with capture_logs() as said:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            reminding = tasks.create_task(remind(allowed, registry, every_s=0.001))
            while len(said) < 3:  # noqa: ASYNC110 - a log has nothing to wait for
                await asyncio.sleep(0)
            reminding.cancel()
    assert {(line["event"], line["log_level"], line["rule"]) for line in said} == {
        ("unsafe_allowed", "warning", "memory-database")
    }
    assert said[0]["fix"] == allowed[0].fix
    assert b'runwire_unsafe_allowed{rule="memory-database"} 1.0' in generate_latest(registry)


async def test_who_allows_nothing_is_told_nothing() -> None:
    registry = CollectorRegistry()
    with capture_logs() as said:
        await remind((), registry)
    assert said == []
    assert b"runwire_unsafe_allowed{" not in generate_latest(registry)
