"""F: an event is shown by Redis and stored afterwards, as many do it: two processes, a gateway and a worker.

    python -m bench.servers.redis_first gateway|worker REDIS_URL DATABASE_URL

The worker adds each event to a stream and publishes it in one go, then leaves it to a task that writes to PostgreSQL.
What a person has seen may so exist nowhere. Runwire does not do that; what it costs to do without is what F is for.
"""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg
import redis.asyncio
import websockets

from bench.servers.shape import event, listen, read_work

_JOBS = "jobs"
_TABLE = "CREATE TABLE IF NOT EXISTS event (thread text, seq int, data text)"


async def gateway(url: str) -> None:
    """Pass commands to the worker, and what is published for a socket's thread to the socket."""
    client = redis.asyncio.Redis.from_url(url)

    async def serve(socket: websockets.ServerConnection) -> None:
        thread = f"th_{id(socket)}"
        async with client.pubsub() as heard, asyncio.TaskGroup() as tasks:
            await heard.subscribe(thread)

            async def forward() -> None:
                async for message in heard.listen():
                    if message["type"] == "message":
                        await socket.send(message["data"], text=True)

            forwarding = tasks.create_task(forward())
            async for frame in socket:
                await client.publish(_JOBS, json.dumps({"thread": thread, "content": json.loads(frame)["content"]}))
            forwarding.cancel()

    listener = listen()
    async with websockets.serve(serve, sock=listener):
        await asyncio.Event().wait()


async def worker(url: str, database: str) -> None:
    """Do what commands ask for: show, then store."""
    client = redis.asyncio.Redis.from_url(url)
    connection = await asyncpg.connect(database)
    await connection.execute(_TABLE)
    unstored: asyncio.Queue[tuple[str, int, str]] = asyncio.Queue()

    async def store() -> None:
        while True:
            rows = [await unstored.get()]
            while not unstored.empty():
                rows.append(unstored.get_nowait())
            await connection.executemany("INSERT INTO event VALUES ($1, $2, $3)", rows)

    async def say(thread: str, content: str) -> None:
        work = read_work(content)
        await asyncio.sleep(work.first_pause_s)
        for seq in range(1, work.events + 1):
            said = json.dumps(event(seq, work))
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.xadd(thread, {"e": said}, maxlen=10_000)
                pipeline.publish(thread, said)
                await pipeline.execute()
            unstored.put_nowait((thread, seq, said))
            await asyncio.sleep(work.pause_s)

    async with client.pubsub() as heard, asyncio.TaskGroup() as tasks:
        tasks.create_task(store())
        await heard.subscribe(_JOBS)
        print("ready http://nowhere:0", flush=True)
        async for message in heard.listen():
            if message["type"] == "message":
                tasks.create_task(say(**json.loads(message["data"])))


if __name__ == "__main__":
    asyncio.run(gateway(sys.argv[2]) if sys.argv[1] == "gateway" else worker(*sys.argv[2:]))
