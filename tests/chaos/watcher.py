"""A tab in a process of its own, so that it can be put to sleep.

`python -m tests.chaos.watcher URL TOKEN THREAD RUN VIEW`
Follows the thread until the run has ended, then prints what it has applied as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tests.chaos.tab import Tab


async def main(url: str, token: str, thread: str, run: str, view: str) -> None:
    """Watch."""
    tab = Tab(url, token, view=view)
    async with asyncio.TaskGroup() as group:
        living = group.create_task(tab.live())
        await tab.follow(thread)
        print("watching", flush=True)
        await tab.until_true(lambda: run in tab.ended)
        living.cancel()
    print(json.dumps({"events": tab.events[thread], "connections": tab.connections, "closes": tab.closes}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
