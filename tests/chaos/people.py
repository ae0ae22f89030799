"""The load: people who talk to agents, cancel, interrupt and ask again, while their server is killed under them."""

from __future__ import annotations

import asyncio
import itertools
import random
import urllib.error
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Any

from tests.chaos.deployment import ChaosServer
from tests.chaos.oracle import Account, Said, judge_thread, stored_events
from tests.chaos.tab import Refused, Tab, Unsaid

__all__ = ["People", "Person"]

AGENTS = ("voyage", "voyage", "fickle", "fickle", "long", "blocking", "troubled", "breaks", "steady")
_RETRY_S = 0.05  # a command that was refused or lost comes again after this


class Person:
    """One user with two tabs: all events in one, the lifecycle in the other."""

    def __init__(self, server: ChaosServer, name: str, token: str, *, foreign: list[str], seed: int) -> None:
        self.name = name
        self.server = server
        self.rng = random.Random(f"{seed}-{name}")
        self.all = Tab(server.url, token, foreign=foreign)
        self.lifecycle = Tab(server.url, token, view="lifecycle", foreign=foreign)
        self._numbers = itertools.count(1)

    def next_content(self, agent: str) -> str:
        """Return a message that is said only once in the world, with the person's canary."""
        return f"{canary(self.name)} {agent} {next(self._numbers)} parts={self.rng.randint(2, 5)}"


def canary(name: str) -> str:
    """Return what only this person may ever see."""
    return f"canary-of-{name}-7f3a"


@dataclass
class People:
    """Everybody, and when to stop.

    Args:
        people: each talks in several conversations at once.
        conversations: so many at a time per person.
        account: takes the figures.
        is_compacted: whether deltas of ended runs may be gone from the log.
    """

    people: list[Person]
    conversations: int
    account: Account
    is_compacted: bool = False
    wanted: str | None = None  # what the failpoint at hand needs more of: "cancel", "interrupt" or "resend"
    is_over: bool = False  # begin nothing new
    unfinished: set[str] = field(default_factory=set)  # runs that somebody waits for

    async def live(self) -> None:
        """Talk until it is over and everything was judged."""
        async with asyncio.TaskGroup() as tabs:
            living = [tabs.create_task(tab.live()) for person in self.people for tab in (person.all, person.lifecycle)]
            async with asyncio.TaskGroup() as talks:
                for person in self.people:
                    for _ in range(self.conversations):
                        talks.create_task(self._talk_on(person))
            for tab in living:
                tab.cancel()

    async def _talk_on(self, person: Person) -> None:
        while not self.is_over:
            await Conversation(self, person).live()
            self.account.counts["threads"] += 1


