"""The model's database is no invention: adapters answer its calls as it does, and have the same log and rows after."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.contract.adapters import (
    Adapter,
    MemoryAdapter,
    PostgresAdapter,
    SqliteAdapter,
    completed,
    said,
    send,
    thought,
)
from tests.model.database import Database
from tests.model.scenarios import Person, Scenario
from tests.model.state import Call, Event, State
from tests.model.world import World
from tests.postgres import PostgresServer

from runwire.errors import Conflict
from runwire.protocol.events import AgentCancelled, AgentResumed, AgentWaiting, EmittedEvent, emitted
from runwire.storage.base import Batch, CancelRequest, OpenedWait, RunEnd

WALKS = {"memory": 300, "sqlite": 10, "postgres": 6}
STEPS = 60
CALM = 0.9  # how often nothing is called off, so that runs come far
USER = "usr_ada"

SCENARIO = Scenario(
    name="against adapters",
    programs=(("tool", "ask"), ("ask",), ("say",)),
    threads=(0, 0, 0),
    people=(
        Person(verb="answer", place=1, by="Ann"),
        Person(verb="answer", place=1, by="Bob"),
        Person(verb="cancel"),
        Person(verb="send", run=1, by="enqueue"),
        Person(verb="send", run=2, by="interrupt"),
        Person(verb="answer", run=1, by="Ann"),
    ),
    faults={"kill": 3, "lose": 3},
    at_most=4,
    workers=1,
    has_leases=False,
)

_OUTCOMES = {"Stored": "stored", "AlreadyStored": "already", "Fenced": "fenced", "Overtaken": "overtaken"}
_WORDS = {
    "user": "user_message",
    "waiting": "agent_waiting",
    "resumed": "agent_resumed",
    "completed": "agent_completed",
    "cancelled": "agent_cancelled",
}


class Recording(Database):
    """Remembers what it was asked, and what it answered."""

    calls: list[tuple[Any, ...]]

    def execute(self, state: State, call: Call) -> tuple[State, Call]:
        after, answered = super().execute(state, call)
        self.calls.append((call.verb, answered))
        return after, answered

    def send(self, state: State, on_active: str) -> State:
        self.calls.append(("send", on_active))
        return super().send(state, on_active)

    def answer(self, state: State, key: int, place: int, by: str) -> tuple[State, bool]:
        after, is_taken = super().answer(state, key, place, by)
        self.calls.append(("answer", key, place, by, is_taken))
        return after, is_taken

    def cancel(self, state: State, key: int) -> State:
        self.calls.append(("cancel", key))
        return super().cancel(state, key)


class Twin:
    """An adapter that is asked what the model is asked."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.runs: list[str] = []
        self.thread: str | None = None

    async def do(self, verb: str, *what: Any) -> None:
        await getattr(self, f"_{verb}")(*what)

    async def check(self, state: State) -> None:
        assert self.thread is not None
        page = await self.adapter.storage.events.read(self.thread, after=0)
        assert said(page.events) == [_WORDS.get(it.kind, it.kind) for part in state.logs[0] for it in part.events]
        assert [event.seq for event in page.events] == list(range(1, len(page.events) + 1))
        for id_, run in zip(self.runs, state.runs, strict=True):
            row = await self.adapter.storage.runs.get(USER, id_)
            assert (row.status, row.attempt) == (run.status, run.attempt)

    async def _send(self, on_active: Any) -> None:
        sent = await send(self.adapter.storage, self.thread, user=USER, on_active=on_active)
        self.thread = sent.thread
        self.runs.append(sent.run)

    async def _append(self, call: Call) -> None:
        model = call.batch[0]
        batch = Batch(
            run=self.runs[call.run],
            attempt=call.attempt,
            ordinal=model.ordinal,
            events=tuple(self._event(call.run, event) for event in model.events),
            end=RunEnd(status=model.end) if model.end else None,  # type: ignore[arg-type] # one of its three words
            waits=tuple(
                OpenedWait(wait=self._wait(call.run, event.place), kind="input")
                for event in model.events
                if event.kind == "waiting"
            ),
            closes=tuple(self._wait(call.run, place) for place in model.closes),
        )
        (outcome,) = await self.adapter.storage.events.append([batch])
        assert _OUTCOMES[type(outcome).__name__] == call.outcome

    async def _claim(self, call: Call) -> None:
        (claim,) = await self.adapter.storage.runs.claim(
            f"worker {call.worker}", agents=["echo"], limit=1, user_limit=SCENARIO.user_limit, holding=[]
        )
        assert claim.run == self.runs[call.run]
        assert (claim.attempt, claim.ordinal, claim.is_resumed) == (call.attempt, call.ordinal, call.is_resumed)

    async def _park(self, call: Call) -> None:
        waits = [self._wait(call.run, event.place) for event in call.closing]
        closing = [self._event(call.run, event) for event in call.closing]
        is_parked = await self.adapter.storage.runs.park(
            self.runs[call.run], call.attempt, ordinal=call.ordinal, waits=waits, closing=closing
        )
        assert is_parked == (call.outcome == "parked")

    async def _answer(self, key: int, place: int, by: str, is_taken: bool) -> None:
        try:
            await self.adapter.storage.runs.answer(USER, self.runs[key], self._wait(key, place), by)
        except Conflict:
            assert not is_taken
        else:
            assert is_taken

    async def _cancel(self, key: int) -> None:
        await self.adapter.storage.runs.cancel(USER, self.runs[key], CancelRequest(by="user"))

    def _wait(self, run: int, place: int) -> str:
        return f"wt_{self.runs[run]}_{place}"

    def _event(self, run: int, event: Event) -> EmittedEvent:
        if event.kind == "waiting":
            return emitted(AgentWaiting(wait=self._wait(run, event.place), kind="input"), ts=1)
        if event.kind == "resumed":
            return emitted(AgentResumed(wait=self._wait(run, event.place), value=None, by=event.by), ts=1)
        if event.kind == "cancelled":
            return emitted(AgentCancelled(by="user"), ts=1)
        return completed() if event.kind == "completed" else thought(event.kind)


