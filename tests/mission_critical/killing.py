"""Runs of twenty steps whose server is killed wherever they are, and what must hold afterwards: on either database."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tests.agents.steps import PLACES, STEPS
from tests.mission_critical.fleet import LEASE_S, Fleet, Watch, finished_steps, poll
from tests.outside import assert_one_run, text_of

from runwire.protocol.events import StoredEvent, decode_data

__all__ = ["RESTARTED_S", "TAKEN_OVER_S", "Killing", "places_of"]

RESTARTED_S: Final = 3.0  # from the command that starts a server again to its first new event; measured: 0.9 s
TAKEN_OVER_S: Final = LEASE_S + 2.0  # from a kill to another worker's first event; measured: 2.5 to 3.4 s
_PIECE: Final = re.compile(r"\[(\d+) ([0-9a-f]{8})\]")


def places_of(runs: int) -> list[list[int]]:
    """Share all places out: each is visited by one run, and every kill hits each run at another place."""
    return [list(range(first, PLACES, runs)) for first in range(runs)]


@dataclass
class Killing:
    """Runs of twenty steps, whose server is killed whenever all of them stand at their next place."""

    fleet: Fleet
    token: str
    places: list[list[int]]
    kills: int = 0
    deaths: int = 0  # of attempts: a kill hits several runs
    resumed_s: list[float] = field(default_factory=list)  # from the restart (one node) or the kill (several)
    _passed: Counter[str] = field(default_factory=Counter)
    # What was over for good when an attempt died, and how many effects there were: none of these may come again.
    _deaths: list[tuple[str, set[str], int]] = field(default_factory=list)

    async def run(self) -> None:
        """Kill at all places, let the runs end, and judge."""
        watch = Watch(self.fleet, self.token)
        async with watch.following([("twenty", str(places)) for places in self.places]) as sents:
            runs = [sent["run"] for sent in sents]
            while True:
                await poll(lambda: all(watch.has_ended(run) or self._stands(run) for run in runs), "all stand")
                left = [run for run in runs if not watch.has_ended(run)]
                if not left:
                    break
                await self._kill(left, watch)
        log = await self.fleet.log()
        for run, places in zip(runs, self.places, strict=True):
            assert self._passed[run] == len(places), "it was killed at each of its places"
            self._judge(log[run], watch.events_of(run))

    def _stands(self, run: str) -> bool:
        return len(self.fleet.lines(f"stood-{run}")) > self._passed[run]

    async def _kill(self, left: list[str], watch: Watch) -> None:
        """Kill the process that holds most of the runs, and start it again."""
        holders = {run: self.fleet.lines(f"stood-{run}")[-1]["pid"] for run in left}
        pid = Counter(holders.values()).most_common(1)[0][0]
        node = self.fleet.holder(pid)
        assert node is not None, "a run stands in a process that is dead"
        hit = [run for run in left if holders[run] == pid]
        await node.kill9()
        began_s = time.monotonic()
        log = await self.fleet.log()
        attempts = {run: log[run][-1].attempt for run in hit}
        for run in hit:
            self._passed[run] += 1
            self._deaths.append((run, set(finished_steps(log[run])), len(self.fleet.lines(f"effects-{run}"))))
        self.kills += 1
        self.deaths += len(hit)
        if len(self.fleet.nodes) == 1:
            began_s = time.monotonic()
        await node.start()
        self.resumed_s.append(await self._resumed(attempts, watch) - began_s)

    async def _resumed(self, attempts: dict[str, int], watch: Watch) -> float:
        """Wait until each run has gone on; return when the last one did, as a screen saw it."""

        def first(run: str) -> dict[str, Any] | None:
            return next((e for e in watch.events_of(run) if e["attempt"] > attempts[run]), None)

        await poll(lambda: all(first(run) for run in attempts), "all runs of the killed process go on")
        events = [event for run in attempts if (event := first(run))]
        for event in events:
            if attempts[event["run"]] > 0:  # else it was killed before its first word was stored
                assert (event["type"], event["data"].get("reason")) == ("agent_retrying", "worker_lost"), event
        return max(watch.seen_s[event["thread"], event["seq"]] for event in events)

    def _judge(self, stored: list[StoredEvent], shown: list[dict[str, Any]]) -> None:
        run = stored[0].run
        effects = self.fleet.lines(f"effects-{run}")
        for died, finished, count in self._deaths:
            if died == run:
                again = finished & {effect["step"] for effect in effects[count:]}
                assert not again, f"finished steps ran again: {again}"
        assert_one_run(shown, run)
        assert shown[-1]["type"] == "agent_completed", shown[-1]
        assert not [e for e in shown if e["type"] == "superseded" and e["data"]["reason"] == "differs"]
        assert [e.seq for e in stored] == list(range(1, len(stored) + 1)), "the log has a hole"
        internal = ("step_started", "step_completed")
        assert [e["seq"] for e in shown] == [e.seq for e in stored if e.type not in internal]
        text = text_of(shown, run)
        assert shown[-1]["data"]["output"] == text
        said = _PIECE.findall(text)
        # What the agent was given is what the last execution of each step did, and nobody was given anything else.
        last = {effect["n"]: effect["token"] for effect in effects}
        assert [(int(n), token) for n, token in said] == [(n, last[n]) for n in range(STEPS)], said
        final = finished_steps(stored)
        assert list(final.values()) == [last[n] for n in range(STEPS)]
        begun = Counter(decode_data(e).step for e in stored if e.type in ("tool_executing", "step_started"))
        done = Counter(effect["step"] for effect in effects)
        assert all(done[step] <= begun[step] for step in done), "a step was executed that the log does not know of"

    def line(self) -> str:
        """Return the figures, for people."""
        middle, worst = statistics.median(self.resumed_s), max(self.resumed_s)
        return (
            f"{self.kills} kill -9, {self.deaths} attempts of {len(self.places)} runs died;"
            f" gone on after {middle:.2f} s (median), {worst:.2f} s (worst)"
        )
