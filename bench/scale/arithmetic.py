"""From costs to sizes: how many connected people each resource carries, and which ends first. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bench.scale.fit import Run, fit

__all__ = ["ASSUMED", "STEPS", "TARGET", "Assumed", "Costs", "Step", "capacities", "cells", "costs"]

TARGET: Final = 10_000_000
_MESSAGE_S: Final = 600.0
_TINY: Final = 0.01  # of what is measured as nothing: a limit far away, and no division by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What is assumed and was not measured."""

    message_s: float = _MESSAGE_S  # between two messages of a connected person
    run_events: int = 200
    run_s: float = 10.0
    use: float = 0.6  # of a core, at most: the rest is for peaks
    gateway_bytes: float = 2e9
    sockets: int = 10_000  # `max_connections`, as it is set
    worker_runs: int = 100  # `max_runs`, as it is set
    cores: int = 32  # of a PostgreSQL machine
    wal_bytes: float = 200e6  # per second, of its disk
    commits: float = 20_000  # per second, with fsync, grouped
    connections: int = 1_000  # PostgreSQL's max_connections
    process_connections: int = 10  # of one process to each database, at most
    accounts_each: float = 3.0  # for each connected person
    accounts_bytes: float = 4e9  # that a process may spend on them
    load_s: float = 10.0  # in which a process must have read them, page by page in one transaction
    back_s: float = 60.0  # in which half of all people come back after a region failed

    @property
    def runs(self) -> float:
        """Runs per second and connected person."""
        return 1 / self.message_s

    @property
    def events(self) -> float:
        """Events per second and connected person."""
        return self.run_events / self.message_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Slopes of the measured lines. CPU in µs."""

    event: dict[str, float]  # by process; `hearer`: a gateway at which nobody wants it
    run: dict[str, float]
    connection: dict[str, float]
    subscription: float  # at the gateway
    subscribed_bytes: float
    pings: float  # per second and connection
    wal: float  # bytes per event
    commits: float  # per event
    run_commits: float
    account_bytes: float
    account_load: float  # time to read one
    idle_database: float  # PostgreSQL's per second and process that does nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A size of deployment."""

    name: str
    databases: int
    gateways: int | None  # None: as many as are wanted
    workers: int | None
    cores: int  # of each PostgreSQL


ASSUMED: Final = Assumed()
STEPS: Final = (
    Step(name="one machine, 4 cores", databases=1, gateways=1, workers=1, cores=1),
    Step(name="one PostgreSQL, 4 gateways, 8 workers", databases=1, gateways=4, workers=8, cores=8),
    Step(name="one PostgreSQL, as many as are wanted", databases=1, gateways=None, workers=None, cores=32),
    Step(name="8 databases by hash", databases=8, gateways=None, workers=None, cores=32),
)


def costs(run: Run) -> Costs:
    """Return the slopes that a run of the program found."""

    def slope(name: str) -> float:
        return max(_TINY, fit(run.measured[name]).slope)

    roles = {"gateway": "gateway1", "worker": "worker1", "postgresql": "postgresql", "redis": "redis"}
    idle = [value for name, value in run.plain.items() if name.endswith("µs of PostgreSQL per second")]
    return Costs(
        event={role: slope(f"cpu {name}, per event") for role, name in (*roles.items(), ("hearer", "gateway2"))},
        run={role: slope(f"cpu {name}, per run") for role, name in roles.items()},
        connection={
            role: slope(f"cpu {name}, idle")
            for role, name in (("gateway", "gateway1"), ("auth", "auth1"), ("postgresql", "postgresql"))
        },
        subscription=slope("cpu gateway1, subscribed"),
        subscribed_bytes=slope("memory, idle") * 1024 + slope("memory, subscribed") * 1024,
        pings=max(_TINY, run.plain.get("gateway, µs per second and idle connection", _TINY)),
        wal=slope("wal, per event"),
        commits=slope("commits, per event"),
        run_commits=slope("commits, per run"),
        account_bytes=slope("memory, accounts") * 1024,
        account_load=slope("load time, accounts"),
        idle_database=max([_TINY, *idle]),
    )