async def walk(seed: int, adapter: Adapter) -> set[str]:
    """Go a way through the model that a seed names, with an adapter beside it; return what happened."""
    choose = random.Random(seed)
    world, recording, twin = World(SCENARIO), Recording(SCENARIO), Twin(adapter)
    world.database = world.workers.database = recording
    state = SCENARIO.begin()
    happened: set[str] = set()
    await twin.do("send", "enqueue")
    for _ in range(STEPS):
        recording.calls = []
        ways = []
        for label, _, after in world.successors(state):
            ways.append((label, after, recording.calls))
            recording.calls = []
        if not ways:
            break
        gentle = [way for way in ways if "cancels" not in way[0] and "interrupt" not in way[0]]
        label, state, calls = choose.choice(gentle if gentle and choose.random() < CALM else ways)
        if label.endswith("is killed"):
            await adapter.crash()
        for verb, *what in calls:
            await twin.do(verb, *what)
            happened.add(f"{verb} {what[0].outcome}" if isinstance(what[0], Call) else verb)
        await twin.check(state)
    return happened


async def opened(kind: str, folder: Path, server: PostgresServer) -> Adapter:
    if kind == "memory":
        return MemoryAdapter()
    if kind == "postgres":
        return await PostgresAdapter(server).open()
    (folder / "owner0").mkdir(parents=True)
    return await SqliteAdapter(folder).open()


@pytest.mark.parametrize("kind", WALKS)
async def test_an_adapter_does_what_the_model_does(kind: str, tmp_path: Path, postgres_server: PostgresServer) -> None:
    happened: set[str] = set()
    for seed in range(WALKS[kind]):
        adapter = await opened(kind, tmp_path / str(seed), postgres_server)
        try:
            happened |= await walk(seed, adapter)
        finally:
            await adapter.close()
    assert happened >= {"append stored", "claim claimed", "park parked", "send", "cancel"}
    if kind == "memory":
        assert happened >= {"append already", "append overtaken", "answer"}
