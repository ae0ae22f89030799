"""Limits of each person and key, on real processes: who is over one is told so and when to return, and nobody else."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from tests.mission_critical.deployment import Deployment
from tests.mission_critical.fleet import Fleet, Node, poll
from tests.outside import TERMINAL, Dismissed, Outside
from tests.postgres import PostgresServer
from tests.redis_server import PASSWORD, RedisServer

pytestmark = pytest.mark.timeout(90)  # processes start: 5 s on a quiet machine

_AGENTS: Final = Path(__file__).resolve().parent.parent / "agents" / "thrifty.py"
_MESSAGES: Final = 20
_KEY_MESSAGES: Final = 12
_SOCKETS: Final = 4
_MEMORY_MB: Final = 400
_GROWTH: Final = (
    "ALTER TABLE run ADD COLUMN of_the_next_release text",
    "ALTER TABLE thread ADD COLUMN of_the_next_release bigint DEFAULT 7",
    "ALTER TABLE segment ADD COLUMN of_the_next_release text",
    "CREATE TABLE of_the_next_release (id text PRIMARY KEY)",
)


class Limited(Deployment):
    """A server with every limit."""

    def __init__(self, folder: Path, **settings: float) -> None:
        super().__init__(folder, agents=_AGENTS, **settings)

    async def screens(self, name: str, count: int) -> list[Outside]:
        """Return clients of one person, each with a key of its own."""
        keys = [await self.key(name)] + [await self.process.create_token(name) for _ in range(count - 1)]
        return [Outside(self.url, key) for key in keys]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    server = Limited(
        tmp_path_factory.mktemp("limited"),
        user_messages_per_minute=_MESSAGES,
        key_messages_per_minute=_KEY_MESSAGES,
        user_bytes_per_minute=65_536,
        user_sockets=_SOCKETS,
        user_tokens_per_day=1_000,
        max_memory_mb=_MEMORY_MB,
    )
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill9())


async def send_many(screen: Outside, count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Send messages at once, each with a key of its own; return the replies in their order."""
    idents = [f"m{n}" for n in range(first, first + count)]
    for ident in idents:
        frame = {"op": "send", "id": ident, "key": ident, "content": ident, "agent": "plain"}
        await screen.socket.send(json.dumps(frame))
    replies: dict[str, dict[str, Any]] = {}
    while len(replies) < count:
        frame = await screen.frame()
        screen.apply(frame)  # each is in a thread of its own
        if frame["op"] == "reply":
            replies[frame["id"]] = frame
    return [replies[ident] for ident in idents]


