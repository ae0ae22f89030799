"""The page: one Markdown file from what was measured, what was wanted, and what people wrote by hand."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.engine import ENGINES
from bench.figures import BUSY_CLIENT, Section, Table
from bench.process import ROOT
from bench.stand import BASELINES, Stand

__all__ = ["PAGE", "TRIED", "describe", "goals_table", "render", "section_text"]

PAGE: Final = ROOT / "docs" / "reference" / "benchmarks.md"
TRIED: Final = ROOT / "bench" / "tried.md"  # kept by hand; the page carries it unchanged

_OWN_LOAD: Final = 1.5
_BUSY: Final = (
    "**The machine was busy with other work.** CPU per event is then dearer for all (colder caches) and only ratios "
    "mean anything; what is measured in milliseconds (added latency, first event, replay) says nothing of a quiet "
    "machine."
)
_HEAD: Final = """\
# Benchmarks

Made by `make bench`, which overwrites this page; what was tried, at its end, is kept by hand in `bench/tried.md`.
Nothing here is a promise, and no test fails by it: they are figures of one machine on one day, as ratios against
servers that ran beside it.

## How it was measured

{conditions}

The figure is **CPU time of the server's whole process tree per event**, from the scheduler's own clock: threads,
agent, encoding, log, fence, socket, and what the kernel does on the server's behalf. 10⁶ divided by it is what one
core carries in a second. The server is kept on one core and the load client on another; wall-clock rates on shared
machines say little. Rounds are interleaved, each begins with another server; the figure is the median, in brackets
the least and the greatest. Ratios are taken within a round. The same client process drives every server with the same
frames, counts events in the bytes that arrive (another count than was said ends the bench), and its own share of its
core is in the raw figures: where it is over {busy:g}, marked †, the client may have been the limit of the wall-clock
time; the server's CPU per event is still its own.

{servers}

An event is 243 bytes of JSON on the wire. The baselines store nothing: an event that their reader misses is gone.

Durable runs are compared with engines that store too, on the same database with the same durability; how each of their
connections commits is asked before anything is measured. Runwire is its worker there, without gateway and sockets. The
figure is wall time where it is asked for, with CPU beside it: of the engine's process, and of all of PostgreSQL's.

{engines}

## Goals

{goals}
"""


def render(sections: Sequence[Section], *, conditions: Sequence[str], tried: str, failed: Sequence[str] = ()) -> str:
    """Return the whole page."""
    head = _HEAD.format(
        conditions="\n".join(f"- {line}" for line in conditions),
        busy=BUSY_CLIENT,
        servers="\n".join(f"- **{letter}** {what}" for letter, what in BASELINES.items()),
        engines="\n".join(f"- **{name}** {what}" for name, what in ENGINES.items()),
        goals=goals_table(sections).markdown(),
    )
    notes = [*failed, *(note for section in sections for note in section.notes)]
    parts = [head]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes) + "\n")
    parts += [section_text(section) for section in sections]
    parts.append(f"## What was tried\n\n{tried.strip()}\n")
    return "\n".join(parts)


def goals_table(sections: Sequence[Section]) -> Table:
    """Return every goal and whether it is met."""
    table = Table(("goal", "wanted", "found", ""))
    for section in sections:
        for goal in section.goals:
            found = goal.found.shown(2) if goal.found else "–"
            table.add(goal.name, goal.wanted(), found, goal.verdict)
    return table


def section_text(section: Section) -> str:
    """Return one measure as Markdown."""
    tables = "\n\n".join(table.markdown() for table in section.tables)
    raw = "\n\n".join(table.markdown() for table in section.raw)
    return f"## {section.title}\n\n{section.text}\n\n{tables}\n\n### {section.title}: every round\n\n{raw}\n"


def describe(stand: Stand) -> list[str]:
    """Return what a reader must know of the machine; no names, no paths."""
    cores = len(os.sched_getaffinity(0))
    pinned = "server and client pinned to one each" if stand.server_core is not None else "nothing pinned"
    names = ("uvicorn", "websockets", "uvloop", "fastapi", "picows", "msgspec", "asyncpg", "dbos", "procrastinate")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    now, *earlier = os.getloadavg()
    load = " ".join(f"{value:.1f}" for value in (now, *earlier))
    # The bench itself keeps two processes busy.
    busy = [_BUSY] if max(now, *earlier) > cores + _OWN_LOAD else []
    return [
        *busy,
        f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, commit {_commit()}, {stand.rounds} rounds",
        f"{_processor()}, {cores} cores ({pinned}), {_memory_gib():.0f} GiB, {platform.system()} {platform.release()}",
        f"SQLite on {_file_system(stand.folder)}: WAL, `synchronous=FULL`; PostgreSQL {stand.postgres_version()}: its "
        "own server, `fsync` and `synchronous_commit` on",
        "loopback TCP, no TLS, no compression",
        f"Python {platform.python_version()}, Node {stand.node_version()}, {versions}",
        f"Runwire's own settings are its defaults but for `max_runs`, `user_run_limit` (the loads' sizes) and "
        f"`log_level = warning`; load average at the end {load}",
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _file_system(folder: Path) -> str:
    """Return the kind of file system a folder is on: fsync on one in memory would cost nothing."""
    best, kind = "", "an unknown file system"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, point, its_kind, *_ = line.split()
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, its_kind
    return kind
