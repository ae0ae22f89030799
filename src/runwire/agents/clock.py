"""The one place where this room reads the clock: `ctx.now`, which a run's log keeps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["now"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """Return the wall clock, UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=time.time_ns() // 1_000)
