"""What a key is for: one that may look sees all that its owner sees and changes nothing, by any door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.mission_critical.deployment import Deployment
from tests.outside import Dismissed, Outside


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A server, and ann's keys by their scope."""
    server = Deployment(tmp_path)
    await server.start()
    made = {"runwire": await server.key("ann")}
    for scope in ("runwire:read", "billing"):
        words = ("token", "create", "--user", "ann", "--scope", scope)
        made[scope] = (await server.process.cli(*words)).strip()
    yield server.url, made
    await server.kill9()


async def test_a_key_that_may_look_changes_nothing_and_one_for_something_else_does_not_even_look(
    keys: tuple[str, dict[str, str]],
) -> None:
    url, made = keys
    ann, reader, other = (Outside(url, made[scope]) for scope in ("runwire", "runwire:read", "billing"))
    async with ann.connected(), reader.connected():
        sent = await ann.send("hello", agent="golden")
        await reader.subscribe(sent["thread"])
        await reader.until_end(sent["run"])
        thread, run = sent["thread"], sent["run"]
        for op, fields in (
            ("send", {"content": "no", "agent": "golden"}),
            ("cancel", {"run": run}),
            ("answer", {"run": run, "wait": "wt_1", "value": True}),
        ):
            reply = await reader.command(op, **fields)
            assert (reply["ok"], reply["error"]["code"]) == (False, "forbidden"), op
        assert (await reader.subscribe(thread))["op"] == "subscribed", "looking is all it may, and that goes on"
    for path in ("/v1/me", "/v1/threads", f"/v1/threads/{thread}", f"/v1/runs/{run}", "/v1/agents"):
        assert (await asyncio.to_thread(reader.http, "GET", path))[0] == 200, path
        status, shown = await asyncio.to_thread(other.http, "GET", path)
        assert (status, shown["code"]) == (403, "forbidden"), path
    for method, path, body in (
        ("POST", "/v1/threads", {}),
        ("PATCH", f"/v1/threads/{thread}", {"title": "no"}),
        ("DELETE", f"/v1/threads/{thread}", None),
        ("POST", f"/v1/threads/{thread}/messages", {"content": "no", "agent": "golden"}),
        ("POST", f"/v1/runs/{run}/cancel", None),
        ("POST", f"/v1/runs/{run}/retry", None),
        ("POST", "/v1/ws-ticket", None),
    ):
        status, shown = await asyncio.to_thread(reader.http, method, path, body)
        assert (status, shown["code"]) == (403, "forbidden"), path
    _, kept = await asyncio.to_thread(ann.http, "GET", "/v1/threads")
    assert [item["thread"] for item in kept["items"]] == [thread], "nothing was made, renamed or thrown away"
    with pytest.raises(Dismissed) as refused:
        async with other.connected():
            pass
    assert refused.value.code == 4501
