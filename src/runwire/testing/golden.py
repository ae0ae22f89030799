"""The golden path, as somebody's own test sees it: a message, the events in order, the answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from runwire.client import Event, connect
from runwire.protocol.events import TERMINAL_TYPES, EventType

__all__ = ["Told", "ask", "faults"]

_SHOWN: Final = 200  # characters of an event's data in a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a run came to, and how."""

    # what the agent returned, or all that it said
    output: Any
    # in order, from `user_message` to `agent_completed`
    events: tuple[Event, ...]

    @property
    def types(self) -> list[str]:
        """Return the events' types, in order."""
        return [str(event.type) for event in self.events]

    @property
    def tools(self) -> list[str]:
        """Return the names of the tools that were called, in order; one that was tried again is there again."""
        return [str(event.data["name"]) for event in self.events if event.type == EventType.TOOL_EXECUTING]

    @property
    def text(self) -> str:
        """Return what was said, as whoever watched it has it on screen at the end."""
        taken_back = {
            message
            for event in self.events
            if event.type == EventType.SUPERSEDED
            for message in event.data.get("messages", ())
        }
        return "".join(
            str(event.data["content"])
            for event in self.events
            if event.type == EventType.MESSAGE_COMPLETED and event.data["message"] not in taken_back
        )


def ask(url: str, key: str, message: str, *, agent: str | None, timeout_s: float) -> Told:
    """Send a message, follow its run to the end, and see that everything is in order.

    It runs in a thread of its own, so that a test may be a coroutine or not.

    Raises:
        AssertionError: with the events, if the run did not complete or was out of order.
    """
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(asyncio.run, _followed(url, key, message, agent, timeout_s)).result()
    if found := faults(events):
        raise AssertionError("\n".join([*found, "what came:", *map(_shown, events)]))
    return Told(output=events[-1].data["output"], events=tuple(events))


async def _followed(url: str, key: str, message: str, agent: str | None, timeout_s: float) -> list[Event]:
    events: list[Event] = []
    try:
        async with asyncio.timeout(timeout_s), connect(url, key) as client:
            run = await client.send(message, agent=agent)
            events.extend([item async for item in run.events() if isinstance(item, Event)])
    except TimeoutError:
        pass  # what came says how far it got
    return events


def faults(events: Sequence[Event]) -> list[str]:
    """Return a sentence for everything that is wrong with the events of one run; none: it completed, in order."""
    kinds = [event.type for event in events]
    found: list[str] = []
    if kinds[:2] != [EventType.USER_MESSAGE, EventType.AGENT_STARTED]:
        found.append("it did not begin with user_message and agent_started")
    if not kinds or kinds[-1] not in TERMINAL_TYPES:
        found.append("it had no end in time")
    elif kinds[-1] != EventType.AGENT_COMPLETED:
        found.append(f"it ended as {kinds[-1]}: {events[-1].data.get('code', '')} {events[-1].data.get('message', '')}")
    if len([kind for kind in kinds if kind in TERMINAL_TYPES]) > 1:
        found.append("it had more than one end")
    seqs = [event.seq for event in events]
    if seqs != sorted(set(seqs)):
        found.append(f"events were doubled or out of order: {seqs}")
    begun = Counter(event.data["call"] for event in events if event.type == EventType.TOOL_EXECUTING)
    ended = Counter(event.data["call"] for event in events if event.type == EventType.TOOL_COMPLETED)
    if begun != ended or any(count > 1 for count in begun.values()):
        found.append("a tool was begun and not ended, or ended twice")
    return found


def _shown(event: Event) -> str:
    data = str(event.data)
    return f"  {event.seq:4} {event.type} {data if len(data) <= _SHOWN else data[:_SHOWN] + '…'}"
