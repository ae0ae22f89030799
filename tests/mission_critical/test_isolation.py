"""Two users at once: nothing of one reaches the other, and foreign looks like unknown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, assert_one_run

RUNS = 50


async def _person(client: Outside, canary: str) -> list[dict[str, Any]]:
    async with client.connected():
        sents = [await client.send(f"{canary} number {n}", agent="golden") for n in range(RUNS)]
        open_runs = {s["run"] for s in sents}
        ended = {
            e["run"] for thread in client.events.values() for e in thread if e["type"].startswith("agent_completed")
        }
        open_runs -= ended
        while open_runs:
            (event,) = (await client.until(lambda e: e["type"] == "agent_completed", timeout_s=40))[-1:]
            open_runs.discard(event["run"])
    return sents


@pytest.mark.timeout(150)
async def test_two_users_with_50_runs_each_see_only_their_own(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann-alone"))
    bob = Outside(deployment.url, await deployment.key("bob-alone"))
    async with asyncio.TaskGroup() as tasks:
        anns = tasks.create_task(_person(ann, "canary-of-ann"))
        bobs = tasks.create_task(_person(bob, "canary-of-bob"))
    for client, sents in ((ann, anns.result()), (bob, bobs.result())):
        assert set(client.events) == {s["thread"] for s in sents}
        for sent in sents:
            assert_one_run(client.events[sent["thread"]], sent["run"])
    assert "canary-of-bob" not in "".join(ann.seen_text)
    assert "canary-of-ann" not in "".join(bob.seen_text)

    # Forged ids: every command and every route, against ids that do not exist at all.
    theirs = {"thread": bobs.result()[0]["thread"], "run": bobs.result()[0]["run"]}
    unknown = {"thread": "th_00000000000000000000000000000000", "run": "run_00000000000000000000000000000000"}
    async with ann.connected():
        for op, fields in (
            ("subscribe", {"after": 0}),
            ("send", {"content": "let me in", "agent": "golden"}),
            ("cancel", {}),
            ("answer", {"wait": "w", "value": 1}),
        ):
            kind = "thread" if op in ("subscribe", "send") else "run"
            foreign = await ann.command(op, **{kind: theirs[kind]}, **fields)
            nobody = await ann.command(op, **{kind: unknown[kind]}, **fields)
            foreign.pop("id"), nobody.pop("id")
            assert foreign == json.loads(json.dumps(nobody).replace(unknown[kind], theirs[kind])), op
            assert foreign["ok"] is False
    ann.seen_text.clear()
    for method, path in (
        ("GET", "/v1/threads/{thread}"),
        ("GET", "/v1/threads/{thread}/events?after=0"),
        ("GET", "/v1/threads/{thread}/messages"),
        ("POST", "/v1/threads/{thread}/messages"),
        ("PATCH", "/v1/threads/{thread}"),
        ("DELETE", "/v1/threads/{thread}"),
        ("GET", "/v1/runs/{run}"),
        ("POST", "/v1/runs/{run}/cancel"),
    ):
        body = {"POST": {"content": "x", "agent": "golden"}, "PATCH": {"title": "x"}}.get(method)
        if path.endswith("cancel"):
            body = {}
        mine = await asyncio.to_thread(ann.http, method, path.format(**theirs), body)
        none = await asyncio.to_thread(ann.http, method, path.format(**unknown), body)
        assert mine[0] == none[0] == 404, (method, path, mine, none)
        assert json.dumps(mine[1]).replace(theirs["thread"], "").replace(theirs["run"], "") == json.dumps(
            none[1]
        ).replace(unknown["thread"], "").replace(unknown["run"], "")
        assert "canary-of-bob" not in json.dumps(mine[1])
    for path in ("/v1/threads", "/v1/runs"):
        assert theirs["thread"] not in json.dumps(await asyncio.to_thread(ann.http, "GET", path))
