"""Agents of the fault campaign: each message's seed decides what is said and done, so every attempt does the same.

Before anything is said, or done to the world, a line says so in a file that only this process writes, in one write:

    B run life user                     an attempt's code began; `life` is its own random name
    S run life scope n kind checksum    the n-th saying of a scope, as a whole
    E run life step begun|ended token   a side effect; `step` is the key that the log knows it by
"""

import asyncio
import os
import random
import re
import secrets
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from runwire.agents.context import Context, ToolFailed
from runwire.agents.failures import WaitExpired

CANARY = re.compile(r"~ca:[0-9a-f]{12}~")
SHAPES: dict[str, dict[str, float]] = {
    "stream": {"message": 6, "musing": 2, "think": 1, "tool": 0.5},
    "tools": {"tool": 6, "think": 2, "custom": 2, "message": 0.5},
    "steps": {"step": 5, "custom": 3, "now": 1, "think": 1},
    "fan": {"gather": 3, "custom": 1, "message": 1},
    "sub": {"sub": 2, "think": 1, "tool": 1, "custom": 2},
    "asks": {"ask": 1.2, "custom": 3, "message": 1, "tool": 1},
    "sleeps": {"timer": 0.7, "custom": 3, "message": 1, "step": 1},
    "breaks": {"custom": 3, "message": 1, "tool": 1},
    "fickle": {"message": 4, "think": 3, "tool": 1.5, "custom": 2},
    "endless": {"message": 4, "custom": 4, "tool": 1},
}
_INNER = {"message": 2.0, "custom": 4.0, "tool": 1.0, "think": 1.0}
ENDLESS = 40  # times the size: until it is cancelled


