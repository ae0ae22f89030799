"""One campaign: a deployment, its people, its faults, and what was found out."""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fleet.deployment import LEASE_S, Deployment
from tests.fleet.faults import Disk, Faults, plan
from tests.fleet.judge import Judge
from tests.fleet.load import Load, Sizes
from tests.fleet.oracle import Fault
from tests.fleet.recovery import Disturbance
from tests.fleet.traces import Traces

__all__ = ["Campaign", "Outcome", "raise_descriptors"]

BOUND_S: Final = LEASE_S + 2.0  # a run goes on within that time of a fault's end
_END_S: Final = 150.0  # after the last fault all has ended and was seen within that time
_DISK_MB: Final = 3000
_LEAD_S: Final = 3.0  # of load before the first fault
_AFTER_S: Final = 15.0  # of load after a fail-over
_DESCRIPTORS: Final = 8192


@dataclass
class Outcome:
    """What a campaign has found out."""

    seed: int
    settings: dict[str, object]
    seconds: float
    disturbances: list[Disturbance]
    kinds: Counter[str]
    load: Load
    judge: Judge
    complaints: list[str]
    went_on: tuple[int, int]  # runs that had to go on, and how many of them late
    most_online: int
    folder: Path
    lines: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[Fault]:
        """Return the violations."""
        return self.judge.faults

    @property
    def is_good(self) -> bool:
        """Return whether no promise was seen broken."""
        runs, late = self.went_on
        return not self.faults and not self.complaints and late <= 0.01 * runs


@dataclass
class Campaign:
    """What to do.

    Args:
        folder: for everything that is kept.
        seed: decides the faults and what people say; how the machine schedules it is its own.
        faults: how many.
        every_s: from one to the next, in the mean.
        has_redis: whether there is one.
        sizes: of the load.
        gateways, workers, auths: processes.
        uses_disk: whether the database gets a small file system of its own, where that is allowed.
        fails_over: whether the last fault is that the database's standby takes over.
        kinds: only these faults; none: all.
        end_s: after the last fault all has ended and was seen by everybody within that time.
        away_s: how long the database is away when it is; 0: never.
        longest_s: no process is stopped, no socket half open and no reader frozen for longer.
        say: takes each line that people may read.
        mutant: role of the processes that break a promise, and which.
        prepare: is given the load before it begins.
    """

    folder: Path
    seed: int
    faults: int = 300
    every_s: float = 4.5
    has_redis: bool = True
    sizes: Sizes = field(default_factory=Sizes)
    gateways: int = 2
    workers: int = 3
    auths: int = 1
    away_s: float = 30.0
    longest_s: float = 30.0
    uses_disk: bool = True
    fails_over: bool = False
    kinds: tuple[str, ...] = ()
    end_s: float = _END_S
    say: Callable[[str], None] = print
    mutant: tuple[str, str] | None = None
    prepare: Callable[[Load], None] | None = None

    async def run(self) -> Outcome:
        """Do it and judge it."""
        raise_descriptors()
        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            self.say(line)

        disk = Disk.made(self.folder, megabytes=_DISK_MB) if self.uses_disk else None
        say(f"seed {self.seed}, kept in {self.folder}; disk full: {'a file system of its own' if disk else 'not here'}")
        deployment = Deployment(
            self.folder,
            has_redis=self.has_redis,
            counts={"auth": self.auths, "gateway": self.gateways, "worker": self.workers},
            data=disk.path if disk else None,
            has_standby=self.fails_over,
        )
        try:
            outcome = await self._run(deployment, disk, say)
        finally:
            await deployment.end()
            if disk is not None:
                disk.remove()
        outcome.complaints = deployment.complaints()
        for complaint in outcome.complaints:
            say(f"COMPLAINT {complaint}")
        outcome.lines = lines
        if outcome.is_good:
            shutil.rmtree(deployment.traces, ignore_errors=True)
        return outcome

    async def _run(self, deployment: Deployment, disk: Disk | None, say: Callable[[str], None]) -> Outcome:
        began_s = time.monotonic()
        if self.mutant is not None:
            for node in deployment.nodes:
                node.mutant = self.mutant[1] if node.role == self.mutant[0] else ""
        await deployment.start()
        people = await deployment.people(self.sizes.users)
        assert deployment.proxies is not None
        load = Load(self.seed, self.sizes, people, deployment.proxies.ports)
        if self.prepare is not None:
            self.prepare(load)
        judge = Judge(load, lambda: deployment.url, Traces(deployment.traces), self.folder, say)
        say(f"{len(deployment.nodes)} processes, {self.sizes.users} users, {self.sizes.tabs} connections"
            f" after {time.monotonic() - began_s:.1f} s")  # fmt: skip
        faults = Faults(deployment, load, disk=disk, say=say, away_s=self.away_s, longest_s=self.longest_s)
        most_online = 0

        async def watch() -> None:
            nonlocal most_online
            while True:
                most_online = max(most_online, load.counts["online"])
                await asyncio.sleep(0.2)

        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(work) for work in (load.live(), judge.work(), watch())]
            await self._trouble(faults)
            await faults.settle()
            if self.fails_over:
                await self._fail_over(faults)
            load.end()
            await self._until_judged(load, say)
            if self.fails_over:
                await judge.quiet(timeout_s=self.end_s)
            for task in background:
                task.cancel()
        await judge.finish()
        for drain in faults.bad_drains:
            judge.faults.append(Fault("drain", "", drain))
            say(f"VIOLATION drain: {drain}")
        return Outcome(
            seed=self.seed,
            settings={"redis": self.has_redis, "faults": self.faults, "gateways": self.gateways,
                      "workers": self.workers, "auths": self.auths, "users": self.sizes.users,
                      "tabs": self.sizes.tabs},
            seconds=time.monotonic() - began_s,
            disturbances=load.recovery.disturbances,
            kinds=Counter(one.kind for one in load.recovery.disturbances),
            load=load,
            judge=judge,
            complaints=[],
            went_on=load.recovery.late_runs(BOUND_S),
            most_online=most_online,
            folder=self.folder,
        )  # fmt: skip

    async def _trouble(self, faults: Faults) -> None:
        planned = plan(
            self.seed,
            self.faults,
            every_s=self.every_s,
            has_redis=self.has_redis,
            has_disk=faults.disk is not None,
            away_s=self.away_s,
            only=self.kinds,
        )
        faults.began_s = time.monotonic()
        await asyncio.sleep(_LEAD_S)
        async with asyncio.TaskGroup() as tasks:
            due_s = time.monotonic()
            for one in planned:
                due_s += one.after_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                tasks.create_task(faults.do(one))

    async def _fail_over(self, faults: Faults) -> None:
        """Do it last: the standby is asynchronous, so from here on another history counts, without its last moments.

        A synchronous one would lose nothing and prove less: that what is lost is lost for everybody, and shown to
        nobody as if it were there.
        """
        await asyncio.sleep(_LEAD_S)
        await faults.fail_over()
        await asyncio.sleep(_AFTER_S)

    async def _until_judged(self, load: Load, say: Callable[[str], None]) -> None:
        until_s = time.monotonic() + self.end_s
        while load.runs and time.monotonic() < until_s:  # noqa: ASYNC110 - of many
            await asyncio.sleep(0.2)
        if load.runs:
            left = random.Random(0).sample(sorted(load.runs), min(3, len(load.runs)))
            say(f"not over {self.end_s} s after the last fault: {len(load.runs)} runs, such as {left}")


def raise_descriptors() -> None:
    """Allow this process as many descriptors as it needs for its screens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
