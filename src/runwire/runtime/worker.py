"""A worker: it claims runs, runs them, and learns what others want of them. Everything here is on the control loop.

::

    claim loop     wake "runs" or 500 ms    ─▶ Run.supervise, one task each
    signals loop   wake "signals" or 250 ms ─▶ answers, cancel, lost
    renewal        a third of the lease     ─▶ leases go on, or runs are lost
    timers         next due, or 500 ms      ─▶ waits whose time has come
    membership     10 s                     ─▶ others know that its agents are there
    outbox         commits for all runs
    workshop       shared by all workers   ─▶ room for runs, and the loop of the user's code
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from runwire.agents.context import User
from runwire.agents.load import Agents
from runwire.agents.tracing import UNTRACED
from runwire.errors import Unavailable
from runwire.runtime.clock import lease_now_s
from runwire.runtime.lease import Lease
from runwire.runtime.limits import WorkerSettings
from runwire.runtime.membership import Membership
from runwire.runtime.outbox import Outbox
from runwire.runtime.renewal import Renewal
from runwire.runtime.run import Run
from runwire.runtime.speech import HandOver
from runwire.runtime.timers import Timers
from runwire.runtime.withdrawal import REVOKED
from runwire.runtime.workshop import Workshop
from runwire.storage.base import RESERVED, Bus, BusMessage, Claim, Signal, Storage, Wake

__all__ = ["Worker", "WorkerSettings"]

_AFTER_ERROR_S: Final = 1.0  # a loop whose round failed is tried again after this

_log = structlog.get_logger(__name__)


def _anyone(_user: str) -> bool:
    return True


async def _nothing_newer() -> None:
    """Know of nothing newer."""


def _nameless(user: str) -> User:
    return User(id=user)


class Worker:
    """Runs agents for one database.

    Args:
        storage: the database.
        bus: wakes this worker, and is told of its commits.
        agents: what can be run; `use` changes it later.
        name: of this worker, in claims and logs.
        settings: limits and times.
        is_allowed: whether a user may still use tools; called in the agents' loop before each tool, so it must be
            quick and callable from any thread.
        confirm: brings what `is_allowed` and `who` know up to what was committed before the call, in bounded time.
            Raises Unavailable.
        who: name and roles of a user, pinned when a run starts; called on the control loop, must not raise.
        registry: gets the figures; None: nobody asks for them.
        workshop: what it shares with the workers of other databases; None: there are none.
        membership: of its process, under the same name, run by this worker; None: one with no other role.
        first: an agent whose runs it claims before all others and beyond its limit, one at a time; until `use`.
    """

    def __init__(
        self,
        storage: Storage,
        bus: Bus,
        agents: Agents,
        name: str,
        settings: WorkerSettings,
        *,
        is_allowed: Callable[[str], bool] = _anyone,
        confirm: Callable[[], Awaitable[None]] = _nothing_newer,
        who: Callable[[str], User] = _nameless,
        registry: CollectorRegistry | None = None,
        workshop: Workshop | None = None,
        membership: Membership | None = None,
        first: str | None = None,
    ) -> None:
        self._storage = storage
        self._bus = bus
        self._agents = agents
        self._first = first
        self._name = name
        self._settings = settings
        self._is_allowed = is_allowed
        self._confirm = confirm
        self._who = who
        self._workshop = workshop or Workshop(settings)
        self._membership = membership or Membership(
            storage, bus, node=name, roles=("worker",), good_s=settings.absent_s
        )
        self._membership.use(agents)
        self._wake_runs = asyncio.Event()
        self._crew = self._workshop.join(self._wake_runs.set)
        self._runs = self._crew.runs
        self._is_draining = False
        self._is_claiming = False
        self._abandoned = 0
        self._registry = registry
        self._claimed = Counter(
            "runtime_claimed_runs", "Attempts of runs begun, by the reason.", ["why"], registry=registry
        )

    @property
    def active(self) -> int:
        """Return how many runs this worker is busy with."""
        return len(self._runs)

    @property
    def abandoned(self) -> int:
        """Return how many agents, and how many blocking calls of agents, went on after their run had ended."""
        return self._abandoned

    def use(self, agents: Agents) -> None:
        """Run new runs with these agents, and tell the others; runs in flight finish on the old code."""
        self._agents, self._first = agents, None
        self._membership.use(agents)

    async def run(self) -> None:
        """Work until cancelled. Runs still in flight then are claimed by whoever comes next, and replayed."""
        self._wake_signals = asyncio.Event()
        self._idle = asyncio.Event()
        self._outbox = Outbox(self._storage, self._bus)
        self._renewal = Renewal(
            self._storage,
            self._name,
            held=lambda: self._runs,
            blind_s=self._settings.blind_s,
            registry=self._registry,
        )
        self._timers = Timers(
            self._storage, self._bus, self._renewal, due=self._due_times, poll_s=self._settings.poll_s
        )
        stop_listening = self._bus.listen(self._hear)
        try:
            with self._workshop.at_work():
                await self._work()
        finally:
            stop_listening()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_up("outbox", self._outbox.run))
            tasks.create_task(self._keep_up("signals", self._follow_signals))
            tasks.create_task(self._keep_up("renewal", self._renewal.run))
            tasks.create_task(self._keep_up("timers", self._timers.run))
            tasks.create_task(self._keep_up("membership", self._membership.run))
            await self._keep_up("claims", lambda: self._claim(tasks))

    async def drain(self) -> None:
        """Take no more runs and give up the present ones: at their next step, or after `drain_s`.

        Call it while `run` is running; it returns when this worker holds nothing any more.
        """
        self._is_draining = True
        for run in self._runs:
            run.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await self.idle()
        for run in self._runs:
            run.stop(HandOver("drained"))
        # Bounded by the grace of code and calls that do not stop, unless the database is away: then the lease decides.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_s * 2 + 1):
                await self.idle()
        # Only now: what was handed over finds its agents there for a while yet, until who comes next has them.
        await self._membership.leave()

    async def idle(self) -> None:
        """Wait until this worker holds no run, and no code that was told to stop, and none is about to be its own."""
        while self._runs or self._is_claiming:
            self._idle.clear()
            await self._idle.wait()

    async def _keep_up(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep a loop of the worker going: the one place where its errors end."""
        while True:
            try:
                await work()
            except Unavailable as error:
                _log.warning("database_unavailable", loop=name, reason=error.message)
                await asyncio.sleep(_AFTER_ERROR_S)
            except Exception:
                _log.exception("worker_loop_failed", loop=name)
                await asyncio.sleep(_AFTER_ERROR_S)

    async def _claim(self, tasks: asyncio.TaskGroup) -> None:
        await self._membership.until_said()  # or another might end, as nobody's, the runs that come back from here
        while True:
            self._wake_runs.clear()  # armed before looking, or the last message waits for the poll
            free = self._workshop.room(self._crew, limit=self._settings.max_runs)
            claims: list[Claim] = []
            sent_s, agents = lease_now_s(), self._agents
            if self._first is not None and not self._is_draining:
                # Before everybody's and beyond the limit: neither a long queue nor a full house is a fault.
                claims = await self._ask_for_runs(1, (self._first,), takes_others=False)
            if free > 0 and not claims and not self._is_draining:
                claims = await self._ask_for_runs(free, agents.names)
            for claim in claims:  # with what it was asked for: others may have come since
                tasks.create_task(self._supervise(self._take(claim, sent_s, agents)))
            if not claims:
                await _wait(self._wake_runs, self._settings.poll_s)

    async def _ask_for_runs(self, limit: int, agents: Sequence[str], *, takes_others: bool = True) -> list[Claim]:
        self._is_claiming, self._crew.asked = True, limit
        try:
            claims = await self._renewal.call(
                lambda: self._storage.runs.claim(
                    self._name,
                    agents=agents,
                    limit=limit,
                    user_limit=self._settings.user_limit,
                    # So that a run comes again whose claim was stored and not answered.
                    holding=[run.claim.run for run in self._runs],
                    take_lost=takes_others and self._renewal.may_take_lost(),
                    take_orphans=takes_others and self._membership.may_take_orphans(),
                )
            )
            return await self._vetted(claims)
        finally:
            self._is_claiming, self._crew.asked = False, 0
            self._idle.set()  # heard only after what was claimed is held: nothing waits between the two

    async def _vetted(self, claims: list[Claim]) -> list[Claim]:
        """Return the claims once it is known whose access was withdrawn.

        What looks like that may be somebody of whom this process has not heard yet: a person's first message comes
        a moment after the person.
        """
        if all(claim.cancel or self._is_allowed(claim.user) for claim in claims):
            return claims
        try:
            await self._confirm()
        except Unavailable:  # in doubt it neither runs nor ends: not held, it is claimed again
            return [claim for claim in claims if claim.cancel or self._is_allowed(claim.user)]
        return claims

    def _take(self, claim: Claim, sent_s: float, agents: Agents) -> Run:
        if claim.cancel is None and not self._is_allowed(claim.user):
            # Sent in the moment in which access was withdrawn, or left behind by a kill just after it.
            claim = msgspec.structs.replace(claim, cancel=REVOKED)
        is_own = claim.agent.startswith(RESERVED)
        run = Run(
            claim,
            agents=agents,
            user=self._who(claim.user),
            thread=self._workshop.thread,
            outbox=self._outbox,
            storage=self._storage,
            settings=self._settings,
            is_allowed=self._is_allowed,
            lease=Lease(self._storage.lease_s, sent_s=sent_s, margin_s=self._settings.lease_margin_s),
            on_due=self._timers.expect,
            breakers=self._workshop.breakers,
            spending=self._workshop.spending,
            trace=UNTRACED if is_own else self._workshop.tracing.run(claim),
        )
        self._runs.add(run)
        if (refusal := self._workshop.spending.refusal(claim.user)) is not None:
            run.stop(refusal)
        if not run.lease.is_valid:  # the claim was on its way for too long: it waits until it is renewed
            self._renewal.renew_now()
        if self._is_draining:  # claimed in the moment in which it began
            run.stop(HandOver("drained"))
        why = _why(claim)
        say = _log.debug if is_own else _log.info
        if not is_own:
            self._claimed.labels(why).inc()
        say("run_claimed", run=claim.run, thread=claim.thread, attempt=claim.attempt, agent=claim.agent, why=why)
        return run

    async def _supervise(self, run: Run) -> None:
        try:
            await run.supervise()
        finally:
            self._runs.discard(run)
            self._abandoned += run.abandoned
            self._idle.set()
            self._wake_runs.set()  # there is room, and the thread's next run may go on
            self._workshop.leave()
            if run.has_left:  # and one that was answered while it was being parked is to be claimed already
                self._bus.publish(Wake(topic="runs"))

    async def _follow_signals(self) -> None:
        while True:
            self._wake_signals.clear()  # armed before looking
            held = {run.claim.run: run for run in self._runs if run.is_held}
            for signal in await self._ask_for_signals(held) if held else ():
                run = held[signal.run]
                if signal.is_lost and run.is_held:
                    self._renewal.lose(run)
                else:
                    run.hear(signal)
            await _wait(self._wake_signals, self._settings.signals_s if self._runs else self._settings.poll_s)

    async def _ask_for_signals(self, held: Mapping[str, Run]) -> list[Signal]:
        attempts = {run: one.claim.attempt for run, one in held.items()}
        waits = [wait for run in held.values() for wait in run.waits]
        return await self._renewal.call(lambda: self._storage.runs.signals(self._name, attempts, waits))

    def _due_times(self) -> Iterator[int]:
        """Yield the times that this worker's runs wait for."""
        for run in self._runs:
            for due_at in run.waits.values():
                if due_at is not None:
                    yield due_at

    def _hear(self, message: BusMessage) -> None:
        if not isinstance(message, Wake):
            return
        if message.topic == "runs":
            self._wake_runs.set()
        elif message.topic in ("signals", "deleted"):
            self._wake_signals.set()

    def recheck(self) -> None:
        """End every run whose user is not allowed any more; call it on the control loop when that may have changed."""
        for run in self._runs:
            if not self._is_allowed(run.claim.user):
                run.stop(REVOKED)


def _why(claim: Claim) -> str:
    if claim.is_resumed:
        return "resumed"
    if claim.handed_over in ("drained", "deploy"):
        return "handed_over"
    return "taken_over" if claim.attempt > 1 else "queued"


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
