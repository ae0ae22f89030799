"""All probes, at once, each with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

import runwire
from runwire.app.doctor.agents import examine_agents
from runwire.app.doctor.auth import examine_auth_service, examine_issuer
from runwire.app.doctor.bounds import examine_bounds, examine_limits
from runwire.app.doctor.configuration import examine_extras, examine_settings, unreadable
from runwire.app.doctor.databases import examine_database, probes_of
from runwire.app.doctor.files import examine_data_dir
from runwire.app.doctor.finding import Finding, fault
from runwire.app.doctor.machine import examine_clock, examine_files_limit, examine_python
from runwire.app.doctor.network import examine_collector, examine_port, examine_urls
from runwire.app.doctor.redis import examine_hints
from runwire.app.doctor.subject import Subject
from runwire.app.logs import log_nothing
from runwire.settings import Settings, judge

__all__ = ["LIMIT_S", "PARTS", "Diagnosis", "diagnose"]

PARTS: Final = ("configuration", "machine", "files", "database", "redis", "auth", "network", "agents", "bounds")
LIMIT_S: Final = 5.0  # for each answer
_MARGIN_S: Final = 2.0  # for a probe that asks twice, over its own deadlines
_Probe = Callable[[Subject], Awaitable[list[Finding]]]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What is right and what is wrong."""

    verdict: Literal["healthy", "faulty", "unknown"]  # unknown: the settings cannot be read, so nothing was looked at
    version: str  # of this Runwire
    environment: str | None  # None: not known
    findings: Mapping[str, list[Finding]]  # part → its lines; only of parts that were looked at

    def count(self, state: Literal["ok", "warning", "fault"]) -> int:
        """Return how many findings are such."""
        return sum(finding.state == state for findings in self.findings.values() for finding in findings)


async def diagnose(
    flags: Mapping[str, Any], *, config_file: Path | None = None, only: Collection[str] = (), limit_s: float = LIMIT_S
) -> Diagnosis:
    """Look at everything at once, or at some parts.

    Args:
        flags: settings of the command line; None values are not set.
        config_file: an explicit settings file.
        only: names of `PARTS`; none: all.
        limit_s: for each answer of another process; all is said within about 2 s more.
    """
    log_nothing()
    judged = judge(flags, config_file=config_file)
    if judged.faults or judged.loaded is None:
        return Diagnosis(
            verdict="unknown",
            version=runwire.__version__,
            environment=None,
            findings={"configuration": unreadable(judged)},
        )
    subject = Subject(loaded=judged.loaded, limit_s=limit_s)
    wanted = [part for part in PARTS if not only or part in only]
    findings: dict[str, list[Finding]] = {part: [] for part in wanted}
    if "configuration" in findings:
        findings["configuration"] += examine_settings(judged, subject)
    async with asyncio.TaskGroup() as tasks:
        asked = [
            (part, tasks.create_task(_within(probe, subject, part)))
            for part in wanted
            for probe in _probes(part, subject.settings)
        ]
    for part, task in asked:
        findings[part] += task.result()
    is_faulty = any(one.state == "fault" for each in findings.values() for one in each)
    return Diagnosis(
        verdict="faulty" if is_faulty else "healthy",
        version=runwire.__version__,
        environment=subject.settings.environment,
        findings={part: each for part, each in findings.items() if each},
    )


def _probes(part: str, settings: Settings) -> tuple[_Probe, ...]:
    probes: Mapping[str, tuple[_Probe, ...]] = {
        "configuration": (examine_extras,),
        "machine": (examine_python, examine_files_limit, examine_clock),
        "files": (examine_data_dir,),
        "database": tuple(partial(examine_database, number=number) for number in probes_of(settings)),
        "redis": (examine_hints,),
        "auth": (
            examine_auth_service,
            *(partial(examine_issuer, number=number) for number in range(len(settings.issuers))),
        ),
        "network": (
            partial(examine_port, is_management=False),
            partial(examine_port, is_management=True),
            examine_urls,
            examine_collector,
        ),
        "agents": (examine_agents,),
        "bounds": (examine_bounds, examine_limits),
    }
    return probes[part]


async def _within(probe: _Probe, subject: Subject, part: str) -> list[Finding]:
    try:
        async with asyncio.timeout(subject.limit_s + _MARGIN_S):
            return await probe(subject)
    except TimeoutError:
        limit_s = subject.limit_s + _MARGIN_S
        return [fault(part, f"was not examined within {limit_s:g} s", "look longer: runwire doctor --timeout-s 60")]
