"""The audit for the command line, beside a running server or alone on the data folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from runwire.app.administration import administer
from runwire.settings import Settings

__all__ = ["audit_rows"]

_PAGE: Final = 500


async def audit_rows(settings: Settings, *, cursor: int) -> AsyncIterator[dict[str, Any]]:
    """Read all rows after a cursor that there are now, oldest first.

    A database that was restored from an older copy has fewer rows than were read: then the reading begins again.

    Raises:
        RunwireError: as `administer`.
    """
    while True:
        page = await administer(settings, "audit_after", cursor=cursor, limit=_PAGE)
        if page["head"] < cursor:
            cursor = 0
            continue
        for row in page["rows"]:
            cursor = row["seq"]
            yield row
        if not page["rows"] or cursor >= page["head"]:
            return
