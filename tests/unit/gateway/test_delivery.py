"""Every event of a thread reaches every listener once and in order, wherever it begins and whatever is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.gateway.node import DeafBus, Node, Reader, eventually, running

from runwire.errors import Unavailable
from runwire.gateway.app import GatewaySettings
from runwire.gateway.tail import TailSettings
from runwire.protocol import events
from runwire.protocol.connection import ConnectionSettings
from runwire.protocol.frames import Limits
from runwire.storage.base import Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage


async def welcomed(websocket: Any) -> Reader:
    reader = Reader(websocket)
    assert (await reader.frame())["op"] == "welcome"
    return reader


async def finished_run(node: Node, *, words: int = 5) -> tuple[str, str, list[dict[str, Any]]]:
    """Return thread, run and the events of a run that somebody watched from the start."""
    async with node.connect() as websocket:
        ann = await welcomed(websocket)
        data = (await ann.ask(op="send", content="hi"))["data"]
        await node.worker.whole_run(data["run"], words=words)
        return data["thread"], data["run"], list(await ann.until_end(data["run"]))


async def test_a_send_is_answered_before_its_events_and_the_whole_run_follows() -> None:
    async with running() as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        reply = await ann.ask(op="send", content="hi", thread=None)
        assert reply["ok"], reply
        assert not ann.events
        await node.worker.whole_run(reply["data"]["run"])
        await ann.until_end(reply["data"]["run"])
        assert [event["seq"] for event in ann.events] == list(range(1, len(ann.events) + 1))


async def test_a_reply_to_send_precedes_its_events_also_on_a_subscribed_thread() -> None:
    async with running() as node, node.connect() as one, node.connect() as two:
        ann, tab = await welcomed(one), await welcomed(two)
        thread = await node.empty_log()
        for reader in (ann, tab):
            assert (await reader.ask(op="subscribe", thread=thread, after=0))["op"] == "subscribed"
        for n in range(30):
            await ann.ask(op="send", thread=thread, content=f"message {n}")
            # Whatever was applied before this reply belongs to earlier sends.
            assert len([e for e in ann.events if e["type"] == "user_message"]) <= n
        while len(ann.events) < 30:
            ann.apply(await ann.frame())
        while len(tab.events) < 30:
            tab.apply(await tab.frame())
        assert tab.events == ann.events


async def test_a_run_cut_at_every_frame_is_the_same_run() -> None:
    async with running() as node:
        length = len((await finished_run(node))[2])
        for cut in range(length):
            async with node.connect() as websocket:
                ann = await welcomed(websocket)
                data = (await ann.ask(op="send", content="hi"))["data"]
                async with asyncio.TaskGroup() as group:
                    group.create_task(node.worker.whole_run(data["run"]))
                    while len(ann.events) < cut:
                        ann.apply(await ann.frame())
                    websocket.transport.abort()
            held, before = dict(ann.last), list(ann.events)
            async with node.connect() as websocket:
                again = await welcomed(websocket)
                again.events = before
                thread = data["thread"]
                answer = await again.ask(op="subscribe", thread=thread, after=held[thread], log=data["log"])
                assert answer["after"] == held[thread]
                await again.until_end(data["run"])
                assert [event["seq"] for event in again.events] == list(range(1, length + 1))


@pytest.mark.parametrize("view", ["all", "lifecycle"])
async def test_every_position_resumes_to_the_same_chain(view: str) -> None:
    async with running() as node, node.connect() as websocket:
        thread, run, whole = await finished_run(node)
        in_view = [e["seq"] for e in whole if view == "all" or e["type"] not in events.DELTA_TYPES]
        reader = await welcomed(websocket)
        for after in (0, *in_view[:-1]):
            reader.events.clear()
            await reader.ask(op="subscribe", thread=thread, after=after, view=view)
            await reader.until_end(run)
            assert [event["seq"] for event in reader.events] == [seq for seq in in_view if seq > after]


async def test_live_and_resumed_frames_are_the_same_bytes() -> None:
    async with running() as node, node.connect() as websocket:
        thread, run, whole = await finished_run(node)
        reader = await welcomed(websocket)
        await reader.ask(op="subscribe", thread=thread, after=0)
        assert await reader.until_end(run) == whole


async def test_another_tab_sees_all_and_its_leaving_harms_nobody() -> None:
    async with running() as node, node.connect() as one, node.connect() as two:
        ann, tab = await welcomed(one), await welcomed(two)
        data = (await ann.ask(op="send", content="hi"))["data"]
        await tab.ask(op="subscribe", thread=data["thread"], after=0)
        async with node.connect() as three:
            third = await welcomed(three)
            await third.ask(op="subscribe", thread=data["thread"], after=-1)
        await node.worker.whole_run(data["run"])
        assert await ann.until_end(data["run"]) == await tab.until_end(data["run"])


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_new_subscription_replaces_the_old_one_and_stays_awake(times: int) -> None:
    async with running() as node:
        async with node.connect() as websocket:
            ann = await welcomed(websocket)
            data = (await ann.ask(op="send", content="hi"))["data"]
            for _ in range(times):
                await ann.ask(op="subscribe", thread=data["thread"], after=0, view="lifecycle")
                ann.events.clear()
            await node.worker.whole_run(data["run"])
            await ann.until_end(data["run"])
            assert not [event for event in ann.events if event["type"] in events.DELTA_TYPES]
        await eventually(lambda: node.gateway.tail.threads == 0)  # none of them listens on


async def test_what_an_older_subscription_was_reading_is_not_shown_after_a_newer_began() -> None:
    storage = MemoryStorage(State())
    read, began, go_on = storage.events.read, asyncio.Event(), asyncio.Event()

    async def paused(thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Any:
        if after == 0:
            began.set()
            await go_on.wait()
        return await read(thread, after=after, limit=limit, size_bytes=size_bytes)

    async with running(storage=storage) as node, node.connect() as websocket:
        thread, _, whole = await finished_run(node)
        await node.keep_ring(thread)
        storage.events.read = paused  # type: ignore[method-assign]  # a pause, injected
        ann = await welcomed(websocket)
        first = await ann.say(op="subscribe", thread=thread, after=0)
        await began.wait()
        second = await ann.say(op="subscribe", thread=thread, after=-1)
        await eventually(lambda: node.gateway.metrics.commands.labels("subscribe", "ok")._value.get() == 2)
        go_on.set()
        answers = [await ann.frame(), await ann.frame()]
        assert [answer["id"] for answer in answers] == [first, second]
        ann.last[thread] = whole[-1]["seq"]
        data = (await ann.ask(op="send", thread=thread, content="more"))["data"]
        await node.worker.whole_run(data["run"])
        await ann.until_end(data["run"])
        assert ann.events[0]["seq"] == whole[-1]["seq"] + 1


async def test_a_refused_subscribe_leaves_the_older_subscription_awake() -> None:
    async with running(storage=(storage := MemoryStorage(State()))) as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        data = (await ann.ask(op="send", content="hi"))["data"]
        get_many = storage.threads.get_many
        storage.threads.get_many = _none  # type: ignore[assignment]  # one failing look-up
        assert (await ann.ask(op="subscribe", thread=data["thread"], after=0))["ok"] is False
        storage.threads.get_many = get_many  # type: ignore[method-assign]  # as it was
        await node.worker.whole_run(data["run"])
        await ann.until_end(data["run"])


async def _none(_pairs: Any) -> Any:
    return {}


async def test_unsubscribed_threads_are_silent() -> None:
    async with running() as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        quiet = (await ann.ask(op="send", content="hi"))["data"]
        assert (await ann.ask(op="unsubscribe", thread=quiet["thread"]))["reason"] == "asked"
        await node.worker.whole_run(quiet["run"])
        loud = (await ann.ask(op="send", content="hi"))["data"]
        ann.events.clear()
        await node.worker.whole_run(loud["run"])
        await ann.until_end(loud["run"])
        assert {event["thread"] for event in ann.events} == {loud["thread"]}
        assert (await ann.ask(op="unsubscribe", thread="th_never"))["reason"] == "asked"


async def test_a_bus_that_loses_everything_costs_only_time() -> None:
    async with running(bus=DeafBus()) as node, node.connect() as one, node.connect() as two:
        ann, tab = await welcomed(one), await welcomed(two)
        data = (await ann.ask(op="send", content="hi"))["data"]
        await tab.ask(op="subscribe", thread=data["thread"], after=0)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.worker.whole_run(data["run"]))
            await ann.until_end(data["run"])
        assert await tab.until_end(data["run"]) == ann.events


class LosingBus(LocalBus):
    """A bus that works, and loses two of three segments."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def publish(self, message: Any) -> None:
        if not isinstance(message, Wake):
            self._number += 1
            if self._number % 3:
                return
        super().publish(message)


