"""What a request may hold, and for how long: polls are listeners, cursors are ids, and no answer waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from tests.unit.gateway.node import DeafBus, eventually, running

from runwire.gateway.app import GatewaySettings
from runwire.gateway.tail import TailSettings
from runwire.protocol.ids import new_id
from runwire.storage.open import open_storage


def person(node: Any, name: str = "ann") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer t-{name}"}, timeout=10)


async def test_a_waiting_poll_is_one_of_the_users_listeners_and_leaves_with_its_client() -> None:
    async with running(GatewaySettings(listeners_per_user=2)) as node, person(node) as http, person(node, "bob") as bob:
        thread = (await http.post("/v1/threads")).json()["thread"]
        path = f"/v1/threads/{thread}/events"
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(http.get(path, params={"wait": 60})) for _ in range(2)]
            await eventually(lambda: len(node.gateway.live) == 2)
            refused = await http.get(path, params={"wait": 60})
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert (await http.get(path)).status_code == 200  # who does not wait listens to nothing
            theirs = (await bob.post("/v1/threads")).json()["thread"]
            assert (await bob.get(f"/v1/threads/{theirs}/events", params={"wait": 0.01})).status_code == 200
            for each in waiting:
                each.cancel()  # httpx hangs up
        await eventually(lambda: len(node.gateway.live) == 0)
        assert node.gateway.tail.threads == 0
        assert (await http.get(path, params={"wait": 0.01})).status_code == 200


async def test_a_drain_ends_a_waiting_poll_with_what_there_is() -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(http.get(f"/v1/threads/{thread}/events", params={"wait": 60}))
            await eventually(lambda: len(node.gateway.live) == 1)
            await node.gateway.drain()
        assert (waiting.result().status_code, waiting.result().json()["events"]) == (200, [])


async def test_withdrawn_access_ends_a_waiting_poll_at_once() -> None:
    async with running() as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(http.get(f"/v1/threads/{thread}/events", params={"wait": 60}))
            await eventually(lambda: len(node.gateway.live) == 1)
            node.identities.withdraw("usr_ann")
        assert waiting.result().status_code == 401


@pytest.mark.parametrize(("path", "kind", "other"), [("/v1/threads", "th", "run"), ("/v1/runs", "run", "th")])
async def test_a_cursor_that_no_page_gave_is_refused_by_name(path: str, kind: str, other: str) -> None:
    async with running() as node, person(node) as http:
        sound = new_id(kind)
        for garbage in ("garbage", "", "1", new_id(other), sound.upper(), sound + "0", sound[:-1], f" {sound}", "%00"):
            refused = await http.get(path, params={"cursor": garbage})
            assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
                400,
                "bad_request",
                "cursor",
            ), garbage


async def test_a_foreign_cursor_is_answered_exactly_like_an_unknown_one_and_a_deleted_one_still_counts() -> None:
    async with running() as node, person(node) as http, person(node, "bob") as bob:
        theirs = (await bob.post("/v1/threads")).json()["thread"]
        mine = [(await http.post("/v1/threads")).json()["thread"] for _ in range(3)]
        foreign = await http.get("/v1/threads", params={"cursor": theirs})
        unknown = await http.get("/v1/threads", params={"cursor": new_id("th")})
        assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
        assert (await http.delete(f"/v1/threads/{mine[2]}")).status_code == 204
        gone = await http.get("/v1/threads", params={"cursor": mine[2]})
        assert gone.status_code == 200


async def test_a_request_that_the_database_never_answers_is_told_so_in_time() -> None:
    storage = await open_storage("memory://")
    hangs = asyncio.Event()

    class Hanging:
        """The threads of a database that hangs while `hangs` is set."""

        def __getattr__(self, name: str) -> Any:
            async def call(*words: Any, **named: Any) -> Any:
                if hangs.is_set():
                    await asyncio.Event().wait()
                return await getattr(type(storage.threads), name)(storage.threads, *words, **named)

            return call

    class Wrapped:
        """The storage, but for its threads."""

        threads = Hanging()

        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

    settings = GatewaySettings(answer_s=0.1, tail=TailSettings(query_s=0.05))
    wrapped: Any = Wrapped()
    async with running(settings, storage=wrapped, bus=DeafBus()) as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        hangs.set()
        for method, path in (
            ("GET", "/v1/threads"),
            ("POST", "/v1/threads"),
            ("GET", f"/v1/threads/{thread}"),
            ("GET", f"/v1/threads/{thread}/messages"),
            ("GET", f"/v1/threads/{thread}/events"),
            ("GET", f"/v1/threads/{thread}/events?wait=30"),
            ("DELETE", f"/v1/threads/{thread}"),
        ):
            late = await http.request(method, path)
            assert (late.status_code, late.json()["code"]) == (503, "unavailable"), (method, path)
            assert late.headers["retry-after"] == "1"
        hangs.clear()
        await asyncio.sleep(0.05)  # the last query of the outage ends
        assert (await http.get(f"/v1/threads/{thread}")).status_code == 200
        # Waiting for events is no slow database: it may take longer than an answer.
        assert (await http.get(f"/v1/threads/{thread}/events?wait=0.3")).status_code == 200


async def test_a_poll_whose_read_hangs_is_told_so_in_time() -> None:
    storage = await open_storage("memory://")
    hangs = asyncio.Event()
    read, read_many = storage.events.read, storage.events.read_many

    class HangingEvents:
        """The log of a database that hangs while `hangs` is set."""

        async def read(self, *words: Any, **named: Any) -> Any:
            if hangs.is_set():
                await asyncio.Event().wait()
            return await read(*words, **named)

        async def read_many(self, *words: Any, **named: Any) -> Any:
            if hangs.is_set():
                await asyncio.Event().wait()
            return await read_many(*words, **named)

        def __getattr__(self, name: str) -> Any:
            return getattr(storage.events, name)

    class Wrapped:
        """The storage, but for its log."""

        events = HangingEvents()

        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

    wrapped: Any = Wrapped()
    settings = GatewaySettings(answer_s=0.1, tail=TailSettings(query_s=0.05))
    async with running(settings, storage=wrapped) as node, person(node) as http:
        thread = (await http.post("/v1/threads")).json()["thread"]
        await http.post(f"/v1/threads/{thread}/messages", json={"content": "hi"})
        hangs.set()
        late = await http.get(f"/v1/threads/{thread}/events?wait=30")
        assert (late.status_code, late.json()["code"]) == (503, "unavailable")
        hangs.clear()
        assert len((await http.get(f"/v1/threads/{thread}/events")).json()["events"]) == 1
        await eventually(lambda: len(node.gateway.live) == 0)