class Conversation:
    """One thread from its first message to its judgement."""

    def __init__(self, people: People, person: Person) -> None:
        self._people = people
        self._person = person
        self._account = people.account
        self._thread: str | None = None
        self._said: list[Said] = []

    async def live(self) -> None:
        """Say a few things, wait for the ends, and be judged."""
        rng = self._person.rng
        for _ in range(rng.randint(1, 3)):
            await self._exchange()
            if self._people.is_over:
                break
        await self._judge()

    async def _exchange(self) -> None:
        """Say one or two things, perhaps cancel, and wait until all has ended."""
        rng, wanted = self._person.rng, self._people.wanted
        first = await self._say(rng.choice(AGENTS), "enqueue", after_loss=wanted == "resend" or rng.random() < 0.2)
        if wanted == "interrupt" or rng.random() < 0.25:
            await self._progress(first)
            on_active = "interrupt" if wanted == "interrupt" else rng.choice(("interrupt", "enqueue", "reject"))
            await self._say(rng.choice(AGENTS[:-1]), on_active, after_loss=False)
        for at, one in enumerate(self._said):
            if one.run is None or one.run in self._person.all.ended:
                continue
            if one.agent == "steady" or wanted == "cancel" or rng.random() < 0.15:
                await self._progress(one)
                self._said[at] = await self._cancel(one)
        runs = [one.run for one in self._said if one.run]
        self._people.unfinished.update(runs)
        ended = self._person.all.ended
        await self._person.all.until_true(lambda: all(run in ended for run in runs))
        self._people.unfinished.difference_update(runs)

    async def _say(self, agent: str, on_active: str, *, after_loss: bool) -> Said:
        """Say something until it is acknowledged or refused for good; perhaps once more after that."""
        person = self._person
        content = person.next_content(agent)
        said = Said(key=f"key {content}", agent=agent, content=content, run=None)
        thread = self._thread  # the same again: a key stands for the whole request
        try:
            data = await self._until_said(said, on_active, thread=thread)
        except Refused as refused:
            if (refused.code, on_active) != ("run_active", "reject"):
                raise
            self._account.counts["refused"] += 1
            self._said.append(said)
            return said
        said = replace(said, run=data["run"], seq=data["seq"])
        if self._thread is None:
            self._thread = data["thread"]
            await person.lifecycle.follow(data["thread"])
        assert data["thread"] == self._thread, data
        if after_loss:
            again = await self._until_said(said, on_active, thread=thread)
            assert {k: again[k] for k in ("run", "seq", "message")} == {k: data[k] for k in ("run", "seq", "message")}
            self._account.counts["said again"] += 1
        self._account.counts["acknowledged"] += 1
        self._said.append(said)
        return said

    async def _until_said(self, said: Said, on_active: str, *, thread: str | None) -> dict[str, Any]:
        body = {"content": said.content, "agent": said.agent, "on_active": on_active}
        while True:
            try:
                if thread is not None and self._person.rng.random() < 0.3:
                    return await self._post(said, body, thread=thread)
                reply = await self._person.all.ask("send", key=said.key, thread=thread, **body)
            except Unsaid:
                self._account.counts["replies lost"] += 1
            except Refused as refused:
                if refused.code != "unavailable":
                    raise
            else:
                data: dict[str, Any] = reply["data"]
                return data
            await asyncio.sleep(_RETRY_S)

    async def _post(self, said: Said, body: dict[str, Any], *, thread: str) -> dict[str, Any]:
        try:
            status, answer = await asyncio.to_thread(
                self._person.all.http, "POST", f"/v1/threads/{thread}/messages", body, Idempotency_Key=said.key
            )
        except (urllib.error.URLError, OSError, HTTPException, ValueError) as error:
            raise Unsaid from error
        if status != 202:
            raise Refused({"code": answer["code"], "message": str(answer)})
        data: dict[str, Any] = answer
        return data

    async def _progress(self, one: Said) -> None:
        """Wait until a run has said something, or has ended."""
        tab, rng = self._person.all, self._person.rng
        enough = rng.randint(1, 12)

        def is_under_way() -> bool:
            if one.run in tab.ended or one.run is None:
                return True
            events = tab.events.get(self._thread or "", ())
            return sum(1 for event in events if event["run"] == one.run) > enough

        await tab.until_true(is_under_way)

    async def _cancel(self, one: Said) -> Said:
        while True:
            try:
                await self._person.all.ask("cancel", run=one.run)
            except Unsaid:
                continue
            except Refused as refused:
                if refused.code != "unavailable":
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            self._account.counts["cancellations"] += 1
            return replace(one, is_cancelled=True)

    async def _judge(self) -> None:
        person, thread = self._person, self._thread
        if thread is None:
            return
        ended = person.lifecycle.ended
        runs = [one.run for one in self._said if one.run]
        await person.lifecycle.until_true(lambda: all(run in ended for run in runs))
        stored = await self._stored(thread)
        # A tab may be behind what HTTP gave only by what is on its way.
        judge_thread(
            person.server,
            stored,
            shown=await person.all.forget(thread),
            lifecycle=await person.lifecycle.forget(thread),
            said=self._said,
            account=self._account,
            is_compacted=self._people.is_compacted,
        )
        for run in runs:
            ended.pop(run, None)
            person.all.ended.pop(run, None)

    async def _stored(self, thread: str) -> list[dict[str, Any]]:
        while True:
            try:
                return await asyncio.to_thread(stored_events, self._person.all, thread)
            except (urllib.error.URLError, OSError, HTTPException, ValueError):
                await asyncio.sleep(_RETRY_S)  # it is down just now
