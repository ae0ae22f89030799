"""How soon runs go on after a fault, and how long events take to people."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Disturbance", "Recovery", "Waiting", "quantile"]

_STEP_MS = 5  # of the histogram of latencies


@dataclass(eq=False)
class Disturbance:
    """A fault, from its beginning to its end."""

    number: int
    kind: str
    target: str
    began_s: float
    ended_s: float | None = None
    duration_s: float = 0.0
    runs: int = 0  # in flight when it began
    gone_on_s: list[float] = field(default_factory=list)  # from the end, 0 if it went on before that
    note: str = ""


@dataclass(eq=False)
class Waiting:
    """A run that was in flight when a fault began, until it has said something after the fault's end."""

    disturbance: Disturbance
    run: str
    before_s: float = 0.0  # the last time that it said something


class Recovery:
    """Of all faults of a campaign. Times are of the monotonic clock of this process."""

    def __init__(self) -> None:
        self.disturbances: list[Disturbance] = []
        self.late: list[str] = []
        self.began_s = time.monotonic()
        self.per_second: Counter[int] = Counter()  # events first shown to anybody
        self.slowest_ms: dict[int, int] = {}  # second -> latency of the slowest event shown then
        self.latencies: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}  # is quiet -> histogram
        self.stalls_s: list[float] = []  # between two events of one run, if it was in flight in a fault
        self._waiting: dict[str, list[Waiting]] = {}
        self._last_s: dict[str, float] = {}
        self._quiet_from_s = 0.0
        self.settle_s = 5.0  # lease + 2 s: what belongs to a fault after its end
        self._offset_ms = round((time.time() - time.monotonic()) * 1000)  # noqa: TID251 - events carry the wall clock

    def begin(self, disturbance: Disturbance, in_flight: list[str]) -> None:
        """Take down what goes on when a fault begins."""
        self.disturbances.append(disturbance)
        disturbance.runs = len(in_flight)
        for run in in_flight:
            self._waiting.setdefault(run, []).append(Waiting(disturbance, run, self._last_s.get(run, 0.0)))

    def end(self, disturbance: Disturbance) -> None:
        """Take down that it is over."""
        disturbance.ended_s = time.monotonic()
        self._quiet_from_s = disturbance.ended_s + self.settle_s

    def active(self) -> bool:
        """Return whether any fault is going on."""
        return any(one.ended_s is None for one in self.disturbances[-12:])

    def pulse(self, run: str, now_s: float) -> None:
        """Take an event that nobody has seen before."""
        self.per_second[int(now_s - self.began_s)] += 1
        if run in self._waiting:
            self._go_on(run, now_s)
        self._last_s[run] = now_s

    def _go_on(self, run: str, now_s: float) -> None:
        left = []
        for waiting in self._waiting[run]:
            over_s = self._over_s(waiting.disturbance)
            if over_s is None or now_s < over_s:
                left.append(waiting)  # it goes on although the fault does: what counts is that it does afterwards
                continue
            waiting.disturbance.gone_on_s.append(now_s - over_s)
            self.stalls_s.append(now_s - max(waiting.before_s, self._last_s.get(run, 0.0)))
        if left:
            self._waiting[run] = left
        else:
            del self._waiting[run]

    def _over_s(self, disturbance: Disturbance) -> float | None:
        """Return when a fault was over, together with those around it; None: one is not."""
        if disturbance.ended_s is None:
            return None
        over_s = disturbance.ended_s
        for other in self.disturbances[max(0, disturbance.number - 12) :]:
            if other.began_s > over_s + self.settle_s:
                break
            if other.ended_s is None:
                return None
            over_s = max(over_s, other.ended_s)
        return over_s

    def ended(self, run: str) -> None:
        """Drop a run that is over."""
        self._last_s.pop(run, None)
        for waiting in self._waiting.pop(run, ()):
            waiting.disturbance.gone_on_s.append(0.0)

    def forget(self, runs: list[str]) -> None:
        """Do not wait for runs that wait for a person now, or were lost in a fail-over."""
        for run in runs:
            self._waiting.pop(run, None)

    def delivered(self, ts_ms: int, now_s: float) -> None:
        """Take how long an event took from its making to a tab that was not catching up."""
        late_ms = round(now_s * 1000) + self._offset_ms - ts_ms
        if not -1000 < late_ms < 100_000:
            return  # made by a worker whose clock was moved
        is_quiet = now_s > self._quiet_from_s and not self.active()
        self.latencies[is_quiet][max(late_ms, 0) // _STEP_MS] += 1
        second = int(now_s - self.began_s)
        if late_ms > self.slowest_ms.get(second, 0):
            self.slowest_ms[second] = late_ms

    def late_runs(self, bound_s: float) -> tuple[int, int]:
        """Return how many runs went on, and how many of them later than the bound or not at all."""
        taken = [seconds for one in self.disturbances for seconds in one.gone_on_s]
        never = sum(len(waitings) for waitings in self._waiting.values())
        return len(taken) + never, sum(seconds > bound_s for seconds in taken) + never

    def latency_ms(self, share: float, *, is_quiet: bool | None) -> int:
        """Return a quantile of the time from making to showing."""
        counts = self.latencies[is_quiet] if is_quiet is not None else self.latencies[True] + self.latencies[False]
        left = share * counts.total()
        for bucket in sorted(counts):
            left -= counts[bucket]
            if left <= 0:
                return (bucket + 1) * _STEP_MS
        return 0


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of a list; 0 of an empty one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
