"""Users that send at a rate of their own, whatever the deployment does, and are cut off at random."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from runwire.client import Token
from runwire.client.token import text_of
from runwire.conformance.load.tally import Follower, Sent, Shape, Tally
from runwire.conformance.wire import Closed, CouldNotCheck, NoUpgrade, Silence, Wire, WireHttp
from runwire.errors import RunwireError
from runwire.protocol import frames

__all__ = ["AGENT", "Load", "Plan", "beside"]

AGENT: Final = "check_load"
_OPEN: Final = 16  # messages of a user that wait for their end
_BACKLOG: Final = 10_000  # of a user, that are due and wait for a place among those; more are never sent
_AT_ONCE: Final = 50  # upgrades under way
_CALL_S: Final = 10.0
_POINTS: Final = 600  # of the charts; when there are more, each two become one
_TRIES: Final = 5  # of a socket that never was open
_STOPS: Final = range(4500, 4600)  # close codes that say: do not come again (PROTOCOL §4)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    users: int = 10
    rate: float = 10.0  # messages per second, of all users
    duration_s: float = 30.0
    shape: Shape = Shape()
    agent: str | None = None  # None: `check_load` if it is offered, else the deployment's own
    cuts: float = 0.0  # per minute, of all sockets
    kills: float = 1.0  # per minute, if there is a command; the first is within half of the duration
    may_fail: bool = False  # runs that fail and messages that are refused are part of the plan
    seed: int = 1
    timeout_s: float = 60.0  # for the runs that are open at the end


class Point(msgspec.Struct, kw_only=True):
    """What happened in one stretch of time."""

    at_s: float
    events: int = 0
    runs: int = 0
    faults: int = 0


class Load:
    """One load on one deployment.

    Args:
        url: of the deployment.
        credentials: the users sign in by them, in turn.
        plan: what is to be done.
        kill: the operator's way to kill a process of it.
    """

    def __init__(
        self, url: str, credentials: list[Token], plan: Plan, *, kill: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.plan = plan
        self.tally = Tally(mark=f"load{plan.seed}-{random.SystemRandom().randrange(16**8):08x}-")
        self.points: list[Point] = []
        self.point_s = 1.0
        self.server = ""
        self.agent: str | None = plan.agent
        self.elapsed_s = 0.0
        self.is_cut_short = False
        self.stop = asyncio.Event()  # set it to end now, with what there is
        self._is_sent = asyncio.Event()
        self._credentials = credentials
        self._kill = kill
        self._chance = random.Random(plan.seed)  # noqa: S311 - no secret; the same seed cuts alike
        self.opening = asyncio.Semaphore(_AT_ONCE)
        self._users = [_User(self, number) for number in range(plan.users)]

    async def run(self) -> None:
        """Do it all; returns when every run has ended, or cannot any more.

        Raises:
            CouldNotCheck: nobody could come in.
        """
        await self._look()
        async with beside(*(user.live() for user in self._users)):
            await self._arrive()
            started_s = time.monotonic()
            async with beside(self._measure(started_s)):
                # A kill that has begun goes on to its end, in which the process is back: else nothing would ever end.
                async with asyncio.TaskGroup() as tasks, beside(self._cut()):
                    tasks.create_task(self._slay())
                    await self._send(started_s)
                    self._is_sent.set()
                for user in self._users:
                    user.hold_back()
                await self._drain()
                self.elapsed_s = time.monotonic() - started_s
        for user in self._users:
            user.follower.close(is_cut_short=self.is_cut_short)

    def credential(self, number: int) -> Token:
        """Return how a user signs in."""
        return self._credentials[self.account(number) - 1]

    @property
    def accounts(self) -> int:
        """Return how many the users have among them."""
        return min(len(self._credentials), len(self._users))

    def account(self, number: int) -> int:
        """Return which account a user has, from 1."""
        return number % len(self._credentials) + 1

    # Inside.

    async def _look(self) -> None:
        token = await text_of(self.credential(0))
        async with Wire.open(self.url, token, timeout_s=_CALL_S) as wire:
            try:
                self.server = (await wire.welcome(timeout_s=_CALL_S)).server
            except RunwireError as error:
                raise CouldNotCheck(f"No welcome came: {error.message}") from error
        async with WireHttp(self.url, token, timeout_s=_CALL_S) as http:
            answer = await http.request("GET", "/v1/agents")
        try:
            names = [str(item["agent"]) for item in answer.json()["items"]] if answer.status == 200 else []
        except (ValueError, KeyError, TypeError):
            names = []
        if self.agent is None and AGENT in names:
            self.agent = AGENT
        elif self.agent is not None and names and self.agent not in names:
            raise CouldNotCheck(f"--agent {self.agent} is not offered; there are: {', '.join(sorted(names))}.")

    async def _arrive(self) -> None:
        """Wait until each user is in, or was refused for good."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CALL_S + self.plan.users / 20):
                for user in self._users:
                    await user.settled.wait()
        ready = [user for user in self._users if user.is_in]
        if not ready:
            why = next((user.why for user in self._users if user.why), "no socket was opened in time")
            raise CouldNotCheck(f"No user could come in: {why}")
        if len(ready) < len(self._users):
            why = next((user.why for user in self._users if user.why), "not in time")
            raise CouldNotCheck(f"Only {len(ready)} of {len(self._users)} users could come in: {why} Lower --users.")

    async def _send(self, started_s: float) -> None:
        """Send by the clock, not by the answers: what is slow does not slow its own measurement down."""
        number = 0
        while (due_s := started_s + number / self.plan.rate) < started_s + self.plan.duration_s:
            if await self._is_stopped(due_s - time.monotonic()):
                return
            self._users[number % len(self._users)].say(number, due_s)
            number += 1
        await self._is_stopped(started_s + self.plan.duration_s - time.monotonic())

    async def _is_stopped(self, wait_s: float) -> bool:
        self.is_cut_short = await _is_set(self.stop, wait_s)
        return self.is_cut_short

    async def _drain(self) -> None:
        until_s = time.monotonic() + self.plan.timeout_s
        while any(user.follower.open for user in self._users) and time.monotonic() < until_s:
            if await self._is_stopped(0.05):
                return
        # What comes after the last end is judged too.
        await self._is_stopped(0.2)

    async def _cut(self) -> None:
        while self.plan.cuts > 0:
            await asyncio.sleep(self._chance.expovariate(self.plan.cuts / 60))
            self.tally.cuts += self._chance.choice(self._users).cut()

    async def _slay(self) -> None:
        if self._kill is None or self.plan.kills <= 0:
            return
        every_s = 60 / self.plan.kills
        wait_s = min(every_s, self.plan.duration_s / 2)  # a short load sees one, too
        while not await _is_set(self._is_sent, wait_s):
            wait_s = every_s
            try:
                await self._kill()
                self.tally.kills += 1
            except RunwireError as error:
                self.tally.note(error.message)

    async def _measure(self, started_s: float) -> None:
        tally, before = self.tally, (0, 0, 0)
        while True:
            await asyncio.sleep(self.point_s)
            now = (tally.events, tally.completed, tally.faults)
            events, runs, faults = (a - b for a, b in zip(now, before, strict=True))
            before = now
            self.points.append(Point(at_s=time.monotonic() - started_s, events=events, runs=runs, faults=faults))
            if len(self.points) >= _POINTS:
                self.points = [_together(*self.points[i : i + 2]) for i in range(0, _POINTS, 2)]
                self.point_s *= 2


