"""What an attack must leave behind: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.hostile.raw import dialled
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside

CANARY = "canary-7f3e"  # part of what attackers say: no line of the log may quote it
DELAY_S = 5.0  # a neighbour's stream of one event each 10 ms never rests longer; alone it rests about 30 ms
# What one attack may leave in the process: the rings of recent events, which have a budget of their own, and what the
# allocator keeps of them. Anything that grows with each attack is over it after a few.
MEMORY_BYTES = 96 * 1024 * 1024
FILES = 8  # open files more than before: connections of the database's readers, a late neighbour
SETTLE_S = 15.0  # by then everything that an attack held is free again


class Target:
    """A server and what is known of it from outside."""

    def __init__(self, server: Deployment) -> None:
        self.server = server

    @property
    def port(self) -> int:
        return self.server.process.port

    @property
    def url(self) -> str:
        return self.server.url

    async def key(self, name: str) -> str:
        """Give an API key of a user."""
        return await self.server.key(name)

    def client(self, token: str) -> Outside:
        """Give a polite client."""
        return Outside(self.url, token)

    async def warm_up(self) -> None:
        """Have everything loaded and every pool filled before anything is measured."""
        await self.key("neighbour")
        ann = self.client(await self.key("ann"))
        async with ann.connected():
            for _ in range(3):
                await ann.until_end((await ann.send("hello", agent="golden"))["run"])
        for _ in range(20):
            await asyncio.to_thread(ann.http, "GET", "/v1/threads")

    @contextlib.asynccontextmanager
    async def watched(self, *, delay_s: float = DELAY_S) -> AsyncIterator[None]:
        """Watch the server and a neighbour, who never waits longer than `delay_s`, while the block attacks."""
        pid, log = self.server.process.pid, self.server.process.log_path
        read, files, memory = log.stat().st_size, self.files, self.memory_bytes
        neighbour = Neighbour(self.url, await self.key("neighbour"))
        neighbour.start()
        try:
            yield
        finally:
            neighbour.stop()
        assert self.server.process.is_running, "the server has died"
        assert self.server.process.pid == pid
        assert neighbour.fault is None, f"the neighbour: {neighbour.fault!r}"
        assert neighbour.seen > 0, "the neighbour saw nothing"
        assert neighbour.longest_s < delay_s, f"the neighbour waited {neighbour.longest_s:.1f} s"
        await self._settled(files)
        assert self.memory_bytes - memory < MEMORY_BYTES, f"{(self.memory_bytes - memory) >> 20} MiB were kept"
        self._check_log(log, read)

    def _check_log(self, log: Path, read: int) -> None:
        said = log.read_bytes()[read:].decode(errors="replace")
        assert "Traceback" not in said, said[-6_000:]
        assert CANARY not in said, "the log quotes what an attacker said"
        for key in self.server.keys:
            assert key not in said, "a key in the log"
        assert not re.search(r"Bearer \S{8}", said)

    async def _settled(self, files: int) -> None:
        until_s = time.monotonic() + SETTLE_S
        while self.files > files + FILES:
            assert time.monotonic() < until_s, f"{self.files} files are open, {files} were"
            async with dialled(self.port, b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as raw:
                await raw.answer()  # each turn is a request: the server must answer meanwhile

    @property
    def files(self) -> int:
        """Count the open files of the process."""
        return sum(1 for _ in Path(f"/proc/{self.server.process.pid}/fd").iterdir())

    @property
    def memory_bytes(self) -> int:
        """Give the memory of the process, shared pages by their share."""
        rollup = Path(f"/proc/{self.server.process.pid}/smaps_rollup").read_text(encoding="ascii")
        return int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0]) * 1024


class Neighbour(threading.Thread):
    """A person whose runs stream all the time, in their own thread: a busy test must not look like a slow server."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(name="neighbour", daemon=True)
        self.seen = 0
        self.longest_s = 0.0
        self.fault: BaseException | None = None
        self._client = Outside(url, token)
        self._is_begun = threading.Event()
        self._is_over = threading.Event()

    def start(self) -> None:
        """Start, and wait for the first event: the attack comes after it."""
        super().start()
        assert self._is_begun.wait(20), "the neighbour never began"

    def stop(self) -> None:
        """End the run and wait for the thread."""
        self._is_over.set()
        self.join(40)
        assert not self.is_alive(), "the neighbour does not end"

    def run(self) -> None:
        """Live."""
        try:
            asyncio.run(self._live())
        except BaseException as error:  # told to the test, which fails with it
            self.fault = error
        finally:
            self._is_begun.set()

    async def _live(self) -> None:
        client = self._client
        async with client.connected():
            sent = await client.send("stream", agent="steady")
            last_s: float | None = None

            def note(event: dict[str, object]) -> bool:
                nonlocal last_s
                now_s = time.monotonic()
                if event["type"] == "text_delta":
                    if last_s is not None:
                        self.longest_s = max(self.longest_s, now_s - last_s)
                        self._is_begun.set()
                    last_s = now_s
                    self.seen += 1
                return self._is_over.is_set() or event["type"] == "agent_completed"

            while not self._is_over.is_set():
                await client.until(note, timeout_s=60)
                if not self._is_over.is_set():
                    last_s = None
                    sent = await client.send("stream on", agent="steady", thread=sent["thread"])
            await client.command("cancel", run=sent["run"])
