"""A campaign: lives of one server under load, each ended by `kill -9` at a named point or a random moment."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.deployment import ChaosServer
from tests.chaos.failpoints import POINTS, Action, Armed, Point
from tests.chaos.oracle import Account, judge_file
from tests.chaos.people import People, Person, canary

from runwire.errors import Unavailable

__all__ = ["NOISE", "Campaign", "Life", "lives_of"]

# A point that is not reached within these times under load, in so many lives, is not reached. More than one life,
# because some come only at the beginning of a life, and only if the one before has left the right thing behind.
HIT_S = (8.0, 15.0, 40.0)
FINISH_S = 60.0  # after the last restart every run has ended within that time
_LOOK_EACH = 6  # the file is judged after every so many deaths
_SETTLING_S = (0.3, 1.4)  # a life that ends at a random moment
_FREQUENT = ("append.", "step.", "event.", "tail.")
_REGULAR = ("send.", "reply.", "claim.", "attempt.after", "terminal.", "subscribe.")
_WANTED = {"cancel": "cancel", "interrupt": "interrupt", "resend": "resend"}

# What may get lost while nobody dies; each life with noise has one of these.
NOISE = (
    Armed("append.reply", 7, "lose", is_each=True),
    Armed("claim.reply", 3, "lose", is_each=True),
    Armed("send.reply", 4, "lose", is_each=True),
    Armed("publish", 5, "drop", is_each=True),
    Armed("begin", 9, "full", is_each=True),
    Armed("append.before_commit", 11, "full", is_each=True),
)


@dataclass(frozen=True)
class Life:
    """How one life of the server ends."""

    point: Point | None  # None: at a random moment
    nth: int = 1
    noise: Armed | None = None
    action: Action = "kill"


def lives_of(points: Iterable[Point], *, times: int, randoms: int, seed: int) -> list[Life]:
    """Plan lives: every point so many times at different counts, and random ends between them.

    Between two lives that may not get anywhere there is one that does, so that no run is lost five times in a row
    without progress: that would end it, rightly.
    """
    rng = random.Random(seed)
    pointed = []
    for point in points:
        most = 40 if point.name.startswith(_FREQUENT) else 6 if point.name.startswith(_REGULAR) else 1
        counts = rng.sample(range(1, most + 1), min(times, most))
        # What must not be seen before the commit would be seen while the disk takes its time.
        actions: tuple[Action, ...] = ("late", "kill") if point.name.endswith("before_commit") else ("kill",)
        pointed += [Life(point, counts[n % len(counts)], action=actions[n % len(actions)]) for n in range(times)]
    rng.shuffle(pointed)
    free = [Life(None, noise=rng.choice((None, *NOISE))) for _ in range(randoms)]
    lives: list[Life] = []
    for n, life in enumerate(pointed):
        due = (n + 1) * len(free) // max(len(pointed), 1)
        lives += [life, *free[n * len(free) // len(pointed) : due]]
    return lives or free


@dataclass
class Campaign:
    """One data folder, its people, and the lives of its server.

    Args:
        folder: for everything.
        seed: decides points, moments and what people do; how the machine schedules it is its own.
        mutant: breaks the server, to show that this is seen.
        compact_after_s: deltas go so soon after the end of a run; by default never here, so that all can be compared.
        last: armed in the last life, in which everything finishes.
        finish_s: after the last restart every run must have ended within that time.
    """

    folder: Path
    seed: int
    users: int = 3
    conversations: int = 3
    mutant: str = ""
    compact_after_s: float = 10_000.0
    finish_s: float = FINISH_S
    last: tuple[Armed, ...] = ()
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.server = ChaosServer(
            self.folder,
            drain_s=2.0,
            cancel_grace_s=1.0,
            ping_s=2.0,
            pong_s=2.0,
            compact_after_s=self.compact_after_s,
        )
        self.server.environment["CHAOS_MUTANT"] = self.mutant
        self.missed: list[str] = []

    async def run(self, lives: list[Life]) -> None:
        """Live all these lives under load, then let everything finish, and judge."""

        async def die_often(people: People) -> None:
            await self.server.kill9()
            for n, life in enumerate(lives):
                await self._live(life, people)
                if n % _LOOK_EACH == 0:
                    await asyncio.to_thread(judge_file, self.server, is_over=False)

        await self.under_load(die_often)
        assert not self.missed, f"seed {self.seed}: never reached, so nothing was tested there: {self.missed}"

    async def under_load(self, trouble: Callable[[People], Awaitable[None]]) -> None:
        """Start the server and its people, make trouble, then let everything finish, and judge."""
        server = self.server
        await server.start()
        try:
            people = await self._people()
            async with asyncio.TaskGroup() as group:
                load = group.create_task(people.live())
                await trouble(people)
                await self._finish(people, load)
        finally:
            await server.kill9()
        await asyncio.to_thread(judge_file, server, is_over=True)

    async def _people(self) -> People:
        names = [f"user{n}" for n in range(self.users)]
        people = []
        for name in names:
            foreign = [canary(other) for other in names if other != name]
            people.append(Person(self.server, name, await self.server.key(name), foreign=foreign, seed=self.seed))
        return People(people, self.conversations, self.account, is_compacted=self.compact_after_s < FINISH_S)

    async def _finish(self, people: People, load: asyncio.Task[None]) -> None:
        self.server.armed = list(self.last)
        if not self.server.is_running:
            await self.server.start()
        people.wanted, people.is_over = None, True
        done, _ = await asyncio.wait([load], timeout=self.finish_s)
        late = f"seed {self.seed}: not ended {self.finish_s} s after the last trouble: {sorted(people.unfinished)}"
        assert done, late

    async def _live(self, life: Life, people: People) -> None:
        server, point = self.server, life.point
        people.wanted = next((want for word, want in _WANTED.items() if point and point.name.startswith(word)), None)
        if point is None:
            server.armed = [life.noise] if life.noise else []
            await server.start()
            await asyncio.sleep(self.rng.uniform(*_SETTLING_S))  # the moment is meant to be arbitrary
            await server.kill9()
            self.account.kills["a random moment"] += 1
            return
        armed = Armed(point.name, life.nth, life.action)
        server.armed = [armed]
        server.forget_marks()
        for patience_s in HIT_S:
            await self._die_at(point, patience_s)
            if server.acted(armed):
                self.account.kills[point.name] += 1
                return
            self.account.kills["a random moment"] += 1
        self.missed.append(f"{armed} (passed: {sorted({mark['point'] for mark in server.marks()})})")

    async def _die_at(self, point: Point, patience_s: float) -> None:
        server = self.server
        with suppress(Unavailable):  # it died before it was ready, as it was told to
            await server.start()
        if server.is_running:
            if point.phase == "drain":
                await asyncio.sleep(self.rng.uniform(*_SETTLING_S))
                server.send_signal(signal.SIGTERM)
            await server.died(timeout_s=patience_s)
        await server.kill9()

    def summary(self) -> list[str]:
        """Return the figures, for people."""
        kills = self.account.kills
        by_point = ", ".join(f"{name} {kills[name]}" for name in sorted(kills))
        return [
            f"seed {self.seed}: {kills.total()} kill -9, each at: {by_point}",
            f"seed {self.seed}: {self.account.line()}",
        ]


def points(*names: str) -> list[Point]:
    """Return points by name; without names all that a campaign on one folder can reach."""
    return [p for p in POINTS if p.name in names or (not names and not p.is_lazy and p.phase != "upkeep")]