def _write(line: str) -> None:
    fd = os.open(f"said-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


@dataclass
class Speaker:
    """One scope of one life of a run, which counts what it says."""

    ctx: Context
    life: str
    canary: str
    rng: random.Random
    pace_s: float
    scope: str = "run"
    salt: str = ""
    said: int = 0
    inner: int = 0

    def inside(self, name: str, seed: int) -> "Speaker":
        """Return who speaks within a branch, a sub-agent or a tool's try."""
        salt = secrets.token_hex(2) if self.salt else ""
        return Speaker(self.ctx, self.life, self.canary, random.Random(seed), self.pace_s, f"{self.scope}/{name}", salt)

    def next_name(self, kind: str) -> str:
        """Name the next scope within this one."""
        self.inner += 1
        return f"{kind}{self.inner}"

    def head(self) -> str:
        """Return what the next saying begins with."""
        return f"{self.canary}<{self.scope} {self.said}>{self.salt}"

    def note(self, kind: str, text: str) -> None:
        """Leave the trace of a saying before it is said."""
        _write(f"S {self.ctx.run} {self.life} {self.scope} {self.said} {kind} {zlib.crc32(text.encode()):08x}\n")
        self.said += 1

    async def pause(self) -> None:
        """Take the time that a model would."""
        await asyncio.sleep(self.rng.uniform(0.4, 1.6) * self.pace_s)

    def effect(self, phase: str, token: str) -> None:
        """Do something to the world."""
        step = self.ctx.idempotency_key.partition(":")[2]
        _write(f"E {self.ctx.run} {self.life} {step} {phase} {token}\n")

    def pieces(self, count: int) -> list[str]:
        """Return the next saying, cut up."""
        head = self.head()
        return [head, *(f"[{n} {self.rng.getrandbits(32):08x}]" for n in range(count))]

    async def stream(self, pieces: list[str]) -> AsyncIterator[str]:
        """Give pieces at their pace."""
        for piece in pieces:
            yield piece
            await self.pause()

    # ── what it can do: each returns how many events that makes ──────────────────────────────────────────

    async def think(self) -> int:
        text = f"{self.head()} hm {self.rng.getrandbits(32):08x}"
        self.note("think", text)
        await self.ctx.thinking(text)
        return 1

    async def musing(self) -> int:
        pieces = self.pieces(self.rng.randint(3, 12))
        self.note("think", "".join(pieces))
        await self.ctx.thinking(self.stream(pieces))
        return len(pieces) + 1

    async def message(self) -> int:
        pieces = self.pieces(self.rng.randint(4, 24))
        self.note("message", "".join(pieces))
        await self.ctx.message(self.stream(pieces))
        return len(pieces) + 2

    async def custom(self) -> int:
        text = f"{self.head()} {self.rng.getrandbits(64):016x}"
        self.note("custom", text)
        await self.ctx.custom("mark", {"text": text})
        return 1

    async def tool(self) -> int:
        inner = self.inside(self.next_name("t"), self.rng.getrandbits(48))
        says, fails = self.rng.random() < 0.25, self.rng.random() < 0.1
        try:
            await self.ctx.tool(partial(effect, inner), n=self.inner, says=says, fails=fails)
        except ToolFailed:
            if not fails:
                raise
        return 4 if says else 2

    async def step(self) -> int:
        inner = self.inside(self.next_name("t"), self.rng.getrandbits(48))
        await self.ctx.step("work", partial(effect, inner), self.inner)
        return 2

    async def now(self) -> int:
        await self.ctx.now()
        return 2

    async def timer(self) -> int:
        await self.ctx.sleep(self.rng.uniform(0.2, 4.0))
        return 2

    async def ask(self) -> int:
        try:
            if self.rng.random() < 0.5:
                answer = await self.ctx.ask(f"{self.canary} how much?", timeout_s=120)
                assert isinstance(answer, int), answer
            else:
                await self.ctx.approve(f"{self.canary} may I?", timeout_s=120)
        except WaitExpired:
            return 2
        return 2

    async def gather(self) -> int:
        branches = [self.inside(self.next_name("g"), self.rng.getrandbits(48)) for _ in range(self.rng.randint(2, 4))]
        return sum(await self.ctx.gather(*(branch.work(_INNER, 10) for branch in branches)))

    async def sub(self) -> int:
        inner = self.inside(self.next_name("s"), self.rng.getrandbits(48))

        async def deputy(_ctx: Context, _message: Any) -> int:
            return await inner.work(_INNER, 16)

        return int(await self.ctx.subagent(deputy, self.inner, name="deputy")) + 2

    async def work(self, weights: dict[str, float], events: int) -> int:
        """Do things until they have made so many events."""
        made = 0
        while made < events:
            kind = self.rng.choices(list(weights), list(weights.values()))[0]
            made += await getattr(self, kind)()
            await self.pause()
        return made


async def effect(speaker: Speaker, n: int, *, says: bool = False, fails: bool = False) -> dict[str, Any]:
    """Do something to the world that must not happen twice unseen."""
    speaker.said = 0  # each try speaks anew
    token = secrets.token_hex(6)
    speaker.effect("begun", token)
    if says:
        await speaker.custom()
        await speaker.custom()
    await asyncio.sleep(speaker.pace_s)
    if fails:
        raise ToolFailed("it was meant to")
    speaker.effect("ended", token)
    return {"n": n, "token": token}


async def _run(shape: str, ctx: Context, message: str) -> dict[str, str]:
    found = CANARY.search(message)
    assert found is not None, "somebody else's message"
    options = dict(re.findall(r"(\w+)=([\d.]+)", message))
    life, size = secrets.token_hex(4), int(options["size"])
    _write(f"B {ctx.run} {life} {ctx.user.id}\n")
    salt = secrets.token_hex(2) if shape == "fickle" else ""
    speaker = Speaker(ctx, life, found[0], random.Random(int(options["seed"])), float(options["pace"]), salt=salt)
    if shape == "breaks":
        await speaker.work(SHAPES[shape], size // 2)
        raise ValueError("it was meant to")
    await speaker.work(SHAPES[shape], size * (ENDLESS if shape == "endless" else 1))
    return {"done": found[0]}  # no text: that would be said if nothing else was


def _agent(shape: str) -> Callable[[Context, str], Awaitable[dict[str, str]]]:
    async def agent(ctx: Context, message: str) -> dict[str, str]:
        return await _run(shape, ctx, message)

    agent.__name__ = shape
    return agent


agents = {shape: _agent(shape) for shape in SHAPES}