async def test_a_node_hears_its_own_sends_without_any_bus_or_check() -> None:
    never = TailSettings(blind_check_s=1000.0, active_check_s=1000.0, idle_check_s=1000.0)
    async with running(GatewaySettings(tail=never), bus=DeafBus()) as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        thread = await node.empty_log()
        await ann.ask(op="subscribe", thread=thread, after=0)
        for n in range(3):
            await ann.ask(op="send", thread=thread, content=f"message {n}")
            while len(ann.events) <= n:
                ann.apply(await ann.frame())


async def test_holes_are_filled_from_the_log() -> None:
    async with running(bus=LosingBus()) as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        data = (await ann.ask(op="send", content="hi"))["data"]
        await node.worker.whole_run(data["run"], words=20)
        await ann.until_end(data["run"])
        assert [event["seq"] for event in ann.events] == list(range(1, len(ann.events) + 1))


async def test_a_ring_too_small_for_the_run_is_helped_by_the_log() -> None:
    small = GatewaySettings(tail=TailSettings(ring_events=4))
    async with running(small) as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        data = (await ann.ask(op="send", content="hi"))["data"]
        await node.worker.whole_run(data["run"], words=100)
        await ann.until_end(data["run"])
        assert [event["seq"] for event in ann.events] == list(range(1, len(ann.events) + 1))


