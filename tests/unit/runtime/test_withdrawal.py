"""Runs that no worker holds end with the access of whose they are, and with nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

from runwire.errors import Unavailable
from runwire.runtime.withdrawal import Withdrawals
from runwire.storage.base import IncomingMessage
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.storage import MemoryStorage

WITHIN_S = 15.0


class AwayOnce:
    """The runs of a database that is away when it is first asked."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._runs = storage.runs
        self.asked: list[str] = []

    async def cancel_user(self, user: str, request: Any) -> Any:
        self.asked.append(user)
        if len(self.asked) == 1:
            raise Unavailable("The database is away.")
        return await self._runs.cancel_user(user, request)


async def test_runs_end_though_the_database_was_away_and_of_nobody_who_was_let_in_again() -> None:
    storage, bus = MemoryStorage(), LocalBus()
    sent = {
        user: await storage.runs.send(IncomingMessage(user=user, thread=None, agent="a", content="hello"))
        for user in ("usr_back", "usr_gone", "usr_other")
    }
    runs = AwayOnce(storage)
    withdrawals = Withdrawals(runs, bus, is_allowed={"usr_back", "usr_other"}.__contains__)  # type: ignore[arg-type]
    withdrawals.note(["usr_back", "usr_gone"])

    async def status(user: str) -> str:
        return (await storage.runs.get(user, sent[user].run)).status

    async with asyncio.TaskGroup() as group:
        running = group.create_task(withdrawals.run())
        async with asyncio.timeout(WITHIN_S):
            while await status("usr_gone") != "cancelled":  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.01)
            withdrawals.note(["usr_gone"])  # told again, as after a restart: nothing is left to end
            while len(runs.asked) < 3:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
        running.cancel()
    assert [await status(user) for user in ("usr_back", "usr_other")] == ["queued", "queued"]
    assert runs.asked == ["usr_gone"] * 3
    await bus.close()
