"""The five events reach the person who asked, in order, over a real socket of a real server."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.mission_critical.deployment import Deployment
from tests.outside import FIVE, Outside, assert_one_run, text_of


async def test_five_events_arrive_in_order_and_carry_what_the_agent_did(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected() as welcome:
        assert welcome["protocol"] == 1
        sent = await ann.send("tin and copper", agent="golden")
        events = await ann.until_end(sent["run"])

    assert [e["type"] for e in events if e["type"] in FIVE] == FIVE
    assert events[0]["type"] == "user_message"
    assert events[0]["data"]["content"] == "tin and copper"
    assert events[0]["seq"] == sent["seq"]
    assert_one_run(events, sent["run"])
    tool = next(e["data"] for e in events if e["type"] == "tool_completed")
    assert tool["ok"] is True
    assert tool["final"] is True
    assert tool["result"] == {"found": "facts about tin and copper"}
    assert text_of(events, sent["run"]) == "I found facts about tin and copper "
    assert events[-1]["data"]["output"] == "I found facts about tin and copper "
    assert [e["prev"] for e in events[1:]] == [e["seq"] for e in events[:-1]]


async def test_an_agent_without_tools_has_no_tool_events(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected():
        sent = await ann.send("hello", agent="plain")
        events = await ann.until_end(sent["run"])
    kinds = [e["type"] for e in events]
    assert kinds == [
        "user_message",
        "agent_started",
        "message_started",
        "text_delta",
        "message_completed",
        "agent_completed",
    ] or kinds == ["user_message", "agent_started", "message_started", "message_completed", "agent_completed"]
    assert text_of(events, sent["run"]) == "echo hello"


async def test_a_raising_agent_fails_visibly_and_keeps_its_reason_to_itself(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected():
        sent = await ann.send("go", agent="failing")
        events = await ann.until_end(sent["run"])
    failed = events[-1]
    assert failed["type"] == "agent_failed"
    assert failed["data"]["code"] == "agent_error"
    assert failed["data"]["error_id"]
    assert "secret reason" not in json.dumps(events)


async def test_a_raising_tool_is_closed_once_and_the_agent_goes_on(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected():
        sent = await ann.send("go", agent="tool_fails")
        events = await ann.until_end(sent["run"])
    tools = [e["data"] for e in events if e["type"] == "tool_completed"]
    assert [t["ok"] for t in tools] == [False]
    assert text_of(events, sent["run"]) == "went on after ToolFailed"
    assert_one_run(events, sent["run"])


async def test_a_second_tab_and_sse_and_long_poll_see_the_same_events(deployment: Deployment) -> None:
    key = await deployment.key("ann")
    first, second = Outside(deployment.url, key), Outside(deployment.url, key)
    async with first.connected(), second.connected():
        sent = await first.send("two tabs", agent="golden")
        await second.subscribe(sent["thread"], after=0)
        mine, theirs = await first.until_end(sent["run"]), await second.until_end(sent["run"])
    assert mine == theirs
    polled = await asyncio.to_thread(first.http, "GET", f"/v1/threads/{sent['thread']}/events?after=0")
    assert polled[0] == 200
    assert polled[1]["events"] == mine


async def test_a_cut_at_every_frame_resumes_exactly(deployment: Deployment) -> None:
    key = await deployment.key("ann")
    whole = Outside(deployment.url, key)
    async with whole.connected():
        sent = await whole.send("cut me", agent="golden")
        events = await whole.until_end(sent["run"])
    thread = sent["thread"]
    for cut in range(len(events) + 1):
        reader = Outside(deployment.url, key)
        async with reader.connected():
            await reader.subscribe(thread, after=0)
            await reader.until(lambda _: False, limit=cut)
        async with reader.connected():
            answer = await reader.subscribe(thread)
            assert answer["op"] == "subscribed", answer
            if cut < len(events):
                await reader.until_end(sent["run"])
        assert reader.events.get(thread, []) == events, f"cut after {cut} events"


async def test_a_cut_at_every_frame_while_the_run_is_live(deployment: Deployment) -> None:
    reader = Outside(deployment.url, await deployment.key("ann"))
    async with reader.connected():
        sent = await reader.send("cut me live", agent="golden")
    thread = sent["thread"]
    for _ in range(200):  # each connection takes one event, then the cable is pulled
        async with reader.connected():
            await reader.subscribe(thread)
            got = await reader.until(lambda _: True)
        if got[-1]["type"] == "agent_completed":
            break
    else:
        pytest.fail("the run never ended")
    seqs = [e["seq"] for e in reader.events[thread]]
    assert seqs == sorted(set(seqs))
    assert_one_run(reader.events[thread], sent["run"])
    assert text_of(reader.events[thread], sent["run"]) == "I found facts about cut me live "


async def test_the_lifecycle_view_skips_deltas_and_keeps_its_own_chain(deployment: Deployment) -> None:
    reader = Outside(deployment.url, await deployment.key("ann"))
    async with reader.connected():
        sent = await reader.send("views", agent="golden")
        everything = await reader.until_end(sent["run"])
    other = Outside(deployment.url, reader.token)
    async with other.connected():
        await other.subscribe(sent["thread"], after=0, view="lifecycle")
        events = await other.until_end(sent["run"])
    wanted = [e for e in everything if not e["type"].endswith("_delta")]
    assert [e["seq"] for e in events] == [e["seq"] for e in wanted]
    assert [e["prev"] for e in events] == [0, *[e["seq"] for e in events[:-1]]]


async def test_another_log_or_a_position_beyond_the_head_is_a_reset(deployment: Deployment) -> None:
    reader = Outside(deployment.url, await deployment.key("ann"))
    async with reader.connected():
        sent = await reader.send("reset me", agent="plain")
        events = await reader.until_end(sent["run"])
        thread = sent["thread"]
        for wrong in ({"after": 3, "log": "another"}, {"after": 9_999}):
            answer = await reader.subscribe(thread, **wrong)
            assert answer["op"] == "subscribed"
            frame = await reader.frame()
            assert frame["op"] == "reset"
            assert frame["reason"] == "log_changed"
            reader.apply(frame)
            assert [e["seq"] for e in await reader.until_end(sent["run"])] == [
                e["seq"] for e in events if e["seq"] > frame["from"]
            ]
