"""How soon a person sees at one server what another has committed, and what it costs to say it."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import websockets
from tests.outside import Outside
from tests.redis_server import RedisServer

from bench.figures import Faulty, Goal, Section, Series, Table, quantile
from bench.process import Process
from bench.stand import Stand, command
from runwire.auth.service import users
from runwire.storage.base import Bus, BusMessage, Committed, Wake
from runwire.storage.open import open_bus, open_storage

__all__ = ["measure"]

_RUNS: Final = 20
_PAUSE_S: Final = 0.02  # 1,000 events per second
_TEXT: Final = """\
Two servers on one PostgreSQL, {runs} runs with one event every 20 ms: 1,000 events per second offered. A person has a
socket at each; what counts is the later of the two, which is at the server that did not run it. From the moment at
which the agent said it, so a commit with its fsync is in it. *Polling*: a Redis is set and is not there. *Redis-first*
(F) is no Runwire: a worker adds each event to a stream and publishes it, a gateway passes it on, and it is stored
afterwards, so what was seen may be lost. All processes, databases and the client share this machine's cores.
The second table is the bus alone: commits of 10 events (2.5 KB), 1,000 per second, from one bus to another in one
process, and the CPU of that process for both."""


def measure(stand: Stand) -> Section:
    """Measure all ways in turns."""
    redis_folder = stand.folder / "redis"
    found: dict[str, list[list[float]]] = {}
    alone: dict[str, list[tuple[float, float, float]]] = {}
    with ExitStack() as stack:
        redis = RedisServer.start(redis_folder)
        stack.callback(redis.remove)
        ways = {"Redis": redis.url, "NOTIFY": None, "polling": "redis://127.0.0.1:1"}
        pairs = {way: stack.enter_context(_servers(stand, way, url)) for way, url in ways.items()}
        first = stack.enter_context(_redis_first(stand, redis.url))
        for ports, key in pairs.values():
            asyncio.run(_late_ms(stand, ports, key))  # warm up: the first runs of a server cost more
        for number in range(1, stand.rounds + 1):
            for way, (ports, key) in pairs.items():
                found.setdefault(way, []).append(asyncio.run(_late_ms(stand, ports, key)))
            found.setdefault("Redis-first (F)", []).append(asyncio.run(_first_late_ms(stand, first)))
            for way, url in (("Redis", redis.url), ("NOTIFY", None)):
                alone.setdefault(way, []).append(asyncio.run(_alone(stand, url)))
            stand.say(f"    round {number}: " + ", ".join(f"{k} {_p(v[-1], 0.5):.1f} ms" for k, v in found.items()))
    return _section(found, alone)


def _p(late_ms: list[float], share: float) -> float:
    return quantile(sorted(late_ms), share)


def _section(found: dict[str, list[list[float]]], alone: dict[str, list[tuple[float, float, float]]]) -> Section:
    table = Table(("said at one server → seen at the other", "p50 ms", "p99 ms", "worst ms"))
    raw = Table(("way", "round", "p50 ms", "p99 ms", "worst ms"))
    for way, rounds in found.items():
        series = [Series(tuple(_p(one, share) for one in rounds)) for share in (0.5, 0.99, 1.0)]
        table.add(way, *(one.shown(1) for one in series))
        for number, one in enumerate(rounds, 1):
            raw.add(way, number, *(f"{_p(one, share):.2f}" for share in (0.5, 0.99, 1.0)))
    own = Table(("the bus alone", "p50 ms", "p99 ms", "CPU per message µs"))
    for way, figures in alone.items():
        columns = zip(zip(*figures, strict=True), (2, 2, 0), strict=True)
        own.add(way, *(Series(column).shown(digits) for column, digits in columns))
    goals = [
        Goal(
            name=f"Said at one server → seen at the other, Redis, {name}",
            must=must,
            is_floor=False,
            unit="ms",
            found=Series(tuple(_p(one, share) for one in found["Redis"])),
        )
        for name, share, must in (("p50", 0.5, 5.0), ("p99", 0.99, 50.0))
    ]
    return Section(
        name="bus", title="Between servers", text=_TEXT.format(runs=_RUNS), tables=[table, own], goals=goals, raw=[raw]
    )


@contextmanager
def _servers(stand: Stand, way: str, redis_url: str | None) -> Iterator[tuple[list[int], str]]:
    """Start two servers on a database of their own; give their ports and somebody's key."""
    url = stand.database("PostgreSQL")
    folder = stand.folder / f"bus-{way}"
    folder.mkdir()
    config = folder / "runwire.toml"
    settings = {
        "database_url": url,
        "environment": "test",
        "public_url": "http://bench.example",
        "user_run_limit": 1_000,
        "log_level": "error",
        **({"redis_url": redis_url} if redis_url else {}),
    }
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8")
    words = [sys.executable, "-m", "runwire", "serve", "bench.servers.agents:agents", "--port", "0"]
    with ExitStack() as stack:
        ports = [
            stack.enter_context(
                Process(f"{way}{number}", [*words, "--config", str(config)], folder=folder, core=None)
            ).port
            for number in range(2)
        ]
        yield ports, asyncio.run(_key(url))