async def _is_set(event: asyncio.Event, wait_s: float) -> bool:
    """Wait so long for an event, and let others run in any case."""
    if wait_s > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await event.wait()
    else:
        await asyncio.sleep(0)
    return event.is_set()


def _together(one: Point, two: Point) -> Point:
    return Point(
        at_s=two.at_s, events=one.events + two.events, runs=one.runs + two.runs, faults=one.faults + two.faults
    )


@contextlib.asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have work done beside the block, and cancelled at its end; what the block raises is passed on as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from error


class _User:
    """One socket after the other, on one thread."""

    def __init__(self, load: Load, number: int) -> None:
        self.settled = asyncio.Event()
        self.is_in = False
        self.why = ""
        self.name = f"{load.tally.mark}{number}"
        self.follower = Follower(load.tally, self.name, load.account(number))
        self._load = load
        self._number = number
        self._chance = random.Random(f"{load.plan.seed}/{number}")  # noqa: S311 - no secret
        self._wire: Wire | None = None
        self._outbox: deque[Sent] = deque()  # with those in flight at most `_OPEN`
        self._flying: dict[str, Sent] = {}  # key → without a reply
        self._backlog: deque[tuple[int, float]] = deque()  # number and when it was due; at most `_BACKLOG`
        self._wake = asyncio.Event()

    def say(self, number: int, due_s: float) -> None:
        """Have a message sent, when there is a place for it; until then it is late, which its latency shows."""
        if self._backlog or len(self.follower.open) >= _OPEN:
            if len(self._backlog) < _BACKLOG:
                self._backlog.append((number, due_s))
            else:
                self._load.tally.held_back += 1
            return
        self._say(number, due_s)

    def hold_back(self) -> None:
        """Give up what waits for a place: the load is over. The time it has waited is the least that it would take."""
        now_s = time.monotonic()
        for _, due_s in self._backlog:
            self._load.tally.held_back += 1
            self._load.tally.begun.add(now_s - due_s)
            self._load.tally.run.add(now_s - due_s)
        self._backlog.clear()

    def _say(self, number: int, due_s: float) -> None:
        load = self._load
        is_ours = load.agent == AGENT
        tag = f"{self.name}-{number}"
        shape = load.plan.shape
        content = shape.content(tag)
        sent = Sent(tag, content, tag, due_s, shape.answer(tag) if is_ours else None)
        self.follower.open[content] = sent
        load.tally.sent += 1
        self._outbox.append(sent)
        self._wake.set()

    def cut(self) -> bool:
        """Cut the connection, as a dead network does; return whether there was one."""
        if self._wire is None:
            return False
        self._wire.cut()
        return True

    async def live(self) -> None:
        """Keep a socket open until cancelled, or told not to come again."""
        tries = 0
        while True:
            try:
                await self._connection()
            except Closed as error:
                self.why = error.message
                if error.close_code in _STOPS:
                    break
            except (CouldNotCheck, Silence) as error:
                self.why = error.message
                if isinstance(error, NoUpgrade) and error.status in (400, 401, 403, 404):
                    break
            except RunwireError as error:  # no token
                self.why = error.message
            finally:
                self._wire = None
            tries = 0 if self.is_in else tries + 1
            if tries >= _TRIES:
                break
            await asyncio.sleep(self._chance.uniform(0.02, 0.3 if self.is_in else 1.0))
        if self.is_in:
            self._load.tally.note(f"{self.name} was sent away: {self.why}")
        self.settled.set()

    async def _connection(self) -> None:
        token = await text_of(self._load.credential(self._number))
        async with contextlib.AsyncExitStack() as stack:
            async with self._load.opening:
                wire = await stack.enter_async_context(Wire.open(self._load.url, token, timeout_s=_CALL_S))
                welcome = await wire.welcome(timeout_s=_CALL_S)
            self._load.tally.sockets += 1
            stack.callback(self._gone)
            await self._resume(wire)
            self._wire = wire
            again = [*self._flying.values()]
            self._flying.clear()
            self._outbox.extendleft(reversed(again))
            self._wake.set()
            self.is_in = True
            self.settled.set()
            async with beside(self._write(wire)):
                while True:
                    seen = await wire.next(timeout_s=welcome.ping_s + welcome.pong_s + _CALL_S)
                    wire.seen.clear()  # it is judged at once; hours of it would fill the memory
                    self._take(seen.frame, seen.at_s)

    def _gone(self) -> None:
        self._load.tally.sockets -= 1

    async def _resume(self, wire: Wire) -> None:
        follower = self.follower
        if follower.thread is None:
            return
        number = wire.new_id()
        await wire.send(frames.Subscribe(id=number, thread=follower.thread, after=follower.last or 0, log=follower.log))
        # Until the answer, events of the thread are of no subscription: the client's rule drops them.
        seen = await wire.until(
            lambda frame: isinstance(frame, frames.Subscribed | frames.Reply) and frame.id == number,
            timeout_s=_CALL_S,
        )
        if not isinstance(seen.frame, frames.Subscribed):
            raise CouldNotCheck(f"A resume was refused: {seen.clipped}")
        follower.subscribed(seen.frame)
        self._load.tally.resumes += 1

    async def _write(self, wire: Wire) -> None:
        with contextlib.suppress(Closed):  # the reader sees it too
            while True:
                await self._wake.wait()
                self._wake.clear()
                # The first makes the thread; the others wait for its name.
                while self._outbox and not (self.follower.thread is None and self._flying):
                    sent = self._outbox.popleft()
                    self._flying[sent.key] = sent
                    thread = self.follower.thread
                    await wire.send(
                        frames.Send(
                            id=sent.key, key=sent.key, thread=thread, agent=self._load.agent, content=sent.content
                        )
                    )

    def _take(self, frame: object, at_s: float) -> None:
        self._judge(frame, at_s)
        while self._backlog and len(self.follower.open) < _OPEN:
            self._say(*self._backlog.popleft())

    def _judge(self, frame: object, at_s: float) -> None:
        follower = self.follower
        match frame:
            case frames.Event():
                follower.event(frame, now_s=at_s)
            case frames.Position():
                follower.position(frame)
            case frames.Reset():
                follower.reset(frame)
            case frames.Reply() if frame.id in self._flying:
                sent = self._flying.pop(frame.id)
                if frame.ok:
                    try:
                        follower.replied(msgspec.convert(frame.data, frames.SendData))
                    except msgspec.ValidationError as error:
                        follower.not_understood(f"the reply to {sent.tag} is not of the form of a send: {error}")
                else:
                    follower.open.pop(sent.content, None)
                    code = frame.error.code if isinstance(frame.error, frames.ErrorBody) else "unknown"
                    self._load.tally.refused[str(code)] += 1
                self._wake.set()