async def test_a_database_that_does_not_answer_for_a_while_costs_only_time() -> None:
    storage = MemoryStorage(State())
    read, refused = storage.events.read, 0

    async def failing(thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Any:
        nonlocal refused
        refused += 1
        if refused <= 4:
            raise Unavailable("The database does not answer.")
        return await read(thread, after=after, limit=limit, size_bytes=size_bytes)

    async with running(storage=storage) as node, node.connect() as websocket:
        thread, run, whole = await finished_run(node)
        ann = await welcomed(websocket)
        await node.keep_ring(thread)
        storage.events.read = failing  # type: ignore[method-assign]  # an outage, injected
        await ann.ask(op="subscribe", thread=thread, after=0)
        assert await ann.until_end(run) == whole
        assert refused > 4


async def test_from_now_begins_at_the_head() -> None:
    async with running() as node, node.connect() as websocket:
        thread, _, whole = await finished_run(node)
        ann = await welcomed(websocket)
        answer = await ann.ask(op="subscribe", thread=thread, after=-1)
        assert answer["after"] == answer["head"] == whole[-1]["seq"]
        data = (await ann.ask(op="send", thread=thread, content="more"))["data"]
        await node.worker.whole_run(data["run"])
        await ann.until_end(data["run"])
        assert ann.events[0]["prev"] == whole[-1]["seq"]


@pytest.mark.parametrize(
    ("position", "reason"),
    [({"after": 999}, "log_changed"), ({"after": 3, "log": "other"}, "log_changed"), ({"after": 1}, "too_far_behind")],
)
async def test_what_is_not_to_be_had_is_reset_to_the_last_run(position: dict[str, Any], reason: str) -> None:
    limits = Limits(replay_events=20)
    async with running(GatewaySettings(connection=ConnectionSettings(limits=limits))) as node:
        thread, _, first = await finished_run(node)
        async with node.connect() as websocket:
            ann = await welcomed(websocket)
            data = (await ann.ask(op="send", thread=thread, content="second"))["data"]
            await node.worker.whole_run(data["run"])
            await ann.until_end(data["run"])
            await ann.ask(op="subscribe", thread=thread, **position)
            reset = await ann.frame()
            assert reset == {
                "op": "reset",
                "thread": thread,
                "log": node.storage.log,
                "from": first[-1]["seq"],
                "reason": reason,
            }
            ann.last[thread] = reset["from"]
            ann.events.clear()
            await ann.until_end(data["run"])
            assert ann.events[0]["type"] == "user_message"


async def test_a_changed_log_resets_those_who_listen() -> None:
    state = State()
    async with running(storage=MemoryStorage(state), bus=(bus := LocalBus())) as node, node.connect() as websocket:
        thread, _, whole = await finished_run(node)
        ann = await welcomed(websocket)
        await ann.ask(op="subscribe", thread=thread, after=whole[-1]["seq"])
        state.log = "restored"
        bus.publish(Wake(topic="deleted", thread=thread))  # any reason to look
        reset = await ann.frame()
        assert (reset["op"], reset["reason"], reset["log"], reset["from"]) == ("reset", "log_changed", "restored", 0)
        ann.last[thread] = 0
        while len(ann.events) < len(whole):
            ann.apply(await ann.frame())
        assert ann.events == whole


async def test_foreign_and_unknown_threads_are_alike() -> None:
    async with running() as node, node.connect("bob") as websocket:
        thread, run, _ = await finished_run(node)
        bob = await welcomed(websocket)
        for command in (
            {"op": "subscribe", "after": 0},
            {"op": "send", "content": "hi"},
        ):
            foreign = await bob.ask(thread=thread, **command)
            unknown = await bob.ask(thread="th_0", **command)
            assert foreign["error"] == unknown["error"]
            assert foreign["error"]["code"] == "not_found"
        assert (await bob.ask(op="cancel", run=run))["error"] == (await bob.ask(op="cancel", run="run_0"))["error"]
        assert node.gateway.tail.threads == 0  # nothing is left listening for what was refused


@pytest.mark.parametrize("bus", [LocalBus, DeafBus])
async def test_subscribers_of_a_deleted_thread_are_told(bus: type[LocalBus | DeafBus]) -> None:
    settings = GatewaySettings(tail=TailSettings(idle_check_s=0.1))
    async with running(settings, bus=bus()) as node, node.connect() as websocket:
        thread, _, _ = await finished_run(node)
        ann = await welcomed(websocket)
        await ann.ask(op="subscribe", thread=thread, after=-1)
        await node.storage.threads.delete("usr_ann", thread)
        node.bus.publish(Wake(topic="deleted", thread=thread))
        assert await ann.frame() == {"op": "unsubscribed", "id": None, "thread": thread, "reason": "deleted"}
        assert (await ann.ask(op="subscribe", thread=thread, after=0))["error"]["code"] == "not_found"


async def test_a_repeated_send_has_the_same_reply_and_subscribes_a_new_socket_from_the_same_place() -> None:
    async with running() as node, node.connect() as one, node.connect() as two:
        ann, again = await welcomed(one), await welcomed(two)
        first = await ann.ask(op="send", content="hi", key="k1")
        await node.worker.whole_run(first["data"]["run"])
        await ann.until_end(first["data"]["run"])
        second = await again.ask(op="send", content="hi", key="k1")
        assert second["data"] == first["data"]
        assert await again.until_end(first["data"]["run"]) == ann.events
        assert (await again.ask(op="send", content="other", key="k1"))["error"]["code"] == "conflict"


async def test_many_threads_of_one_socket_take_turns() -> None:
    async with running() as node, node.connect() as websocket:
        ann = await welcomed(websocket)
        sent = [(await ann.ask(op="send", content=f"number {n}"))["data"] for n in range(25)]
        async with asyncio.TaskGroup() as group:
            for data in sent:
                group.create_task(node.worker.whole_run(data["run"]))
            while sum(event["type"] == "agent_completed" for event in ann.events) < 25:
                ann.apply(await ann.frame())
        for data in sent:
            seqs = [event["seq"] for event in ann.events if event["thread"] == data["thread"]]
            assert seqs == list(range(1, len(seqs) + 1))


async def test_every_ping_brings_the_position() -> None:
    quick = GatewaySettings(connection=ConnectionSettings(ping_s=0.2, pong_s=5.0))
    async with running(quick) as node, node.connect() as websocket:
        thread, _, whole = await finished_run(node)
        ann = await welcomed(websocket)
        await ann.ask(op="subscribe", thread=thread, after=0)
        while (frame := await ann.frame())["op"] != "position":
            ann.apply(frame)
        assert frame["seq"] in (ann.last[thread], whole[-1]["seq"])
        assert ann.apply(frame) is False
