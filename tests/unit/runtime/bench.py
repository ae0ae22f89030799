"""A worker on a real storage adapter, without server, sockets or sleeps: what the tests of this folder stand on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from runwire.agents.load import Agents
from runwire.protocol.events import StoredEvent, decode_data
from runwire.protocol.lifecycle import RunOrder
from runwire.runtime.worker import Worker, WorkerSettings
from runwire.storage.base import BusMessage, IncomingMessage, RunRow, Storage, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.storage import MemoryStorage

__all__ = ["PATIENCE_S", "QUICK", "Bench", "Gate", "bench", "play", "types_of"]

PATIENCE_S = 10.0  # how long a test waits for what must happen; reached only when it fails

# Times that a test may have to wait out, short; the others as in production.
QUICK = WorkerSettings(grace_s=0.1, signals_s=0.05, poll_s=0.2)


class Gate:
    """A door between the test's loop and the agents' loop: the code arrives, and waits until the test opens it."""

    def __init__(self) -> None:
        self.arrivals = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition()
        self._opened = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def arrival(self, times: int = 1) -> None:
        """Wait, without blocking the loop, until code has been at the gate so many times."""
        assert await asyncio.to_thread(self.arrived, times), f"the gate saw {self.arrivals} of {times} arrivals"

    def arrived(self, times: int) -> bool:
        """Wait, blocking the thread, until code has been at the gate so many times; return whether it was."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self.arrivals >= times, PATIENCE_S)

    def open(self) -> None:
        """Let the code pass."""
        with self._lock:
            self._opened.set()
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def pass_(self) -> None:
        """Wait at the gate, in the agent, without blocking its loop."""
        event = asyncio.Event()
        with self._lock:
            if self._opened.is_set():
                event.set()
            self._waiting.append((asyncio.get_running_loop(), event))
        self.arrive()
        await event.wait()

    def block(self) -> None:
        """Wait at the gate, in the agent, and block its loop."""
        self.arrive()
        self._opened.wait(PATIENCE_S)

    def arrive(self) -> None:
        """Say that the code has come this far."""
        with self._arrived:
            self.arrivals += 1
            self._arrived.notify_all()


class Bench:
    """One worker at work."""

    def __init__(self, storage: Storage, bus: LocalBus, worker: Worker) -> None:
        self.storage = storage
        self.bus = bus
        self.worker = worker
        self.is_bus_lossy = False  # whether the wake-up of a send is lost
        self._news = asyncio.Event()

    def hear(self, _message: BusMessage) -> None:
        self._news.set()

    async def send(self, content: str = "hello", *, agent: str = "agent", user: str = "usr_ann", **more: Any) -> str:
        """Send a message; return its run."""
        thread = more.pop("thread", None)
        sent = await self.storage.runs.send(
            IncomingMessage(user=user, thread=thread, agent=agent, content=content, **more)
        )
        if not self.is_bus_lossy:
            self.bus.publish(Wake(topic="runs"))
        return sent.run

    async def row(self, run: str, *, user: str = "usr_ann") -> RunRow:
        return await self.storage.runs.get(user, run)

    async def events(self, run: str) -> list[StoredEvent]:
        """Return what the worker wrote of a run: all but the user's message."""
        return (await self.storage.events.read_run(run))[1:]

    async def until(self, is_so: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Wait until it is so, looking after every commit."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._news.clear()
                if await is_so():
                    return
                await self._news.wait()

    async def idle(self) -> None:
        """Wait until the worker has let go of every run."""
        async with asyncio.timeout(PATIENCE_S):
            await self.worker.idle()

    async def agent_turns(self, turns: int) -> None:
        """Wait until everything in the agents' loop had so many turns."""
        over = Gate()

        async def count() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            over.arrive()

        self.worker._workshop.thread.start(over, count)
        await over.arrival()

    async def ended(self, run: str, *, user: str = "usr_ann") -> list[StoredEvent]:
        """Wait for the run's end; return its events, legal and with one terminal event, the last."""

        async def has_ended() -> bool:
            return (await self.row(run, user=user)).ended_at is not None

        await self.until(has_ended)
        logged = await self.storage.events.read_run(run)
        order = RunOrder()
        for event in logged:
            order.accept(event.type, decode_data(event), event.attempt)
        assert order.is_ended
        return logged[1:]


@asynccontextmanager
async def bench(
    agents: Mapping[str, Callable[..., Any]] | Callable[..., Any],
    *,
    settings: WorkerSettings = QUICK,
    storage: Storage | None = None,
    name: str = "wk_test",
    bus: LocalBus | None = None,
    **hooks: Any,
) -> AsyncIterator[Bench]:
    """Run a worker with these agents (or one, named "agent") until the block ends: then it is gone as by kill -9."""
    storage = storage or MemoryStorage()
    own_bus = bus or LocalBus()
    named = agents if isinstance(agents, Mapping) else {"agent": agents}
    worker = Worker(storage, own_bus, Agents.of(named), name, settings, **hooks)
    made = Bench(storage, own_bus, worker)
    stop = own_bus.listen(made.hear)
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(worker.run())
        try:
            yield made
        finally:
            stop()
            working.cancel()
    if bus is None:
        await own_bus.close()


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an async test body."""
    asyncio.run(test())


def types_of(events: list[StoredEvent]) -> list[str]:
    """Return the events' types, runs of deltas folded into one (how they are merged is a matter of timing)."""
    folded: list[str] = []
    for event in events:
        if not (folded and event.type.endswith("_delta") and folded[-1] == event.type):
            folded.append(event.type)
    return folded
