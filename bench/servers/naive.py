"""N: what FastAPI's documentation shows, on uvicorn's best settings. Nothing is stored.

python -m bench.servers.naive
"""

from __future__ import annotations

import asyncio

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from bench.servers.bare import UVICORN
from bench.servers.shape import event, listen, read_work

app = FastAPI()


@app.websocket("/v1/ws")
async def serve(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            command = await socket.receive_json()
            work = read_work(command["content"])
            await asyncio.sleep(work.first_pause_s)
            for seq in range(1, work.events + 1):
                await socket.send_json(event(seq, work))
                await asyncio.sleep(work.pause_s)
    except WebSocketDisconnect:
        return


if __name__ == "__main__":
    uvicorn.Server(uvicorn.Config(app, **UVICORN)).run(sockets=[listen()])
