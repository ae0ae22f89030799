"""A soak: processes of every role under steady load and churn for as long as wanted, and whether anything grows."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
from tests.fleet.campaign import raise_descriptors
from tests.fleet.deployment import Deployment, Role
from tests.fleet.judge import Judge
from tests.fleet.load import Sizes
from tests.fleet.oracle import Fault
from tests.fleet.traces import Traces
from tests.soak.churn import PASSWORD_OF, Churn, SoakLoad
from tests.soak.samples import Sample, Sampler, Services
from tests.soak.slow import Slow
from tests.soak.verdict import Figure, Rest, judge, rest_findings

from runwire.auth.service import users
from runwire.storage.base import Storage
from runwire.storage.open import open_storage

__all__ = ["Outcome", "Soak", "Window"]

_SETTLE_S: Final = 150.0  # until the last run is over and judged
_REST_S: Final = 8.0  # until a process has let go of what left it
_COLLECT_S: Final = 3.0
_FEWEST: Final = 15  # samples, a third of which is warm-up
_PEOPLE_WITH_PASSWORDS: Final = 8
_KEPT_S: Final = 360.0  # ended runs
# Of a database that compaction and retention work on: what is there must be whole, though not all is there.
_WHOLE: Final = {
    "doubled: segments of a thread overlap": """
        SELECT thread_key, first_seq FROM (
          SELECT thread_key, first_seq, lag(last_seq, 1, 0::bigint) OVER (PARTITION BY thread_key ORDER BY first_seq) b
          FROM segment) x WHERE first_seq <= b LIMIT 5""",
    "lost: a head is not the last event": """
        SELECT t.id, t.head FROM thread t JOIN
          (SELECT thread_key, max(last_seq) AS last_seq FROM segment GROUP BY 1) s ON s.thread_key = t.key
        WHERE t.deleted_at IS NULL AND t.head <> s.last_seq LIMIT 5""",
    "no terminal: a run was left unfinished": """
        SELECT id, status, attempt FROM run WHERE status NOT IN ('completed', 'failed', 'cancelled') LIMIT 5""",
    "terminals: a run has more than one": """
        SELECT run_key, count(*) FROM segment WHERE (flags & 2) <> 0 GROUP BY 1 HAVING count(*) > 1 LIMIT 5""",
    "doubled: a key stored two runs": """
        SELECT user_key, idempotency_key FROM run WHERE idempotency_key IS NOT NULL
        GROUP BY 1, 2 HAVING count(*) > 1 LIMIT 5""",
}


@dataclass(frozen=True, slots=True)
class Window:
    """What people felt between two samples."""

    at_s: float
    events: int
    p50_ms: int
    p99_ms: int
    online: int


@dataclass
class Outcome:
    """What a soak has found out."""

    seed: int
    seconds: float
    samples: list[Sample]
    services: list[Services]
    windows: list[Window]
    figures: list[Figure]
    findings: list[str]
    counts: Counter[str]
    runs: int
    events: int
    before: dict[str, Rest]
    after: dict[str, Rest]
    warm_s: float
    p99_ms: tuple[int, int] = (0, 0)  # of the first and of the last quarter after the warm-up


@dataclass
class Soak:
    """What to do.

    Args:
        folder: for everything that is kept.
        seed: decides who does what.
        seconds: how long.
        every_s: from one sample to the next.
        sizes: of the talking.
        counts: processes.
        slow: slow readers.
        visits_per_s: sockets that are opened and left.
        reconnect_share: of all screens, which lose their connection each minute.
        leaks: process -> what it leaks (`tests.soak.leaks`).
        scale: how many times faster than usual connections come and go: so much wider are the bounds.
        collects: whether garbage is collected before each sample.
        talks: whether people talk, are judged, and sign in and out; else there are only passers-by.
        say: takes each line that people may read.
    """

    folder: Path
    seed: int
    seconds: float
    every_s: float = 10.0
    sizes: Sizes = field(default_factory=lambda: Sizes(users=100, tabs=260, runs_per_s=1.0, at_once=40, events=90))
    counts: dict[Role, int] = field(default_factory=lambda: {"auth": 1, "gateway": 2, "worker": 2})
    slow: int = 14
    visits_per_s: float = 5.0
    reconnect_share: float = 0.1
    leaks: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0
    talks: bool = True
    collects: bool = False  # garbage before each sample: in seconds, the collector's own pace hides what stays
    say: Callable[[str], None] = print

    async def run(self) -> Outcome:
        """Do it and judge it."""
        raise_descriptors()
        deployment = Deployment(
            self.folder,
            has_redis=self.talks,
            counts=self.counts,
            # Longer than the judge waits for the slowest tab: it compares each delta.
            compact_after_s=120.0,
            retention_days=_KEPT_S / 86_400,
            purge_deleted_s=60.0,
        )
        for node in deployment.nodes:
            node.mutant = self.leaks.get(node.name, "")
        try:
            await deployment.start()
            outcome = await _Course(self, deployment).run()
        finally:
            await deployment.end()
        outcome.findings += [f"logs: {complaint}" for complaint in deployment.complaints()]
        return outcome


class _Course:
    """One soak under way."""

    def __init__(self, soak: Soak, deployment: Deployment) -> None:
        self._soak = soak
        self._deployment = deployment
        self._sampler = Sampler(deployment)
        self._samples: list[Sample] = []
        self._services: list[Services] = []
        self._windows: list[Window] = []
        self._ports = [node.port for node in deployment.of("gateway")]
        self._traces = Traces(deployment.traces)
        self._told = 0  # of what churn has found

    async def run(self) -> Outcome:
        soak, deployment = self._soak, self._deployment
        people = await deployment.people(soak.sizes.users + soak.slow)
        talkers, slow = people[: soak.sizes.users], people[soak.sizes.users :]
        load = SoakLoad(soak.seed, soak.sizes, talkers, self._ports)
        judging = Judge(load, lambda: deployment.url, self._traces, soak.folder, soak.say)
        storage = await open_storage(deployment.url)
        try:
            churn = await self._prepared(storage, talkers)
            before = await self._at_rest()
            began_s = time.monotonic()
            await self._live(load, judging, churn, slow)
            seconds = time.monotonic() - began_s
            after = await self._at_rest()
        finally:
            await storage.close()
        faults = [*judging.faults, *(await self._whole() if soak.talks else [])]
        findings = [f"{fault.kind}: {fault.run}: {fault.detail}" for fault in faults] + churn.faults
        figures = self._judged()
        # Without a collection blocks also count garbage: a quiet process gathers some for hours before it looks.
        findings += [_sentence(one) for one in figures if one.is_found and (one.name != "blocks" or soak.collects)]
        for name in before.keys() & after.keys():
            findings += rest_findings(name, before[name], after[name])
        findings += [f"{name}: was not there at the end" for name in before.keys() - after.keys()]
        await self._sampler.close()
        return Outcome(
            seed=soak.seed,
            seconds=seconds,
            samples=self._samples,
            services=self._services,
            windows=self._windows,
            figures=figures,
            findings=findings,
            counts=churn.counts + Counter({**load.counts, "samples missed": self._sampler.missed}),
            runs=judging.runs,
            events=judging.events.total(),
            before=before,
            after=after,
            warm_s=self._warm_s,
            p99_ms=self._p99(),
        )

    async def _prepared(self, storage: Storage, talkers: list[tuple[str, str]]) -> Churn:
        names = [f"guest{n}" for n in range(_PEOPLE_WITH_PASSWORDS if self._soak.talks else 0)]
        for name in names:
            await users.add_user(storage.auth, name, password=PASSWORD_OF(name))
        return Churn(self._ports, storage, names, [(key, "") for _, key in talkers], self._soak.seed)

    async def _live(self, load: SoakLoad, judging: Judge, churn: Churn, slow: list[tuple[str, str]]) -> None:
        soak = self._soak
        async with asyncio.TaskGroup() as tasks:
            work: list[Any] = [churn.every(1 / soak.visits_per_s, churn.pass_by)]
            if soak.talks:
                work += [load.live(), judging.work(), self._cuts(load, churn)]
                work += [churn.every(3.0, churn.sign_in_and_out), churn.every(4.0, churn.make_key)]
                work += [churn.every(2.0, churn.make_thread), churn.every(0.05, lambda: churn.delete(load))]
                work += [
                    Slow(
                        n, key, self._ports, stops=n % 2 == 0, counts=churn.counts, faults=churn.faults,
                        traces=self._traces,
                    ).live()
                    for n, (_, key) in enumerate(slow)
                ]  # fmt: skip
            running = [tasks.create_task(one) for one in work]
            await self._watch(load, judging, churn)
            load.end()
            for task in running[3:] if soak.talks else []:
                task.cancel()
            until_s = time.monotonic() + _SETTLE_S
            while load.runs and time.monotonic() < until_s:  # noqa: ASYNC110 - of many
                await asyncio.sleep(0.2)
            for task in running:
                task.cancel()
        for sent in load.runs.values():
            judging.faults.append(Fault("no terminal", sent.run, f"{sent.content} in {sent.thread}"))

    async def _cuts(self, load: SoakLoad, churn: Churn) -> None:
        tabs = sum(len(person.tabs) for person in load.people)
        while True:
            await asyncio.sleep(60 / (self._soak.reconnect_share * tabs))
            churn.cut(load)

    async def _watch(self, load: SoakLoad, judging: Judge, churn: Churn) -> None:
        """Take samples until the time is over, and say each minute how it goes."""
        soak, began_s = self._soak, time.monotonic()
        seen = _Seen(load)
        due_s = said_s = began_s
        # On a machine that is too busy for it the samples take longer, and are no fewer.
        while time.monotonic() - began_s < soak.seconds or len(self._windows) < _FEWEST:
            due_s += soak.every_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if soak.collects:
                self._collect()
            found = await self._sampler.processes()
            self._samples += found
            try:
                self._services.append(await self._sampler.services())
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._sampler.missed += 1
            self._windows.append(seen.window(self._services[-1].at_s if self._services else 0.0))
            if time.monotonic() - said_s >= 60:
                said_s = time.monotonic()
                self._say(said_s - began_s, found, judging, churn)

    def _say(self, seconds: float, found: list[Sample], judging: Judge, churn: Churn) -> None:
        window = self._windows[-1]
        held = "  ".join(
            f"{one.process} {one.rss_kib / 1024:.1f} MiB {one.all_descriptors} fd {one.tasks + one.agent_tasks} t"
            f" {one.blocks // 1000}k" for one in found
        )  # fmt: skip
        for fault in churn.faults[self._told :]:
            self._soak.say(f"VIOLATION {fault}")
        self._told = len(churn.faults)
        faults = len(judging.faults) + len(churn.faults)
        self._soak.say(
            f"{seconds / 60:5.1f} min  {window.online} online  {window.events / self._soak.every_s:.0f} events/s"
            f"  p50 {window.p50_ms} p99 {window.p99_ms} ms  {judging.runs} runs judged  {faults} faults  {held}"
        )

    async def _at_rest(self) -> dict[str, Rest]:
        """Return what is held when nobody is connected and garbage is collected."""
        await asyncio.sleep(min(_REST_S, self._soak.seconds / 4))
        self._collect()
        await asyncio.sleep(min(_COLLECT_S, self._soak.seconds / 8))
        return {
            one.process: Rest(one.descriptors, one.own_tasks, one.threads, one.blocks, one.rss_kib)
            for one in await self._sampler.processes()
        }

    def _collect(self) -> None:
        """Have all of them collect their garbage, before they answer anything more."""
        for node in self._deployment.nodes:
            node.signal(signal.SIGUSR1)

    @property
    def _warm_s(self) -> float:
        """Return when the first third is over."""
        times = [one.at_s for one in self._samples]
        return min(times) + (max(times) - min(times)) / 3 if times else 0.0

    def _judged(self) -> list[Figure]:
        figures = []
        for node in self._deployment.nodes:
            mine = [one for one in self._samples if one.process == node.name and one.at_s >= self._warm_s]
            series = {
                "rss_kib": [float(one.rss_kib) for one in mine],
                "descriptors": [float(one.descriptors) for one in mine],
                "tasks": [float(one.own_tasks) for one in mine],
                "threads": [float(one.threads) for one in mine],
                "blocks": [float(one.blocks) for one in mine],
            }
            figures += judge(node.name, [one.at_s for one in mine], series, self._soak.scale)
        return figures

    def _p99(self) -> tuple[int, int]:
        """Return the middle p99 of the first and of the last quarter."""
        warm = [one.p99_ms for one in self._windows if one.at_s >= self._warm_s]
        part = max(1, len(warm) // 4)
        first, last = sorted(warm[:part]), sorted(warm[-part:])
        return (first[len(first) // 2], last[len(last) // 2]) if warm else (0, 0)

    async def _whole(self) -> list[Fault]:
        found: list[Fault] = []
        connection = await asyncpg.connect(self._deployment.url)
        try:
            for name, query in _WHOLE.items():
                if rows := await connection.fetch(query):
                    kind, _, detail = name.partition(": ")
                    found.append(Fault(kind, "", f"{detail}: {[tuple(row) for row in rows]}"))
        finally:
            await connection.close()
        return found


class _Seen:
    """What screens have shown since the last look."""

    def __init__(self, load: SoakLoad) -> None:
        self._load = load
        self._latencies: Counter[int] = Counter()
        self._events = 0

    def window(self, at_s: float) -> Window:
        recovery = self._load.recovery
        whole = recovery.latencies[True] + recovery.latencies[False]
        new, self._latencies = whole - self._latencies, whole
        events = sum(recovery.per_second.values())
        count, self._events = events - self._events, events
        return Window(at_s, count, _quantile(new, 0.5), _quantile(new, 0.99), self._load.counts["online"])


def _quantile(steps: Counter[int], share: float) -> int:
    left = share * steps.total()
    for step in sorted(steps):
        left -= steps[step]
        if left <= 0:
            return (step + 1) * 5
    return 0


def _sentence(figure: Figure) -> str:
    found = figure.line
    return (
        f"{figure.process}: {figure.name} grow by {found.slope:.0f} per hour (for sure by {found.lowest:.0f},"
        f" allowed {figure.bound:.0f})"
    )
