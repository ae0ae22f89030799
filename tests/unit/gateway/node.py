"""A gateway on a free port over memory storage, people with fixed tokens, and a worker without agent code."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import websockets

from runwire.auth.identity import Identity
from runwire.errors import Unauthenticated
from runwire.gateway.app import Gateway, GatewaySettings, make_gateway
from runwire.gateway.clock import wall_ms
from runwire.gateway.server import Server, ServerSettings, make_server
from runwire.protocol import events
from runwire.protocol.events import EventData
from runwire.storage.base import Batch, Bus, BusMessage, Claim, Offered, OpenedWait, RunEnd, Storage, Stored
from runwire.storage.bus_local import LocalBus
from runwire.storage.open import open_storage
from runwire.storage.placed import alone

ORIGIN = "http://page.example"


class FakeStanding:
    """Everybody is current but those withdrawn."""

    def __init__(self) -> None:
        self.withdrawn: set[str] = set()

    def is_current(self, identity: Identity) -> bool:
        return identity.user not in self.withdrawn

    def changed_s(self, user: str) -> float | None:
        return time.monotonic() - 0.7 if user in self.withdrawn else None


class FakeIdentities:
    """The token `t-NAME` is the user `usr_NAME`; `t-NAME-SECONDS` expires so soon."""

    def __init__(self) -> None:
        self.view = FakeStanding()
        self.tickets: dict[str, tuple[Identity, str | None]] = {}
        self.freshness_is = "fresh"
        self._callbacks: list[Callable[[], None]] = []
        self._numbers = itertools.count(1)

    async def authenticate(self, credential: str) -> Identity:
        await asyncio.sleep(0)
        kind, _, name = credential.partition("-")
        name, _, life = name.partition("-")
        if kind != "t" or not name:
            raise Unauthenticated("This credential is not valid; sign in again.")
        expires_at = None
        if life:
            expires_at = wall_ms() + int(float(life) * 1000)
        return Identity(
            user=f"usr_{name}",
            name=name,
            roles=frozenset({"operator"} if name == "root" else ()),
            kind="session",
            session=f"ses_{name}",
            key=None,
            epoch=1,
            expires_at=expires_at,
        )

    async def issue_ticket(self, identity: Identity, origin: str | None) -> str:
        ticket = f"ticket{next(self._numbers)}"
        self.tickets[ticket] = (identity, origin)
        return ticket

    async def redeem_ticket(self, ticket: str, origin: str | None) -> Identity:
        identity, bound = self.tickets.pop(ticket, (None, None))
        if identity is None or bound != origin:
            raise Unauthenticated("This credential is not valid; sign in again.")
        return identity

    def freshness(self) -> Any:
        return self.freshness_is

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def withdraw(self, user: str) -> None:
        self.view.withdrawn.add(user)
        for callback in self._callbacks:
            callback()


class DeafBus:
    """A bus that loses everything."""

    beacon_s = 0.1

    async def run(self) -> None:
        pass

    def publish(self, message: BusMessage) -> None:
        pass

    def listen(self, hear: Callable[[BusMessage], None]) -> Callable[[], None]:
        return lambda: None

    def follow(self, user: str) -> Callable[[], None]:
        return lambda: None

    async def close(self) -> None:
        pass


class Worker:
    """Append events of runs as a worker does."""

    def __init__(self, storage: Storage, bus: Bus) -> None:
        self._storage = storage
        self._bus = bus
        self._ordinals: dict[str, int] = {}
        self._claims: dict[str, Claim] = {}

    async def claim(self, run: str) -> Claim:
        while run not in self._claims:
            for claim in await self._storage.runs.claim("w1", agents=["echo"], limit=100, user_limit=100):
                self._ordinals[claim.run] = claim.ordinal
                self._claims[claim.run] = claim
        return self._claims[run]

    async def append(self, claim: Claim, data: Iterable[EventData], *, end: RunEnd | None = None) -> None:
        said = tuple(data)
        batch = tuple(events.emitted(each, ts=1) for each in said)
        waits = tuple(
            OpenedWait(wait=each.wait, kind=each.kind, due_at=each.due_at)
            for each in said
            if isinstance(each, events.AgentWaiting)
        )
        ordinal = self._ordinals[claim.run]
        (outcome,) = await self._storage.events.append(
            [Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=batch, end=end, waits=waits)]
        )
        assert isinstance(outcome, Stored), outcome
        self._ordinals[claim.run] += len(batch)
        self._bus.publish(outcome.committed)

    async def wait(
        self, run: str, *waits: events.AgentWaiting, is_parked: bool = False, closing: Iterable[EventData] = ()
    ) -> Claim:
        """Begin a run, have it wait, and put it aside if that is wanted, with what would end its open waits."""
        claim = await self.claim(run)
        await self.append(claim, [events.AgentStarted(agent="echo", message=claim.message), *waits])
        if is_parked:
            ended = [events.AgentResumed(wait=each.wait, value=None, by="ended") for each in waits]
            assert await self._storage.runs.park(
                run,
                claim.attempt,
                ordinal=self._ordinals[run],
                waits=[each.wait for each in waits],
                closing=[events.emitted(each, ts=2) for each in (*closing, *ended)],
            )
            del self._claims[run]
        return claim

    async def end(self, claim: Claim) -> None:
        """End a run badly."""
        failed = events.AgentFailed(code="agent_error", message="no", error_id="err_1", retryable=True)
        await self.append(claim, [failed], end=RunEnd(status="failed", error={"code": "agent_error", "message": "no"}))

    async def whole_run(self, run: str, *, words: int = 5) -> None:
        """Append a short run, one event per commit."""
        claim = await self.claim(run)
        said = [f"word{n} " for n in range(words)]
        script: list[EventData] = [
            events.AgentStarted(agent="echo", message=claim.message),
            events.AgentThinking(text="well"),
            events.ToolExecuting(call="call_1", step="s", try_=1, name="t", args={}),
            events.ToolCompleted(
                call="call_1", step="s", try_=1, name="t", ok=True, final=True, duration_ms=1, result=1
            ),
            events.MessageStarted(message=f"msg_of_{run}"),
        ]
        offset = 0
        for word in said:
            script.append(events.TextDelta(message=f"msg_of_{run}", offset=offset, text=word))
            offset += len(word)
        script.append(events.MessageCompleted(message=f"msg_of_{run}", content="".join(said)))
        for data in script:
            await self.append(claim, [data])
        await self.append(
            claim, [events.AgentCompleted(output="".join(said), duration_ms=1)], end=RunEnd(status="completed")
        )


class Node:
    """A running gateway."""

    def __init__(
        self, gateway: Gateway, server: Server, storage: Storage, bus: Bus, identities: FakeIdentities, port: int
    ) -> None:
        self.gateway = gateway
        self.server = server
        self.storage = storage
        self.bus = bus
        self.identities = identities
        self.worker = Worker(storage, bus)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/v1/ws"

    def connect(self, name: str = "ann", **options: Any) -> websockets.connect:
        """Connect with the header."""
        headers = {"Authorization": f"Bearer t-{name}"}
        return websockets.connect(
            self.ws_url, additional_headers=headers, max_size=None, compression=None, ping_interval=None, **options
        )

    async def keep_ring(self, thread: str, user: str = "usr_ann") -> None:
        """Have somebody listen to a thread from now on: who comes later and wants what was before reads the log."""
        await self.gateway.desks.first.subscriptions.open(
            user=user, thread=thread, after=-1, log=None, view="all", wake=lambda _thread: None
        )

    async def empty_log(self, user: str = "usr_ann") -> str:
        """Make an empty thread."""
        return (await self.storage.threads.create(user)).thread


@asynccontextmanager
async def running(
    settings: GatewaySettings | None = None,
    *,
    bus: Bus | None = None,
    storage: Storage | None = None,
    agents: Sequence[str] = ("echo",),
    is_stoppable: bool = False,
) -> AsyncIterator[Node]:
    """Run a gateway with its protocols; with the whole server around them if the test stops it."""
    store = storage or await open_storage("memory://")
    used_bus = bus or LocalBus()
    identities = FakeIdentities()
    gateway = make_gateway(
        alone(store, used_bus),
        identities,
        agents=lambda: Offered(names=tuple(agents)),
        settings=settings or GatewaySettings(allowed_origins=(ORIGIN,)),
    )
    server = make_server(gateway.asgi, ServerSettings(graceful_s=1), drain=gateway.drain)
    listener = socket.create_server(("127.0.0.1", 0))
    node = Node(gateway, server, store, used_bus, identities, listener.getsockname()[1])
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(gateway.run())
        serving = group.create_task(server.serve(sockets=[listener]) if is_stoppable else _accept(server, listener))
        try:
            # The kernel queues connections from here on; they are accepted once the server has started.
            yield node
        finally:
            server.stop()
            if not is_stoppable:
                serving.cancel()
            await asyncio.wait([serving])
            feeding.cancel()
    if storage is None:
        await store.close()


async def _accept(server: Server, listener: socket.socket) -> None:
    """Serve until cancelled, then cut what is left: uvicorn's own loop would rest 0.1 s at start and at end."""
    server.config.load()
    state = server.server_state
    protocol_of: Callable[..., asyncio.Protocol] = server.config.http_protocol_class
    make_protocol = partial(protocol_of, config=server.config, server_state=state, app_state={})
    accepting = await asyncio.get_running_loop().create_server(make_protocol, sock=listener)
    try:
        await asyncio.Event().wait()
    finally:
        accepting.close()
        for protocol in tuple(state.connections):
            protocol.transport.abort()
        if state.tasks:
            await asyncio.wait(state.tasks)


