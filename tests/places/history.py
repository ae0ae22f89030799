"""A random history of several people: messages, claims, events, waits, crashes, upkeep, and every way to read."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from tests.contract.adapters import completed, failed, started, thought
from tests.places.worlds import World, Worlds

from runwire.protocol.events import AgentResumed, AgentWaiting, EmittedEvent, emitted
from runwire.storage.base import Batch, CancelRequest, Claim, IncomingMessage, OpenedWait, RunEnd
from runwire.storage.clock import now_ms
from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["USERS", "History"]

USERS: Final = ("usr_ada", "usr_bob", "usr_cyd")
WORKERS: Final = ("wk_1", "wk_2")
USER_LIMIT: Final = 2
ALL: Final = 1_000  # as many as there are: a limit in all is the one thing that people do share
HOUR_MS: Final = 3_600_000


@dataclass
class _Held:
    """A run that a worker holds, as both worlds told."""

    user: str
    thread: str
    run: str
    worker: str
    attempt: int
    ordinal: int
    waits: list[str] = field(default_factory=list)


class History:
    """One history, the same for a seed; what it knows of ids are names."""

    def __init__(self, seed: int, worlds: Worlds) -> None:
        self._dice = random.Random(seed)
        self._worlds = worlds
        self._threads: dict[str, str] = {}  # name to user
        self._runs: dict[str, str] = {}
        self._held: dict[str, _Held] = {}
        self._waits: dict[str, tuple[str, str]] = {}  # wait to (run, user)
        self._refs: list[tuple[str, str]] = []  # (user, ref)
        self._ref_of: dict[str, str] = {}  # run to a ref of its own
        self._numbers = 0

    async def go(self, steps: int) -> None:
        """Live so many moments; everything is looked at now and then, and at the end."""
        acts = {
            self.send: 26,
            self.claim: 14,
            self.append: 22,
            self.cancel: 4,
            self.answer: 8,
            self.park: 6,
            self.release: 2,
            self.lapse: 2,
            self.renew: 6,
            self.signals: 4,
            self.fire: 3,
            self.thread: 4,
            self.cancel_user: 1,
            self.read: 5,
            self.list_all: 1,
            self.upkeep: 2,
        }
        for step in range(1, steps + 1):
            (act,) = self._dice.choices(list(acts), list(acts.values()))
            await act()
            if step % 100 == 0:
                await self.look()
        await self.upkeep()
        await self.look()
        await self.erase()
        await self.look()

    # ── people ──────────────────────────────────────────────────────────────────────────────────────────

    async def send(self) -> None:
        user, dice = self._user(), self._dice
        thread = self._some(self._threads, user) if dice.random() < 0.5 else None
        fields: dict[str, Any] = {
            "on_active": dice.choice(("enqueue", "enqueue", "enqueue", "reject", "interrupt")),
            # Few, so that they come again, also from others.
            "key": dice.choice((None, None, None, None, "k1", "k2", "k3")),
            "fingerprint": dice.choice(("one", "one", "two")),
        }
        number = self._number()

        async def act(world: World) -> Any:
            own = None if thread is None else world.id(thread)
            message = IncomingMessage(user=user, thread=own, agent="echo", content=number, **fields)
            sent = await world.of(user).runs.send(message)
            if sent.is_new:
                world.learn(f"run{number}", sent.run)
                world.learn(f"message{number}", sent.message)
                if thread is None:
                    world.learn(f"thread{number}", sent.thread)
            return sent

        sent = await self._worlds.do(f"{user} sends to {thread} {fields}", act)
        if isinstance(sent, dict) and sent["is_new"]:
            self._runs[sent["run"]] = user
            self._threads[sent["thread"]] = user

    async def cancel(self) -> None:
        user = self._user()
        run = self._some(self._runs, user)
        request = CancelRequest(by="user")
        await self._worlds.do(
            f"{user} cancels {run}", lambda world: world.of(user).runs.cancel(user, world.id(run), request)
        )

    async def cancel_user(self) -> None:
        user, request = self._user(), CancelRequest(by="revoked", reason="gone")
        await self._worlds.do(f"{user} is disabled", lambda world: world.of(user).runs.cancel_user(user, request))

    async def answer(self) -> None:
        if not self._waits:
            return
        wait, (run, holder) = self._dice.choice(list(self._waits.items()))
        user = self._user() if self._dice.random() < 0.2 else holder
        value = self._dice.choice((True, True, False))
        await self._worlds.do(
            f"{user} answers {wait} of {run}",
            lambda world: world.of(user).runs.answer(user, world.id(run), wait, value),
        )

    async def erase(self) -> None:
        """Have nothing left of one person, whose runs may still be held; last of all, or there would be little more."""
        user = self._user()

        async def act(world: World) -> tuple[int, list[str], list[int]]:
            erasure = world.of(user).erasure
            done = [await erasure.erase(user), await erasure.erase(user, is_forced=True)]
            while done[-1].has_more:
                done.append(await erasure.erase(user, is_forced=True))
            threads = sorted(world.name(thread) for each in done for thread in each.threads)
            return sum(each.runs for each in done), threads, [each.unfinished for each in done]

        await self._worlds.do(f"nothing is left of {user}", act)

    async def thread(self) -> None:
        user, what = self._user(), self._dice.choice(("create", "rename", "rename", "delete", "get", "get"))
        thread, number = self._some(self._threads, user), self._number()

        async def act(world: World) -> Any:
            threads = world.of(user).threads
            if what == "create":
                made = await threads.create(user, title=f"title {number}")
                world.learn(f"thread{number}", made.thread)
                return made
            if what == "rename":
                return await threads.rename(user, world.id(thread), f"title {number}")
            return await (threads.get if what == "get" else threads.delete)(user, world.id(thread))

        await self._worlds.do(f"{user} {what} {thread}", act)
        if what == "create":
            self._threads[f"thread{number}"] = user

    async def read(self) -> None:
        user = self._user()
        thread, run = self._some(self._threads, user), self._some(self._runs, user)
        after = self._dice.choice((0, 0, 2, 7))

        async def act(world: World) -> Any:
            await world.of(user).threads.get(user, world.id(thread))  # as every reader does first
            return await world.of(user).events.read(world.id(thread), after=after, limit=3)

        await self._worlds.do(f"{user} reads {thread} after {after}", act)
        await self._worlds.do(f"{user} looks at {run}", lambda world: world.of(user).runs.get(user, world.id(run)))
        if self._refs:
            _holder, ref = self._dice.choice(self._refs)
            await self._worlds.do(f"{user} fetches {ref}", lambda world: world.of(user).events.blob(user, ref))
        key = self._dice.choice(("k1", "k2", "k3"))
        await self._worlds.do(f"{user} asks for {key}", lambda world: world.of(user).runs.sent(user, key, "one"))

    async def list_all(self) -> None:
        for user in USERS:
            status = self._dice.choice((None, None, "queued", "running", "completed"))
            thread = self._some(self._threads) if self._dice.random() < 0.3 else None

            async def runs(world: World, user: str = user, status: Any = status, thread: Any = thread) -> Any:
                own = None if thread is None else world.id(thread)
                first = await world.of(user).runs.list(user, status=status, thread=own, limit=3)
                rest = await world.of(user).runs.list(user, before=first[-1].run) if first else []
                return first, rest

            async def threads(world: World, user: str = user) -> Any:
                first = await world.of(user).threads.list(user, limit=2)
                rest = await world.of(user).threads.list(user, before=first[-1].thread) if first else []
                return first, rest

            await self._worlds.do(f"{user} lists runs {status} of {thread}", runs)
            await self._worlds.do(f"{user} lists threads", threads)

    # ── workers: one call for whoever is in the database ────────────────────────────────────────────────

    async def claim(self) -> None:
        worker, takes_lost = self._dice.choice(WORKERS), self._dice.random() < 0.6
        # One at a time until there is none: a limit decides when, never what.
        limit = self._dice.choice((ALL, 1))
        held = [one for one in self._held.values() if one.worker == worker]

        async def act(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            claims: list[Claim] = []
            has_more = True
            while has_more:
                more = await storage.runs.claim(
                    worker,
                    agents=["echo"],
                    limit=limit,
                    user_limit=USER_LIMIT,
                    holding=[world.id(one.run) for one in held if one.user in users] + [one.run for one in claims],
                    take_lost=takes_lost,
                )
                claims += more
                has_more = bool(more) and limit < ALL and len(claims) < ALL
            return {user: [claim for claim in claims if claim.user == user] for user in users}

        for user, claims in (await self._worlds.do_for_all(f"{worker} claims, lost ones: {takes_lost}", act)).items():
            for claim in claims:
                before = self._held.get(claim["run"])
                waits = [] if before is None else before.waits
                self._held[claim["run"]] = _Held(
                    user, claim["thread"], claim["run"], worker, claim["attempt"], claim["ordinal"], waits
                )

    async def append(self) -> None:
        """Append for many at once, some of them refused: an attempt that is over, an ordinal that was."""
        chosen = [one for one in self._held.values() if self._dice.random() < 0.6]
        batches = {one.run: self._batch(one) for one in chosen}
        if not batches:
            return

        async def act(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            own = [one for one in chosen if one.user in users]
            ready = [Batch(run=world.id(one.run), **batches[one.run]) for one in own]
            outcomes = await storage.events.append(ready) if ready else []
            said = list(zip(own, outcomes, strict=True))
            return {
                user: [(one.run, type(out).__name__, out) for one, out in said if one.user == user] for user in users
            }

        for told in (await self._worlds.do_for_all(f"append for {sorted(batches)}", act)).values():
            for run, outcome, _detail in told:
                one, batch = self._held[run], batches[run]
                if outcome == "Stored":
                    one.ordinal += len(batch["events"])
                    one.waits += [opened.wait for opened in batch["waits"]]
                    self._waits |= {opened.wait: (run, one.user) for opened in batch["waits"]}
                    self._refs += [(one.user, ref) for ref in batch["blobs"]]
                    self._ref_of |= dict.fromkeys([run] if batch["blobs"] else [], next(iter(batch["blobs"]), ""))
                if outcome == "Fenced" or (outcome == "Stored" and batch["end"]):
                    del self._held[run]

    def _batch(self, one: _Held) -> dict[str, Any]:
        dice = self._dice
        events: list[EmittedEvent] = [] if one.ordinal else [started()]
        waits: tuple[OpenedWait, ...] = ()
        closes: tuple[str, ...] = ()
        end: RunEnd | None = None
        blobs: dict[str, bytes] = {}
        kind = dice.choice(("think", "think", "wait", "end", "end", "blob"))
        if kind == "wait":
            wait, which = f"wt_{self._number()}", dice.choice(("approval", "approval", "input", "timer"))
            due_at = now_ms() - HOUR_MS if which == "timer" else None
            events.append(emitted(AgentWaiting(wait=wait, kind=which, due_at=due_at), ts=1))  # type: ignore[arg-type] # one of three
            waits = (OpenedWait(wait=wait, kind=which, due_at=due_at),)  # type: ignore[arg-type] # likewise
        elif kind == "end":
            closes = tuple(one.waits) if dice.random() < 0.5 else ()
            events += [emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1) for wait in closes]
            is_good = dice.random() < 0.7
            events.append(completed() if is_good else failed())
            end = RunEnd(status="completed") if is_good else RunEnd(status="failed", error={"code": "agent_error"})
        else:
            events += [thought(f"{one.run} {n}") for n in range(dice.randint(1, 3))]
            if kind == "blob":
                blobs = {f"sha256-{dice.randint(1, 4)}": b'"large"'}  # few: others have the same
        return {
            "attempt": one.attempt - (dice.random() < 0.1),
            "ordinal": one.ordinal + (dice.random() < 0.05),
            "events": tuple(events),
            "end": end,
            "pinned": None if one.ordinal else f'"{one.run}"'.encode(),
            "blobs": blobs,
            "waits": waits,
            "closes": closes,
        }

    async def park(self) -> None:
        waiting = [one for one in self._held.values() if one.waits]
        if not waiting:
            return
        one = self._dice.choice(waiting)
        wait = one.waits[-1]
        closing = [emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1)]

        async def act(world: World) -> bool:
            runs = world.of(one.user).runs
            return await runs.park(world.id(one.run), one.attempt, ordinal=one.ordinal, waits=[wait], closing=closing)

        if await self._worlds.do(f"park {one.run}", act) is True:
            del self._held[one.run]

    async def release(self) -> None:
        if not self._held:
            return
        one = self._dice.choice(list(self._held.values()))
        reason: Any = self._dice.choice(("drained", "worker_lost"))
        await self._worlds.do(
            f"release {one.run} {reason}",
            lambda world: world.of(one.user).runs.release(world.id(one.run), one.attempt, reason=reason),
        )
        del self._held[one.run]

    async def lapse(self) -> None:
        """Have leases run out, as after the death of a worker; it may come back and not know."""
        lapsed = [one for one in self._held.values() if self._dice.random() < 0.5]

        async def act(world: World) -> None:
            for one in lapsed:
                sql = "UPDATE run SET lease_until = 0 WHERE id = $1 AND status = 'running'"
                await world.of(one.user).database.execute(sql, world.id(one.run))

        await self._worlds.do(f"leases of {[one.run for one in lapsed]} run out", act)

    async def renew(self) -> None:
        worker = self._dice.choice(WORKERS)

        async def act(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            await storage.database.execute("UPDATE run SET lease_until = 0 WHERE status = 'running'")
            await storage.runs.renew(worker, self._of(worker, world, users))
            sql = "SELECT r.id FROM run r WHERE r.status = 'running' AND r.lease_until > 0 ORDER BY r.key"
            live = [world.name(row[0]) for row in await storage.database.fetch(sql)]
            return {user: [run for run in live if self._runs[run] == user] for user in users}

        await self._worlds.do_for_all(f"{worker} renews", act)

    async def signals(self) -> None:
        worker = self._dice.choice(WORKERS)
        waits = list(self._waits)

        async def act(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            told = await storage.runs.signals(worker, self._of(worker, world, users), waits)
            told.sort(key=lambda one: world.name(one.run))
            return {user: [one for one in told if self._runs[world.name(one.run)] == user] for user in users}

        await self._worlds.do_for_all(f"{worker} asks for news", act)

    async def fire(self) -> None:
        async def act(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            fired = await storage.runs.fire_timers(limit=ALL)
            fired.sort(key=lambda one: one.wait)
            return {user: [one for one in fired if self._runs[world.name(one.run)] == user] for user in users}

        await self._worlds.do_for_all("timers fire", act)

    async def upkeep(self) -> None:
        """Compact and trim all there is; what is left is seen by the readers."""
        later = now_ms() + HOUR_MS
        retains = self._dice.random() < 0.7

        async def act(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            while (await storage.upkeep.compact(ended_before=later, runs=ALL)).has_more:
                pass
            floors: dict[str, int] = {}
            while True:
                trimmed = await storage.upkeep.trim(
                    ended_before=later if retains else None, deleted_before=later, runs=ALL
                )
                floors |= {world.name(thread): floor for thread, floor in trimmed.threads}
                if not trimmed.has_more:
                    break
            return {
                user: sorted((thread, floor) for thread, floor in floors.items() if self._threads[thread] == user)
                for user in users
            }

        await self._worlds.do_for_all(f"upkeep, runs too: {retains}", act)

    # ── everything there is to see ──────────────────────────────────────────────────────────────────────

    async def look(self) -> None:
        """See everything that everybody can, and what the tail and a replay read."""

        async def pages(world: World, storage: PostgresStorage, users: list[str]) -> Mapping[str, Any]:
            own = {world.id(thread): user for thread, user in self._threads.items() if user in users}
            heads = await storage.events.heads(dict.fromkeys(own, -1))
            asked = [(user, thread) for thread in own for user in users]  # also for threads of others
            rows = {thread: row for (_user, thread), row in (await storage.threads.get_many(asked)).items()}
            read = await storage.events.read_many(dict.fromkeys(own, 0), limit=10**6, size_bytes=10**8)
            return {
                user: sorted(
                    (world.name(thread), *(world.seen(each.get(thread)) for each in (heads, rows, read)))
                    for thread, holder in own.items()
                    if holder == user
                )
                for user in users
            }

        async def figures(world: World) -> Mapping[str, int]:
            figures = [await storage.upkeep.stats() for storage, _users in world.groups()]
            counts = {name: sum(each.counts[name] for each in figures) for name in figures[0].counts}
            return counts | {"to_compact": sum(each.compactable_runs for each in figures)}

        async def waiting(world: World) -> tuple[int, set[str]]:
            told = [await storage.runs.waiting(limit=ALL, user_limit=USER_LIMIT) for storage, _users in world.groups()]
            return sum(each.runs for each in told), {agent for each in told for agent in each.oldest_s}

        await self._worlds.do_for_all("the logs", pages)
        await self._worlds.do("what waits for a worker adds up", waiting)
        await self._worlds.do("the figures add up", figures)
        for run, user in self._runs.items():
            await self._worlds.do(f"replay of {run}", partial(_replay, user=user, run=run))
        for thread, user in self._threads.items():
            await self._worlds.do(f"reset of {thread}", partial(_reset, user=user, thread=thread))
        for run, ref in self._ref_of.items():
            await self._worlds.do(f"{ref} of {run}", partial(_value, user=self._runs[run], run=run, ref=ref))
        await self.list_all()

    # ── choices ─────────────────────────────────────────────────────────────────────────────────────────

    def _user(self) -> str:
        return self._dice.choice(USERS)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _some(self, names: Mapping[str, str], user: str | None = None) -> str:
        """Return one of these names, mostly of this user; nobody's if there is none."""
        own = [name for name, holder in names.items() if user is None or holder == user or self._dice.random() < 0.1]
        return self._dice.choice(own[-6:] if own and self._dice.random() < 0.7 else [*own, "none"])

    def _of(self, worker: str, world: World, users: list[str]) -> dict[str, int]:
        """Return what a worker believes to hold, of these users."""
        return {
            world.id(one.run): one.attempt for one in self._held.values() if one.worker == worker and one.user in users
        }


async def _replay(world: World, *, user: str, run: str) -> Any:
    return await world.of(user).events.read_run(world.id(run))


async def _reset(world: World, *, user: str, thread: str) -> Any:
    return await world.of(user).threads.reset_from(world.id(thread))


async def _value(world: World, *, user: str, run: str, ref: str) -> Any:
    return await world.of(user).events.run_blob(world.id(run), ref)
