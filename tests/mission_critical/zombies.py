"""Workers that stand still past their leases, what they and others try with their old attempts, and how they wake."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.mission_critical.fleet import Fleet, Node, Watch, poll
from tests.outside import assert_one_run

from runwire.protocol.events import AgentThinking, decode_data, emitted
from runwire.storage.base import Batch, Busy, Fenced, Outcome
from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["STOPPED_S", "Zombies"]

# A worker that wakes asks at once what became of its runs, and cancels code at its next await: measured 0.12 s at most.
STOPPED_S: Final = 1.0
_WATCHED_S: Final = STOPPED_S + 0.5  # how long it is looked at whether anything comes later
_MESSAGE: Final = "until it is over"


@dataclass
class Zombies:
    """Runs whose worker is stopped (SIGSTOP) until another one has them all, and then goes on (SIGCONT).

    Args:
        fleet: of two nodes or more on PostgreSQL.
        token: of the person whose runs they are.
        stops: how often.
        agents: of the runs, one each.
        stale: so many appends are tried with each old attempt, by a client that knows the current ordinal.
    """

    fleet: Fleet
    token: str
    stops: int
    agents: tuple[str, ...] = ("ticking", "ticking", "walking", "walking")
    stale: int = 4
    refused: int = 0
    taken: int = 0
    stopped_s: list[float] = field(default_factory=list)  # from the waking to the last effect
    taken_over_s: list[float] = field(default_factory=list)  # from the stop to another worker's first event

    async def run(self) -> None:
        """Stop and wake, let the runs end, and judge."""
        fleet, watch = self.fleet, Watch(self.fleet, self.token)
        fleet.finish(is_over=False)
        assert fleet.url is not None
        storage = await PostgresStorage.open(fleet.url, limit_s=5)
        try:
            async with watch.following([(agent, _MESSAGE) for agent in self.agents]) as sents:
                runs = [sent["run"] for sent in sents]
                await poll(lambda: all(watch.attempt(run) for run in runs), "all runs are seen")
                await poll(lambda: all(fleet.lines(f"effects-{run}") for run in runs), "all runs do something")
                for _ in range(self.stops):
                    await self._stop(runs, watch, storage)
                fleet.finish()
        finally:
            await storage.close()
        for run in runs:
            await self._judge(run, watch)

    async def _stop(self, runs: list[str], watch: Watch, storage: PostgresStorage) -> None:
        if "ticking" in self.agents:
            # Else its step might end by itself after the waking; and so each attempt gets further, as five in a row
            # must that are lost.
            await poll(lambda: any(self._has_just_begun(run) for run in runs), "a long step begins")
        holders = {run: self.fleet.lines(f"effects-{run}")[-1]["pid"] for run in runs}
        fresh = [holders[run] for run in runs if self._has_just_begun(run)]
        pid = Counter(fresh or holders.values()).most_common(1)[0][0]
        node, hit = self.fleet.holder(pid), [run for run in runs if holders[run] == pid]
        assert node is not None
        self.fleet.shunned.add(node)
        watch.cut()  # a screen of the stopped server would only wait
        before = {run: watch.attempt(run) for run in hit}
        node.signal(signal.SIGSTOP)
        stopped_s = time.monotonic()
        try:
            await poll(lambda: all(watch.attempt(run) > before[run] for run in hit), "others have all its runs")
            self.taken_over_s.append(time.monotonic() - stopped_s)
            await self._append_stale(storage, before)
        finally:
            woken_s = time.monotonic()
            node.signal(signal.SIGCONT)
        self.taken += len(hit)
        # Told by clients and by what the woken process does itself, once more.
        await self._append_stale(storage, before)
        await asyncio.sleep(woken_s + _WATCHED_S - time.monotonic())  # that nothing happens can only be waited for
        self._see_it_stopped(node, hit, woken_s)
        self.fleet.shunned.discard(node)

    def _has_just_begun(self, run: str) -> bool:
        phases = [line["phase"] for line in self.fleet.lines(f"effects-{run}")]
        return phases[-1] == "tick" and "begun" in phases[-20:]

    async def _append_stale(self, storage: PostgresStorage, attempts: dict[str, int]) -> None:
        """Append with old attempts and the ordinals that the runs really have: only the fence is in the way."""
        for _ in range(self.stale):
            rows = await storage.database.fetch("SELECT id, ordinal FROM run")
            ordinals = {row["id"]: row["ordinal"] for row in rows}
            event = emitted(AgentThinking(text="I am not dead"), ts=1)
            batches = [
                Batch(run=run, attempt=attempt, ordinal=ordinals[run], events=(event,))
                for run, attempt in attempts.items()
            ]
            outcomes: list[Outcome] = [Busy()] * len(batches)
            async with asyncio.timeout(10):
                while any(isinstance(outcome, Busy) for outcome in outcomes):
                    outcomes = await storage.events.append(batches)
            assert all(isinstance(outcome, Fenced) for outcome in outcomes), outcomes
            self.refused += len(outcomes)

    def _see_it_stopped(self, node: Node, hit: list[str], woken_s: float) -> None:
        for run in hit:
            lines = self.fleet.lines(f"effects-{run}")
            late = [line for line in lines if line["pid"] == node.pid and line["at_s"] > woken_s]
            begun = [line for line in late if line["phase"] == "begun"]
            # The one that was committed and not yet called, if it was stopped between the two.
            assert len(begun) <= 1, f"{run} began steps after it had been taken over: {begun}"
            last_s = max((line["at_s"] for line in late), default=woken_s) - woken_s
            assert last_s < STOPPED_S, f"{run} went on for {last_s:.2f} s after its worker was woken"
            self.stopped_s.append(last_s)
            others = [line for line in lines if line["pid"] != node.pid and line["at_s"] > woken_s]
            assert others, f"{run} does not go on elsewhere"

    async def _judge(self, run: str, watch: Watch) -> None:
        events = watch.events_of(run)
        assert_one_run(events, run)
        assert events[-1]["type"] == "agent_completed", events[-1]
        stored = (await self.fleet.log())[run]
        attempts = [event.attempt for event in stored if event.attempt > 0]
        assert attempts == sorted(attempts), "a former owner wrote after its successor"
        assert not [event for event in stored if b"I am not dead" in bytes(event.data)]
        calls = Counter(decode_data(e).call for e in stored if e.type == "tool_executing")
        begun = [line for line in self.fleet.lines(f"effects-{run}") if line["phase"] == "begun"]
        assert len(begun) <= len(calls), "a step was executed that the log does not know of"

    def line(self) -> str:
        """Return the figures, for people."""
        return (
            f"{self.stops} SIGSTOP past the lease, {self.taken} runs taken over after {max(self.taken_over_s):.2f} s"
            f" at most, {self.refused} stale appends refused; code stopped {max(self.stopped_s):.3f} s after the"
            " waking at most"
        )
