"""What a rolling deploy needs around it: a door before processes of one kind, and people who note all they are told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import websockets
from tests.cluster.deployment import RoleProcess
from tests.outside import TERMINAL, Dismissed, Outside, assert_one_run

import runwire
from runwire.client.feed import Event
from runwire.errors import RunwireError

__all__ = ["AGENTS_FILE", "Door", "Notes", "Tab", "program"]

RETRIED_S: Final = 5.0  # within which a send that was refused for a moment has its run
_BACK: Final = 4001  # draining

# {marks}: a call of the tool leaves a line, so that one made twice is seen. {more}: further names of the agent.
AGENTS_FILE: Final = '''
import asyncio

CODE = "{code}"


async def work(run: str, n: int) -> str:
    """Do something that must not be done twice."""
    await asyncio.sleep(0.2)
    with open(f"worked-{{run}}", "a", encoding="utf-8") as file:
        file.write(f"{{n}}\\n")
    return f"result {{n}}"


async def walk(ctx, message):
    """Deterministic: thinks, works, says, sleeps, and asks once."""
    for n in range(8):
        await ctx.thinking(f"thinking of {{n}}")
        await ctx.tool(work, run=ctx.run, n=n)
        for word in range(4):
            yield f"[{{n}}.{{word}}]"
        if n % 4 == 1:  # rarely: a drain puts aside what waits, and only what works is handed over
            await ctx.sleep(0.1)
        if n == 4:
            yield "yes " if await ctx.approve("go on?") else "no "


agents = {{name: walk for name in {names}}}
'''
TEXT: Final = "".join("".join(f"[{n}.{word}]" for word in range(4)) + ("yes " if n == 4 else "") for n in range(8))


class Door:
    """One address before several processes, as a load balancer is: new connections go to those that are not `away`."""

    def __init__(self) -> None:
        self.targets: list[RoleProcess] = []
        self.away: set[RoleProcess] = set()
        self.url = ""
        self._turn = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = [process for process in self.targets if process not in self.away]
        self._turn += 1
        for at in range(len(there)):
            process = there[(self._turn + at) % len(there)]
            with suppress(OSError):
                back, forth = await asyncio.open_connection("127.0.0.1", process.port)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_carry(reader, forth))
                    tasks.create_task(_carry(back, writer))
                return
        writer.close()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    except OSError:
        sink.transport.abort()
    finally:
        sink.close()


@dataclass
class Notes:
    """What people were told, all together."""

    notices: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)  # how connections ended
    refusals: Counter[str] = field(default_factory=Counter)  # of sends
    retried_s: list[float] = field(default_factory=list)  # from a send's first refusal to its run
    gaps_s: list[float] = field(default_factory=list)  # between two things that a screen with an open run shows
    failures: list[str] = field(default_factory=list)
    agents: Counter[str] = field(default_factory=Counter)  # of runs that have ended
    retrying: Counter[str] = field(default_factory=Counter)
    sents: list[dict[str, Any]] = field(default_factory=list)

    def gap_s(self, share: float) -> float:
        """Return the gap that only so many are longer than."""
        return sorted(self.gaps_s)[min(int(len(self.gaps_s) * share), len(self.gaps_s) - 1)]


class Tab(Outside):
    """One screen that sends, follows the run to its end and answers it, again and again, through a door.

    Args:
        door: where it connects.
        token: whose it is.
        notes: where it writes down what it is told.
        over: set: it sends no more.
        agent: tells whom to ask next.
    """

    def __init__(self, door: Door, token: str, notes: Notes, *, over: asyncio.Event, agent: Any) -> None:
        super().__init__(door.url, token)
        self._notes = notes
        self._over = over
        self._agent = agent
        self._key = 0
        self._message: tuple[str, str] | None = None  # key and agent of what has no reply yet
        self._refused_s: float | None = None
        self._sent: dict[str, Any] | None = None  # whose run is open
        self._shown_s: float | None = None

    async def live(self) -> None:
        """Go on until it is over and the last run has ended."""
        while not (self._over.is_set() and self._sent is None and self._message is None):
            after_s = 0.05
            try:
                async with self.connected():
                    await self._talk()
            except Dismissed as error:
                self._notes.ends[f"bye {error.code} for welcome"] += 1
            except _Sent as end:
                after_s = end.after_s
            except (OSError, websockets.WebSocketException) as error:
                self._notes.ends[f"{type(error).__name__}: {error}"] += 1
            await asyncio.sleep(after_s)

    async def _talk(self) -> None:
        if self._sent is not None:
            await self.subscribe_again(self._sent["thread"])
        while True:
            if self._sent is None and not await self._say():
                return
            while self._sent is not None:
                await self._take(await self.frame(timeout_s=30))

    async def _say(self) -> bool:
        """Send the next message, or the one that had no reply; False: there is none."""
        if self._message is None:
            if self._over.is_set():
                return False
            self._key += 1
            self._message = (f"k{id(self)}-{self._key}", self._agent())
        key, agent = self._message
        while True:
            await self.socket.send(json.dumps({"op": "send", "id": key, "key": key, "agent": agent, "content": "go"}))
            while (frame := await self.frame(timeout_s=30)).get("id") != key:
                await self._take(frame)
            if frame["ok"]:
                break
            self._notes.refusals[frame["error"]["code"]] += 1
            self._refused_s = self._refused_s or time.monotonic()
            await asyncio.sleep(min(frame["error"].get("retry_after_s") or 0.2, 1.0))
        if self._refused_s is not None:
            self._notes.retried_s.append(time.monotonic() - self._refused_s)
        sent = frame["data"]
        self._message, self._refused_s, self._sent, self._shown_s = None, None, sent, None
        self._notes.sents.append(sent)
        if sent["thread"] not in self.last:
            self.last[sent["thread"]], self.log[sent["thread"]] = sent["after"], sent["log"]
        return True

    async def _take(self, frame: dict[str, Any]) -> None:
        if frame["op"] == "notice":
            self._notes.notices[frame["kind"]] += 1
        if frame["op"] == "bye":
            self._notes.ends[f"bye {frame['code']}"] += 1
            raise _Sent(float(frame.get("after_s") or 0.05))
        event = self.apply(frame)
        if event is None or self._sent is None or event["run"] != self._sent["run"]:
            return
        now_s = time.monotonic()
        if self._shown_s is not None:
            self._notes.gaps_s.append(now_s - self._shown_s)
        self._shown_s = now_s
        await self._go_on(event, self._sent)

    async def _go_on(self, event: dict[str, Any], sent: dict[str, Any]) -> None:
        data = event["data"]
        match event["type"]:
            case "agent_waiting" if data["kind"] == "approval":
                # Without waiting for the reply: given again after a resume, the same answer is as good as one.
                answer = {"op": "answer", "id": "a", "run": sent["run"], "wait": data["wait"], "value": True}
                await self.socket.send(json.dumps(answer))
            case "agent_retrying":
                self._notes.retrying[data["reason"]] += 1
            case "agent_started":
                self._notes.agents[data["agent"]] += 1
            case kind if kind in TERMINAL:
                if kind != "agent_completed" or data["output"] != TEXT:
                    self._notes.failures.append(f"{sent['run']}: {kind} {data}")
                self._sent = None

    async def check(self) -> None:
        """Assert that what it has shown is what the log has, and that each run is whole."""
        for thread, shown in self.events.items():
            stored: list[dict[str, Any]] = []
            through = 0
            while through < self.last[thread]:
                path = f"/v1/threads/{thread}/events?after={through}"
                status, page = await asyncio.to_thread(self.http, "GET", path)
                assert status == 200, page
                stored += page["events"]
                assert page["through"] > through, "the log ends before what the screen has shown"
                through = page["through"]
            assert shown == stored
            assert_one_run(stored, stored[0]["run"])


class _Sent(Exception):
    """The server said goodbye."""

    def __init__(self, after_s: float) -> None:
        super().__init__(after_s)
        self.after_s = after_s


async def program(door: Door, token: str, notes: Notes, *, over: asyncio.Event, agent: Any) -> None:
    """Do as a tab does, with the product's own client, which is told nothing of what happens."""
    async with runwire.connect(door.url, token) as client:
        while not over.is_set():
            try:
                run = await client.send("go", agent=agent())
                async for event in run.events():
                    if isinstance(event, Event) and event.type == "agent_waiting" and event.data["kind"] == "approval":
                        await run.answer(event.data["wait"], value=True)
                output = await run.result()
            except RunwireError as error:
                notes.failures.append(f"the client's program: {type(error).__name__}: {error}")
                return
            if output != TEXT:
                notes.failures.append(f"the client's program: {output}")
            notes.agents["by the client"] += 1
