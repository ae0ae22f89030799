"""Server processes on one database of either kind, the traces of their agents, and a screen that outlives them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import websockets
from tests.mission_critical.deployment import AGENTS
from tests.outside import TERMINAL, Dismissed, Outside
from tests.postgres import PASSWORD

from runwire.protocol.events import StoredEvent, decode_data, unpack
from runwire.testing.server import ServerProcess

__all__ = ["LEASE_S", "Fleet", "Node", "Watch", "poll"]

LEASE_S: Final = 3.0  # the shortest that the settings allow
PATIENCE_S: Final = 60.0  # for what takes a second on a machine of its own
_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_LOG: Final = """
SELECT r.id, s.first_seq, s.attempt, s.events FROM segment s JOIN run r ON r.key = s.run_key
ORDER BY s.thread_key, s.first_seq
"""


async def poll(is_so: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(timeout_s) as limit:
        try:
            while not is_so():  # noqa: ASYNC110 - nobody here is told
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            if limit.expired():
                raise AssertionError(f"not within {timeout_s} s: {what}") from None
            raise


class Node(ServerProcess):
    """One server. `mutant` has the next start break a promise (`tests/chaos/mutants.py`)."""

    mutant = ""

    def signal(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)

    def _command(self) -> list[str]:
        words = super()._command()
        if not self.mutant:
            return words
        at = words.index("runwire")
        environment = (f"PYTHONPATH={_ROOT}", f"CHAOS_MUTANT={self.mutant}")
        return ["env", *environment, *words[:at], "tests.chaos.server", *words[at + 1 :]]


class Fleet:
    """Nodes that share a database, and the folder in which their agents leave traces.

    Args:
        folder: for everything.
        url: of a PostgreSQL database; None: a data folder, which one node can own.
        count: of nodes.
        settings: of `runwire.toml`.
    """

    def __init__(self, folder: Path, url: str | None = None, *, count: int = 1, **settings: float) -> None:
        self.url = url
        self.traces = folder / "traces"
        self.traces.mkdir(parents=True)
        place = {} if url is None else {"database_url": url, "lease_s": LEASE_S}
        toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in {**place, **settings}.items())
        (self.traces / "runwire.toml").write_text(toml, encoding="utf-8")
        agents = str(AGENTS.with_name("steps.py"))
        self.nodes = [Node(agents, data_dir=folder / f"node{n}", cwd=self.traces) for n in range(count)]
        self.shunned: set[Node] = set()  # who is about to be stopped or killed, and who does not answer

    async def start(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for node in self.nodes:
                tasks.create_task(node.start())

    async def end(self) -> None:
        """Kill what runs, and see that nobody has said what he should not."""
        for node in self.nodes:
            if node.is_running:
                node.signal(signal.SIGCONT)
            await node.kill9()
            said = node.logs(lines=100_000)
            assert PASSWORD not in said
            assert node.mutant or "Traceback" not in said, said

    def open(self) -> Node | None:
        """Return a node that people can come to, if there is one now."""
        return next((node for node in self.nodes if node.is_running and node not in self.shunned), None)

    def holder(self, pid: int) -> Node | None:
        """Return the running node of a process."""
        return next((node for node in self.nodes if node.is_running and node.pid == pid), None)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return what agents have left in a file, in order."""
        path = self.traces / name
        # Of a process that was killed in its write there is half a line at most, the last.
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def finish(self, *, is_over: bool = True) -> None:
        """Have agents that go on for ever come to their end, or let the next ones go on."""
        if is_over:
            (self.traces / "over").touch()
        else:
            (self.traces / "over").unlink(missing_ok=True)

    async def log(self) -> dict[str, list[StoredEvent]]:
        """Read every run's events as they are in the database, internal ones too, by no code of a server."""
        if self.url is None:
            rows = await asyncio.to_thread(self._copy)
        else:
            connection = await asyncpg.connect(self.url)
            try:
                rows = [tuple(row) for row in await connection.fetch(_LOG)]
            finally:
                await connection.close()
        runs: dict[str, list[StoredEvent]] = {}
        for run, first_seq, attempt, events in rows:
            runs.setdefault(run, []).extend(unpack(events, first_seq=first_seq, run=run, attempt=attempt))
        return runs

    def _copy(self) -> list[tuple[Any, ...]]:
        """Query a copy of file and log, as a crash has left them; only while nobody writes."""
        file = self.nodes[0].data_dir / "runwire.db"
        with tempfile.TemporaryDirectory(dir=self.traces.parent) as scratch:
            for source in (file, file.with_name(f"{file.name}-wal")):
                if source.exists():
                    Path(scratch, source.name).write_bytes(source.read_bytes())
            with closing(sqlite3.connect(Path(scratch, file.name))) as connection:
                return connection.execute(_LOG).fetchall()


