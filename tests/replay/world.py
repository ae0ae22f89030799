"""Many runs of random agents on one real worker and database; the worker dies, and the next one goes on.

Each run is lost after another number of its events; all of them share a worker, so one death serves them all. A seed
says what the agent is, after which events it is lost and when it is answered. What threads do at the same time it
does not say: so a failure may need a few tries to come again.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.contract.adapters import Adapter
from tests.replay.judge import Judged, judge
from tests.replay.mortal import Fate, MortalStorage
from tests.replay.programs import Execution, Outside
from tests.unit.protocol.replay_agents import Agent, Author
from tests.unit.runtime.bench import QUICK

from runwire.agents import steps
from runwire.agents.context import Context
from runwire.agents.load import Agents
from runwire.errors import Conflict
from runwire.protocol.events import EventType, StoredEvent, decode_data
from runwire.resilience import retry_budget
from runwire.runtime.worker import Worker
from runwire.storage.base import IncomingMessage, Wake
from runwire.storage.bus_local import LocalBus

__all__ = ["Failure", "World", "quick_tries"]

USER = "usr_ann"
ROUNDS = 4  # workers that die at most, before one lives
PATIENCE_S = 45.0  # for all runs of a worker to end or to stand still; reached only when it fails
SETTINGS = replace(QUICK, poll_s=0.03, park_after_s=0.03, user_limit=10_000, max_runs=10_000, max_attempts=1_000)


class Failure(AssertionError):
    """A promise that was broken, and the seeds of those that broke it."""


@dataclass(eq=False, slots=True)
class Case:
    """One run of a seed's agent."""

    seed: int
    number: int  # after so many events it is lost first; 0 of the agent's first run: never
    agent: Agent
    author: Author
    outside: Outside = field(default_factory=Outside)
    fate: Fate = field(init=False)
    executions: dict[int, Execution] = field(default_factory=dict)  # by attempt
    lives: int = 0  # workers that may have had it
    moments: dict[str, tuple[str, float]] = field(default_factory=dict)  # when a wait is answered, by its id
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed}/{self.number}")
        self.fate = Fate("", self.outside)

    @property
    def is_deterministic(self) -> bool:
        return self.seed % 2 == 0

    def execution(self, attempt: int) -> Execution:
        """Return the code of an attempt: the agent, or another version of it."""
        chance = random.Random(f"{self.seed}/{self.number}/{attempt}")
        agent = self.agent
        if attempt > 1:
            author = Author(0)
            author.chance = chance
            author.passages, author.numbers = attempt * 1_000, self.author.numbers
            change = author.same if self.is_deterministic else author.other
            agent = replace(agent, acts=change(agent.acts))
        made = self.executions[attempt] = Execution(agent, attempt, chance, self.outside)
        return made


