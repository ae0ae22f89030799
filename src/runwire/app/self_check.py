"""A run of the process's own, before it says that it is ready: a message goes the way of everybody's messages.

::

    send     the message and its run are stored             Runs.send
    claim    this process takes the run                     Worker; a process that has none claims and appends here
    execute  the agent's code is run                        Workshop
    append   its events are stored, to the terminal one     Outbox ─▶ EventLog.append
    deliver  each comes once, in order, with its `prev`     Bus ─▶ Tail ─▶ Subscription; without a gateway, the log

Who asks and the agent that answers have one name (`storage.base.RESERVED`), which no person and no author's agent can
have, and which is this process's alone: nobody else claims the run, is shown it or is counted with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from runwire.agents.load import Agents
from runwire.agents.plain import plain_agent
from runwire.errors import RunwireError, Unavailable
from runwire.gateway.desk import Desk
from runwire.gateway.subscription import Subscription
from runwire.protocol import frames
from runwire.protocol.events import TERMINAL_TYPES, AgentCompleted, AgentStarted, EventType, emitted, view_has
from runwire.protocol.ids import new_id
from runwire.runtime.clock import now_ms
from runwire.runtime.membership import Membership
from runwire.storage.base import RESERVED, Batch, IncomingMessage, RunEnd, Sent, Stored, Wake
from runwire.storage.placed import Place

if TYPE_CHECKING:
    from runwire.agents.context import Context

__all__ = ["Answerer", "SelfCheck", "Way"]

_TRY_S: Final = 10.0  # for one try: whoever is slower than this is no use to anybody
_ASK_S: Final = 2.0  # for the database to say how far a try came
_ERASE_S: Final = 5.0
_ERASES: Final = 10  # calls, of which one is enough
_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # after each try that failed; then always the last
_LOOK_S: Final = 0.02  # between two looks at the log, where no gateway tells what comes
_PAGE_BYTES: Final = 65_536
_SLACK_S: Final = 10.0  # more than the clocks of two machines differ

_HERE: Final = (EventType.USER_MESSAGE, EventType.AGENT_STARTED, EventType.AGENT_COMPLETED)
_BY_WORKER: Final = (
    EventType.USER_MESSAGE,
    EventType.AGENT_STARTED,
    EventType.AGENT_THINKING,
    EventType.TOOL_EXECUTING,
    EventType.TOOL_COMPLETED,
    EventType.MESSAGE_STARTED,
    EventType.MESSAGE_COMPLETED,
    EventType.AGENT_COMPLETED,
)
_REMEDIES: Final[Mapping[str, str]] = {
    "send": "the database takes no message; see that it has room, no long lock, and gives this user its rights",
    "claim": "no run is taken; look in this log for worker_loop_failed and database_unavailable",
    "execute": "no agent's code is run; look in this log for agent_loop_blocked",
    "append": "the database takes no events; see that it has room and no long lock, and look for append_unavailable",
    "deliver": "what is stored does not come back as it should; restart, and report it with this line if it stays",
}

_log: Final = structlog.get_logger(__name__)


class Answerer:
    """The agent that answers the self-check of one process.

    Args:
        node: name of the process.
    """

    def __init__(self, node: str) -> None:
        self.name = f"{RESERVED}{node}"
        self.heard: str | None = None  # the last message that its code was run with; set in the agents' loop

    def beside(self, agents: Agents) -> Agents:
        """Return the agents of a process and this one."""
        return replace(agents, by_name={**agents.by_name, self.name: plain_agent(self._answer)})

    async def _answer(self, ctx: Context, message: str) -> str:
        self.heard = message
        await ctx.thinking("Do I hear myself?")
        return str(await ctx.tool(_echo, text=message))


async def _echo(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What the messages of one database pass in this process."""

    place: Place
    membership: Membership  # tells the others that the run is nobody else's
    answerer: Answerer
    desk: Desk | None  # None: this process has no gateway
    has_worker: bool
    good_s: float  # what was begun so long ago, and is still there, is of a process that was killed
    forget: Callable[[], None]  # takes the agent away again: the process offers its own ones only

    @property
    def name(self) -> str:
        """Return who asks, and who answers."""
        return self.answerer.name