class Reader:
    """The client half of one socket: the apply rule, strict."""

    def __init__(self, websocket: websockets.ClientConnection) -> None:
        self.websocket = websocket
        self.last: dict[str, int] = {}
        self.events: list[dict[str, Any]] = []
        self._frames: list[dict[str, Any]] = []
        self._ids = itertools.count(1)

    async def frame(self) -> dict[str, Any]:
        """Return the next frame."""
        while not self._frames:
            async with asyncio.timeout(5):
                message = json.loads(await self.websocket.recv())
            self._frames = message if isinstance(message, list) else [message]
        return self._frames.pop(0)

    async def say(self, **command: Any) -> str:
        """Send a command and return its id."""
        ident = f"i{next(self._ids)}"
        await self.websocket.send(json.dumps({"id": ident, **command}))
        return ident

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its answer; events before it are applied."""
        ident = await self.say(**command)
        while (frame := await self.frame()).get("id") != ident:
            self.apply(frame)
        if frame["op"] == "subscribed":
            self.last[frame["thread"]] = frame["after"]
        elif frame["op"] == "reply" and frame["ok"] and "after" in frame["data"]:
            self.last.setdefault(frame["data"]["thread"], frame["data"]["after"])
        return frame

    def apply(self, frame: dict[str, Any]) -> bool:
        """Apply a frame; return whether it was an event."""
        if frame["op"] == "event":
            last = self.last[frame["thread"]]
            assert frame["prev"] == last, f"seq {frame['seq']} has prev {frame['prev']}, held {last}"
            assert frame["seq"] > last
            self.last[frame["thread"]] = frame["seq"]
            self.events.append(frame)
            return True
        if frame["op"] == "position":
            assert frame["seq"] == self.last[frame["thread"]]
        return False

    async def until_end(self, run: str) -> list[dict[str, Any]]:
        """Apply frames until the run's terminal event."""
        while not (self.events and self.events[-1]["run"] == run and self.events[-1]["type"] in events.TERMINAL_TYPES):
            self.apply(await self.frame())
        return self.events

    async def closed(self) -> tuple[dict[str, Any], int]:
        """Apply frames until bye; return it and the code of the close frame."""
        while (frame := await self.frame())["op"] != "bye":
            self.apply(frame)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await self.websocket.recv()
        assert closed.value.rcvd is not None
        return frame, closed.value.rcvd.code


async def eventually(fact: Callable[[], bool]) -> None:
    """Wait until something is so; the deadline is the test's."""
    while not fact():  # noqa: ASYNC110  # what is waited for has no event: it is looked at from outside
        await asyncio.sleep(0.005)
