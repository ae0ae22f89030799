"""What a worker is allowed, in one value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Limits and times of a worker; `app.rooms` fills them."""

    max_runs: int = 100  # at a time, in this worker
    max_threads: int = 1000  # blocking calls of the user's code at a time, also of runs that have ended
    user_limit: int = 10  # active runs of one user
    max_attempts: int = 5  # lost in a row without progress; then the run fails as `worker_lost`
    deadline_s: float = 600.0  # running time of a run
    grace_s: float = 5.0  # how long cancelled code may clean up
    drain_s: float = 30.0  # how long runs may finish when the worker stops
    poll_s: float = 0.5  # looking for runs when no wake-up came: half of it is what a lost hint costs at the median
    signals_s: float = 0.25  # looking for cancels when no wake-up came
    park_after_s: float = 10.0  # all branches of a run have waited for so long: it is put aside
    lease_margin_s: float | None = None  # how long before its end a lease counts as over; None: a third of it
    blind_s: float = 60.0  # without any answer of the database for so long, runs are given up
    absent_s: float = 60.0  # without a worker that has their agent for so long, runs end as `agent_unavailable`
    max_memory_bytes: int | None = None  # of this process, resident; over it no run is begun; None: no limit
    blocked_warn_s: float = 2.0  # a loop blocked this long is named in the log
    blocked_fail_s: float = 30.0  # a loop blocked this long ends the run that blocks it