class SelfCheck:
    """Try the way of each database until one has delivered; the others are tried on, for their own users' sake.

    Args:
        registry: gets the figures.
    """

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._ways: list[Way] = []
        self._passed = asyncio.Event()
        self._passed.set()  # who bears no messages has nothing to try
        self._took = Gauge(
            "process_self_check_seconds", "What the self-check took when it passed; 0: it has not.", registry=registry
        )
        self._failures = Counter(
            "process_self_check_failures", "Self-checks that failed, by the step.", ["step"], registry=registry
        )

    def add(self, way: Way) -> None:
        """Have one more way tried; before `run`."""
        self._ways.append(way)
        self._passed.clear()

    def unready(self) -> str | None:
        """Return the reason not to be ready; None: a way has delivered."""
        return None if self._passed.is_set() else "self_check"

    async def until_passed(self) -> None:
        """Wait until a way has delivered."""
        await self._passed.wait()

    async def run(self, tell: Callable[[str], None]) -> None:
        """Try all ways, each until it has delivered, and clear away what killed processes have left.

        Args:
            tell: called with a sentence each time a try has failed while none has passed.
        """
        async with asyncio.TaskGroup() as tasks:
            for way in self._ways:
                tasks.create_task(self._go(way, tell))

    async def _go(self, way: Way, tell: Callable[[str], None]) -> None:
        loop, waits = asyncio.get_running_loop(), iter(_AGAIN_S)
        while True:
            began_s = loop.time()
            try:
                await _Try(way).go()
            except _Stuck as stuck:
                self._failures.labels(stuck.step).inc()
                again_s = next(waits, _AGAIN_S[-1])
                _log.warning(
                    "self_check_failed",
                    database=way.place.number,
                    step=stuck.step,
                    reason=stuck.why,
                    remedy=_REMEDIES[stuck.step],
                    again_s=again_s,
                )
                if not self._passed.is_set():
                    tell(f"{way.place.shown}: self-check, {stuck.step}: {stuck.why}: {_REMEDIES[stuck.step]}")
                await asyncio.sleep(again_s)
            else:
                break
        took_s = loop.time() - began_s
        self._took.set(took_s)
        self._passed.set()
        _log.debug("self_check_passed", database=way.place.number, took_ms=round(took_s * 1000, 1))
        way.forget()
        await _clear(way)
        await asyncio.sleep(
            way.good_s + _SLACK_S
        )  # of who was killed just before this start, as a rule its own forerunner
        await _clear(way)


class _Stuck(Exception):
    """A step of the self-check did not come to its end."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(step, why)
        self.step = step
        self.why = why


class _Try:
    """One message on its way."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._storage = way.place.storage
        self._word = new_id("msg")  # said by nobody before: an answer with it is the answer to this
        self._sent: Sent | None = None

    async def go(self) -> None:
        """Send, have it run, and hear all of it; nothing is left of it.

        Raises:
            _Stuck: a step did not work; it may later.
        """
        try:
            async with asyncio.timeout(_TRY_S):
                await self._send_and_hear()
        except TimeoutError:
            raise _Stuck(await self._step(), f"not done within {_TRY_S:g} s") from None
        except RunwireError as error:
            raise _Stuck(await self._step(), error.message) from error
        finally:
            await _erase(self._way, self._way.name)

    async def _send_and_hear(self) -> None:
        way = self._way
        # Or a worker elsewhere might end, as nobody's, what is about to be sent.
        await way.membership.until_said()
        message = IncomingMessage(user=way.name, thread=None, agent=way.name, content=self._word)
        sent = self._sent = await self._storage.runs.send(message)
        heard = _from_log(way, sent)
        async with _subscribed(way, sent) if way.desk else contextlib.nullcontext(heard) as listener:
            for committed in sent.committed:
                way.place.bus.publish(committed)
            way.place.bus.publish(Wake(topic="runs", thread=sent.thread))
            if not way.has_worker:
                await self._run_here()
            came: list[dict[str, Any]] = []
            async for frame in listener:
                came.append(frame)
                if frame["type"] in TERMINAL_TYPES:
                    break
        if why := self._fault(came, sent):
            raise _Stuck("deliver", why)

    async def _run_here(self) -> None:
        """Do what a worker would, in a process that has none."""
        way = self._way
        claims = await self._storage.runs.claim(
            way.membership.node, agents=[way.name], limit=1, user_limit=1, take_lost=False, take_orphans=False
        )
        if not claims:
            raise _Stuck("claim", "the run that was sent is not to be had")
        (claim,) = claims
        self._way.answerer.heard = self._word
        said = AgentStarted(agent=claim.agent, message=claim.message), AgentCompleted(output=self._word, duration_ms=0)
        for ordinal, event in enumerate(said):
            batch = Batch(
                run=claim.run,
                attempt=claim.attempt,
                ordinal=ordinal,
                events=(emitted(event, ts=now_ms()),),
                end=RunEnd(status="completed") if isinstance(event, AgentCompleted) else None,
            )
            (outcome,) = await self._storage.events.append([batch])
            if not isinstance(outcome, Stored):
                raise _Stuck("append", f"an event was not stored: {type(outcome).__name__}")
            way.place.bus.publish(outcome.committed)

    async def _step(self) -> str:
        """Return what did not happen, as far as the database and this process know."""
        if self._sent is None:
            return "send"
        is_heard = self._way.answerer.heard == self._word
        try:
            async with asyncio.timeout(_ASK_S):
                row = await self._storage.runs.get(self._way.name, self._sent.run)
        except (RunwireError, TimeoutError):
            return "append" if is_heard else "claim"
        if row.terminal_seq is not None:
            return "deliver"
        if row.status == "queued":
            return "claim"
        return "append" if is_heard else "execute"

    def _fault(self, came: Sequence[dict[str, Any]], sent: Sent) -> str | None:
        """Return what is wrong with what came; None: nothing is."""
        seqs, prevs = [frame["seq"] for frame in came], [frame["prev"] for frame in came]
        kinds = [frame["type"] for frame in came]
        if any((frame["thread"], frame["run"]) != (sent.thread, sent.run) for frame in came):
            return "an event of another run came"
        if prevs != [sent.after, *seqs[:-1]] or seqs != sorted(set(seqs)):
            return f"events were lost, doubled or out of order: seq {seqs}, prev {prevs}"
        if kinds != list(_BY_WORKER if self._way.has_worker else _HERE):
            return f"the events were {', '.join(kinds)}"
        return None if came[-1]["data"].get("output") == self._word else "the answer was another one"