class World:
    """Runs of the agents of some seeds on one database."""

    def __init__(self, adapter: Adapter, seeds: Sequence[int]) -> None:
        self.adapter = adapter
        self.chance = random.Random(f"world {seeds}")
        self.cases: dict[str, Case] = {}  # by run
        self.storage: MortalStorage | None = None
        self.counts: Counter[str] = Counter()
        self._seeds = seeds
        self._workers = itertools.count(1)
        self._bus = LocalBus()

    async def live(self) -> Counter[str]:
        """Let each agent run uncrashed, and then once for each of its events, lost before it.

        Raises:
            Failure: a promise was broken.
        """
        faults: list[str] = []
        first: dict[int, tuple[Case, int]] = {}
        for seed in self._seeds:
            author = Author(seed)
            await self._send(Case(seed, 0, author.agent(), author))
        await self._live([])
        for case in list(self.cases.values()):
            first[case.seed] = case, case.fate.stored
        clean = await self._judged(faults)
        for case, length in first.values():
            for number in range(length):
                await self._send(Case(case.seed, number + 1, case.agent, case.author))
        await self._live([self._first_fate, self._next_fate, self._next_fate, self._next_fate])
        for case, judged in (await self._judged(faults)).items():
            uncrashed = clean.get(first[case.seed][0])
            if uncrashed and self._may_compare(case, judged) and judged.standing != uncrashed.standing:
                faults.append(f"{_name(case)}: not as uncrashed: {judged.standing} {uncrashed.standing}")
        if faults:
            raise Failure("\n".join(faults))
        return self.counts

    def _may_compare(self, case: Case, judged: Judged) -> bool:
        """Results that differ make other words, and what is not tried again another way."""
        return case.is_deterministic and not case.agent.has_fresh_results and not judged.has_lost

    # ── fates ────────────────────────────────────────────────────────────────────────────────────────────

    def _first_fate(self, case: Case) -> None:
        case.fate.limit = case.number - 1

    def _next_fate(self, case: Case) -> None:
        if case.chance.random() < 0.5:
            case.fate.limit = case.fate.stored + case.chance.randint(0, 8)
        elif case.chance.random() < 0.3:
            case.fate.dies_parking = True

    # ── the life of workers ──────────────────────────────────────────────────────────────────────────────

    async def _send(self, case: Case) -> None:
        sent = await self.adapter.storage.runs.send(
            IncomingMessage(user=USER, thread=None, agent="agent", content="hello")
        )
        case.fate.run = sent.run
        self.cases[sent.run] = case

    async def _live(self, fates: Sequence[Any]) -> None:
        """Let one worker after the other die, as the fates say, until one lives on."""
        for fate in (*fates, None):
            cases = [case for case in self.cases.values() if not case.fate.is_over]
            if not cases:
                return
            for case in cases:
                case.lives += 1
                case.fate.begin(await self.adapter.storage.events.read_run(case.fate.run))
                if fate:
                    fate(case)
                self.counts["answered while dead"] += await self._answer(case, {"dead"})
            async with self._worker():
                stuck = await self._until_settled(cases, is_last=fate is None)
            if stuck:
                logged = await self.adapter.storage.events.read_run(stuck[0].fate.run)
                faults = [f"{_name(case)}: stands still: {case.fate}" for case in stuck]
                raise Failure("\n".join([*faults, f"    {stuck[0].agent}", *map(_shown, logged)]))
            self.counts["workers"] += 1
            self.counts["crashes"] += sum(case.fate.is_dead for case in cases)
            if fate:
                await self.adapter.crash()

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[None]:
        fates = {run: case.fate for run, case in self.cases.items()}
        storage = MortalStorage(self.adapter.storage, fates, self.chance, self._before_parking)
        worker = Worker(storage, self._bus, Agents.of({"agent": self._agent}), f"wk_{next(self._workers)}", SETTINGS)
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(worker.run())
            try:
                yield
            finally:
                storage.die()
                working.cancel()

    async def _agent(self, ctx: Context, _message: str) -> Any:
        case = self.cases[ctx.run]
        return await case.execution(case.fate.attempt).run(ctx)

    async def _until_settled(self, cases: Sequence[Case], *, is_last: bool) -> Sequence[Case]:
        """Answer what is asked, until each run has ended, is lost, or waits for what is answered later.

        Returns:
            Those that did not come so far.
        """
        until_s = asyncio.get_running_loop().time() + PATIENCE_S
        while open_ := [case for case in cases if not self._is_settled(case, is_last=is_last)]:
            for case in open_:
                await self._answer(case, {"now", "dead", "parking"} if is_last else {"now"})
            if asyncio.get_running_loop().time() > until_s:
                return open_
            await asyncio.sleep(0.005)
        return []

    def _is_settled(self, case: Case, *, is_last: bool) -> bool:
        fate = case.fate
        if fate.is_dead or fate.is_over:
            return True
        kinds = {self._moment(case, wait)[0] for wait in fate.waits}
        return not is_last and fate.is_parked and kinds == {"dead"}

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────

    def _moment(self, case: Case, wait: str) -> tuple[str, float]:
        """Return when somebody answers: at once, a little later, as it is parked, or while nobody runs it."""
        if wait not in case.moments:
            prompt, now_s = case.fate.waits[wait], asyncio.get_running_loop().time()
            if prompt is None:
                drawn = ("timer", math.inf)
            elif prompt["left"]:
                drawn = case.chance.choice((("never", math.inf), ("now", now_s)))
            else:
                later_s = now_s + case.chance.random() * 0.08
                drawn = case.chance.choice(
                    (("now", now_s), ("now", later_s), ("parking", now_s + 0.3), ("dead", math.inf))
                )
            case.moments[wait] = drawn
        return case.moments[wait]

    async def _answer(self, case: Case, moments: set[str]) -> int:
        """Answer each wait whose moment is one of these; return how many."""
        answered = 0
        for wait, prompt in list(case.fate.waits.items()):
            if wait not in case.fate.waits:
                continue  # answered while another was
            moment, at_s = self._moment(case, wait)
            is_due = at_s <= asyncio.get_running_loop().time() or moment == "dead"
            if prompt and prompt["left"] and case.fate.is_parked:
                is_due, moment = True, "now"  # put aside before its limit came: then nobody is left to meet it
            if is_due and (moment in moments or moment == "parking"):
                answered += await self._answer_wait(case, wait, prompt)
        return answered

    async def _answer_wait(self, case: Case, wait: str, prompt: Any) -> bool:
        case.fate.is_parked = False
        value = prompt["number"] % 2 == 0
        try:
            answer = await self.adapter.storage.runs.answer(USER, case.fate.run, wait, value)
        except Conflict:
            # Only such a run can have ended before.
            assert prompt["left"] or not case.is_deterministic, "an answer is refused"
            case.moments[wait] = ("never", math.inf)
            return False
        case.fate.waits.pop(wait, None)
        if self.chance.random() < 0.5:  # else the hint is lost
            self._bus.publish(Wake(topic="runs" if answer.is_parked else "signals"))
        return True

    async def _before_parking(self, fate: Fate) -> None:
        """Let somebody answer between the decision to park and the parking write."""
        case = self.cases[fate.run]
        for wait, prompt in list(fate.waits.items()):
            if wait in fate.waits and self._moment(case, wait)[0] == "parking":
                self.counts["answered at parking"] += await self._answer_wait(case, wait, prompt)

    # ── judgement ────────────────────────────────────────────────────────────────────────────────────────

    async def _judged(self, faults: list[str]) -> dict[Case, Judged]:
        """Judge all runs, and forget them."""
        judged: dict[Case, Judged] = {}
        for run, case in self.cases.items():
            logged = await self.adapter.storage.events.read_run(run)
            try:
                assert not case.outside.faults, case.outside.faults[0]
                judged[case] = judge(logged, case.executions, is_deterministic=case.is_deterministic)
                self._check_calls(case, logged)
                retries = [event for event in logged if event.type == EventType.AGENT_RETRYING]
                assert len(retries) < case.lives, "it was replayed without having lost its worker"
                self.counts[_kind(case, judged[case])] += 1
            except Exception as error:  # whatever it is, it names the seed
                where = traceback.extract_tb(error.__traceback__)[-1]
                faults.append(f"{_name(case)}: {type(error).__name__}: {error} ({where.name}:{where.lineno})")
                if len(faults) == 1:
                    faults += [f"    {case.agent}", *map(_shown, logged)]
        self.cases.clear()
        return judged

    def _check_calls(self, case: Case, logged: Sequence[StoredEvent]) -> None:
        """What ended by its function's own word was executed."""
        for data in [decode_data(event) for event in logged if event.type == EventType.TOOL_COMPLETED]:
            if data.final and (data.ok or data.error.code == "tool_error"):
                assert case.outside.calls[f"{case.fate.run}:{data.step}"], "a result of nobody"


def quick_tries(patch: pytest.MonkeyPatch) -> None:
    """Let a step that raised be tried again at once, whatever else failed in the same seconds."""
    patch.setattr(steps, "_FIRST_PAUSE_S", 0.004)
    patch.setattr(retry_budget, "_RESERVE", math.inf)
    patch.setattr(retry_budget, "_MOST_SAVED", math.inf)


def _shown(event: StoredEvent) -> str:
    return f"    {event.seq} attempt {event.attempt} {event.scope or '-'} {event.type} {decode_data(event)}"


def _kind(case: Case, judged: Judged) -> str:
    if judged.end == "differs":
        return "not what was approved"
    return "deterministic" if case.is_deterministic else "other words"


def _name(case: Case) -> str:
    return f"seed {case.seed}, lost before event {case.number} ({case.fate.run})"
