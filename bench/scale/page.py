"""The page on sizes: every number in it is a figure of `figures.json` or computed from those."""

# ruff: noqa: E501  # prose, as it stands on the page

from __future__ import annotations

from typing import Final

from bench.figures import Table
from bench.page import describe
from bench.process import ROOT
from bench.scale.arithmetic import ASSUMED, STEPS, TARGET, capacities, cells, costs, least, per_process
from bench.scale.fit import Run, fit
from bench.stand import Stand

__all__ = ["INTRODUCTION", "PAGE", "conditions", "measured_tables", "render"]

PAGE: Final = ROOT / "docs" / "explanation" / "scale.md"
INTRODUCTION: Final = """\
A real deployment on one machine: PostgreSQL with fsync, Redis, an auth service, two gateways, two workers. Each figure is
measured at three sizes; the line through them is `base + slope × size`, by least squares. *Off* is the greatest distance
of a point from its line, as a share of the greatest value: above 20 % the slope is a rough one. CPU is the scheduler's
own clock of each process tree; values are medians of the rounds."""
_HEAD: Final = """\
# How far it scales

For whoever decides on sizes: what an event, a run, a connection and an account cost, as measured, and what follows for
one machine, for many, and for ten million connected people. Made by `python -m bench --only scale`, which writes the
figures to `bench/scale/figures.json` and this page from them; a test sees that the two agree.

**Ten million people were never connected to anything here.** What is measured had at most 2,000 connections, two
cores and no network. Everything beyond is arithmetic, and wrong wherever a cost does not grow in a straight line.

## What was measured

{conditions}

{introduction}

{measured}

Figures without a size:

{plain}

## What is assumed

{assumed}

## How many people each step carries

{steps}

What to do then:

{then}

### Every limit of every step

In connected people, the least first is what ends.

{limits}

## Ten million connected people

As deployments that share nothing, each with one PostgreSQL and one Redis, and people sent to theirs by something in
front. **That something is not built**: Runwire has no routing between deployments, and each has accounts of its own.

{cells}

## Limits of the design

{walls}

## What is not known

- No network: all processes spoke over loopback. Latency between machines, and TLS, are in no figure.
- Two cores for everything, the load's client included, beside other work: CPU is dearer than on a quiet machine (colder caches),
  and commits group more when all is slow, which makes an event look cheaper to PostgreSQL.
- One gateway had at most 2,000 sockets. 10,000 is a setting; it was not tried here.
- A PostgreSQL with many cores was never tried: that its CPU per event stays the same there is an assumption, as are its disk and its commits per second.
- Tables were small. Indexes that no longer fit into memory, vacuum and retention under full load are in no figure.
- The return of half a region is arithmetic; what was tried is the loss of one gateway with 3,000 sockets
  (`tests/cluster/test_storm.py`).
- The user's code: agents here do nothing but say things. Whatever a real one computes comes on top, in the worker.
"""
_READING: Final = "gateway: reading what others' people are told"
_THEN: Final = {
    "gateway: CPU": "More gateways: they hold nothing.",
    "gateway: memory": "More gateways, or machines with more memory for each.",
    "gateway: sockets (`max_connections`)": "More gateways; the setting can be raised where memory and CPU allow.",
    "worker: CPU": "More workers.",
    "worker: runs at a time (`max_runs`)": "Raise `max_runs`, or more workers.",
    "PostgreSQL: CPU": "A larger machine, then several databases by hash.",
    "PostgreSQL: WAL": "A faster disk, then several databases by hash.",
    "PostgreSQL: commits": "Several databases by hash.",
    "PostgreSQL: connections": "Raise PostgreSQL's `max_connections`, or fewer and larger processes. More databases do not help: "
    "every process connects to each.",
    "Redis: fan-out to all gateways": "A Redis cluster, or deployments that share nothing: each gateway has people in all 64 shards, so each "
    "message goes to each gateway.",
    _READING: "Deployments that share nothing: more gateways do not help, each reads everything.",
    "accounts: memory of each process": "Deployments with accounts of their own: every gateway and worker holds all accounts.",
    "accounts: reading them at a start": "Deployments with accounts of their own: a process reads all accounts at its start, within ten seconds, "
    "or does not start.",
}


def conditions(stand: Stand) -> list[str]:
    """Return what a reader must know of the machine."""
    lines = [line for line in describe(stand) if not line.startswith(("SQLite", "Runwire's own"))]
    return [line.replace("server and client pinned to one each", "PostgreSQL kept on one of them") for line in lines]


def measured_tables(run: Run) -> list[Table]:
    """Return each figure at its sizes, with its line; and those without a size."""
    table = Table(("figure", "unit", "at", "values", "base", "slope", "off"))
    for one in run.measured.values():
        line = fit(one)
        table.add(
            one.name,
            one.unit,
            " / ".join(f"{size:,.0f}" for size in one.sizes) + f" {one.per}",
            " / ".join(f"{value:,.0f}" for value in one.values),
            f"{line.base:,.0f}",
            f"{line.slope:,.2f}",
            f"{line.residual:.0%}",
        )
    plain = Table(("figure", "value"))
    for name, value in run.plain.items():
        plain.add(name, f"{value:,.1f}")
    return [table, plain]