async def send_at_once(screens: list[Outside], count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Send so many through each client at once; return all replies."""
    async with asyncio.TaskGroup() as tasks:
        told = [
            tasks.create_task(send_many(screen, count, first=first + n * count)) for n, screen in enumerate(screens)
        ]
    return [reply for each in told for reply in each.result()]


def refusals(replies: list[dict[str, Any]], *, within_s: float = 60) -> list[dict[str, Any]]:
    """Return the errors among replies; each is typed and says when to return."""
    errors: list[dict[str, Any]] = [reply["error"] for reply in replies if not reply["ok"]]
    for error in errors:
        assert error["code"] == "rate_limited", error
        assert 0 < error["retry_after_s"] <= within_s, error
        assert error["message"], error
    return errors


async def test_of_fifty_sends_at_once_exactly_the_limit_passes_and_the_others_leave_nothing(limited: Limited) -> None:
    one, other = await limited.screens("ann", 2)
    async with one.connected(), other.connected():
        replies = await send_at_once([one, other], 25)
        assert len(replies) - len(refusals(replies)) == _MESSAGES
        stored = (await asyncio.to_thread(one.http, "GET", "/v1/runs?limit=200"))[1]["items"]
        assert len(stored) == _MESSAGES, "what was refused left nothing"

        # What was accepted once is answered alike, at the limit too, and is not counted again.
        accepted = next(reply for reply in replies if reply["ok"])
        ident = accepted["id"]
        again = await one.command("send", key=ident, content=ident, agent="plain")
        assert (again["ok"], again["data"]["run"]) == (True, accepted["data"]["run"])
        # Over HTTP: 429, and the header that every client knows.
        path = f"{limited.url}/v1/threads/{accepted['data']['thread']}/messages"
        status, body, retry_after = await asyncio.to_thread(_refused, path, one.token)
        assert (status, body["code"]) == (429, "rate_limited")
        assert 0 < body["retry_after_s"] <= 60
        assert body["retry_after_s"] <= int(retry_after) <= 60, "who comes then is not refused again"
    figures = (await asyncio.to_thread(_figures, limited.url)).splitlines()
    counted = [line for line in figures if line.startswith("gateway_refused_sends_total{")]
    labels = {re.findall(r"\{(.*?)\}", line)[0] for line in counted}
    assert labels <= {f'reason="{name}"' for name in ("user_messages", "key_messages", "user_bytes", "user_tokens")}


async def test_a_key_has_a_limit_of_its_own_and_its_users_other_key_goes_on(limited: Limited) -> None:
    one, other = await limited.screens("bob", 2)
    async with one.connected(), other.connected():
        errors = refusals(await send_many(one, _KEY_MESSAGES + 3))
        assert len(errors) == 3
        assert "API key" in errors[0]["message"]
        left = _MESSAGES - _KEY_MESSAGES
        assert len(refusals(await send_many(other, left + 2, first=100))) == 2, (
            "what the key refused counted for nobody"
        )


async def test_a_repetition_of_what_was_accepted_counts_for_nothing(limited: Limited) -> None:
    (screen,) = await limited.screens("cyd", 1)
    async with screen.connected():
        first = await send_many(screen, 1)
        for _ in range(_KEY_MESSAGES * 2):
            assert (await send_many(screen, 1))[0]["data"] == first[0]["data"]
        assert refusals(await send_many(screen, _KEY_MESSAGES - 1, first=1)) == []


async def test_one_socket_too_many_is_refused_and_the_others_go_on(limited: Limited) -> None:
    screens = [Outside(limited.url, await limited.key("dan")) for _ in range(_SOCKETS + 1)]
    async with screens[0].connected(), screens[1].connected(), screens[2].connected():
        async with screens[3].connected():
            with pytest.raises(Dismissed) as dismissed:
                async with screens[4].connected():
                    pass
            assert dismissed.value.code == 4504
        # The server frees a place when it reads of the cut, which may be after the next one has knocked.
        async with asyncio.timeout(10):
            while not await _is_let_in(screens[4]):
                pass


async def _is_let_in(screen: Outside) -> bool:
    try:
        async with screen.connected():
            return bool((await screen.command("unsubscribe", thread="th_0"))["op"] == "unsubscribed")
    except Dismissed as dismissed:
        if dismissed.code != 4504:
            raise
        return False


async def test_who_sends_too_many_bytes_may_still_cancel_and_who_goes_on_is_sent_away(limited: Limited) -> None:
    (screen,) = await limited.screens("eve", 1)
    async with screen.connected():
        run = (await screen.send("x" * 20_000, agent="hold"))["run"]
        replies = [await screen.command("send", content="x" * 20_000, agent="plain") for _ in range(4)]
        assert [reply["ok"] for reply in replies] == [True, True, False, False]
        refusals(replies)
        assert (await screen.command("cancel", run=run))["ok"]
        for _ in range(3):
            await screen.socket.send(json.dumps({"op": "send", "id": "x", "content": "x" * 20_000}))
        while (frame := await screen.frame())["op"] != "bye":
            pass
        assert (frame["code"], frame["reconnect"]) == (4029, True)
        assert 0 < frame["after_s"] <= 60


async def test_whoever_has_used_up_the_tokens_of_the_day_is_told_until_when(limited: Limited) -> None:
    (screen,) = await limited.screens("fay", 1)
    async with screen.connected():
        first = await screen.send("600", agent="spend")
        ended = (await screen.until_end(first["run"]))[-1]
        assert ended["data"]["usage"]["input_tokens"] == 600
        second = await screen.send("600 more", agent="spend")
        ended = (await screen.until_end(second["run"]))[-1]
        assert (ended["type"], ended["data"]["code"]) == ("agent_failed", "quota_exceeded")
        assert 86_000 < ended["data"]["retry_after_s"] <= 86_400
        (error,) = refusals([await screen.command("send", content="600", agent="spend")], within_s=86_400)
        assert "tokens" in error["message"]
        assert error["retry_after_s"] > 86_000


async def test_c14_near_its_limit_of_memory_a_server_refuses_what_is_new_and_recovers(limited: Limited) -> None:
    (screen,) = await limited.screens("gus", 1)
    async with screen.connected():
        held = (await screen.send(str(_MEMORY_MB), agent="hold"))["run"]
        await poll(lambda: _value(limited.url, "gateway_full") == 1, "the server is full")
        reply = await screen.command("send", content="hi", agent="plain")
        assert (reply["ok"], reply["error"]["code"]) == (False, "unavailable")
        assert 1 <= reply["error"]["retry_after_s"] <= 5
        with pytest.raises(Dismissed) as dismissed:
            async with Outside(limited.url, screen.token).connected():
                pass
        assert dismissed.value.code == 4013
        (limited.probes / "let-go").touch()
        assert (await screen.until_end(held))[-1]["type"] == "agent_completed", "who is here goes on"
        await poll(lambda: _value(limited.url, "gateway_full") == 0, "there is room again")
        run = (await screen.send("hi", agent="plain"))["run"]
        assert (await screen.until_end(run))[-1]["type"] == "agent_completed"


# ── on several processes ─────────────────────────────────────────────────────────────────────────────────────


class Shared:
    """Two servers that count together in Redis."""

    def __init__(self, fleet: Fleet, redis: RedisServer) -> None:
        self.fleet = fleet
        self.redis = redis

    async def screens(self, name: str) -> list[Outside]:
        """Return one person's clients, one at each server."""
        key = await self.fleet.nodes[0].create_user(name)
        return [Outside(node.url, key) for node in self.fleet.nodes]


@pytest.fixture(scope="module")
def shared(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    redis = RedisServer.start(tmp_path_factory.mktemp("redis"), password=PASSWORD)
    url = asyncio.run(postgres_server.create_database())
    settings: dict[str, Any] = {"redis_url": redis.url, "user_messages_per_minute": _MESSAGES}
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), url, count=2, **settings)
    fleet.nodes = [Node(str(_AGENTS), data_dir=node.data_dir, cwd=fleet.traces) for node in fleet.nodes]
    try:
        asyncio.run(fleet.start())
        yield Shared(fleet, redis)
    finally:
        asyncio.run(fleet.end())
        logs = "".join(node.logs(lines=100_000) for node in fleet.nodes)
        redis.remove()
    assert PASSWORD not in logs


