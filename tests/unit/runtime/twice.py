"""An agent played to its end, and once more from its log alone by the next worker: both must find the same."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, types_of

from runwire.agents.context import Context
from runwire.protocol.events import StoredEvent, decode_data
from runwire.storage.memory.storage import MemoryStorage

__all__ = ["Code", "ended", "last", "of_type", "twice"]

Code = Callable[[Context], Coroutine[Any, Any, Any]]

_PATIENT = replace(QUICK, poll_s=0.05)


async def twice(code: Code, *, help_: Callable[[Bench, str], Coroutine[Any, Any, None]] | None = None) -> list[Any]:
    """Run the code, kill its worker when it is through, and let the next one replay it.

    Args:
        code: returns anything, JSON or not.
        help_: what the test does meanwhile, such as answering; it gets the bench and the run.

    Returns:
        What the code returned the first time, and in the replay, and the run's events.
    """
    found: list[Any] = []
    gates = [Gate(), Gate()]
    gates[1].open()

    async def agent(ctx: Context, message: str) -> str:
        found.append(await code(ctx))
        await ctx.custom("through", None)
        await gates[len(found) - 1].pass_()
        return "done"

    storage = MemoryStorage()
    async with bench(agent, storage=storage, settings=_PATIENT) as b:
        run = await b.send()
        if help_ is not None:
            await help_(b, run)
        await gates[0].arrival()
        await b.until(lambda: _has_come_through(b, run))
    before = await storage.events.read_run(run)
    async with bench(agent, storage=storage.restarted(), settings=_PATIENT) as b:
        events = await b.ended(run)
    assert last(events).output == "done", last(events)
    # The replay found all of it in the log: nothing was said or done twice, nothing was taken back.
    more = [each for each in types_of(events[len(before) - 1 :]) if not each.startswith("message_")]  # of "done"
    assert more == ["agent_retrying", "agent_completed"]
    return [*found, events]


async def ended(code: Code, *, message: str = "hello", **hooks: Any) -> list[StoredEvent]:
    """Run the code as an agent to its end; return its events."""

    async def agent(ctx: Context, message: str) -> Any:
        return await code(ctx)

    async with bench(agent, settings=_PATIENT, **hooks) as b:
        return await b.ended(await b.send(message))


def of_type(events: list[StoredEvent], *types: str) -> list[Any]:
    """Return the data of the events of these types."""
    return [decode_data(event) for event in events if event.type in types]


def last(events: list[StoredEvent]) -> Any:
    """Return the data of the terminal event."""
    return decode_data(events[-1])


async def _has_come_through(b: Bench, run: str) -> bool:
    return any(event.type == "custom" and decode_data(event).name == "through" for event in await b.events(run))
