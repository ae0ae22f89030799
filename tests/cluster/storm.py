"""A crowd of cheap clients on raw sockets: each has one thread and a position, and comes back as our clients do.

crowd = await Crowd.of(cluster, 300)        # people, keys, and a thread with a run each
async with crowd.connected(): ...           # everybody listens on the first gateway
    took = await crowd.dropped()            # kill -9 of it; back at the others, caught up
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import resource
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.deployment import Cluster, RoleProcess

from runwire.auth import tokens
from runwire.client.backoff import Backoff
from runwire.protocol.events import AgentCompleted, Custom, emitted
from runwire.protocol.ids import new_id
from runwire.storage import base_members
from runwire.storage.base import Batch, IncomingMessage, RunEnd
from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["Crowd", "Member", "allow_files", "memory_bytes", "reads", "token"]

_MISSED: Final = 5  # events that each has not seen when it comes back
_AGENT: Final = "of-nobody-who-works-here"
_OTHER_FILES: Final = 200


@dataclass(slots=True, kw_only=True)
class Member:
    """One client: it believes what the server says, and nothing else."""

    key: str
    thread: str
    head: int  # of its thread, as the database has it
    position: int = 0
    seen: list[int] = field(default_factory=list)
    is_caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    caught_up_at_s: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    said: Counter[str] = field(default_factory=Counter)  # notices and goodbyes, over all connections

    async def follow(self, gateways: list[RoleProcess], refusals: Counter[str], chance: random.Random) -> None:
        """Stay connected to one of the gateways, for ever."""
        turn = 0
        while True:
            began_s, asked_s = time.monotonic(), None
            try:
                asked_s = await self._connection(gateways[turn % len(gateways)].port, refusals)
            except (OSError, asyncio.IncompleteReadError) as error:
                refusals[type(error).__name__] += 1
                turn += 1  # a server that says when to come back is still there
            self.backoff.lost(lived_s=time.monotonic() - began_s)
            await asyncio.sleep(self.backoff.wait_s(chance=chance.random(), asked_s=asked_s))

    async def _connection(self, port: int, refusals: Counter[str]) -> float | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            nonce = base64.b64encode(random.randbytes(16)).decode()
            writer.write(
                f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: runwire.v1\r\nAuthorization: Bearer {self.key}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head.split(b"\r\n")[0]:
                refusals[head.split(b"\r\n")[0].decode()] += 1
                return None
            subscribe = {"op": "subscribe", "id": "1", "thread": self.thread, "after": self.position, "view": "all"}
            while True:
                for frame in await _message(reader):
                    if frame["op"] == "welcome":
                        _write(writer, subscribe)
                    elif frame["op"] == "ping":
                        _write(writer, {"op": "pong"})
                    elif frame["op"] == "bye":
                        assert frame["reconnect"], frame["reason"]
                        self.said[f"bye {frame['code']}"] += 1
                        refusals[f"bye {frame['code']}"] += 1
                        return float(frame.get("after_s") or 0.0)
                    elif frame["op"] == "notice":
                        self.said[frame["kind"]] += 1
                    elif not self._take(frame, refusals):
                        return float(frame["error"].get("retry_after_s") or 0.0)
        finally:
            writer.transport.abort()

    def _take(self, frame: dict[str, Any], refusals: Counter[str]) -> bool:
        """Apply a frame; return False if the server has refused the subscription for now."""
        if frame["op"] == "reply":
            refusals[frame["error"]["code"]] += 1
            return False
        assert frame["op"] in ("subscribed", "event", "position"), frame
        if frame["op"] == "event" and frame["seq"] > self.position:
            assert frame["prev"] <= self.position, (frame["prev"], self.position)
            self.position = frame["seq"]
            self.seen.append(frame["seq"])
        if self.position == self.head and not self.is_caught_up.is_set() and frame["op"] != "position":
            self.caught_up_at_s = time.monotonic()
            self.is_caught_up.set()
        return True


class Crowd:
    """Some people, each with several clients, as many as one person may have."""

    def __init__(self, cluster: Cluster, storage: PostgresStorage, members: list[Member]) -> None:
        self.cluster = cluster
        self.storage = storage
        self.members = members
        self.refusals: Counter[str] = Counter()
        self._chance = random.Random(7)

    @classmethod
    async def of(cls, cluster: Cluster, count: int, *, people: int, with_keys: bool = False) -> Crowd:
        """Make people, and for each client a token (or an API key of its own) and a thread with one finished run."""
        allow_files(count)
        storage = await PostgresStorage.open(cluster.url, lease_s=300, limit_s=30)
        # Somebody has the agent: else the workers here, as soon as they are there for long enough, end its runs.
        here = base_members.Member(node="storm", roles=("worker",), agents=(_AGENT,))
        await storage.members.announce(here, good_s=20 + count / 20)
        users = [(await storage.auth.create_user(f"{new_id('p')}")).user for _ in range(people)]
        members: list[Member] = []
        for n in range(count):
            make = _key if with_keys else token
            text = await make(cluster, storage, users[n % people])
            sent = await storage.runs.send(
                IncomingMessage(user=users[n % people], thread=None, agent=_AGENT, content="hi")
            )
            members.append(Member(key=text, thread=sent.thread, head=sent.seq))
        crowd = cls(cluster, storage, members)
        await crowd._run_all()
        return crowd

    async def _run_all(self) -> None:
        """Give each thread's run some events and its end."""
        by_thread = {member.thread: member for member in self.members}
        said = tuple(emitted(Custom(name="word", value="x" * 80), ts=1) for _ in range(10))
        done = emitted(AgentCompleted(output="done", duration_ms=1), ts=1)
        while claims := await self.storage.runs.claim("storm", agents=[_AGENT], limit=200, user_limit=1_000):
            batches = [
                Batch(run=one.run, attempt=one.attempt, ordinal=0, events=(*said, done), end=RunEnd(status="completed"))
                for one in claims
            ]
            await self.storage.events.append(batches)
            for one in claims:
                by_thread[one.thread].head = 12
        assert all(member.head == 12 for member in self.members), "somebody else took these runs"
        await self.storage.members.leave("storm")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have everybody listen on the first gateway, from the end."""
        for member in self.members:
            member.position = member.head
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(member.follow(self.cluster.gateways, self.refusals, self._chance))
                    for member in self.members
                ]
                try:
                    await self.caught_up(limit_s=60)
                    yield
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            await self.storage.close()
            await asyncio.sleep(0)  # the members' transports close in the loop's next turn

    async def dropped(self, *, limit_s: float) -> list[float]:
        """Kill the first gateway; return after how long each had all that it had not seen."""
        for member in self.members:
            member.position, member.seen = member.head - _MISSED, []
            member.is_caught_up.clear()
        self.refusals.clear()
        began_s = time.monotonic()
        await self.cluster.gateways[0].kill9()
        await self.caught_up(limit_s=limit_s)
        for member in self.members:
            assert member.seen == list(range(member.head - _MISSED + 1, member.head + 1))
        return sorted(member.caught_up_at_s - began_s for member in self.members)

    async def caught_up(self, *, limit_s: float) -> None:
        """Wait until everybody has everything."""
        try:
            async with asyncio.timeout(limit_s):
                for member in self.members:
                    await member.is_caught_up.wait()
        except TimeoutError:
            behind = sum(not member.is_caught_up.is_set() for member in self.members)
            raise AssertionError(f"{behind} of {len(self.members)} are not back: {dict(self.refusals)}") from None


def allow_files(count: int) -> None:
    """Let this process have so many sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    assert min(hard, 65_536) > count + _OTHER_FILES, "too few files may be open here"


