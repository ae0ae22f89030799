"""The core of the golden path: a stored message becomes a run whose log tells what the agent did, once, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.runtime.bench import bench, types_of

from runwire.agents.context import Context
from runwire.protocol.events import decode_data
from runwire.protocol.view import ThreadView

FIVE = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]


async def look_up(query: str) -> dict[str, str]:
    return {"found": f"facts about {query}"}


async def golden(ctx: Context, message: str) -> AsyncIterator[str]:
    await ctx.thinking(f"thinking about {message}")
    found = await ctx.tool(look_up, query=message)
    for word in f"I found {found['found']}".split(" "):
        yield word + " "


async def test_a_message_becomes_the_five_events_and_a_stored_answer() -> None:
    async with bench(golden) as at:
        run = await at.send("tin")
        events = await at.ended(run)
        row = await at.row(run)

    assert types_of(events) == [
        *FIVE[:4],
        "message_started",
        "text_delta",
        "message_completed",
        "agent_completed",
    ]
    data = {event.type: decode_data(event) for event in events}
    assert data["agent_thinking"].text == "thinking about tin"
    assert data["tool_executing"].args == {"query": "tin"}
    assert data["tool_executing"].call == data["tool_completed"].call
    assert data["tool_completed"].result == {"found": "facts about tin"}
    assert data["message_completed"].content == "I found facts about tin "
    assert data["agent_completed"].output == "I found facts about tin "
    assert row.status == "completed"
    assert (row.started_seq, row.terminal_seq) == (events[0].seq, events[-1].seq)
    assert [event.seq for event in events] == list(range(2, len(events) + 2))


async def test_the_log_alone_tells_a_person_the_whole_conversation() -> None:
    async with bench(golden) as at:
        run = await at.send("copper")
        await at.ended(run)
        thread = (await at.row(run)).thread
        page = await at.storage.events.read(thread, after=0)

    view = ThreadView()
    for event in page.events:
        view.apply(event)
    shown: dict[str, Any] = view.to_snapshot()
    assert [(m["role"], m["content"], m["complete"]) for m in shown["messages"]] == [
        ("user", "copper", True),
        ("assistant", "I found facts about copper ", True),
    ]
    assert [r["status"] for r in shown["runs"]] == ["completed"]
    assert [s["name"] for s in shown["runs"][0]["steps"]] == ["look_up"]


async def test_an_agent_without_tools_has_no_tool_events() -> None:
    async def plain(ctx: Context, message: str) -> str:
        return f"echo {message}"

    async with bench(plain) as at:
        events = await at.ended(await at.send("hello"))
    assert not [event for event in events if event.type.startswith("tool_")]
    assert decode_data(events[-1]).output == "echo hello"


@pytest.mark.parametrize("turns", [3])
async def test_the_next_message_reads_the_conversation_before_it(turns: int) -> None:
    seen: list[list[tuple[str, str]]] = []

    async def echo(ctx: Context, message: str) -> str:
        seen.append([(entry["role"], entry["content"]) for entry in ctx.history])
        return f"echo {message}"

    async with bench(echo) as at:
        thread = None
        for n in range(turns):
            run = await at.send(f"message {n}", thread=thread)
            await at.ended(run)
            thread = (await at.row(run)).thread
    expected: list[tuple[str, str]] = []
    for n in range(turns):
        expected.append(("user", f"message {n}"))
        assert seen[n] == expected
        expected.append(("assistant", f"echo message {n}"))
