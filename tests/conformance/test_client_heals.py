"""The client against servers that lose, cut and lie: what a reader gets is the log, each event once, in order."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from tests.conformance.minimal_server import Connection, Emit, Frame, MinimalServer, Run, Thread, say, with_tool

import runwire
from runwire.client import Client, Event, Reset
from runwire.errors import RunFailed, RunwireError, Unauthenticated, Unavailable

TOKEN = "good-token"
T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.client.link.random.random", lambda: 0.0)


def against(server: MinimalServer, use: Callable[[Client], Awaitable[T]], token: Any = TOKEN) -> T:
    async def run() -> T:
        async with asyncio.timeout(15), server.running() as url:
            try:
                async with runwire.connect(url, token) as client:
                    return await use(client)
            except (RunwireError, ZeroDivisionError) as error:
                raised: Exception = error  # past the server's task group, which would wrap it
        raise raised

    return asyncio.run(run())


def the_log(server: MinimalServer) -> list[tuple[int, str]]:
    (thread,) = server.threads.values()
    return [(event["seq"], event["type"]) for event in thread.events]


async def ask(client: Client) -> list[tuple[int, str]]:
    run = await client.send("How long is this?")
    return [(item.seq, item.type) async for item in run.events()]


class CutsOften(MinimalServer):
    """Cuts the connection after every event it writes."""

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        if connection.state.get("is_cut"):
            return []
        if frame["op"] == "event":
            connection.state["is_cut"] = True
            asyncio.get_running_loop().call_soon(connection.socket.transport.close)
        return [frame]


class Unreliable(MinimalServer):
    """Loses, doubles, holds back and cuts at random, each a bounded number of times."""

    def __init__(self, seed: int) -> None:
        super().__init__(ping_s=0.05)
        self.dice = random.Random(seed)
        self.faults = 25

    def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
        if frame["op"] in ("welcome", "ping") or self.faults == 0 or self.dice.random() > 0.4:
            return [frame]
        self.faults -= 1
        match self.dice.choice(["lose", "double", "cut", "old"]):
            case "lose" if frame["op"] == "event":
                return []
            case "double" if frame["op"] == "event":
                return [frame, frame]
            case "old" if frame["op"] == "event":
                return [{**frame, "seq": max(1, frame["seq"] - 3), "prev": max(0, frame["seq"] - 4)}, frame]
            case _:
                connection.socket.transport.abort()
        return [frame]


def test_a_run_over_connections_cut_after_every_event_is_whole() -> None:
    server = CutsOften()
    assert against(server, ask) == the_log(server)
    assert server.accepted > 10


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_network_does_each_event_comes_once(seed: int) -> None:
    server = Unreliable(seed)
    assert against(server, ask) == the_log(server)
    assert len(server.runs) == 1


class LosesTheReply(MinimalServer):
    """Stores the first message and loses its reply with the connection."""

    def reply(self, connection: Connection, frame: Frame, data: Frame) -> None:
        if self.accepted == 1:
            connection.socket.transport.abort()
        else:
            super().reply(connection, frame, data)


def test_a_lost_reply_is_asked_for_again_and_starts_no_second_run() -> None:
    server = LosesTheReply()
    assert against(server, ask) == the_log(server)
    assert len(server.runs) == 1
    assert server.accepted == 2


def test_two_readers_at_different_places_both_get_everything() -> None:
    async def use(client: Client) -> tuple[list[int], list[int]]:
        run = await client.send("one")
        await run.result()
        last = (await client.send("two", thread=run.thread)).id

        async def read(after: int) -> list[int]:
            found = []
            async for item in client.events(run.thread, after=after):
                found.append(item.seq)
                if isinstance(item, Event) and item.run == last and item.type == "agent_completed":
                    break
            return found

        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read(after)) for after in (0, 5)]
        return readers[0].result(), readers[1].result()

    server = MinimalServer()
    whole, rest = against(server, use)
    assert whole == [seq for seq, _ in the_log(server)]
    assert rest == whole[5:]


def test_a_reader_that_sleeps_through_thousands_of_events_gets_them_all() -> None:
    async def flood(content: str, emit: Emit) -> str:
        return await say("x" * 24_000, emit)

    async def use(client: Client) -> list[int]:
        run = await client.send("flood")
        other = [item.seq async for item in run.events()]  # reads at once
        slow = []
        async for item in client.events(run.thread):
            slow.append(item.seq)
            if item.type == "agent_completed":
                break
        assert slow == other
        return slow

    server = MinimalServer(flood)
    assert against(server, use) == [seq for seq, _ in the_log(server)]


def test_an_unread_run_ends_with_its_result() -> None:
    async def flood(content: str, emit: Emit) -> str:
        await say("x" * 24_000, emit)
        return "done"

    async def use(client: Client) -> Any:
        run = await client.send("flood")
        async with aclosing(client.events(run.thread)) as items:  # takes it all, so that nothing more will come
            async for item in items:
                if item.type == "agent_completed":
                    return await run.result()
        return None

    server = MinimalServer(flood)
    assert against(server, use) == "done"


def test_a_changed_history_comes_as_a_reset() -> None:
    async def use(client: Client) -> list[Any]:
        run = await client.send("one")
        await run.result()
        found = []
        async for item in client.events(run.thread, after=3, log="before-the-restore"):
            found.append(item)
            if item.type == "agent_completed":
                break
        return found

    first, *rest = against(MinimalServer(), use)
    assert isinstance(first, Reset)
    assert (first.seq, first.log, first.reason) == (0, "k3x9", "log_changed")
    assert [item.seq for item in rest] == list(range(1, len(rest) + 1))


def test_a_run_that_fails_raises_with_its_code() -> None:
    class Fails(MinimalServer):
        def end(self, run: Run, kind: str, data: Frame) -> None:
            failed = {"code": "deadline_exceeded", "message": "too long", "error_id": "e", "retryable": True}
            super().end(run, "agent_failed", failed)

    async def use(client: Client) -> None:
        await (await client.send("one")).result()

    with pytest.raises(RunFailed, match="too long") as raised:
        against(Fails(), use)
    assert raised.value.code == "deadline_exceeded"


def test_a_cancelled_run_raises_that_it_was() -> None:
    async def forever(content: str, emit: Emit) -> None:
        await asyncio.Event().wait()

    async def use(client: Client) -> None:
        run = await client.send("one")
        assert await run.cancel() == "requested"
        await run.result()

    with pytest.raises(RunFailed) as raised:
        against(MinimalServer(forever), use)
    assert raised.value.code == "agent_cancelled"


class SaysBye(MinimalServer):
    """Ends the first connection at its first command, with a code."""

    def __init__(self, code: int, after_s: float | None = None) -> None:
        super().__init__()
        self.code, self.after_s = code, after_s

    def command(self, connection: Connection, frame: Frame) -> None:
        if self.accepted > 1:
            super().command(connection, frame)
            return
        assert self.tasks
        self.tasks.create_task(self.bye(connection.socket, self.code, "because", self.after_s))


@pytest.mark.parametrize("code", [4001, 4005, 4008, 4012, 4013, 4029])
def test_a_code_to_come_back_after_is_healed(code: int) -> None:
    server = SaysBye(code)
    assert against(server, ask) == the_log(server)


def test_the_wait_that_a_bye_asks_for_is_honoured() -> None:
    async def use(client: Client) -> float:
        began_s = asyncio.get_running_loop().time()
        await ask(client)
        return asyncio.get_running_loop().time() - began_s

    assert against(SaysBye(4029, after_s=0.7), use) >= 0.7


@pytest.mark.parametrize(("code", "kind"), [(4507, Unauthenticated), (4504, Unavailable), (4500, RunwireError)])
def test_a_code_to_stop_at_ends_commands_and_readers(code: int, kind: type[RunwireError]) -> None:
    async def use(client: Client) -> None:
        await ask(client)

    server = SaysBye(code)
    with pytest.raises(kind, match="because"):
        against(server, use)
    assert server.accepted == 1


def test_a_server_that_falls_silent_is_left_for_a_new_connection() -> None:
    class FallsSilent(MinimalServer):
        def outgoing(self, connection: Connection, frame: Frame) -> list[Frame]:
            is_silent = self.accepted == 1 and frame["op"] != "welcome"
            return [{**frame, "pong_s": 0.3} if frame["op"] == "welcome" else frame][is_silent:]

    server = FallsSilent(ping_s=0.1)
    assert against(server, ask) == the_log(server)
    assert server.accepted == 2


def test_a_token_that_ends_soon_is_replaced_on_the_open_socket() -> None:
    brought: list[str] = []
    fresh = asyncio.Event()

    class ShortTokens(MinimalServer):
        def welcome(self, connection: Connection) -> None:
            super().welcome(connection)
            connection.put({"op": "notice", "kind": "token_expiring", "thread": None, "data": {}})

        def refresh(self, connection: Connection, frame: Frame) -> None:
            brought.append(frame["token"])
            super().refresh(connection, frame)
            fresh.set()

    async def token() -> str:
        return "good-token" if not brought else "newer"

    async def use(client: Client) -> None:
        await fresh.wait()
        await ask(client)  # time enough for a second one, which nobody asked for

    server = ShortTokens()
    against(server, use, token)
    assert brought == ["good-token"]
    assert server.accepted == 1


def test_nobody_there_is_said_in_time() -> None:
    async def run(port: int) -> None:
        async with runwire.connect(f"http://127.0.0.1:{port}", TOKEN, timeout_s=0.3):
            pass

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with pytest.raises(Unavailable, match=r"within 0\.3 s"):
            asyncio.run(run(taken.getsockname()[1]))


def test_a_wrong_token_is_refused_at_once() -> None:
    async def use(client: Client) -> None:
        return

    with pytest.raises(Unauthenticated):
        against(MinimalServer(), use, "wrong")


def test_an_exception_of_the_block_comes_out_as_it_is() -> None:
    async def use(client: Client) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        against(MinimalServer(), use)


def test_a_server_that_restarts_on_its_port_is_found_again() -> None:
    async def run() -> None:
        old = MinimalServer(pace_s=0.02)
        async with asyncio.timeout(15):
            async with old.running() as url:
                link = runwire.connect(url, TOKEN)
                client = await link.__aenter__()
                sent = await client.send("before")
            new = MinimalServer()
            new.threads, new.runs = old.threads, old.runs
            async with new.running(int(url.rsplit(":", 1)[1])):
                thread: Thread = new.threads[sent.thread]
                if not any(event["type"] == "agent_cancelled" for event in thread.events):
                    new.append(new.runs[sent.id], "agent_cancelled", {"by": "operator"})
                seen = [(item.seq, item.type) async for item in sent.events()]
                await link.__aexit__(None, None, None)
            assert seen == the_log(new)

    asyncio.run(run())


def test_http_reads_what_the_socket_showed() -> None:
    async def use(client: Client) -> tuple[dict[str, Any], str]:
        run = await client.send("one")
        output = await run.result()
        return await client.http.thread(run.thread), output

    thread, output = against(MinimalServer(with_tool), use)
    assert thread["messages"][-1]["content"] == output