async def _passed(screens: list[Outside], count: int, *, first: int) -> int:
    """Send so many at once through each; return how many passed."""
    replies = await send_at_once(screens, count, first=first)
    return len(replies) - len(refusals(replies))


async def test_two_servers_let_exactly_the_limit_through_together(shared: Shared) -> None:
    screens = await shared.screens("ann")
    async with screens[0].connected(), screens[1].connected():
        assert await _passed(screens, 25, first=0) == _MESSAGES


async def test_c12_without_redis_each_server_lets_half_of_the_limit_through_and_no_more(shared: Shared) -> None:
    screens = await shared.screens("bob")
    async with screens[0].connected(), screens[1].connected():
        before = await _passed(screens, 5, first=0)
        assert before == 10
        shared.redis.kill()
        try:
            alone = await _passed(screens, 20, first=100)
        finally:
            await asyncio.to_thread(shared.redis.restart)
        assert alone == 2 * _MESSAGES // 2, "ten at each of the two"


async def test_c12_redis_that_hangs_delays_a_send_for_a_moment_and_refuses_nobody(shared: Shared) -> None:
    screens = await shared.screens("cyd")
    async with screens[0].connected():
        await send_many(screens[0], 1)
        shared.redis.pause()
        try:
            took_s = []
            for n in range(4):
                began_s = time.monotonic()
                assert refusals(await send_many(screens[0], 1, first=10 + n)) == []
                took_s.append(time.monotonic() - began_s)
        finally:
            shared.redis.resume()
        # Half a second for each of the two calls after which the breaker is open; then nobody asks.
        assert max(took_s) < 3 * 0.5 + 0.5, took_s
        assert min(took_s) < 0.5, took_s


async def test_d3_servers_of_the_old_release_serve_on_while_the_schema_grows_under_them(shared: Shared) -> None:
    screens = await shared.screens("dan")
    assert shared.fleet.url is not None
    async with screens[0].connected(), screens[1].connected():
        runs = [await screens[0].send("1", agent="slow")]
        connection = await asyncpg.connect(shared.fleet.url)
        try:
            for statement in _GROWTH:  # as `runwire migrate` of a later release does, which only adds
                await connection.execute(statement)
                runs += [await screen.send("2", agent="slow") for screen in screens]
        finally:
            await connection.close()
        for n, sent in enumerate(runs):
            screen = screens[max(n - 1, 0) % 2]
            events = screen.events.get(sent["thread"], [])
            if not any(event["type"] in TERMINAL for event in events):
                events = await screen.until_end(sent["run"])
            assert events[-1]["type"] == "agent_completed"
        for screen in screens:
            for path in ("/v1/threads", "/v1/runs", f"/v1/threads/{runs[0]['thread']}", "/health/ready"):
                assert (await asyncio.to_thread(screen.http, "GET", path))[0] == 200, path


def _refused(url: str, token: str) -> tuple[int, Any, str]:
    request = urllib.request.Request(url, data=b'{"content":"hi","agent":"plain"}', method="POST")
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as error:
        return error.code, json.loads(error.read()), error.headers["Retry-After"]


def _figures(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def _value(url: str, name: str) -> float:
    return next(float(line.split()[1]) for line in _figures(url).splitlines() if line.startswith(f"{name} "))