async def token(cluster: Cluster, storage: PostgresStorage, user: str) -> str:
    """Return an access token as the auth service would sign it: most who come in a storm have one."""
    (row, *_) = await storage.auth.signing_keys()
    holder = await storage.auth.user_by_id(user)
    assert holder is not None
    now_s = int(time.time())  # noqa: TID251  # of a token
    claims = tokens.AccessToken(
        iss=cluster.gateways[0].url,
        sub=user,
        aud="runwire",
        exp=now_s + 600,
        iat=now_s,
        jti=new_id("jti"),
        sid=new_id("ses"),
        client_id="storm",
        scope="runwire",
        epo=holder.epoch,
    )
    return tokens.mint(claims, kid=row.kid, key=tokens.read_signing_key(row.private_jwk))


async def _key(_cluster: Cluster, storage: PostgresStorage, user: str) -> str:
    """Return a new API key."""
    key = new_id("key")
    text, secret_hash = tokens.mint_api_key(key, entropy=random.randbytes(32))
    await storage.auth.create_key(user, key=key, secret_hash=secret_hash, ttl_s=None)
    return text


async def _message(reader: asyncio.StreamReader) -> list[dict[str, Any]]:
    """Read one message: one frame or several. The server fragments nothing and masks nothing (RFC 6455 §5.1)."""
    first, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    body = await reader.readexactly(size)
    if first & 0x0F != 1:
        raise ConnectionResetError("closed")
    decoded = json.loads(body)
    return decoded if isinstance(decoded, list) else [decoded]


def _write(writer: asyncio.StreamWriter, frame: dict[str, Any]) -> None:
    """Send a frame, masked with zeros, which is a mask too."""
    body = json.dumps(frame).encode()
    size = bytes([0x80 | len(body)]) if len(body) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(body))
    with suppress(OSError):
        writer.write(b"\x81" + size + bytes(4) + body)


def memory_bytes(process: RoleProcess) -> int:
    """Return what a process has in memory."""
    for line in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


async def reads(crowd: Crowd) -> int:
    """Return how many statements the database has committed; each of ours commits by itself.

    A server's own processes tell once in a second what they have done.
    """
    await asyncio.sleep(1.5)
    sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    count: int = await crowd.storage.database.fetchval(sql)
    return count