@contextlib.asynccontextmanager
async def _subscribed(way: Way, sent: Sent) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Listen as a person's socket does, from before anything is told of what was sent."""
    assert way.desk is not None, "asked only of a gateway"
    woken = asyncio.Event()
    subscription = way.desk.subscriptions.open_after_send(
        user=way.name, thread=sent.thread, after=sent.after, log=sent.log, view="all", wake=lambda _thread: woken.set()
    )
    try:
        yield _taken(subscription, woken)
    finally:
        way.desk.subscriptions.close(subscription)


async def _taken(subscription: Subscription, woken: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
    while True:
        woken.clear()  # armed before looking
        taken = await subscription.take(size_bytes=_PAGE_BYTES)
        if taken is None:
            await woken.wait()
            continue
        if taken.reset is not None or taken.is_deleted:
            raise _Stuck("deliver", "the history ended while it was read")
        subscription.advance(taken)
        for frame in taken.encoded:
            yield msgspec.json.decode(frame)


async def _from_log(way: Way, sent: Sent) -> AsyncIterator[dict[str, Any]]:
    """Read what is stored: a process without a gateway delivers to nobody, but what it stores must be there."""
    after = prev = sent.after
    while True:
        page = await way.place.storage.events.read(sent.thread, after=after)
        for event in page.events:
            if view_has("all", event.type):
                yield msgspec.json.decode(frames.encode_event(sent.thread, event, prev))
                prev = event.seq
        after = page.through
        await asyncio.sleep(_LOOK_S)


async def _erase(way: Way, name: str) -> None:
    """Delete whatever a self-check has stored; what stays, because the database went away, a later start deletes."""
    try:
        async with asyncio.timeout(_ERASE_S):
            for _ in range(_ERASES):
                erased = await way.place.storage.erasure.erase(name, is_forced=True)
                for thread in erased.threads:
                    way.place.bus.publish(Wake(topic="deleted", thread=thread))
                if not erased.has_more:
                    return
    except (Unavailable, TimeoutError) as error:
        _log.warning("self_check_not_erased", name=name, reason=str(error) or "no answer in time")


async def _clear(way: Way) -> None:
    """Delete what processes have left that were killed during their self-check."""
    is_owner = way.place.storage.lease_s == math.inf  # of all there is: whoever was here before is gone
    try:
        async with asyncio.timeout(_ERASE_S):
            names = await way.place.storage.erasure.leftovers(older_s=0 if is_owner else way.good_s)
    except (Unavailable, TimeoutError) as error:
        _log.warning("self_check_leftovers_unknown", reason=str(error) or "no answer in time")
        return
    for name in names:
        await _erase(way, name)