async def _key(url: str) -> str:
    storage = await open_storage(url)
    try:
        await users.add_user(storage.auth, "ann")
        return await users.create_api_key(storage.auth, "ann")
    finally:
        await storage.close()


def _events(stand: Stand) -> int:
    return 50 if stand.is_quick else 200


class _Screen(Outside):
    """A screen that notes when each event came: its thread, and when it was said → when, ns."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        self.came_ns: dict[tuple[str, int], int] = {}
        self.ended = 0

    def apply(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        event = super().apply(frame)
        if event and event["type"] == "custom":
            self.came_ns[event["thread"], event["data"]["value"]] = time.monotonic_ns()
        elif event and event["type"] == "agent_completed":
            self.ended += 1
        return event

    async def until_ended(self, count: int) -> None:
        while self.ended < count:
            self.apply(await self.frame())


async def _late_ms(stand: Stand, ports: list[int], key: str) -> list[float]:
    """Return how late each event came at the screen that had it later."""
    screens = [_Screen(f"http://127.0.0.1:{port}", key) for port in ports]
    order = json.loads(command(_events(stand), pause_s=_PAUSE_S, kind="clock"))["content"]
    async with screens[0].connected(), screens[1].connected():
        sent = [await screens[n % 2].send(order, agent="bench") for n in range(_RUNS)]
        for number, one in enumerate(sent):
            await screens[1 - number % 2].subscribe(one["thread"], after=0)
        began_ns = time.monotonic_ns()  # what was said before was fetched when both screens were there
        async with asyncio.TaskGroup() as tasks:
            for screen in screens:
                tasks.create_task(screen.until_ended(_RUNS))
    one, other = (screen.came_ns for screen in screens)
    if one.keys() != other.keys() or len(one) != _RUNS * _events(stand):
        raise Faulty(f"{len(one)} and {len(other)} events came where {_RUNS * _events(stand)} were said.")
    late_ms = [(max(one[event], other[event]) - event[1]) / 1e6 for event in one if event[1] > began_ns]
    if len(late_ms) < _RUNS * _events(stand) / 2:
        raise Faulty(f"{len(late_ms)} of {_RUNS * _events(stand)} events were said while both screens were there.")
    return late_ms


@contextmanager
def _redis_first(stand: Stand, redis_url: str) -> Iterator[int]:
    folder = stand.folder / "redis-first"
    folder.mkdir()
    database = asyncio.run(stand.postgres.create_database(is_empty=True))
    words = [sys.executable, "-m", "bench.servers.redis_first"]
    with (
        Process("worker", [*words, "worker", redis_url, database], folder=folder, core=None),
        Process("gateway", [*words, "gateway", redis_url, database], folder=folder, core=None) as gateway,
    ):
        yield gateway.port


async def _first_late_ms(stand: Stand, port: int) -> list[float]:
    late_ms: list[float] = []

    async def watch() -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}") as socket:
            await socket.send(command(_events(stand), pause_s=_PAUSE_S, kind="clock"))
            for _ in range(_events(stand)):
                said = json.loads(await socket.recv())["data"]["value"]
                late_ms.append((time.monotonic_ns() - said) / 1e6)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_RUNS):
            tasks.create_task(watch())
    return late_ms


async def _alone(stand: Stand, redis_url: str | None) -> tuple[float, float, float]:
    """Return p50 and p99 (ms) of publish → hear, and µs of CPU per message."""
    seconds, took_ms = (0.5 if stand.is_quick else 3.0), list[float]()
    storage = await open_storage(await stand.new_database("PostgreSQL"))
    said_at_s: dict[int, float] = {}
    clock = time.monotonic

    def hear(message: BusMessage) -> None:
        if isinstance(message, Committed):
            took_ms.append((clock() - said_at_s[message.first_seq]) * 1e3)

    async with _joined(open_bus(storage, redis_url)) as one, _joined(open_bus(storage, redis_url)) as other:
        other.follow("usr_1")
        await asyncio.sleep(0.2)
        stop = other.listen(hear)
        began_s, cpu_s = clock(), time.process_time()
        names = {"log": storage.log, "user": "usr_1", "thread": "th_1", "run": "run_1"}
        for number in range(round(seconds * 1_000)):
            await asyncio.sleep(max(0.0, began_s + number / 1_000 - clock()))
            said_at_s[number] = clock()
            one.publish(Committed(**names, attempt=1, first_seq=number, last_seq=number, packed=bytes(2_500)))
        await asyncio.sleep(0.2)
        spent_s = time.process_time() - cpu_s
        stop()
    await storage.close()
    if len(took_ms) < 0.9 * len(said_at_s):
        raise Faulty(f"{len(took_ms)} of {len(said_at_s)} messages were heard.")
    return statistics.median(took_ms), _p(took_ms, 0.99), spent_s * 1e6 / len(took_ms)


@asynccontextmanager
async def _joined(bus: Bus) -> AsyncIterator[Bus]:
    joined = asyncio.Event()
    stop = bus.listen(lambda message: joined.set() if message == Wake(topic="moved") else None)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(bus.run())
        await joined.wait()
        stop()
        yield bus
        running.cancel()
