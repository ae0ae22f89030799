"""Runwire as an engine: a worker on a database, and what stores people's messages; no gateway, no sockets.

python -m bench.engines.runwire URL [gateway]
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from bench.engine import in_turns, serve
from runwire.agents.context import Context
from runwire.agents.load import Agents
from runwire.protocol.events import StoredEvent, decode_data
from runwire.runtime.worker import Worker, WorkerSettings
from runwire.storage.base import BusMessage, Committed, IncomingMessage, Storage, Wake
from runwire.storage.open import open_bus, open_storage
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.sqlite.storage import SqliteStorage

__all__ = ["main"]

_PATIENCE_S: Final = 100.0
_PARK_AFTER_S: Final = 0.02  # of runs that wait; in production 10 s, which the bench would have to wait out
_MAX_RUNS: Final = 2_000
_ORDERS: Final = (
    *("durability", "steps", "runs", "time_starts", "start_one", "started"),
    *("sleepers", "park", "collect", "journal", "replay"),
)
_seen: dict[str, list[int]] = {"steps": [], "sleeping": [], "past": []}  # when code was there; agents' loop only


async def trivial(number: int) -> int:
    """Do what a step does at least."""
    return number


async def _counted(number: int) -> int:
    _seen["steps"].append(time.monotonic_ns())
    return number


async def _empty(_ctx: Context, _message: str) -> dict[str, int]:
    return {"ok": 1}


async def _stepping(ctx: Context, message: str) -> dict[str, int]:
    steps = int(message)
    await ctx.step("warm", trivial, 0)
    began_ns = time.monotonic_ns()
    for number in range(steps):
        await ctx.step("trivial", trivial, number)
    took_ns = time.monotonic_ns() - began_ns
    _seen["past"].append(took_ns)
    return {"took_ns": took_ns}


async def _sleep(_: int) -> None:
    _seen["sleeping"].append(time.monotonic_ns())
    await asyncio.sleep(3_600)


async def _sleeping(ctx: Context, _message: str) -> None:
    await ctx.step("sleep", _sleep, 0)


async def _asking(ctx: Context, _message: str) -> None:
    await ctx.ask("Go on?")


async def _journal(ctx: Context, message: str) -> None:
    """Record so many steps, then ask again and again: every answer replays all that stands before."""
    for number in range(int(message)):
        await ctx.step("counted", _counted, number)
    while True:
        _seen["past"].append(time.monotonic_ns())
        await ctx.ask("Go on?")


AGENTS: Final = {
    "empty": _empty,
    "stepping": _stepping,
    "sleeping": _sleeping,
    "asking": _asking,
    "journal": _journal,
}


class _Ours:
    """A storage, a bus, and perhaps a worker; what was heard of commits."""

    def __init__(self, storage: Storage, *, has_worker: bool) -> None:
        self.storage = storage
        self.bus = open_bus(storage)
        self._heard: Counter[str] = Counter()  # commits with such an event
        self._last_ns: dict[str, int] = {}  # type of event → when the last was heard
        self._starts: dict[str, int] = {}  # run → when its `agent_started` was heard: of those that are asked for
        self._is_timed = False
        self._news = asyncio.Event()
        self._last_ended: dict[int, str] = {}  # by user: the newest run that was seen to have ended
        self._journal_run = ""
        self.worker = (
            Worker(
                storage,
                self.bus,
                Agents.of(AGENTS),
                "wk_bench",
                WorkerSettings(max_runs=_MAX_RUNS, user_limit=1_000, park_after_s=_PARK_AFTER_S),
            )
            if has_worker
            else None
        )

    def hear(self, message: BusMessage) -> None:
        if isinstance(message, Committed):
            now_ns = time.monotonic_ns()
            for name in ("agent_started", "agent_completed", "agent_waiting", "agent_failed"):
                if name.encode() in message.packed:
                    self._heard[name] += 1
                    self._last_ns[name] = now_ns
                    if name == "agent_started" and self._is_timed:
                        self._starts[message.run] = now_ns
            self._news.set()

    def count(self, name: str) -> int:
        return self._heard[name]

    async def until(self, name: str, count: int) -> int:
        """Wait for that many commits with such an event; return when the last was heard."""
        async with asyncio.timeout(_PATIENCE_S):
            while self.count(name) < count:
                if self.count("agent_failed"):
                    raise RuntimeError("a run failed")
                self._news.clear()
                await self._news.wait()
        return self._last_ns[name]

    async def send(self, agent: str, content: str, user: int = 0, *, is_hinted: bool = True) -> tuple[str, str, int]:
        """Store a message; return its run, its thread, and when it was committed."""
        message = IncomingMessage(user=f"usr_{user}", thread=None, agent=agent, content=content)
        sent = await self.storage.runs.send(message)
        committed_ns = time.monotonic_ns()
        if is_hinted:
            for committed in sent.committed:
                self.bus.publish(committed)
            self.bus.publish(Wake(topic="runs", thread=sent.thread))
        return sent.run, sent.thread, committed_ns

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────

    async def durability(self) -> dict[str, Any]:
        """Say how the connection that writes commits, in the database's own words."""
        if isinstance(self.storage, SqliteStorage):
            names = ("PRAGMA journal_mode", "PRAGMA synchronous")
            read = self.storage.database.write
            found = [await read(lambda db, name=name: db.execute(name).fetchone()[0]) for name in names]
        else:
            assert isinstance(self.storage, PostgresStorage)
            found = [await self.storage.database.fetchval(f"SHOW {name}") for name in ("synchronous_commit", "fsync")]
        return {"found": " ".join(map(str, found))}

    async def steps(self, count: int) -> dict[str, Any]:
        before, done = len(_seen["past"]), self.count("agent_completed")
        run, *_ = await self.send("stepping", str(count))
        await self.until("agent_completed", done + 1)
        events = await self.storage.events.read_run(run)
        recorded = sum(event.type == "step_completed" for event in events) - 1  # the one that warmed up
        return {"took_ns": _seen["past"][before], "recorded": recorded}

    async def runs(self, count: int, users: int) -> dict[str, Any]:
        done = self.count("agent_completed")
        began_ns = time.monotonic_ns()

        async def send(number: int) -> None:
            await self.send("empty", "hi", number % users)

        await in_turns(count, users, send)
        last_ns = await self.until("agent_completed", done + count)
        assert self.worker is not None
        await self.worker.idle()
        ended = sum([len(await self._ended(user)) for user in range(users)])
        return {"took_ns": last_ns - began_ns, "recorded": ended}

    async def _ended(self, user: int) -> list[str]:
        """Return the user's runs that ended since this was asked last, from the database."""
        found: list[str] = []
        before = None
        last = self._last_ended.get(user)
        while rows := await self.storage.runs.list(f"usr_{user}", agent="empty", before=before, limit=50):
            for row in rows:
                if row.run == last:
                    break
                assert row.status == "completed", row.status
                found.append(row.run)
            else:
                before = rows[-1].run
                continue
            break
        if found:
            self._last_ended[user] = found[0]
        return found

    async def time_starts(self) -> dict[str, Any]:
        self._is_timed = True
        return {}

    async def start_one(self, is_hinted: bool) -> dict[str, Any]:
        run, _, committed_ns = await self.send("empty", "hi", is_hinted=is_hinted)
        return {"run": run, "committed_ns": committed_ns}

    async def started(self, run: str) -> dict[str, Any]:
        """Say when a run's `agent_started` was committed, and wait until the run is over."""
        async with asyncio.timeout(_PATIENCE_S):
            while run not in self._starts:
                self._news.clear()
                await self._news.wait()
        assert self.worker is not None
        await self.worker.idle()
        return {"started_ns": self._starts[run]}

    async def sleepers(self, count: int, users: int) -> dict[str, Any]:
        async def send(number: int) -> None:
            await self.send("sleeping", "hi", number % users)

        before = len(_seen["sleeping"])
        await in_turns(count, users, send)
        async with asyncio.timeout(_PATIENCE_S):
            while len(_seen["sleeping"]) < before + count:  # noqa: ASYNC110 - of another thread's loop
                await asyncio.sleep(0.01)
        assert self.worker is not None
        return {"sleeping": self.worker.active}

    async def park(self, count: int, users: int) -> dict[str, Any]:
        asked = self.count("agent_waiting")

        async def send(number: int) -> None:
            await self.send("asking", "hi", number % users)

        for begin in range(0, count, 500):  # a crowd would be measured, which a server does not have
            await in_turns(min(500, count - begin), users, send)
            await self.until("agent_waiting", asked + min(count, begin + 500))
            assert self.worker is not None
            await self.worker.idle()
        waiting = await self.storage.runs.list("usr_0", status="waiting", limit=1)
        return {"parked": count if waiting and not self.worker.active else 0}

    async def collect(self) -> dict[str, Any]:
        """Collect what is garbage already; say how many objects there are then."""
        gc.collect()
        return {"objects": len(gc.get_objects())}

    async def journal(self, steps: int) -> dict[str, Any]:
        """Make a run with a journal of so many steps that is parked at its end."""
        _seen["steps"].clear()
        asked = self.count("agent_waiting")
        self._journal_run, *_ = await self.send("journal", str(steps))
        await self.until("agent_waiting", asked + 1)
        assert self.worker is not None
        await self.worker.idle()
        return {"executed": len(_seen["steps"])}

    async def replay(self) -> dict[str, Any]:
        """Answer the run that is parked; say how long it took until its code was past the last recorded step."""
        asked, past = self.count("agent_waiting"), len(_seen["past"])
        events = await self.storage.events.read_run(self._journal_run)
        wait = next(event for event in reversed(events) if event.type == "agent_waiting")
        answered = await self.storage.runs.answer("usr_0", self._journal_run, _wait_of(wait), "yes")
        answered_ns = time.monotonic_ns()
        if not answered.is_parked:
            raise RuntimeError("it was not parked: nothing is replayed")
        self.bus.publish(Wake(topic="runs", thread=answered.thread))
        await self.until("agent_waiting", asked + 1)
        assert self.worker is not None
        await self.worker.idle()
        return {"took_ns": _seen["past"][past] - answered_ns, "executed": len(_seen["steps"])}


def _wait_of(event: StoredEvent) -> str:
    wait: str = decode_data(event).wait
    return wait


async def main(url: str, *, has_worker: bool) -> None:
    """Work until the orders end."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with AsyncExitStack() as stack:
        storage = await open_storage(url)
        stack.push_async_callback(storage.close)
        ours = _Ours(storage, has_worker=has_worker)
        stack.callback(ours.bus.listen(ours.hear))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        parts = [tasks.create_task(ours.bus.run())]
        if ours.worker is not None:
            parts.append(tasks.create_task(ours.worker.run()))
        gc.collect()  # as `runwire serve` does
        gc.freeze()
        gc.set_threshold(20_000, *gc.get_threshold()[1:])
        await serve({name: getattr(ours, name) for name in _ORDERS})
        for part in parts:
            part.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], has_worker="gateway" not in sys.argv))
