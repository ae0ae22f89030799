"""The ids of a run's trace: functions of the run's id, so that every process knows them and nothing stores them. Pure.

A worker in another process, and the next attempt after `kill -9`, go on with the same trace (docs/adr/0033).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from hashlib import sha256
from typing import Any

__all__ = ["add_trace_id", "attempt_span", "sent_span", "trace_of"]


def trace_of(run: str) -> int:
    """Return the id of a run's trace, 128 bits."""
    return int.from_bytes(sha256(f"runwire/trace/{run}".encode()).digest()[:16])


def sent_span(run: str) -> int:
    """Return the id of the span in which the message was taken: the root of the trace, 64 bits."""
    return attempt_span(run, 0)


def attempt_span(run: str, attempt: int) -> int:
    """Return the id of an attempt's span: who takes a run over can still write that of who was lost."""
    return int.from_bytes(sha256(f"runwire/span/{run}/{attempt}".encode()).digest()[:8])


def add_trace_id(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Give a log line that names a run the id of its trace (a processor of structlog)."""
    run = line.get("run")
    if isinstance(run, str):
        line["trace_id"] = f"{trace_of(run):032x}"
    return line
