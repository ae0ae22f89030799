"""A credential that may only look changes nothing, by no route and by no frame."""

from __future__ import annotations

import pytest
from tests.hostile.identity.household import Household
from tests.hostile.raw import say, socket


@pytest.fixture
async def reader(household: Household) -> str:
    """Return an API key of ada's whose scope is `runwire:read`."""
    bearer = {"authorization": f"Bearer {(await household.sign_in('ada'))['access_token']}"}
    async with household.http(headers=bearer) as http:
        made = await http.post("/auth/keys", json={"label": "reader", "scopes": ["runwire:read"], "ttl_s": 600})
    assert made.status_code == 201, made.text
    key = str(made.json()["secret"])
    household.secrets.add(key)
    return key


async def test_a_reader_sees_everything_and_changes_nothing_over_http(household: Household, reader: str) -> None:
    full = {"authorization": f"Bearer {await household.api_key('ada')}"}
    async with household.http(headers=full) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        sent = await http.post(f"/v1/threads/{thread}/messages", json={"content": "hi", "agent": "plain"})
        run = sent.json()["run"]
        before = (await http.get("/v1/threads")).json()
    async with household.http(headers={"authorization": f"Bearer {reader}"}) as http:
        for path in ("/v1/me", "/v1/threads", f"/v1/threads/{thread}", f"/v1/runs/{run}"):
            assert (await http.get(path)).status_code == 200, path
        for method, path, body in (
            ("POST", "/v1/threads", {}),
            ("POST", f"/v1/threads/{thread}/messages", {"content": "x", "agent": "plain"}),
            ("PATCH", f"/v1/threads/{thread}", {"title": "x"}),
            ("DELETE", f"/v1/threads/{thread}", None),
            ("POST", f"/v1/runs/{run}/cancel", {}),
            ("POST", f"/v1/runs/{run}/retry", {}),
            ("POST", f"/v1/runs/{run}/answers", {"wait": "wt_1", "value": 1}),
        ):
            answer = await http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, path, answer.text)
        after = (await http.get("/v1/threads")).json()
    assert [(one["thread"], one["title"]) for one in after["items"]] == [
        (one["thread"], one["title"]) for one in before["items"]
    ]


async def test_a_reader_subscribes_and_every_command_that_changes_is_refused(household: Household, reader: str) -> None:
    async with household.http(headers={"authorization": f"Bearer {await household.api_key('ada')}"}) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
    async with socket(household.port, reader) as raw:
        for n, command in enumerate(
            (
                {"op": "send", "thread": thread, "content": "x", "agent": "plain", "key": "k1"},
                {"op": "cancel", "run": "run_" + "0" * 32},
                {"op": "answer", "run": "run_" + "0" * 32, "wait": "wt_1", "value": 1},
            )
        ):
            await raw.write(say({**command, "id": str(n)}))
            reply = await raw.reply(str(n))
            assert (reply["ok"], reply["error"]["code"]) == (False, "forbidden"), reply
        await raw.write(say({"op": "subscribe", "id": "s", "thread": thread, "after": 0, "view": "all"}))
        assert (await raw.reply("s"))["op"] == "subscribed"
