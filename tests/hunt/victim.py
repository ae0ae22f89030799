"""A process that stops itself (SIGSTOP) wherever it talks to the database, until somebody lets it go on.

    python victim.py URL LEASE_S SEED WHERE

It has a whole crowd in it. It ends when its input is closed, and then says in JSON what it has done and where it was
stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from typing import Any, Final

import asyncpg
from tests.hunt.crowd import Crowd

from runwire.storage.postgres import servers
from runwire.storage.postgres.storage import PostgresStorage

PLACES: Final = ("before", "after", "within")  # a request: not sent, sent and not answered, sent but for its last bytes
_EVERY: Final = 60  # requests, on average, between two stops
_SYNC: Final = 5  # bytes: the server has executed what comes before them, and commits when it has them


class Stops:
    """Stops this process at random requests of its connections."""

    def __init__(self, places: list[str], *, seed: int) -> None:
        self.made: Counter[str] = Counter()
        self._places = places
        self._dice = random.Random(seed)

    def watch(self, connection: asyncpg.Connection[Any]) -> None:
        transport: Any = connection._transport  # type: ignore[attr-defined]
        send = transport.write

        def write(data: bytes) -> None:
            place = self._dice.choice(self._places) if self._dice.random() < 1 / _EVERY else None
            if place is None:
                send(data)
                return
            self.made[place] += 1
            data = bytes(data)
            cut = {"before": 0, "after": len(data), "within": len(data) - _SYNC}[place]
            send(data[:cut])
            os.kill(os.getpid(), signal.SIGSTOP)
            if cut < len(data):
                send(data[cut:])

        transport.write = write


async def main(url: str, lease_s: float, seed: int, places: list[str]) -> dict[str, Any]:
    """Be a crowd until the input ends."""
    stops = Stops(places, seed=seed)
    connect: Any = vars(servers)["open_session"]

    async def connect_and_watch(*arguments: Any, **options: Any) -> asyncpg.Connection[Any]:
        connection: asyncpg.Connection[Any] = await connect(*arguments, **options)
        stops.watch(connection)
        return connection

    vars(servers)["open_session"] = connect_and_watch
    storage = await PostgresStorage.open(url, lease_s=lease_s)
    crowd = Crowd([storage], name="victim", seed=seed, is_stopped=True)
    asyncio.get_running_loop().add_reader(0, crowd.leave)
    await crowd.work(senders=2)
    await storage.close()
    return {"done": crowd.tally.done, "refused": crowd.tally.refused, "stops": stops.made}


if __name__ == "__main__":
    url_, lease_, seed_, *places_ = sys.argv[1:]
    print(json.dumps(asyncio.run(main(url_, float(lease_), int(seed_), places_))), flush=True)
