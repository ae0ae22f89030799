"""The machine: this Python, how many files may be open, the wall clock."""

from __future__ import annotations

import ctypes
import datetime
import platform
import resource
import sys
from typing import Final

from runwire.app.clock import wall_ns
from runwire.app.doctor.finding import Finding, fault, fine, warning
from runwire.app.doctor.subject import Subject

__all__ = ["examine_clock", "examine_files_limit", "examine_python"]

_OTHER_FILES: Final = 256  # databases, Redis, the log, what agents open
_NOT_BEFORE: Final = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)  # no release is older
_TIMEX_BYTES: Final = 512  # `struct timex` of adjtimex(2) is smaller everywhere
_UNSYNCHRONIZED: Final = 5  # TIME_ERROR


async def examine_python(_subject: Subject) -> list[Finding]:
    """Look at this Python; one that is too old could not have installed this."""
    name = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not has_gil:
        fix = "use the ordinary build of Python, or set PYTHON_GIL=1: no test of a release runs without the lock"
        return [warning("python", f"{name}, free-threaded", fix)]
    return [fine("python", name)]


async def examine_files_limit(subject: Subject) -> list[Finding]:
    """Compare how many files the process may have open, which is raised at the start, with the sockets it may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    settings = subject.settings
    sockets = settings.max_connections if subject.roles & {"gateway", "auth"} else 0
    needed = sockets + _OTHER_FILES
    if most == resource.RLIM_INFINITY or most >= needed:
        limit = "any number" if most == resource.RLIM_INFINITY else f"{most:,}"
        return [
            fine("open files", f"{limit} allowed, {needed:,} needed (max_connections {settings.max_connections:,})")
        ]
    # A developer's machine has few people on it, and often a low limit.
    judge = warning if settings.environment in ("development", "test") else fault
    lower = f", or set max_connections to {most - _OTHER_FILES:,}" if sockets and most > _OTHER_FILES else ""
    fix = f"raise it (systemd: LimitNOFILE={needed}; Docker: --ulimit nofile={needed}; shell: ulimit -Hn){lower}"
    return [judge("open files", f"{most:,} allowed, {needed:,} needed", fix)]


async def examine_clock(subject: Subject) -> list[Finding]:
    """Look at the wall clock; those of the others are compared with it where they are asked."""
    now = datetime.datetime.fromtimestamp(wall_ns() / 1e9, datetime.UTC)
    said = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < _NOT_BEFORE:
        return [fault("clock", said, "set it by NTP (chrony, systemd-timesyncd): tokens and certificates end by it")]
    is_kept = _is_kept()
    if is_kept is None:
        return [fine("clock", said)]
    if not is_kept and subject.settings.environment in ("production", "staging"):
        fix = "have NTP keep it (chrony, systemd-timesyncd), on each machine of the deployment"
        return [warning("clock", f"{said}; the kernel says that nothing keeps it", fix)]
    return [fine("clock", f"{said}, {'kept by NTP' if is_kept else 'kept by nothing that the kernel knows of'}")]


def _is_kept() -> bool | None:
    """Return whether the kernel counts its clock as synchronized; None: this system does not say."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None) if sys.platform.startswith("linux") else None
    if adjtimex is None:
        return None
    state: int = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # `modes` 0: only read
    return None if state < 0 else state != _UNSYNCHRONIZED
