"""U: uvicorn and nothing over it, one constant frame per event. Nothing is stored.

python -m bench.servers.bare
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn

from bench.servers.shape import encoded, listen, read_work

# What makes uvicorn cheapest: no compression, no access log, no pings of its own; uvloop where it is installed.
UVICORN: Final[dict[str, Any]] = {
    "ws": "websockets-sansio",
    "ws_per_message_deflate": False,
    "ws_ping_interval": None,
    "access_log": False,
    "log_level": "warning",
    "lifespan": "off",
    "loop": "auto",
}
_FRAME: Final = encoded().decode()

Message = MutableMapping[str, Any]


async def serve(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        work = read_work(json.loads(message["text"])["content"])
        await asyncio.sleep(work.first_pause_s)
        for _ in range(work.events):
            await send({"type": "websocket.send", "text": _FRAME})
            await asyncio.sleep(work.pause_s)


if __name__ == "__main__":
    uvicorn.Server(uvicorn.Config(serve, interface="asgi3", **UVICORN)).run(sockets=[listen()])
