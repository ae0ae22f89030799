"""What goes wrong: a plan made of a seed, and how each kind of it is done to the deployment."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fleet.deployment import DRAIN_S, Deployment, Node, Role
from tests.fleet.load import Load
from tests.fleet.recovery import Disturbance

__all__ = ["KINDS", "Disk", "Faults", "Planned", "plan"]

# Kind -> weight. What is of PostgreSQL is at most five in three hundred (AWAY), as each stops everything.
KINDS: Final = {
    "kill worker": 12.0,
    "kill gateway": 8.0,
    "kill auth": 3.0,
    "stop worker": 10.0,
    "stop gateway": 5.0,
    "stop auth": 1.5,
    "redis flush": 4.0,
    "redis kill": 4.0,
    "redis restart": 4.0,
    "redis pause": 4.0,
    "cut all": 6.0,
    "cut some": 9.0,
    "half-open": 5.0,
    "delay": 4.0,
    "frozen readers": 7.0,
    "clock step": 6.0,
    "deploy worker": 3.0,
    "deploy gateway": 3.0,
    "deploy auth": 1.0,
}
AWAY: Final = ("postgres kill", "postgres immediate", "postgres away", "disk full", "postgres kill")
_DEPLOY_S: Final = DRAIN_S + 10.0
_AWAY_S: Final = 30.0
_LAG_S: Final = 0.5  # so much of the history does not reach the standby


@dataclass(frozen=True)
class Planned:
    """A fault to come."""

    kind: str
    after_s: float  # since the beginning of the one before
    roll: float  # decides the target
    length: float  # 0..1: how long, within the kind's bounds


def plan(
    seed: int,
    count: int,
    *,
    every_s: float,
    has_redis: bool,
    has_disk: bool,
    away_s: float = _AWAY_S,
    only: tuple[str, ...] = (),
) -> list[Planned]:
    """Return the faults of a seed, which is all that decides."""
    rng = random.Random(seed)
    if only:
        return [
            Planned(rng.choice(only), rng.uniform(0.5, 1.5) * every_s, rng.random(), rng.random()) for _ in range(count)
        ]
    weights = {kind: weight for kind, weight in KINDS.items() if has_redis or not kind.startswith("redis")}
    kinds = list(weights)
    away = [kind for kind in AWAY if (has_disk or kind != "disk full") and (away_s > 0 or kind != "postgres away")]
    drawn = away[: max(1, count * 5 // 300)]
    # Each kind comes once, as far as there is room, before chance decides.
    drawn += rng.sample(kinds, min(count - len(drawn), len(kinds)))
    drawn += rng.choices(kinds, list(weights.values()), k=count - len(drawn))
    rng.shuffle(drawn)
    return [Planned(kind, rng.uniform(0.5, 1.5) * every_s, rng.random(), rng.random()) for kind in drawn]


class Disk:
    """A small file system for the database, which can be filled. Needs the right to mount; `made` gives None else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def made(cls, folder: Path, *, megabytes: int) -> Disk | None:
        """Make one in a file."""
        image, path = folder / "disk.img", folder / "disk"
        path.mkdir()
        try:
            with image.open("wb") as file:
                file.truncate(megabytes * 2**20)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            image.unlink(missing_ok=True)
            return None
        path.chmod(0o777)
        return cls(path)

    def fill(self) -> None:
        """Leave no room: ENOSPC for everybody."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):
            for size in (2**20, 4096, 64):
                with suppress(OSError):
                    while ballast.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink(missing_ok=True)

    def remove(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)
        self.path.with_name("disk.img").unlink(missing_ok=True)


class Faults:
    """Does what is planned, several at a time where they overlap, but never two to one process.

    Args:
        deployment: to whom.
        load: whose runs are looked at.
        disk: of the database; None: it cannot be filled.
        say: takes a line for each fault.
        away_s: how long the database is away when it is.
        longest_s: no process is stopped, no socket half open and no reader frozen for longer.
    """

    def __init__(
        self,
        deployment: Deployment,
        load: Load,
        *,
        disk: Disk | None,
        say: Callable[[str], None],
        away_s: float,
        longest_s: float,
    ) -> None:
        self.deployment = deployment
        self.load = load
        self.disk = disk
        self.say = say
        self.away_s = away_s
        self.longest_s = longest_s
        self.began_s = time.monotonic()
        self._busy: set[str] = set()
        self._drains: list[str] = []

    @property
    def bad_drains(self) -> list[str]:
        """What a rolling deploy should not have done."""
        return self._drains

    async def do(self, planned: Planned) -> None:
        """Do one and wait for its end; if its target is in trouble already, wait for that first."""
        verb, _, what = planned.kind.partition(" ")
        match verb, what:
            case _, "worker" | "gateway" | "auth":
                await self._to_node(verb, self._node(what, planned), planned)
            case "redis", _:
                await self._held("redis", planned, "redis", lambda _: self._redis(what, planned))
            case ("postgres", _) | ("disk", _):
                await self._held("postgres", planned, "postgres", lambda _: self._postgres(planned))
            case _:
                await self._to_sockets(planned)

    async def settle(self) -> None:
        """Bring everything back to life after the last."""
        deployment = self.deployment
        if not deployment.postgres.is_running:
            await asyncio.to_thread(deployment.postgres.restart)
        if deployment.redis is not None:
            with suppress(ProcessLookupError):
                deployment.redis.resume()
            if not deployment.redis.is_running:
                await asyncio.to_thread(deployment.redis.restart)
        for node in deployment.nodes:
            node.signal(signal.SIGCONT)
            if not node.is_running:
                node.launch()
                await node.ready()

    async def fail_over(self) -> None:
        """Have the standby take over."""

        async def act(one: Disturbance) -> None:
            await self.deployment.fail_over(lag_s=_LAG_S, died=self.load.fail_over)

        await self._held("postgres", Planned("fail-over", 0, 0, 0), "standby", act)

    # ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _node(self, role: Role, planned: Planned) -> Node:
        nodes = self.deployment.of(role)
        first = int(planned.roll * len(nodes))
        ordered = nodes[first:] + nodes[:first]
        return next((node for node in ordered if node.name not in self._busy), ordered[0])

    async def _held(
        self, name: str, planned: Planned, target: str, act: Callable[[Disturbance], Awaitable[None]]
    ) -> None:
        while name in self._busy:  # noqa: ASYNC110 - several may wait
            await asyncio.sleep(0.1)
        self._busy.add(name)
        try:
            await self._recorded(planned, target, act)
        finally:
            self._busy.discard(name)

    async def _recorded(self, planned: Planned, target: str, act: Callable[[Disturbance], Awaitable[None]]) -> None:
        recovery, began_s = self.load.recovery, time.monotonic()
        one = Disturbance(len(recovery.disturbances), planned.kind, target, began_s)
        recovery.begin(one, self.load.in_flight())
        await act(one)
        if one.ended_s is None:
            recovery.end(one)
        one.duration_s = time.monotonic() - began_s
        self.say(
            f"{began_s - self.began_s:8.1f} s  #{one.number + 1:<4} {planned.kind:18} {target:12}"
            f" {one.duration_s:5.1f} s  {one.runs:3} runs in flight  {one.note}"
        )

    async def _to_node(self, verb: str, node: Node, planned: Planned) -> None:
        async def act(one: Disturbance) -> None:
            if verb == "kill":
                await node.kill()
                # The process is gone for good: others have to go on, so the fault is over and not only when it is back.
                self.load.recovery.end(one)
                await asyncio.sleep(planned.length * 3)
            elif verb == "stop":
                node.signal(signal.SIGSTOP)
                await asyncio.sleep(self._skewed(planned.length, 1, 30))
                node.signal(signal.SIGCONT)
                return
            else:
                began_s = time.monotonic()
                status = await node.stop(timeout_s=_DEPLOY_S)
                one.note = f"drained in {time.monotonic() - began_s:.1f} s"
                if status != 0:
                    self._drains.append(f"{node.name} ended with {status} after {time.monotonic() - began_s:.1f} s")
            await self._start(node)

        await self._held(node.name, planned, node.name, act)

    async def _start(self, node: Node) -> None:
        """Start it, however often it takes while its database is away."""
        while True:
            node.launch()
            await node.ready()
            if node.is_running:
                return
            await asyncio.sleep(0.5)

    async def _redis(self, what: str, planned: Planned) -> None:
        redis = self.deployment.redis
        assert redis is not None
        if what == "flush":
            await asyncio.to_thread(redis.flush)
        elif what == "pause":
            redis.pause()
            await asyncio.sleep(2.0)
            redis.resume()
        else:
            await asyncio.to_thread(redis.kill)
            await asyncio.sleep(planned.length * (5 if what == "kill" else 0.1))
            await asyncio.to_thread(redis.restart)

    async def _postgres(self, planned: Planned) -> None:
        postgres = self.deployment.postgres
        if planned.kind == "disk full" and self.disk is not None:
            await asyncio.to_thread(self.disk.fill)
            await asyncio.sleep(3 + planned.length * 5)
            await asyncio.to_thread(self.disk.free)
            await asyncio.sleep(0.5)
        elif planned.kind == "postgres kill":
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(planned.length)
        else:
            await asyncio.to_thread(postgres.stop, "immediate" if planned.kind == "postgres immediate" else "fast")
            await asyncio.sleep(self.away_s if planned.kind == "postgres away" else planned.length)
        if not postgres.is_running:
            await asyncio.to_thread(postgres.restart)

    async def _to_sockets(self, planned: Planned) -> None:
        proxies = self.deployment.proxies
        assert proxies is not None
        number = int(planned.roll * len(proxies.ports))

        async def act(one: Disturbance) -> None:
            match planned.kind:
                case "cut all":
                    proxies.tell("cut", number, 1)
                case "cut some":
                    proxies.tell("cut", number, 0.05 + 0.4 * planned.length)
                case "half-open":
                    proxies.tell("deaf", number, 1)
                    await asyncio.sleep(self._skewed(planned.length, 5, 20))
                    proxies.tell("deaf", number, 0)
                case "delay":
                    proxies.tell("delay", number, 0.02 + 0.4 * planned.length)
                    await asyncio.sleep(3)
                    proxies.tell("delay", number, 0)
                case "frozen readers":
                    await self._freeze(one, planned)
                case _:
                    await self._step_clock(one, planned)

        if planned.kind in ("half-open", "delay"):
            await self._held(f"proxy{number}", planned, f"gateway{number + 1}", act)
        else:
            await self._recorded(planned, f"gateway{number + 1}" if planned.kind.startswith("cut") else "", act)

    async def _freeze(self, one: Disturbance, planned: Planned) -> None:
        tabs = [tab for person in self.load.people for tab in person.tabs]
        frozen = random.Random(planned.roll).sample(tabs, max(1, len(tabs) // 50))
        one.target = f"{len(frozen)} tabs"
        for tab in frozen:
            tab.freeze()
        await asyncio.sleep(self._skewed(planned.length, 3, 15))
        for tab in frozen:
            tab.thaw()

    async def _step_clock(self, one: Disturbance, planned: Planned) -> None:
        workers = self.deployment.of("worker")
        node = workers[int(planned.roll * len(workers))]
        offset_s = round((planned.length - 0.5) * 7200)
        one.target, one.note = node.name, f"{offset_s:+d} s"
        scratch = node.clock.with_suffix(".new")
        scratch.write_text(str(offset_s), encoding="ascii")
        scratch.replace(node.clock)

    def _skewed(self, length: float, low_s: float, high_s: float) -> float:
        """Return a time between two: short ones more often."""
        return low_s + (min(high_s, self.longest_s) - low_s) * length**4
