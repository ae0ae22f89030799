"""Runs and their workers under crashes, takeovers, lost replies and people who answer twice, against a plain model.

After every step the log is what the model says, event by event with run, attempt and place. What the model never
allows: a second start or end, two active runs in a thread, a user over the limit, an event of an attempt that did not
hold its run, a wait that is resumed twice, a parked run that was answered and is not claimed.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import isinf
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.contract.adapters import Adapter, completed, failed, send, started, thought
from tests.contract.runs_model import UNFINISHED, Model, Run, Thread, Wait, resumed, word

from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.protocol.events import AgentCancelled, AgentResumed, AgentWaiting, EmittedEvent, emitted, unpack
from runwire.storage.base import (
    AlreadyStored,
    Batch,
    CancelRequest,
    Claim,
    Committed,
    Fenced,
    Member,
    OpenedWait,
    Overtaken,
    RunEnd,
    Signal,
    Storage,
    Stored,
    WaitKind,
)

__all__ = ["RunsMachine"]

T = TypeVar("T")
USERS = ("usr_ada", "usr_bob")
WORKERS = ("w1", "w2")
AGENTS = ("echo", "other")
USER_LIMIT = 2
BY_USER = CancelRequest(by="user", reason="stop")
INTERRUPT = CancelRequest(by="policy", reason="interrupt")
ENDS = {"completed": completed(), "failed": failed(), "cancelled": emitted(AgentCancelled(by="user"), ts=1)}
FUTURE = 2**50
KINDS: tuple[WaitKind, ...] = ("approval", "input", "timer")


@dataclass(eq=False, repr=False)
class Held:
    """A claim as its worker knows it."""

    worker: str
    claim: Claim
    run: Run
    ordinal: int
    open: set[str] = field(default_factory=set)  # waits that it takes for open
    last: tuple[Batch, int] | None = None  # the newest batch that was stored, and its first seq
    parked: dict[str, Any] | None = None  # what it said when it parked

    def __repr__(self) -> str:
        return f"<{self.worker} {self.run.id}/{self.claim.attempt}>"

    @property
    def is_owner(self) -> bool:
        run = self.run
        held = (run.status, run.attempt, run.worker, run.left)
        return held == ("running", self.claim.attempt, self.worker, None)


class RunsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="runwire-runs-"))
        self.runner = asyncio.Runner()
        self.adapter = self.do(self.opened())
        self.model = Model()
        self.held: dict[str, Held] = {}  # by run: who claimed it last, and heard of it
        self.stale: list[Held] = []
        self.numbers = count(1)
        self.agents: dict[str, tuple[str, ...]] = dict.fromkeys(WORKERS, AGENTS)  # what each has

    async def opened(self) -> Adapter:
        raise NotImplementedError

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def storage(self) -> Storage:
        return self.adapter.storage

    def teardown(self) -> None:
        try:
            self.claim_all_there_is()
        finally:
            self.do(self.adapter.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    # people -----------------------------------------------------------------------------------------

    @rule(
        data=st.data(),
        user=st.sampled_from(USERS),
        on_active=st.sampled_from(("enqueue", "enqueue", "reject", "interrupt")),
        agent=st.sampled_from(AGENTS),
        is_new=st.booleans(),
    )
    def send(self, data: st.DataObject, user: str, on_active: str, agent: str, is_new: bool) -> None:
        theirs = [one for one in self.model.threads.values() if one.user == user and not one.is_deleted]
        thread = None if is_new or not theirs else data.draw(st.sampled_from(theirs), label="thread")
        self.send_one(thread, user, on_active, agent)

    def send_one(self, thread: Thread | None, user: str, on_active: str, agent: str) -> None:
        unfinished = [] if thread is None else [run for run in thread.runs if run.status in UNFINISHED]
        try:
            call = send(self.storage, thread.id if thread else None, user=user, on_active=on_active, agent=agent)
            sent = self.do(call)
        except Conflict:
            assert on_active == "reject"
            assert unfinished
            return
        assert on_active != "reject" or not unfinished
        thread = self.model.threads.setdefault(sent.thread, Thread(sent.thread, user))
        before = len(thread.log)
        if on_active == "interrupt":
            assert set(sent.stop) == {run.id for run in unfinished if run.status == "running"}
            for one in unfinished:
                one.call_off(INTERRUPT)
        run = Run(sent.run, thread, len(self.model.runs), agent)
        run.say("user_message")
        self.model.runs[run.id] = run
        thread.runs.append(run)
        assert (sent.after, sent.seq) == (before, len(thread.log))
        self.check_committed(sent.committed, thread.log[before:])

    @precondition(lambda self: self.model.waits)
    @rule(data=st.data(), value=st.booleans())
    def answer(self, data: st.DataObject, value: bool) -> None:
        """Answer in one of two tabs, whatever the other one did."""
        self.answer_one(data.draw(st.sampled_from(list(self.model.waits.values())), label="wait"), value)

    @rule(data=st.data(), value=st.booleans())
    def answer_what_is_open(self, data: st.DataObject, value: bool) -> None:
        if not self.answerable():
            self.park(data)
        if self.answerable():  # its thread may be a deleted one
            self.answer_one(data.draw(st.sampled_from(self.answerable()), label="wait"), value)

    @precondition(lambda self: any(wait.value is not None for wait in self.model.waits.values()))
    @rule(data=st.data())
    def answer_again_after_a_lost_reply(self, data: st.DataObject) -> None:
        answered = [wait for wait in self.model.waits.values() if wait.value is not None]
        wait = data.draw(st.sampled_from(answered), label="wait")
        self.answer_one(wait, bool(wait.value))

    @precondition(lambda self: self.model.waits)
    @rule(data=st.data())
    def answer_for_somebody_else(self, data: st.DataObject) -> None:
        wait = data.draw(st.sampled_from(list(self.model.waits.values())), label="wait")
        try:
            self.do(self.storage.runs.answer("usr_eve", wait.run.id, wait.id, True))
        except NotFound:
            return
        raise AssertionError("somebody else has answered")

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        unfinished = self.model.of(*UNFINISHED) or list(self.model.runs.values())
        self.cancel_one(data.draw(st.sampled_from(unfinished), label="run"))

    def cancel_one(self, run: Run) -> None:
        before = len(run.thread.log)
        result = self.do(self.storage.runs.cancel(None, run.id, BY_USER))
        if run.status in UNFINISHED:
            run.call_off(BY_USER)
        self.check_committed(result.committed, run.thread.log[before:])
        assert result.status == run.status

    @precondition(lambda self: len(self.model.runs) > 3)
    @rule(user=st.sampled_from(USERS))
    def withdraw_access(self, user: str) -> None:
        request = CancelRequest(by="revoked")
        theirs = [run for run in self.model.of(*UNFINISHED) if run.user == user]
        results = self.do(self.storage.runs.cancel_user(user, request))
        for run in theirs:
            run.call_off(request)
        assert [(one.run, one.status) for one in results] == [(run.id, run.status) for run in theirs]

    @precondition(lambda self: len(self.model.threads) > 2)
    @rule(data=st.data())
    def delete_thread(self, data: st.DataObject) -> None:
        left = [one for one in self.model.threads.values() if not one.is_deleted]
        if not left:
            return
        thread = data.draw(st.sampled_from(left), label="thread")
        unfinished = [run for run in thread.runs if run.status in UNFINISHED]
        running = [run.id for run in unfinished if run.status == "running"]
        assert self.do(self.storage.threads.delete(thread.user, thread.id)) == running
        thread.is_deleted = True
        for run in unfinished:
            run.call_off(CancelRequest(by="user", reason="thread deleted"))

    # workers ----------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), agents=st.sampled_from((AGENTS, AGENTS[:1], AGENTS[1:])))
    def announce(self, worker: str, agents: tuple[str, ...]) -> None:
        """Have these agents from now on, and say so; all who have said so were there for long enough."""
        self.announce_one(worker, agents)

    def announce_one(self, worker: str, agents: tuple[str, ...]) -> None:
        self.do(self.storage.members.announce(Member(node=worker, roles=("worker",), agents=agents)))
        self.do(self.adapter.settle())
        self.agents[worker] = self.model.members[worker] = agents

    @rule(data=st.data(), queued=st.booleans(), called_off=st.booleans(), had=st.booleans(), orphans=st.booleans())
    def leave_to_the_other(self, data: st.DataObject, queued: bool, called_off: bool, had: bool, orphans: bool) -> None:
        """A run that is queued or was given back, and of two workers one has its agent, or none: the other claims."""
        held = self.draw_owned(data)
        agent = held.run.agent
        if queued:
            self.send_one(None, USERS[1], "enqueue", agent)
        else:
            self.give_back(held, "drained")
        others = tuple(other for other in AGENTS if other != agent)
        self.announce_one(WORKERS[0], (agent,) if had else others)
        self.announce_one(WORKERS[1], others)
        if called_off:
            self.cancel_one(held.run)
        self.claim_as(WORKERS[1], limit=9, knows=False, takes_orphans=orphans)

    @rule(worker=st.sampled_from(WORKERS), agents=st.sampled_from((AGENTS[:1], AGENTS[1:])))
    def change_without_a_word(self, worker: str, agents: tuple[str, ...]) -> None:
        self.agents[worker] = agents

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 4), knows=st.booleans(), orphans=st.booleans())
    def claim(self, worker: str, limit: int, knows: bool, orphans: bool) -> None:
        self.claim_as(worker, limit=limit, knows=knows, takes_orphans=orphans)

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 2))
    def claim_without_a_reply(self, worker: str, limit: int) -> None:
        """The claims are stored; their worker hears of them when it says what it holds."""
        self.claim_as(worker, limit=limit, knows=False, hears=False)

    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def steal(self, data: st.DataObject, worker: str) -> None:
        """All workers are lost, and another takes over at once; the former holder knows of nothing."""
        held = self.draw_owned(data)
        self.crash_and_reopen()
        for _ in range(2):
            if held in self.zombies():
                assert self.do(self.storage.events.append([self.batch(held, 1)])) == [Fenced()]
            self.claim_as(worker, limit=9, knows=False)

    @rule(data=st.data(), size=st.integers(1, 3), is_answered=st.booleans())
    def step(self, data: st.DataObject, size: int, is_answered: bool) -> None:
        held = self.draw_owned(data)
        self.store([self.batch(held, size)])
        if not is_answered:
            self.append_again(held)

    @precondition(lambda self: len(self.owned()) > 1)
    @rule(data=st.data())
    def step_of_all_at_once(self, data: st.DataObject) -> None:
        """One append with a batch of each, some of which end or have been overtaken."""
        ends = [data.draw(st.sampled_from((None, None, "failed")), label="end") for _ in self.owned()]
        self.store([self.batch(held, 1, end=end) for held, end in zip(self.owned(), ends, strict=True)])

    @rule(data=st.data(), how=st.sampled_from(tuple(ENDS)))
    def end(self, data: st.DataObject, how: str) -> None:
        self.end_one(self.draw_owned(data), how)

    def end_one(self, held: Held, how: str) -> None:
        self.store([self.batch(held, 0, end=how)])
        if held.is_owner:  # overtaken: it reads the log, and ends anew
            held.open = {wait.id for wait in held.run.waits.values() if wait.by is None}
            self.store([self.batch(held, 0, end=how)])
            assert not held.is_owner

    @rule(
        data=st.data(),
        kind=st.sampled_from(KINDS),
        due=st.sampled_from((None, "past", "future")),
        number=st.integers(1, 2),
        parks=st.sampled_from((True, True, False)),
    )
    def wait(self, data: st.DataObject, kind: WaitKind, due: str | None, number: int, parks: bool) -> None:
        held = self.draw_owned(data)
        due_at = {None: None, "past": next(self.numbers), "future": FUTURE}[due]
        opened = [OpenedWait(wait=f"wt_{next(self.numbers)}", kind=kind, due_at=due_at) for _ in range(number)]
        self.store([self.batch(held, 0, waits=opened)])
        if parks:
            self.park_one(held)

    @rule(data=st.data(), value=st.booleans(), then=st.sampled_from(("end", "park", "learn", "give back")))
    def answer_before_the_holder_knows(self, data: st.DataObject, value: bool, then: str) -> None:
        held = self.draw_owned(data)
        wait = f"wt_{next(self.numbers)}"
        self.store([self.batch(held, 0, waits=[OpenedWait(wait=wait, kind="input")])])
        self.answer_one(held.run.waits[wait], value)
        match then:
            case "end":
                self.end_one(held, "completed")
            case "park":
                self.park_one(held)
            case "learn":
                self.learn(held.worker)
            case _:
                self.give_back(held, "deploy")

    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        """Park what waits, which may have been answered meanwhile, or else what begins to."""
        waiting = [held for held in self.owned() if held.open]
        held = data.draw(st.sampled_from(waiting), label="held") if waiting else self.draw_owned(data)
        if not waiting:
            self.store([self.batch(held, 0, waits=[OpenedWait(wait=f"wt_{next(self.numbers)}", kind="input")])])
        self.park_one(held)

    @rule(limit=st.integers(1, 4))
    def fire_timers(self, limit: int) -> None:
        due = self.model.due(limit)
        fired = self.do(self.storage.runs.fire_timers(limit=limit))
        assert [(one.wait, one.run, one.is_parked) for one in fired] == [
            (wait.id, wait.run.id, wait.run.status == "waiting") for wait in due
        ]
        for wait, one in zip(due, fired, strict=True):
            wait.run.resume(wait, "timer", None)
            assert one.committed is not None
            self.check_committed([one.committed], wait.run.thread.log, wait)

    @rule(worker=st.sampled_from(WORKERS))
    def learn(self, worker: str) -> None:
        """Ask what happened to what it holds, or held."""
        theirs = {one.run.id: one for one in [*self.stale, *self.held.values()] if one.worker == worker}
        if not isinf(self.storage.lease_s):  # a lease that has run out is nobody's news until somebody takes the run
            theirs = {run: one for run, one in theirs.items() if one.run.left != "crashed"}
        held = {run: one.claim.attempt for run, one in theirs.items()}
        waits = {wait for one in theirs.values() for wait in one.open}
        found = self.do(self.storage.runs.signals(worker, held, sorted(waits)))
        assert plain(found) == plain(self.model.signals(worker, held.items(), waits))
        for signal in found:
            theirs[signal.run].open -= {answer.wait for answer in signal.answers}

    @rule(data=st.data(), reason=st.sampled_from(("drained", "deploy", "worker_lost")))
    def release(self, data: st.DataObject, reason: Any) -> None:
        self.give_back(self.draw_owned(data), reason)

    def give_back(self, held: Held, reason: Any) -> None:
        self.do(self.storage.runs.release(held.run.id, held.claim.attempt, reason=reason))
        held.run.left = "given back"
        if reason == "worker_lost":
            held.run.lost += (held.run.attempt,)
        else:
            held.run.handed_over = reason

    @precondition(lambda self: any(held.last for held in self.known()))
    @rule(data=st.data())
    def append_again_after_a_lost_reply(self, data: st.DataObject) -> None:
        self.append_again(data.draw(st.sampled_from([one for one in self.known() if one.last]), label="held"))

    def append_again(self, held: Held) -> None:
        assert held.last is not None
        batch, first = held.last
        (outcome,) = self.do(self.storage.events.append([batch]))
        stored = AlreadyStored(first_seq=first, last_seq=first + len(batch.events) - 1)
        assert outcome in ((stored,) if held.run.attempt == batch.attempt else (stored, Fenced()))

    @precondition(lambda self: any(held.parked for held in self.known()))
    @rule(data=st.data())
    def park_again_after_a_lost_reply(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from([one for one in self.known() if one.parked]), label="held")
        is_parked = (held.run.status, held.run.attempt) == ("waiting", held.claim.attempt)
        assert self.do(self.storage.runs.park(held.run.id, held.claim.attempt, **held.parked or {})) == is_parked

    @precondition(lambda self: self.zombies())
    @rule(data=st.data(), ends=st.booleans())
    def append_as_a_zombie(self, data: st.DataObject, ends: bool) -> None:
        held = data.draw(st.sampled_from(self.zombies()), label="held")
        batch = self.batch(held, 1, end="completed" if ends else None)
        assert self.do(self.storage.events.append([batch])) == [Fenced()]

    @precondition(lambda self: self.zombies())
    @rule(data=st.data())
    def give_back_as_a_zombie(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.zombies()), label="held")
        if held.run.left is None:
            self.do(self.storage.runs.renew(held.worker, {held.run.id: held.claim.attempt}))
            self.do(self.storage.runs.release(held.run.id, held.claim.attempt, reason="worker_lost"))
        if held.parked is None:
            call = self.storage.runs.park(
                held.run.id, held.claim.attempt, ordinal=held.run.ordinal, waits=["wt_x"], closing=[]
            )
            assert not self.do(call)

    @rule()
    def crash_and_reopen(self) -> None:
        self.model.crash()
        self.do(self.adapter.crash())

    # what must hold ---------------------------------------------------------------------------------

    @invariant()
    def log_is_what_was_acknowledged(self) -> None:
        for thread in self.model.threads.values():
            if thread.is_deleted:
                continue
            page = self.do(self.storage.events.read(thread.id, after=0, limit=10_000, size_bytes=10**9))
            found = [(event.seq, event.run, event.attempt, word(event)) for event in page.events]
            assert found == [(seq, *entry) for seq, entry in enumerate(thread.log, start=1)]
            assert (page.head, page.floor) == (len(thread.log), 0)

    @invariant()
    def runs_are_what_they_are_said_to_be(self) -> None:
        for user in USERS:
            found = {row.run: row for row in self.do(self.storage.runs.list(user, limit=1_000))}
            theirs = [one for one in self.model.runs.values() if one.user == user and not one.thread.is_deleted]
            assert {run: (row.status, row.attempt) for run, row in found.items()} == {
                run.id: (run.status, run.attempt) for run in theirs
            }

    @invariant()
    def model_keeps_its_own_rules(self) -> None:
        """Say once more, of the log alone, what no run and no thread may ever show."""
        for thread in self.model.threads.values():
            assert len([run for run in thread.runs if run.status in ("running", "waiting")]) <= 1
            for run in thread.runs:
                words = [one for whose, _, one in thread.log if whose == run.id]
                ends = [place for place, one in enumerate(words) if one in {str(end.type) for end in ENDS.values()}]
                assert ends == ([] if run.status in UNFINISHED else [len(words) - 1])
                assert words.count("agent_started") <= 1
                again = Counter(one.split()[1] for one in words if one.startswith("resumed "))
                assert all(times == 1 for times in again.values())
        assert all(times <= USER_LIMIT for times in Counter(run.user for run in self.model.of("running")).values())

    # ------------------------------------------------------------------------------------------------

    def known(self) -> list[Held]:
        return [*self.held.values(), *self.stale]

    def owned(self) -> list[Held]:
        return [held for held in self.held.values() if held.is_owner]

    def zombies(self) -> list[Held]:
        """Return former holders; one whose lease has run out may be its run's holder until somebody takes it."""
        is_fenced_at_once = isinf(self.storage.lease_s)
        return [one for one in self.known() if not one.is_owner and (is_fenced_at_once or one.run.left != "crashed")]

    def answerable(self) -> list[Wait]:
        waits = self.model.waits.values()
        return [one for one in waits if one.by is None and one.kind != "timer" and not one.run.thread.is_deleted]

    def draw_owned(self, data: st.DataObject) -> Held:
        """Choose a run that is held; if there is none, have one claimed, or sent and claimed."""
        for worker in WORKERS:
            if not self.owned():  # also what was claimed for it without a reply
                self.agents[worker] = AGENTS
                self.claim_as(worker, limit=2, knows=True)
        if not self.owned():
            self.send_one(None, USERS[0], "enqueue", AGENTS[0])
            self.claim_as(WORKERS[0], limit=9, knows=False)
        return data.draw(st.sampled_from(self.owned()), label="held")

    def claim_as(self, worker: str, *, limit: int, knows: bool, hears: bool = True, takes_orphans: bool = True) -> None:
        holding = [held.run.id for held in self.owned() if held.worker == worker] if knows else None
        claims = self.claims_of(worker, limit, USER_LIMIT, holding, takes_orphans=takes_orphans)
        for claim in claims:
            run = self.model.runs[claim.run]
            if claim.run in self.held:
                self.stale.append(self.held.pop(claim.run))
            if hears:
                is_open = {wait.id for wait in run.waits.values() if wait.by is None}
                self.held[claim.run] = Held(worker, claim, run, claim.ordinal, is_open)

    def claims_of(
        self, worker: str, limit: int, user_limit: int, holding: list[str] | None, *, takes_orphans: bool
    ) -> list[Claim]:
        """Claim, and see that it was what there is."""
        agents = self.agents[worker]
        claims = self.do(
            self.storage.runs.claim(
                worker,
                agents=agents,
                limit=limit,
                user_limit=user_limit,
                holding=holding,
                take_orphans=takes_orphans,
            )
        )
        self.model.check_claims(
            claims,
            worker,
            agents=agents,
            limit=limit,
            user_limit=user_limit,
            holding=holding,
            # With leases only a member may: that knows who else is there.
            takes_orphans=takes_orphans and (isinf(self.storage.lease_s) or worker in self.model.members),
        )
        return claims

    def claim_all_there_is(self) -> None:
        """In the end whatever was answered, given back or lost is there for the next."""
        self.crash_and_reopen()
        self.agents["w9"] = AGENTS
        self.claims_of("w9", 999, 999, None, takes_orphans=False)
        assert not any(run.is_woken for run in self.model.of("waiting"))

    def answer_one(self, wait: Wait, value: bool) -> None:
        run, earlier, told = wait.run, (wait.by, wait.value), ""
        try:
            answered = self.do(self.storage.runs.answer(run.user, run.id, wait.id, value))
        except NotFound:
            assert run.thread.is_deleted
        except ProtocolError:
            assert wait.kind == "timer"
        except Conflict as error:
            assert wait.by is not None
            assert earlier != (run.user, value)
            told = error.message
        else:
            assert not run.thread.is_deleted
            assert wait.kind != "timer"
            assert (answered.run, answered.wait) == (run.id, wait.id)
            assert answered.is_parked == (run.status == "waiting")
            if answered.committed is None:
                assert earlier == (run.user, value)
                return
            assert earlier == (None, None)
            run.resume(wait, run.user, value)
            self.check_committed([answered.committed], run.thread.log, wait)
        assert not told or earlier[0] in ("timer", "ended") or str(earlier[0]) in told

    def park_one(self, held: Held) -> None:
        run, waits = held.run, sorted(held.open)
        closing = [emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1) for wait in waits]
        held.parked = {"ordinal": held.ordinal, "waits": waits, "closing": closing}
        assert self.do(self.storage.runs.park(run.id, held.claim.attempt, **held.parked))
        run.status, run.worker, run.closing = "waiting", None, tuple(resumed(wait, "ended") for wait in waits)
        run.is_woken = run.cancel is not None or any(run.waits[wait].by is not None for wait in waits)

    def batch(self, held: Held, size: int, *, end: str | None = None, waits: Sequence[OpenedWait] = ()) -> Batch:
        events: list[EmittedEvent] = [thought(f"w{next(self.numbers)}") for _ in range(size)]
        if held.ordinal == 0:
            events[:1] = [started()]
        events += [emitted(AgentWaiting(wait=one.wait, kind=one.kind, due_at=one.due_at), ts=1) for one in waits]
        closes = sorted(held.open) if end else []
        events += [emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1) for wait in closes]
        if end:
            events.append(ENDS[end])
        return Batch(
            run=held.run.id,
            attempt=held.claim.attempt,
            ordinal=held.ordinal,
            events=tuple(events) or (thought(f"w{next(self.numbers)}"),),
            end=RunEnd(status=end) if end else None,  # type: ignore[arg-type]  # one of ENDS
            waits=tuple(waits),
            closes=tuple(closes),
        )

    def store(self, batches: Sequence[Batch]) -> None:
        outcomes = self.do(self.storage.events.append(batches))
        for batch, outcome in zip(batches, outcomes, strict=True):
            held = self.held[batch.run]
            run = held.run
            if any(run.waits[wait].by is not None for wait in batch.closes):
                assert outcome == Overtaken()
                continue
            assert isinstance(outcome, Stored)
            before = len(run.thread.log)
            events = unpack(outcome.committed.packed, first_seq=before + 1, run=run.id, attempt=run.attempt)
            run.say(*(word(event) for event in events))
            assert len(run.thread.log) - before == len(batch.events)
            assert outcome.committed.first_seq == before + 1
            self.check_committed([outcome.committed], run.thread.log[before:])
            run.ordinal += len(batch.events)
            held.ordinal, held.last = run.ordinal, (batch, before + 1)
            for one in batch.waits:
                self.model.waits[one.wait] = run.waits[one.wait] = Wait(one.wait, run, one.kind, one.due_at)
                held.open.add(one.wait)
            if batch.end is not None:
                run.end(batch.end.status)

    def check_committed(
        self, committed: Iterable[Committed], log: Sequence[tuple[str, int, str]], wait: Wait | None = None
    ) -> None:
        """Compare what is handed to the bus with the log: all of it, or the one event that closed a wait."""
        found = [
            (event.run, event.attempt, word(event))
            for one in committed
            for event in unpack(one.packed, first_seq=one.first_seq, run=one.run, attempt=one.attempt)
        ]
        if wait is None:
            assert found == list(log)
        else:
            assert wait.by is not None
            assert found == [(wait.run.id, wait.run.attempt, resumed(wait.id, wait.by))]


def plain(signals: Iterable[Signal]) -> dict[str, Any]:
    """Return signals without their order, and without that of their answers."""
    return {
        one.run: (one.attempt, one.is_lost, one.cancel, {(each.wait, each.value, each.by) for each in one.answers})
        for one in signals
    }
