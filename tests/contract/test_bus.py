"""The promises of `Bus`, on the adapter within one process."""

from __future__ import annotations

import asyncio
import threading

from runwire.storage.base import BusMessage, Wake
from runwire.storage.bus_local import MAX_UNHEARD, LocalBus


def wake(number: int) -> Wake:
    return Wake(topic="deleted", thread=f"th_{number}")


async def turn() -> None:
    """Let the loop run what is scheduled."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_every_listener_hears_in_order() -> None:
    bus = LocalBus()
    heard: list[list[BusMessage]] = [[], []]
    for one in heard:
        bus.listen(one.append)
    for number in range(3):
        bus.publish(wake(number))
    assert heard == [[], []]  # never inside `publish`
    await turn()
    assert heard == [[wake(0), wake(1), wake(2)]] * 2


async def test_publishing_from_a_thread_reaches_the_listeners_loop() -> None:
    bus = LocalBus()
    arrived = asyncio.Event()
    threads: list[int] = []

    def hear(_: BusMessage) -> None:
        threads.append(threading.get_ident())
        arrived.set()

    bus.listen(hear)
    await asyncio.to_thread(bus.publish, wake(1))
    async with asyncio.timeout(5):
        await arrived.wait()
    assert threads == [threading.get_ident()]


async def test_full_listener_loses_messages_and_nobody_waits() -> None:
    bus = LocalBus()
    heard: list[BusMessage] = []
    bus.listen(heard.append)
    for number in range(MAX_UNHEARD + 10):
        bus.publish(wake(number))
    await turn()
    assert heard == [wake(number) for number in range(MAX_UNHEARD)]
    bus.publish(wake(-1))
    await turn()
    assert heard[-1] == wake(-1)


async def test_stopped_listener_hears_nothing_more() -> None:
    bus = LocalBus()
    heard: list[BusMessage] = []
    stop = bus.listen(heard.append)
    bus.publish(wake(1))
    stop()
    stop()
    bus.publish(wake(2))
    await turn()
    assert heard == []


async def test_closed_bus_drops() -> None:
    bus = LocalBus()
    heard: list[BusMessage] = []
    bus.listen(heard.append)
    await bus.close()
    await bus.close()
    bus.publish(wake(1))
    await turn()
    assert heard == []


async def test_listener_of_a_closed_loop_is_forgotten() -> None:
    bus = LocalBus()
    heard: list[BusMessage] = []

    async def listen() -> None:
        bus.listen(heard.append)

    await asyncio.to_thread(asyncio.run, listen())
    bus.publish(wake(1))
    assert heard == []
