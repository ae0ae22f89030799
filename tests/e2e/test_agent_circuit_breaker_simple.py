"""A provider that really fails, asked by agents of a real server: what the breaker between them does.

    PYTHONPATH=. python3 -m pytest tests/e2e/test_agent_circuit_breaker_simple.py -v

The breakers have the terms that they come with: half of at least ten calls open one, one probe at a time, one success.
That of the model `large` has terms that are set.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

import runwire
from runwire.client import Client
from runwire.errors import RunFailed
from runwire.resilience.breaker import Terms
from runwire.testing.server import ServerProcess

AGENTS = Path(__file__).resolve().parent.parent / "agents" / "provider.py"
TERMS = Terms()
LARGE = Terms(minimum_calls=6, failure_rate=1.0, probes=2, successes=3, open_s=1.0, longest_open_s=1.0)
SET = """\
[breakers."model/test/large"]
minimum_calls = 6
failure_rate = 1.0
probes = 2
successes = 3
open_s = 1.0
longest_open_s = 1.0
"""
AT_ONCE = 20

pytestmark = pytest.mark.timeout(120)


class Provider:
    """Answers over HTTP as it is told, model by model; at most as many requests as its test makes."""

    def __init__(self) -> None:
        self.status: dict[str, int] = {}  # 200 if nothing is said
        self.asked: Counter[str] = Counter()
        self.answers = asyncio.Event()  # while it is not set, nobody has an answer
        self.answers.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.answers.set()
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        model = head.split()[1].decode().strip("/")
        self.asked[model] += 1
        await self.answers.wait()
        body = f"said by {model}".encode()
        writer.write(b"HTTP/1.1 %d so\r\ncontent-length: %d\r\n" % (self.status.get(model, 200), len(body)))
        writer.write(b"connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    async with Provider() as started:
        (tmp_path / "provider").write_text(started.url, encoding="utf-8")
        yield started


@pytest.fixture
async def client(provider: Provider, tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "runwire.toml").write_text(SET, encoding="utf-8")
    async with ServerProcess(str(AGENTS), data_dir=tmp_path / "data", cwd=tmp_path) as server:
        key = await server.create_user("ada")
        async with runwire.connect(server.url, key) as connected:
            yield connected


async def outcome(client: Client, agent: str) -> Any:
    """Return what a new run comes to: its output, or what it failed of."""
    run = await client.send("hello", agent=agent)
    try:
        return await run.result()
    except RunFailed as failed:
        return failed


async def outcomes(client: Client, agent: str, count: int = AT_ONCE) -> list[Any]:
    """Start runs at once, each in a thread of its own, and return what they come to."""
    async with asyncio.TaskGroup() as tasks:
        begun = [tasks.create_task(outcome(client, agent)) for _ in range(count)]
    return [each.result() for each in begun]


def codes(found: list[Any]) -> Counter[str]:
    return Counter(each.code if isinstance(each, RunFailed) else each for each in found)


async def herd(client: Client, provider: Provider, agent: str, *, permits: int) -> Counter[str]:
    """Start runs at once while the provider is silent; it answers when all but those with permits have ended."""
    provider.answers.clear()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        begun = [tasks.create_task(outcome(client, agent)) for _ in range(AT_ONCE)]
        while sum(each.done() for each in begun) < AT_ONCE - permits:
            await asyncio.wait([each for each in begun if not each.done()], return_when=asyncio.FIRST_COMPLETED)
        provider.answers.set()
    return codes([each.result() for each in begun])


async def took_ms(client: Client, agent: str) -> int:
    """Return how long the server had a run that fails, by the times of its events."""
    run = await client.send("hello", agent=agent)
    at = {event.type: event.ts async for event in run.events() if isinstance(event, runwire.client.Event)}
    return int(at["agent_failed"] - at["agent_started"])


async def test_a_provider_that_fails_is_left_alone_until_it_is_well_and_others_are_unaffected(
    client: Client, provider: Provider
) -> None:
    provider.status["small"] = 429  # it is well, and has enough of us
    assert codes(await outcomes(client, "small", 12)) == {"provider_unavailable": 12}
    assert provider.asked["small"] == 12

    provider.status["small"] = 500
    for failed in range(TERMS.minimum_calls):
        assert codes([await outcome(client, "small")]) == {"provider_unavailable": 1}, f"after {failed} failures"
    assert provider.asked["small"] == 12 + TERMS.minimum_calls

    refused = await outcomes(client, "small")
    assert codes(refused) == {"circuit_open": AT_ONCE}
    assert provider.asked["small"] == 12 + TERMS.minimum_calls, "the provider was asked while it was to be left alone"
    assert all(0 < each.retry_after_s <= TERMS.open_s for each in refused)
    assert {each.message.split(";")[0] for each in refused} == {"test/small fails too often and is left alone"}
    assert codes(await outcomes(client, "large", 5)) == {"said by large": 5}
    assert await outcome(client, "either") == "said by large"

    provider.status["small"] = 200
    await asyncio.sleep(max(each.retry_after_s for each in refused))  # as the person was told
    assert await herd(client, provider, "small", permits=1) == {"circuit_open": AT_ONCE - 1, "said by small": 1}
    assert provider.asked["small"] == 12 + TERMS.minimum_calls + 1, "more than one probe"

    assert codes(await outcomes(client, "small")) == {"said by small": AT_ONCE}, "closed by the one success"


async def test_a_tool_with_tries_left_is_refused_at_once_and_the_person_sees_why(
    client: Client, provider: Provider
) -> None:
    provider.status["tool"] = 503
    failed = await outcomes(client, "looks_up", 5)  # each tries three times, as long as it may
    assert set(codes(failed)) <= {"agent_error", "circuit_open"}
    assert provider.asked["tool"] >= TERMS.minimum_calls
    asked = provider.asked["tool"]
    assert min([await took_ms(client, "looks_up") for _ in range(5)]) < 50
    assert provider.asked["tool"] == asked


async def test_it_opens_at_the_threshold_that_is_set_and_closes_after_as_many_successes(
    client: Client, provider: Provider
) -> None:
    provider.status["large"] = 500
    for failed in range(LARGE.minimum_calls):
        assert codes([await outcome(client, "large")]) == {"provider_unavailable": 1}, f"after {failed} failures"
    refused = await outcome(client, "large")
    assert (refused.code, provider.asked["large"]) == ("circuit_open", LARGE.minimum_calls)
    assert await outcome(client, "small") == "said by small"

    provider.status["large"] = 200
    await asyncio.sleep(refused.retry_after_s)
    shed = AT_ONCE - LARGE.probes
    for successes in (2, 4):  # with two it is still half-open, with the third it closes
        assert await herd(client, provider, "large", permits=LARGE.probes) == {"circuit_open": shed, "said by large": 2}
        assert provider.asked["large"] == LARGE.minimum_calls + successes
    assert codes(await outcomes(client, "large")) == {"said by large": AT_ONCE}, "closed"