def finished_steps(events: Collection[StoredEvent]) -> dict[str, Any]:
    """Return step → result of all steps of a run that are over for good."""
    ended = [decode_data(e) for e in events if e.type in ("tool_completed", "step_completed")]
    return {data.step: data.result for data in ended if data.final}


class Watch(Outside):
    """A screen that follows threads over as many connections as it takes; `seen_s` is when it saw what."""

    def __init__(self, fleet: Fleet, token: str) -> None:
        super().__init__("http://nowhere", token)
        self.fleet = fleet
        self.seen_s: dict[tuple[str, int], float] = {}
        self.connections = 0
        self._sents: list[dict[str, Any]] = []
        self._wanted: set[str] = set()

    def apply(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        event = super().apply(frame)
        if event is not None:
            self.seen_s[event["thread"], event["seq"]] = time.monotonic()
            if event["type"] in TERMINAL:
                self._wanted.discard(event["run"])
        return event

    def events_of(self, run: str) -> list[dict[str, Any]]:
        """Return what it has applied of a run."""
        thread = next(sent["thread"] for sent in self._sents if sent["run"] == run)
        return [e for e in self.events.get(thread, ()) if e["run"] == run]

    def attempt(self, run: str) -> int:
        """Return the newest attempt that it has seen something of."""
        return max((event["attempt"] for event in self.events_of(run)), default=0)

    def has_ended(self, run: str) -> bool:
        return run not in self._wanted

    def cut(self) -> None:
        """Lose the connection, as when its server is gone."""
        if self._socket is not None:
            self._socket.transport.abort()

    @asynccontextmanager
    async def following(self, messages: list[tuple[str, str]]) -> AsyncIterator[list[dict[str, Any]]]:
        """Send messages to agents, each in a new thread; give what was sent, and follow it until all has ended."""
        node = self.fleet.open()
        assert node is not None
        sender = Outside(node.url, self.token)
        async with sender.connected():
            self._sents = [await sender.send(message, agent=agent) for agent, message in messages]
        self._wanted = {sent["run"] for sent in self._sents}
        self.events, self.last, self.log, self.seen_s = {}, {}, {}, {}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            yield self._sents
            await poll(lambda: not self._wanted, "the end of all runs")
        await self._compare()

    async def _follow(self) -> None:
        while self._wanted:
            node = self.fleet.open()
            with suppress(OSError, websockets.WebSocketException, TimeoutError, Dismissed):
                if node is not None:
                    await self._listen(node)
            await asyncio.sleep(0.02)  # it is down just now: come back as a client does, but sooner

    async def _listen(self, node: Node) -> None:
        self.url = node.url
        self.ws_url = node.url.replace("http", "ws", 1) + "/v1/ws"
        async with self.connected():
            self.connections += 1
            for sent in self._sents:
                await self.subscribe_again(sent["thread"])
            while self._wanted:
                self.apply(await self.frame(timeout_s=120))

    async def _compare(self) -> None:
        """See that what it has applied is what the log has: `Outside` has refused doubles and gaps on the way."""
        for sent in self._sents:
            path = f"/v1/threads/{sent['thread']}/events?after=0"
            status, page = await asyncio.to_thread(self.http, "GET", path)
            assert status == 200, page
            while page["through"] < self.last[sent["thread"]]:
                path = f"/v1/threads/{sent['thread']}/events?after={page['through']}"
                more = (await asyncio.to_thread(self.http, "GET", path))[1]
                page = {**more, "events": page["events"] + more["events"]}
            assert page["events"] == self.events[sent["thread"]], sent
