"""L: picows, one constant frame per event: what a Python process can do at all. Nothing is encoded or stored.

python -m bench.servers.limit
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.servers.shape import encoded, listen, read_work

_FRAME: Final = encoded()


class _Connection(WSListener):
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self._group.create_task(_agent(transport, frame.get_payload_as_utf8_text()))


async def _agent(transport: WSTransport, command: str) -> None:
    work = read_work(json.loads(command)["content"])
    await asyncio.sleep(work.first_pause_s)
    for _ in range(work.events):
        transport.send(WSMsgType.TEXT, _FRAME)
        await asyncio.sleep(work.pause_s)


async def main() -> None:
    async with asyncio.TaskGroup() as group:

        def connection(_: WSUpgradeRequest) -> WSListener:
            return _Connection(group)

        server = await ws_create_server(connection, sock=listen())
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
