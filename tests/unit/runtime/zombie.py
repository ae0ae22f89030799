"""A worker in a process of its own, for a test that stops it: `zombie.py URL LEASE_S TRACE`.

It prints `third step` when its agent is there, and `stopped` when its agent was told to stop.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runwire.agents.context import Context
from runwire.agents.load import Agents
from runwire.runtime.worker import Worker, WorkerSettings
from runwire.storage.bus_local import LocalBus
from runwire.storage.open import open_storage

__all__ = ["Ticking"]

STEPS = 6


@dataclass
class Ticking:
    """An agent whose steps leave a trace outside; between two it waits for a moment, of the zombie long enough."""

    trace: Path
    name: str
    pause_s: float = 0.01
    __name__: str = "agent"

    async def __call__(self, ctx: Context, message: str) -> Any:
        async def tick(number: int) -> None:
            with self.trace.open("a", encoding="utf-8") as file:
                file.write(f"{self.name} {number}\n")

        try:
            for number in range(STEPS):
                await ctx.tool(tick, number=number)
                if number == 2 and self.name == "zombie":
                    print("third step", flush=True)
                    await asyncio.sleep(1.0)
                await asyncio.sleep(self.pause_s)
        finally:
            if self.name == "zombie":
                print("stopped", flush=True)
        return "done"


async def main(url: str, lease_s: str, trace: str) -> None:
    storage = await open_storage(url, lease_s=float(lease_s))
    settings = WorkerSettings(poll_s=0.2, signals_s=0.2)
    await Worker(storage, LocalBus(), Agents.of({"agent": Ticking(Path(trace), "zombie")}), "zombie", settings).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
