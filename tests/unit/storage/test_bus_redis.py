"""The bus on Redis: what arrives, who is told, and what an outage costs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.redis_server import PASSWORD, RedisServer, installed_binary, wheel_binary

import runwire.storage.bus_redis as module
from runwire.errors import ConfigurationError
from runwire.storage.base import BusMessage, Committed, Wake
from runwire.storage.bus_local import LOOK_AGAIN
from runwire.storage.bus_redis import MAX_MESSAGE_BYTES, RedisBus
from runwire.storage.memory.storage import MemoryStorage
from runwire.storage.open import open_bus
from runwire.storage.redis.unsent import MAX_UNSENT, MAX_UNSENT_BYTES, Unsent

LOOK = Wake(topic="moved")
RUNS = Wake(topic="runs")
BEACON = Wake(topic="beacon", node="node_1")


def binaries() -> list[Path]:
    """Return the server of the wheel, and that of this machine where there is one."""
    installed = installed_binary()
    return [wheel_binary(), *([installed] if installed else [])]


@pytest.fixture(scope="module", params=binaries(), ids=lambda path: "wheel" if path == wheel_binary() else "installed")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Start a server with a password; a test that harms it mends it."""
    server = RedisServer.start(tmp_path_factory.mktemp("redis"), binary=request.param, password=PASSWORD)
    yield server
    assert PASSWORD not in server.log()
    server.remove()


class Process:
    """What a process has of the bus, and what a listener in it heard."""

    def __init__(self, url: str, *, log: str = "log_1", prefix: str = "runwire") -> None:
        self.storage = MemoryStorage()
        self.storage._state.log = log
        self.bus = RedisBus(self.storage, url, prefix=prefix)
        self.heard: list[BusMessage] = []
        self.bus.listen(self._hear)
        self._changed = asyncio.Event()

    def _hear(self, message: BusMessage) -> None:
        self.heard.append(message)
        self._changed.set()

    async def hears(self, *messages: BusMessage, within_s: float = 10) -> list[BusMessage]:
        """Wait until all of these were heard since it was last asked; return all that was."""
        async with asyncio.timeout(within_s):
            while not set(messages) <= set(self.heard):
                self._changed.clear()
                await self._changed.wait()
        heard = list(self.heard)
        self.heard.clear()
        return heard

    async def hears_no_beacon(self) -> None:
        """Wait until the bus has noticed that its Redis does not answer; the promise is half a second."""
        async with asyncio.timeout(5):
            while self.bus._links:
                self.bus.publish(BEACON)
                await asyncio.sleep(0.01)
        self.heard.clear()
        self.bus.publish(BEACON)
        await asyncio.sleep(0)
        assert BEACON not in self.heard

    async def follow(self, user: str = "usr_1") -> Callable[[], None]:
        """Follow a user whom nobody here has followed of late; returns when Redis has confirmed it."""
        stop = self.bus.follow(user)
        await self.hears(LOOK)
        return stop