def per_process(cost: Costs, a: Assumed = ASSUMED, *, is_shared: bool = False) -> dict[str, float]:
    """Return how many connected people one gateway and one worker carry, by what ends.

    `is_shared`: half of the gateway's core is for reading what other gateways' people are told.
    """
    core = a.use * 1e6
    own = a.runs * cost.run["gateway"] + a.events * cost.event["gateway"] + cost.pings
    return {
        "gateway: CPU": core / own / (2 if is_shared else 1),
        "gateway: memory": a.gateway_bytes / cost.subscribed_bytes,
        "gateway: sockets (`max_connections`)": float(a.sockets),
        "worker: CPU": core / (a.runs * cost.run["worker"] + a.events * cost.event["worker"]),
        "worker: runs at a time (`max_runs`)": a.worker_runs / (a.runs * a.run_s),
    }


def least(limits: dict[str, float], begins: str = "") -> tuple[str, float]:
    """Return the limit that is reached first."""
    return min(((name, limit) for name, limit in limits.items() if name.startswith(begins)), key=lambda one: one[1])


def capacities(step: Step, cost: Costs, a: Assumed = ASSUMED) -> dict[str, float]:
    """Return how many connected people a deployment carries, by what ends."""
    core, found = a.use * 1e6, dict[str, float]()
    each = per_process(cost, a, is_shared=step.gateways != 1)
    for name, limit in each.items():
        count = step.gateways if name.startswith("gateway") else step.workers
        if count is not None:
            found[name] = limit * count
    gateway, worker = least(each, "gateway")[1], least(each, "worker")[1]
    databases = step.databases
    own = a.runs * cost.run["postgresql"] + a.events * cost.event["postgresql"]
    found["PostgreSQL: CPU"] = databases * step.cores * core / own
    found["PostgreSQL: WAL"] = databases * a.wal_bytes / (a.events * cost.wal)
    found["PostgreSQL: commits"] = databases * a.commits / (a.events * cost.commits + a.runs * cost.run_commits)
    # Every process holds connections to every database: more databases do not help here.
    found["PostgreSQL: connections"] = a.connections / a.process_connections / (1 / gateway + 1 / worker)
    # Two gateways heard every message while this was measured; with n it is said n times.
    said = (a.events * cost.event["redis"] + a.runs * cost.run["redis"]) / 2
    per_database = gateway if step.gateways is None else math.inf
    found["Redis: fan-out to all gateways"] = (
        math.sqrt(core * per_database / said) if step.gateways is None else core / (said * step.gateways)
    )
    if step.gateways != 1:
        found["gateway: reading what others' people are told"] = core / 2 / (a.events * cost.event["hearer"])
    found["accounts: memory of each process"] = a.accounts_bytes / cost.account_bytes / a.accounts_each
    found["accounts: reading them at a start"] = a.load_s * 1e6 / cost.account_load / a.accounts_each
    return found


def cells(cost: Costs, a: Assumed = ASSUMED) -> dict[str, int]:
    """Return how many machines or processes of each kind carry the target, as deployments that share nothing."""
    step = STEPS[2]
    size = least(capacities(step, cost, a))[1]
    each = per_process(cost, a, is_shared=True)
    count = math.ceil(TARGET / size)
    people = TARGET / count
    # Half of all regions fail: each one that is left has as many people come as it has.
    coming = people / a.back_s
    storm = coming * (cost.connection["gateway"] + cost.subscription) / 1e6
    return {
        "deployments": count,
        "people in each": round(people),
        "gateway processes in each": math.ceil(max(people / least(each, "gateway")[1], storm)),
        "worker processes in each": math.ceil(people / least(each, "worker")[1]),
        "auth processes in each": math.ceil(max(2.0, coming * cost.connection["auth"] / (a.use * 1e6))),
        "gateway cores that half a region's return takes": math.ceil(storm),
    }
