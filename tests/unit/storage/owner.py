"""A process of its own that owns a data file: opens it, says so, then appends and says what was acknowledged.

    python owner.py PATH hold|append

Prints `open`, then for each acknowledged append one line `<thread> <run> <last_seq>`. Meant to be killed.
"""

from __future__ import annotations

import asyncio
import sys

from runwire.protocol.events import AgentThinking, emitted
from runwire.storage.base import Batch, IncomingMessage, Storage, Stored
from runwire.storage.open import open_storage


async def main(path: str, what: str) -> None:
    storage = await open_storage(f"sqlite://{path}")
    print("open", flush=True)
    if what == "hold":
        await asyncio.Event().wait()
    for _ in range(8):
        await storage.runs.send(IncomingMessage(user="usr_ada", thread=None, agent="echo", content="hello"))
    claims = await storage.runs.claim("w1", agents=["echo"], limit=8, user_limit=8)
    async with asyncio.TaskGroup() as group:
        for claim in claims:
            group.create_task(emit(storage, claim.thread, claim.run))


async def emit(storage: Storage, thread: str, run: str) -> None:
    ordinal = 0
    while True:
        events = tuple(emitted(AgentThinking(text=f"{ordinal + place}"), ts=1) for place in range(3))
        (outcome,) = await storage.events.append([Batch(run=run, attempt=1, ordinal=ordinal, events=events)])
        assert isinstance(outcome, Stored)
        ordinal += 3
        print(thread, run, outcome.committed.last_seq, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
