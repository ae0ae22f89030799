"""How log lines look, and that they go to standard error; or that there are none."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import structlog

from runwire.app.tracing import add_trace_id
from runwire.settings import Settings, no_color

__all__ = ["log_nothing", "logging_as"]


class _Stderr:
    """Standard error, as long as it takes something: a full disk or a closed pipe behind it stops nobody's work."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


@contextlib.contextmanager
def logging_as(settings: Settings, *, is_for_good: bool) -> Iterator[None]:
    """Set structlog and the standard library up; a program with a server beside its own code gets its structlog back.

    Args:
        settings: format and level.
        is_for_good: whether the process is the server's own, so that loggers may keep this from their first line on.
    """
    before = structlog.get_config()
    _configure(settings, is_for_good=is_for_good)
    try:
        yield
    finally:
        if not is_for_good:
            structlog.configure(**before)


def _configure(settings: Settings, *, is_for_good: bool) -> None:
    stderr: Any = _Stderr()
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not no_color())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *([add_trace_id] if settings.otel_endpoint else []),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Standard output belongs to the two lines that programs read (PROTOCOL §6).
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
        cache_logger_on_first_use=is_for_good,
    )
    logging.basicConfig(stream=stderr, level=max(level, logging.WARNING), format="%(levelname)s %(name)s %(message)s")


def log_nothing() -> None:
    """Keep quiet: for a command whose output says all that these lines would."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