def render(run: Run) -> str:
    """Return the page."""
    measured, plain = measured_tables(run)
    cost = costs(run)
    steps = Table(("step", "people connected", "runs per second", "events per second", "what ends first"))
    firsts = []
    for step in STEPS:
        name, people = least(capacities(step, cost))
        firsts.append(name)
        rates = (f"{people * ASSUMED.runs:,.0f}", f"{people * ASSUMED.events:,.0f}")
        steps.add(step.name, _people(people), *rates, name)
    limits = Table(("limit", *(step.name for step in STEPS)))
    found = [capacities(step, cost) for step in STEPS]
    for name in sorted({name for one in found for name in one}):
        limits.add(name, *(_people(one[name]) if name in one else "–" for one in found))
    kinds = Table(("what", "how many"))
    for name, count in cells(cost).items():
        kinds.add(name, f"{count:,}")
    return _HEAD.format(
        conditions="\n".join(f"- {line}" for line in run.conditions),
        introduction=INTRODUCTION,
        measured=measured.markdown(),
        plain=plain.markdown(),
        assumed=_assumed(),
        steps=steps.markdown(),
        then="\n".join(f"- **{name}**: {_THEN[name]}" for name in dict.fromkeys(firsts)),
        limits=limits.markdown(),
        cells=kinds.markdown(),
        walls=_walls(run),
    )


def _assumed() -> str:
    a = ASSUMED
    return "\n".join(
        f"- {line}"
        for line in (
            f"A connected person says something every {a.message_s:,.0f} s; a run has {a.run_events} events in {a.run_s:.0f} s, so "
            f"{a.run_s / a.message_s:.1%} of people have a run at a time. Twice as busy: half as many people.",
            f"No core is used for more than {a.use:.0%}; a gateway and a worker are one core each.",
            f"A gateway may have {a.gateway_bytes / 1e9:.0f} GB for sockets and {a.sockets:,} of them; a worker {a.worker_runs} runs at a time: the defaults.",
            f"PostgreSQL writes {a.wal_bytes / 1e6:.0f} MB of WAL and {a.commits:,.0f} commits per second and takes {a.connections:,} connections, of "
            f"which a process holds up to {a.process_connections}.",
            f"There are {a.accounts_each:.0f} accounts for each connected person; a process may spend {a.accounts_bytes / 1e9:.0f} GB on them.",
            f"After half of all regions have failed, their people come to the others within {a.back_s:.0f} s.",
        )
    )


def _walls(run: Run) -> str:
    """Return what no number of machines cures."""
    cost, a = costs(run), ASSUMED
    people = capacities(STEPS[2], cost)
    each = per_process(cost)
    processes = TARGET / least(each, "gateway")[1] + TARGET / least(each, "worker")[1]
    lines = (
        f"**Every process holds every account**, from one table in the first database: {cost.account_bytes:,.0f} bytes each, so "
        f"{TARGET * a.accounts_each * cost.account_bytes / 1e9:,.1f} GB in each gateway and worker at ten million connected people; "
        f"{cost.account_load:,.1f} µs to read one, and all must be read in one transaction within {a.load_s:.0f} s: "
        f"{a.load_s * 1e6 / cost.account_load:,.0f} accounts, beyond which no gateway or worker starts.",
        f"**Every process follows all changes of accounts**: it asks the first database four times in a second, and once more for each change. A "
        f"process that does nothing costs PostgreSQL {cost.idle_database:,.0f} µs per second; the {processes:,.0f} processes of one deployment of "
        f"ten million would cost it {processes * cost.idle_database / 1e6:,.1f} cores for that alone.",
        f"**64 shards in Redis** (ADR 0023) are too few to spare anybody anything: a gateway with some hundred people has some in all of them and "
        f"reads every event of the deployment, {cost.event['hearer']:,.1f} µs each. With half of its core for that, "
        f"{a.use * 1e6 / 2 / cost.event['hearer']:,.0f} events per second, "
        f"{_people(people[_READING])} people, are the end of one deployment.",
        f"**Every process connects to every database**: {a.connections:,} connections are {a.connections // a.process_connections} processes, "
        f"{_people(people['PostgreSQL: connections'])} people, however many databases there are.",
        "**One row per process in `member`**, written every 10 s: cheap, and read by every gateway every 5 s; with a hundred processes no limit.",
        "**The number of databases is fixed at the start** (ADR 0025), and the first one alone decides who may go on: without it sockets close after 30 s.",
    )
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def _people(count: float) -> str:
    """Return two digits: more would claim to know."""
    return f"{float(f'{count:.2g}'):,.0f}"
