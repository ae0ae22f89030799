"""What a person of a staging deployment relies on: the five events in order, once, over cuts, and nobody else's.

    PYTHONPATH=. python3 -m pytest tests/mission_critical/test_staging_websocket_agent_events_enhanced.py -v

`RUNWIRE_STAGING_URL` names the deployment; without it one is started: PostgreSQL, Redis, each role a process. One that
is named and cannot be reached is a failure.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.mission_critical.staging import OwnStaging, Staging
from tests.outside import FIVE, Outside, assert_one_run, text_of

from runwire.conformance import as_text, check

pytestmark = pytest.mark.timeout(90)  # the first test waits for processes to start: some seconds on a quiet machine


@pytest.fixture
def staging(request: pytest.FixtureRequest) -> Staging:
    if url := Staging.url():
        return Staging.there(url)
    own: OwnStaging = request.getfixturevalue("own_staging")
    asyncio.run(own.cluster.wake())
    return asyncio.run(Staging.of(own.cluster))


@pytest.fixture
async def ann(staging: Staging) -> AsyncIterator[Outside]:
    """Connect somebody; leaving cuts the connection."""
    client = Outside(staging.urls[0], staging.keys[0])
    async with client.connected():
        yield client


async def _ask(client: Outside, staging: Staging, text: str, **fields: Any) -> dict[str, Any]:
    return await client.send(text, **({"agent": staging.agent} if staging.agent else {}), **fields)


async def test_the_five_events_come_in_order_and_end_in_the_stored_answer(staging: Staging, ann: Outside) -> None:
    sent = await _ask(ann, staging, "What is a thread?")
    events = await ann.until_end(sent["run"])
    assert [event["type"] for event in events if event["type"] in FIVE] == FIVE
    assert_one_run(events, sent["run"])
    assert [event["prev"] for event in events[1:]] == [event["seq"] for event in events[:-1]]
    tool = next(event["data"] for event in events if event["type"] == "tool_completed")
    assert (tool["ok"], tool["final"]) == (True, True)
    status, stored = await asyncio.to_thread(ann.http, "GET", f"/v1/threads/{sent['thread']}")
    assert status == 200
    answers = [message["content"] for message in stored["messages"] if message["role"] == "assistant"]
    assert answers == [text_of(events, sent["run"])]
    assert answers[0].strip()


async def test_a_reader_cut_off_after_each_event_has_them_all_once_wherever_it_comes_back(staging: Staging) -> None:
    reader = Outside(staging.urls[0], staging.keys[0])
    async with reader.connected():
        sent = await _ask(reader, staging, "How does a client resume?")
    urls = [url.replace("http", "ws", 1) + "/v1/ws" for url in staging.urls]
    for cut in range(400):  # each connection takes one event, then the cable is pulled
        reader.ws_url = urls[cut % len(urls)]
        async with reader.connected():
            await reader.subscribe_again(sent["thread"])
            got = await reader.until(lambda _: True, limit=1)
        if got[-1]["type"] == "agent_completed":
            break
    else:
        pytest.fail("the run never ended")
    events = reader.events[sent["thread"]]
    stored = (await asyncio.to_thread(reader.http, "GET", f"/v1/threads/{sent['thread']}/events?after=0"))[1]["events"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert text_of(events, sent["run"]) == text_of(stored, sent["run"])
    assert_one_run(events, sent["run"])


async def test_two_people_see_nothing_of_each_other(staging: Staging, ann: Outside) -> None:
    bob = Outside(staging.urls[-1], staging.keys[1])
    words = {"ann": f"canary-{uuid.uuid4().hex}", "bob": f"canary-{uuid.uuid4().hex}"}
    async with bob.connected():
        hers, his = await _ask(ann, staging, words["ann"]), await _ask(bob, staging, words["bob"])
        await ann.until_end(hers["run"])
        await bob.until_end(his["run"])
        for who, thread in ((ann, his["thread"]), (bob, hers["thread"])):
            refused = await who.command("subscribe", thread=thread, after=0)
            assert (refused["op"], refused["error"]["code"]) == ("reply", "not_found")
            status, problem = await asyncio.to_thread(who.http, "GET", f"/v1/threads/{thread}")
            assert (status, problem["code"]) == (404, "not_found")
    assert words["bob"] not in "".join(ann.seen_text)
    assert words["ann"] not in "".join(bob.seen_text)
    assert words["ann"] in json.dumps(ann.events)


async def test_a_message_sent_twice_is_one_run(staging: Staging, ann: Outside) -> None:
    key = uuid.uuid4().hex
    first = await _ask(ann, staging, "Was I heard?", key=key)
    again = await _ask(ann, staging, "Was I heard?", key=key)
    assert again["run"] == first["run"]
    await ann.until_end(first["run"])


async def test_the_checker_finds_every_promise_of_the_golden_path_kept(staging: Staging) -> None:
    report = await check(
        staging.urls[0], staging.keys[0], categories=["golden_path"], expect="five", agent=staging.agent
    )
    assert report.exit_code == 0, as_text(report)


async def test_a_staging_that_cannot_be_reached_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("URL", "http://127.0.0.1:9"), ("TOKEN", "x"), ("TOKEN_2", "y")):
        monkeypatch.setenv(f"RUNWIRE_STAGING_{name}", value)
    staging = Staging.there(Staging.url())
    with pytest.raises(OSError, match="9"):
        async with Outside(staging.urls[0], staging.keys[0]).connected():
            pass
    monkeypatch.delenv("RUNWIRE_STAGING_TOKEN")
    with pytest.raises(pytest.fail.Exception, match="RUNWIRE_STAGING_TOKEN"):
        Staging.there(Staging.url())
