"""The load: people with several tabs who talk to agents, answer, cancel, interrupt and ask again, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from tests.fleet.oracle import Fault
from tests.fleet.recovery import Recovery
from tests.fleet.tab import TERMINAL, Frame, Refused, Tab, Unsaid

__all__ = ["Load", "Person", "Sent", "Sizes"]

_AGENTS: Final = {
    "stream": 5.0,
    "tools": 3.0,
    "steps": 3.0,
    "fan": 2.0,
    "sub": 2.0,
    "asks": 1.5,
    "sleeps": 1.5,
    "breaks": 1.0,
    "fickle": 2.0,
    "endless": 0.7,
}
_RETRY_S: Final = 0.2
_AGAIN: Final = ("unavailable", "rate_limited", "circuit_open", "deadline")
_GIVE_UP_S: Final = 240.0  # a run that is not over after that is forgotten by all workers


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much load."""

    users: int = 200
    tabs: int = 520
    runs_per_s: float = 7.0
    at_once: int = 90  # runs under way; beyond that nobody begins anything
    events: int = 100  # about so many per run
    pace_s: float = 0.04


@dataclass(slots=True, eq=False)
class Sent:
    """A run as its people know it."""

    person: Person
    agent: str
    content: str
    key: str
    thread: str
    run: str
    seq: int
    sent_s: float
    seen_seq: int = 0  # the newest event that any tab has shown
    events: int = 0
    waits: dict[str, str] = field(default_factory=dict)  # open ones -> kind
    is_started: bool = False
    is_cancelled: bool = False
    is_amnestied: bool = False
    ended_s: float | None = None
    end: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Person:
    """One user with his tabs."""

    def __init__(self, load: Load, number: int, user: str, key: str, views: list[Literal["all", "lifecycle"]]) -> None:
        self.load = load
        self.user = user
        self.rng = random.Random(f"{load.seed}-{number}")
        self.canary = f"~ca:{random.Random(f'{load.seed}-canary-{number}').getrandbits(48):012x}~"
        self.tabs = [
            Tab(
                f"tab{number}.{n}",
                key,
                self.canary.encode(),
                load.ports,
                first=(number + n) % len(load.ports),
                view=view,
                listener=load,
                rng=random.Random(f"{load.seed}-{number}-{n}"),
            )
            for n, view in enumerate(views)
        ]
        self.open: dict[str, int] = {}  # threads -> runs not judged yet
        self.numbers = itertools.count(1)

    def writers(self) -> list[Tab]:
        """Return the tabs that may send: of view `all`, which is what `send` subscribes with."""
        return [tab for tab in self.tabs if tab.view == "all"]

    async def live(self) -> None:
        """Talk until the load is over."""
        mean_s = self.load.sizes.users / self.load.sizes.runs_per_s
        await asyncio.sleep(self.rng.uniform(0, mean_s))
        async with asyncio.TaskGroup() as talks:
            while not self.load.is_over:
                if len(self.load.running) < self.load.sizes.at_once and len(self.open) < 4:
                    talks.create_task(self._talk())
                # A talk has 1.8 messages in the mean.
                await self.load.pause(self.rng.expovariate(1 / (1.8 * mean_s)))

    async def _talk(self) -> None:
        """Hold one conversation: a thread of one to three runs."""
        thread: str | None = None
        try:
            async for thread in self._exchanges():  # noqa: B007 - the last one is left
                pass
        finally:
            if thread is not None:
                self.load.release(self, thread)

    async def _exchanges(self) -> AsyncIterator[str]:
        """Send one to three messages and wait for what comes of them; yield their thread."""
        thread: str | None = None
        for _ in range(self.rng.choice((1, 1, 2, 2, 3))):
            if self.load.is_over:
                break
            first = await self._say(thread, self._agent(), "enqueue")
            if thread is None:
                self.open[first.thread] += 1  # until the talk is over: nobody closes it between two messages
            thread = first.thread
            yield thread
            chance = self.rng.random()
            second: Sent | None = None
            if chance < 0.08:
                second = await self._say(thread, self._agent(), "enqueue")
            elif chance < 0.16 or (first.agent == "endless" and chance < 0.5):
                await self._progress(first)
                second = await self._say(thread, self._agent(), "interrupt")
            for sent in filter(None, (first, second)):
                if sent.agent == "endless" or self.rng.random() < 0.05:
                    await self._progress(sent)
                    await self._cancel(sent)
            for sent in filter(None, (first, second)):
                await self._until(sent, lambda sent=sent: sent.ended_s is not None)  # type: ignore[misc]
            if first.is_amnestied:
                break

    def _agent(self) -> str:
        return self.rng.choices(list(_AGENTS), list(_AGENTS.values()))[0]

    async def _say(self, thread: str | None, agent: str, on_active: str) -> Sent:
        sizes, number = self.load.sizes, next(self.numbers)
        size = max(10, round(sizes.events * self.rng.uniform(0.5, 1.5)))
        seed = self.rng.getrandbits(40)
        content = f"{self.canary} {agent} seed={seed} size={size} pace={sizes.pace_s}"
        body = {"content": content, "agent": agent, "on_active": on_active, "thread": thread}
        key = f"{self.canary}{number}"
        data = await self._until_said(key, body)
        sent = self.load.sent(self, agent, content, key, data)
        if self.rng.random() < 0.1:  # as a program does that did not write down that it had an answer
            again = await self._until_said(key, body)
            if again["run"] != sent.run and not sent.is_amnestied:
                self.load.broke("doubled", f"the key {key} gave {sent.run} and then {again['run']}", sent.run)
        return sent

    async def _until_said(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        while True:
            tab = self._anyone()
            try:
                frame = await tab.ask("send", key=key, **body)
            except Unsaid:
                self.load.counts["replies lost"] += 1
            except Refused as refused:
                if refused.code == "not_found" and self.load.has_failed_over:
                    body["thread"] = None  # it went with the history that was lost
                elif refused.code not in _AGAIN:
                    self.load.broke("forgotten", f"a message was refused: {refused}", "")
                    raise
                self.load.counts["sends refused for a time"] += 1
            else:
                data: dict[str, Any] = msgspec.json.decode(frame.data)
                return data
            await asyncio.sleep(_RETRY_S)

    def _anyone(self) -> Tab:
        tabs = self.writers()
        return self.rng.choice([tab for tab in tabs if tab.is_online] or tabs)

    async def _progress(self, sent: Sent) -> None:
        enough = self.rng.randint(1, 60)
        await self._until(sent, lambda: sent.events > enough or sent.ended_s is not None)

    async def _until(self, sent: Sent, is_so: Callable[[], bool]) -> None:
        while not is_so() and not sent.is_amnestied:
            sent.changed.clear()
            try:
                async with asyncio.timeout(_GIVE_UP_S):
                    await sent.changed.wait()
            except TimeoutError:
                if sent.ended_s is None:
                    self.load.broke("no terminal", f"nothing of it for {_GIVE_UP_S} s: {sent.content}", sent.run)
                return

    async def _cancel(self, sent: Sent) -> None:
        while sent.ended_s is None and not sent.is_amnestied:
            try:
                await self._anyone().ask("cancel", run=sent.run)
            except Unsaid:
                continue
            except Refused as refused:
                if refused.code in _AGAIN:
                    await asyncio.sleep(_RETRY_S)
                    continue
                if not sent.is_amnestied:
                    self.load.broke("forgotten", f"a cancellation was refused: {refused}", sent.run)
                return
            sent.is_cancelled = True
            self.load.counts["cancellations"] += 1
            return

    async def call_off(self, sent: Sent) -> None:
        """Cancel a run that may not be there any more."""
        while True:
            try:
                await self._anyone().ask("cancel", run=sent.run)
            except Unsaid:
                continue
            except Refused as refused:
                if refused.code in _AGAIN:
                    await asyncio.sleep(_RETRY_S)
                    continue
            return

    async def answer(self, sent: Sent, wait: str, kind: str) -> None:
        """Answer a question that a run asks, until it is taken or too late."""
        await asyncio.sleep(self.rng.uniform(0.1, 2.5))
        value = self.rng.random() < 0.8 if kind == "approval" else self.rng.randrange(1000)
        while sent.ended_s is None and wait in sent.waits:
            try:
                await self._anyone().ask("answer", run=sent.run, wait=wait, value=value)
            except Unsaid:
                continue
            except Refused as refused:
                if refused.code in _AGAIN:
                    await asyncio.sleep(_RETRY_S)
                    continue
                # `conflict`: it ended by a cancellation or a timer, before this came.
                if refused.code != "conflict" and not sent.is_amnestied and sent.ended_s is None:
                    self.load.broke("forgotten", f"an answer was refused: {refused}", sent.run)
                return
            self.load.counts["answers"] += 1
            return


class Load:
    """Everybody, what they have sent, and what is known of it.

    Args:
        seed: decides who says what to whom.
        sizes: how much.
        people: (id, API key) of each.
        ports: of the gateways, as people reach them.
    """

    def __init__(self, seed: int, sizes: Sizes, people: list[tuple[str, str]], ports: list[int]) -> None:
        self.seed = seed
        self.sizes = sizes
        self.ports = ports
        self.counts: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.recovery = Recovery()
        self.runs: dict[str, Sent] = {}  # not judged yet
        self.running: dict[str, Sent] = {}  # not ended yet
        self.ended: list[Sent] = []  # to be judged
        self.early: dict[str, list[tuple[Tab, Frame, float]]] = {}  # seen before its sender had the reply
        self.amnestied: dict[str, Sent] = {}  # under way when the database failed over
        self.old_logs: set[str] = set()
        self.is_over = False
        self.has_failed_over = False
        self.people: list[Person] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._over = asyncio.Event()
        spare = sizes.tabs - 2 * sizes.users
        for n, (user, key) in enumerate(people):
            views: list[Literal["all", "lifecycle"]] = ["all", "all"]
            more = spare // sizes.users + (n < spare % sizes.users)
            views += ["lifecycle" if k % 2 == 0 else "all" for k in range(more)]
            self.people.append(Person(self, n, user, key, views))

    async def live(self) -> None:
        """Connect everybody and talk until `end`; the tabs stay until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            for person in self.people:
                for tab in person.tabs:
                    self._tasks.create_task(tab.live())
            async with asyncio.TaskGroup() as talks:
                for person in self.people:
                    talks.create_task(person.live())
            await asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """Begin nothing new."""
        self.is_over = True
        self._over.set()

    async def pause(self, seconds: float) -> None:
        """Sleep, but not past the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return

    def sent(self, person: Person, agent: str, content: str, key: str, data: dict[str, Any]) -> Sent:
        """Note an acknowledged message, and have all tabs follow its thread."""
        now_s = time.monotonic()
        sent = Sent(person, agent, content, key, data["thread"], data["run"], data["seq"], now_s)
        self.runs[sent.run] = self.running[sent.run] = sent
        self.counts["runs"] += 1
        person.open[sent.thread] = person.open.get(sent.thread, 0) + 1
        for tab in person.tabs:
            tab.follow(sent.thread)
        for tab, frame, at_s in self.early.pop(sent.run, ()):
            self.saw(tab, frame, at_s)
        if data["log"] in self.old_logs:
            self._amnesty(sent)
        return sent

    def fail_over(self) -> None:
        """Hold nothing against what is lost with the last moments of a history, and what is done again.

        What was under way is compared at the end, thread by thread: what each tab has applied since its reset with
        what the new history has.
        """
        self.has_failed_over = True
        for person in self.people:
            for tab in person.tabs:
                tab.may_reset = True
                self.old_logs.update(follow.log for follow in tab.follows.values() if follow.log)
        for sent in list(self.runs.values()):
            self._amnesty(sent)

    def _amnesty(self, sent: Sent) -> None:
        sent.is_amnestied = True
        self.amnestied[sent.run] = sent
        self.runs.pop(sent.run, None)
        self.running.pop(sent.run, None)
        self.recovery.forget([sent.run])
        sent.changed.set()
        if sent.agent == "endless" and self._tasks is not None:
            self._tasks.create_task(sent.person.call_off(sent))

    def judged(self, sent: Sent) -> None:
        """Forget a run; its thread is closed when nothing of it is left."""
        self.runs.pop(sent.run, None)
        self.running.pop(sent.run, None)
        person = sent.person
        for tab in person.tabs:
            tab.histories.pop(sent.run, None)
        self.release(person, sent.thread)

    def release(self, person: Person, thread: str) -> None:
        """Let go of a thread; when nobody holds it any more, its tabs close it."""
        person.open[thread] -= 1
        if person.open[thread] == 0:
            del person.open[thread]
            for tab in person.tabs:
                tab.forget(thread)

    # ── what tabs tell ───────────────────────────────────────────────────────────────────────────────────

    def saw(self, tab: Tab, frame: Frame, now_s: float) -> None:
        """Take an event that a tab has applied."""
        self.counts["events shown"] += 1
        sent = self.runs.get(frame.run)
        if frame.run in self.amnestied:
            self._saw_again(self.amnestied[frame.run], frame)
            return
        if sent is None:
            self.early.setdefault(frame.run, []).append((tab, frame, now_s))
            return
        follow = tab.follows.get(sent.thread)
        if follow is not None and frame.seq > follow.behind and frame.seq >= sent.seen_seq:
            self.recovery.delivered(frame.ts, now_s)
        if frame.seq <= sent.seen_seq:
            return
        sent.seen_seq = frame.seq
        sent.events += 1
        self.recovery.pulse(sent.run, now_s)
        match frame.type:
            case "agent_started":
                sent.is_started = True
            case "agent_waiting":
                data = msgspec.json.decode(frame.data)
                sent.waits[data["wait"]] = data["kind"]
                self.recovery.forget([sent.run])  # what it says next is not the fleet's to decide
                if data["kind"] != "timer" and self._tasks is not None:
                    self._tasks.create_task(sent.person.answer(sent, data["wait"], data["kind"]))
            case "agent_resumed":
                sent.waits.pop(msgspec.json.decode(frame.data)["wait"], None)
            case kind if kind in TERMINAL:
                sent.end, sent.ended_s = kind, now_s
                self.running.pop(sent.run, None)
                self.ended.append(sent)
                self.counts[kind] += 1
                self.recovery.ended(sent.run)
        sent.changed.set()

    def _saw_again(self, sent: Sent, frame: Frame) -> None:
        if frame.type == "agent_waiting" and self._tasks is not None:
            data = msgspec.json.decode(frame.data)
            if data["kind"] != "timer" and data["wait"] not in sent.waits:
                sent.waits[data["wait"]] = data["kind"]
                self._tasks.create_task(sent.person.answer(sent, data["wait"], data["kind"]))

    def broke(self, kind: str, detail: str, run: str) -> None:
        """Take a promise that was seen broken on the way."""
        self.faults.append(Fault(kind, run, detail))

    def online(self, tab: Tab, is_online: bool) -> None:
        """Count connections."""
        self.counts["online"] += 1 if is_online else -1
        self.counts["connections made"] += is_online

    def in_flight(self) -> list[str]:
        """Return the runs that have begun, have not ended and wait for nobody."""
        return [run for run, sent in self.running.items() if sent.is_started and not sent.waits]