@asynccontextmanager
async def carrying(*made: Process) -> AsyncIterator[None]:
    """Run the buses; they have joined."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(process.bus.run()) for process in made]
        for process in made:
            await process.hears(*LOOK_AGAIN)
        yield
        for task in running:
            task.cancel()


@asynccontextmanager
async def processes(server: RedisServer, count: int = 2) -> AsyncIterator[list[Process]]:
    """Give processes that have joined; all but the first follow a user."""
    made = [Process(server.url) for _ in range(count)]
    async with carrying(*made):
        for process in made[1:]:
            await process.follow()
        yield made


def committed(*, log: str = "log_1", user: str = "usr_1", seq: int = 1, size: int = 100) -> Committed:
    names = {"user": user, "thread": "th_1", "run": "run_1"}
    return Committed(log=log, **names, attempt=1, first_seq=seq, last_seq=seq, packed=b"\x00\xff" * (size // 2))


async def test_commits_reach_a_follower_whole_and_in_order(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        await one.follow()  # what it says itself comes back to it
        said = [committed(seq=seq) for seq in range(1, 301)]
        for message in said:
            one.bus.publish(message)
        assert await other.hears(*said) == said
        assert await one.hears(*said) == said  # heard at once, and not again when they come back
        # The promise is a second; alone on a machine it takes less than a ms.
        one.bus.publish(committed(seq=301))
        await other.hears(committed(seq=301), within_s=1)


def channels(server: RedisServer) -> set[str]:
    """Return the channels that somebody has subscribed to, those of single processes apart."""
    lines = server.execute("PUBSUB", "CHANNELS").decode().split("\r\n")
    return {line for line in lines if line.startswith("runwire:") and ":node:" not in line}


async def test_nobody_reads_what_nobody_there_follows(server: RedisServer) -> None:
    async with processes(server, 3) as (one, follower, other):
        assert channels(server) == {"runwire:wake", "runwire:15"}
        stop = await other.follow("usr_2")
        one.bus.publish(committed(user="usr_3"))
        one.bus.publish(committed(user="usr_2"))
        one.bus.publish(RUNS)
        assert await other.hears(committed(user="usr_2"), RUNS) == [committed(user="usr_2"), RUNS]
        assert await follower.hears(RUNS) == [RUNS]
        stop()


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 2, 33_000_000])
async def test_large_commit_comes_as_a_hint(server: RedisServer, size: int) -> None:
    async with processes(server) as (one, other):
        message = committed(seq=7, size=size)
        one.bus.publish(message)
        one.bus.publish(RUNS)
        hint = Wake(topic="moved", thread="th_1", seq=7)
        await other.hears(hint if size > MAX_MESSAGE_BYTES else message, RUNS)
        await one.hears(message, RUNS)  # in its own process every commit is whole


async def test_equal_hints_are_said_once_and_beacons_only_to_their_node(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        for _ in range(50):
            one.bus.publish(RUNS)
            one.bus.publish(BEACON)
        one.bus.publish(Wake(topic="auth"))
        heard = await other.hears(Wake(topic="auth"))
        assert set(heard) == {RUNS, Wake(topic="auth")}
        assert len(heard) < 10
        await one.hears(BEACON)


async def test_what_was_missed_before_a_subscription_was_confirmed_is_looked_for(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        server.pause()
        try:
            other.bus.follow("usr_2")
            one.bus.publish(committed(user="usr_2"))
            await asyncio.sleep(0.05)
            assert other.heard == []  # nothing is confirmed
        finally:
            server.resume()
        await other.hears(LOOK)
        one.bus.publish(committed(user="usr_2", seq=2))
        await other.hears(committed(user="usr_2", seq=2))


async def test_churn_of_followers_ends_in_what_is_followed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.02)
    async with processes(server) as (one, other):
        stops = [other.bus.follow(f"usr_{number}") for number in range(1_000)]
        for number, stop in enumerate(stops):
            if number != 2:
                stop()
                stop()
            if number % 100 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while channels(server) != {"runwire:wake", "runwire:15", "runwire:53"}:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
        for seq, user in enumerate(("usr_500", "usr_2", "usr_1"), 1):
            one.bus.publish(committed(user=user, seq=seq))
        other.heard.clear()
        assert await other.hears(committed(seq=3)) == [committed(user="usr_2", seq=2), committed(seq=3)]


async def test_what_another_history_or_nobody_says_leads_to_a_look(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        one.storage._state.log = "another"  # its connections lead to a promoted standby
        one.bus.publish(committed(log="another"))
        assert await other.hears(LOOK) == [LOOK]
        for garbage in (b"\xff no envelope", b"", b"\x92\x01\x02", b"\x94\xa1n\xa5log_1\x91\x01\x90"):
            server.execute("PUBLISH", "runwire:15", garbage)
            server.execute("PUBLISH", "runwire:wake", garbage)
        one.storage._state.log = "log_1"
        one.bus.publish(RUNS)
        assert set(await other.hears(RUNS)) == {LOOK, RUNS}


async def test_deployments_with_their_own_prefixes_hear_nothing_of_each_other(server: RedisServer) -> None:
    one, other = Process(server.url, prefix="blue"), Process(server.url, prefix="green")
    async with carrying(one, other):
        await other.follow()
        one.bus.publish(committed())
        one.bus.publish(RUNS)
        await one.hears(RUNS)
        one.bus.publish(BEACON)
        await one.hears(BEACON)  # Redis has taken what was said before it
        other.bus.publish(BEACON)
        assert await other.hears(BEACON) == [BEACON]


async def test_killed_redis_costs_hints_and_nothing_else(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        with capture_logs() as lines:
            server.kill()
            await one.hears_no_beacon()
            one.bus.publish(committed())
            await one.hears(committed())  # in its own process it works on
            async with asyncio.timeout(10):
                while len(lines) < 8:  # noqa: ASYNC110 - of a log; it tries again and again
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(server.restart)
            await one.hears(*LOOK_AGAIN)
            assert LOOK in await other.hears(LOOK)
            one.bus.publish(committed(seq=2))
            # It follows whom it followed, without anybody's help.
            async with asyncio.timeout(10):
                while committed(seq=2) not in other.heard:
                    one.bus.publish(committed(seq=2))
                    await asyncio.sleep(0.05)
        said = [line["event"] for line in lines if line["log_level"] != "debug"]
        assert sorted(said) == ["bus_back"] * 2 + ["bus_unavailable"] * 2  # one line per process
        assert PASSWORD not in str(lines)


async def test_emptied_redis_costs_nothing(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        server.flush()
        one.bus.publish(committed())
        assert await other.hears(committed()) == [committed()]


async def test_stopped_redis_holds_up_no_publisher_and_is_noticed(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        clock = asyncio.get_running_loop().time
        server.pause()
        try:
            began_s = clock()
            for seq in range(2 * MAX_UNSENT):
                one.bus.publish(committed(seq=seq))
            assert clock() - began_s < 1
            assert len(one.bus._unsent) <= MAX_UNSENT
            await one.hears_no_beacon()
            await asyncio.sleep(max(0.0, 1.2 - (clock() - began_s)))
            one.bus.publish(committed())
        finally:
            server.resume()
        await other.hears(LOOK)  # something was dropped: so others are told
        other.heard.clear()
        async with asyncio.timeout(10):
            while committed() not in other.heard:
                one.bus.publish(committed())
                await asyncio.sleep(0.05)


async def test_who_reads_too_slowly_is_cut_off_and_looks(server: RedisServer) -> None:
    server.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1")
    async with processes(server) as (one, other):
        ear = other.bus._links[0]._ear
        assert ear._writer is not None
        ear._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport, too
        for seq in range(200):
            one.bus.publish(committed(seq=seq, size=MAX_MESSAGE_BYTES))
            await asyncio.sleep(0)
        await other.hears(*LOOK_AGAIN)
        one.bus.publish(committed(seq=1_000))
        await other.hears(committed(seq=1_000))


async def test_what_was_said_into_a_half_open_connection_is_made_good(server: RedisServer) -> None:
    async with processes(server) as (one, other):
        mouth = one.bus._links[0]._mouth
        assert mouth._writer is not None
        mouth._writer.transport.pause_reading()  # type: ignore[attr-defined]  # no answer arrives
        one.bus.publish(committed())
        await one.hears(*LOOK_AGAIN)  # it has connected again
        assert LOOK in await other.hears(LOOK)  # whether or not the commit had arrived


async def test_many_come_back_without_a_storm(server: RedisServer) -> None:
    async with processes(server, 20) as made:
        server.kill()
        knocks = 0

        def knocked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal knocks
            knocks += 1
            writer.close()

        # Nobody knocks all the time: in a second with pauses of 25 to 50 ms, twice that, and so on, six times.
        async with await asyncio.start_server(knocked, "127.0.0.1", server.port):
            await asyncio.sleep(1)
        assert len(made) <= knocks < 10 * len(made)
        await asyncio.to_thread(server.restart)
        for process in made:
            await process.hears(*LOOK_AGAIN)
        for line in server.execute("INFO", "stats").decode().split("\r\n"):
            if line.startswith("total_connections_received:"):
                # Two each, and what the tests themselves ask.
                assert int(line.partition(":")[2]) < 3 * len(made)


async def test_refused_password_is_a_fault_at_the_start_and_an_outage_later(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (server.url.replace(PASSWORD, "wrong-Wq5"), f"redis://{server.address}"):
        with pytest.raises(ConfigurationError) as caught:
            await Process(url).bus.run()
        assert "refuses the password" in str(caught.value)
        assert "wrong-Wq5" not in str(caught.value) + str(caught.value.__cause__)
    one = Process(server.url)
    with capture_logs() as lines:
        async with carrying(one):
            monkeypatch.setattr(server, "password", "another")
            await asyncio.to_thread(server.restart)
            await one.hears_no_beacon()
            async with asyncio.timeout(10):
                while "refuses the password" not in str(lines):  # noqa: ASYNC110 - of a log
                    await asyncio.sleep(0.01)
            monkeypatch.undo()
            await asyncio.to_thread(server.restart)
            await one.hears(*LOOK_AGAIN)
    assert PASSWORD not in str(lines)


async def test_refused_password_is_told_of_though_the_server_was_away_before(server: RedisServer) -> None:
    bus = Process(server.url.replace(PASSWORD, "wrong-Wq5")).bus
    await asyncio.to_thread(server.kill)
    with capture_logs() as lines:
        async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(bus.run())
            while not lines:  # noqa: ASYNC110 - of a log
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.restart)
            while sum("refuses the password" in str(line) for line in lines) < 3:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
            running.cancel()
    told = [line["reason"] for line in lines if line["log_level"] == "warning"]
    assert len(told) == 2
    assert "refuses the password" in told[1]
    assert "wrong-Wq5" not in str(lines)


async def test_user_of_redis_needs_no_more_than_the_documentation_grants(server: RedisServer) -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "add-redis.md"
    (line,) = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("ACL SETUSER")]
    assert server.execute(*line.replace("PASSWORD", PASSWORD).split()) == b"+OK\r\n"
    url = f"redis://runwire:{PASSWORD}@{server.address}"
    one, other = Process(url), Process(url)
    async with carrying(one, other):
        await other.follow()
        one.bus.publish(committed())
        assert await other.hears(committed()) == [committed()]
    with pytest.raises(ConfigurationError, match="refuses what the bus does there"):
        await Process(url, prefix="another").bus.run()


async def test_redis_that_is_away_at_the_start_stops_nobody(server: RedisServer) -> None:
    server.kill()
    one = Process(server.url)
    with capture_logs() as lines:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(one.bus.run())
            one.bus.publish(RUNS)
            await one.hears(RUNS)
            async with asyncio.timeout(10):
                while not lines:  # noqa: ASYNC110 - of a log
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(server.restart)
            await one.hears(*LOOK_AGAIN)
            running.cancel()
    assert lines[0]["event"] == "bus_unavailable"
    assert lines[0]["redis"] == f"redis://{server.address}"


async def test_last_words_of_a_process_that_stops_are_heard(server: RedisServer) -> None:
    one = Process(server.url)
    async with processes(server) as (_, other), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(one.bus.run())
        await one.hears(*LOOK_AGAIN)
        one.bus.publish(RUNS)
        await one.bus.close()  # in the same turn of the loop
        assert running.done()
        await other.hears(RUNS)
        one.heard.clear()
        one.bus.publish(RUNS)
        await asyncio.sleep(0)
        assert one.heard == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://ann:Zq8-secret@host", "another scheme"),
        ("redis+magic://:Zq8-secret@host", "another scheme"),
        ("redis://:Zq8-secret", "redis://HOST"),
        ("redis://:Zq8/secret@host", "%40"),
        ("redis://:Zq8-secret@host:99999", "%40"),
        ("redis://:Zq8-secret@one,two", "redis+cluster"),
        ("redis+sentinel://:Zq8-secret@one,two", "name of the master"),
        ("redis://:Zq8-secret@host/name", "nothing"),
        ("redis://:Zq8-secret@host?ssl_ca_certs=/x", "unknown option ssl_ca_certs"),
        ("rediss://:Zq8-secret@host?ssl_ca_certs=/no/such/file", "no file /no/such/file"),
    ],
)
def test_url_that_cannot_be_meant_is_a_fault_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBus(MemoryStorage(), url)
    assert said in str(caught.value)
    assert "redis_url" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ann:pw@host", "redis://host:6379"),
        ("rediss://:p%40w@[::1]:7000/0", "rediss://[::1]:7000"),
        ("redis+sentinel://one,two:7/main?sentinel_password=pw", "redis+sentinel://one:26379,two:7/main"),
        ("rediss+cluster://:pw@one,two", "rediss+cluster://one:6379,two:6379"),
    ],
)
def test_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    bus = RedisBus(MemoryStorage(), url, prefix="blue")
    assert bus.shown == f"{shown} (channels blue:*)"
    assert "pw" not in repr(bus._address)


def test_missing_client_of_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class PostgresStorage(MemoryStorage):
        """Not of a single process."""

    for name in [name for name in sys.modules if name.startswith("runwire.storage.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "runwire.storage.bus_redis")
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)
    with pytest.raises(ConfigurationError, match=r"runwire\[redis\]"):
        open_bus(PostgresStorage(), "redis://host")


def test_what_waits_is_bounded_and_what_is_dropped_is_remembered() -> None:
    unsent = Unsent()
    assert not unsent.put(1, RUNS, is_missed=True)  # nobody is there
    unsent.open()
    assert unsent.put(2, RUNS, is_missed=True)
    assert not unsent.put(2, RUNS, is_missed=True)  # woken already
    for _ in range(MAX_UNSENT):
        unsent.put(3, RUNS, is_missed=True)
    assert len(unsent) == MAX_UNSENT
    taken, lost = unsent.take()
    assert (len(taken), lost) == (MAX_UNSENT, {1, 3})
    large = committed(size=MAX_MESSAGE_BYTES)
    for _ in range(MAX_UNSENT_BYTES // MAX_MESSAGE_BYTES + 1):
        unsent.put(4, large, is_missed=True)
    unsent.put(5, RUNS, is_missed=False)  # of no size
    assert len(unsent) == MAX_UNSENT_BYTES // MAX_MESSAGE_BYTES + 1
    taken, lost = unsent.take()
    assert (len(taken), lost) == (16, {4})  # 4 MiB in one go
    unsent.drop(unless=5, is_shut=True)
    assert not unsent.put(6, RUNS, is_missed=True)
    assert unsent.take() == ([], {4, 6})
