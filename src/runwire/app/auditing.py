"""The verb that reads the audit page by page, for the control socket of a running server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from runwire.storage.base import Storage

__all__ = ["audit_verbs"]

_MOST: Final = 1_000

Verb = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def audit_verbs(storage: Storage) -> dict[str, Verb]:
    """Return verb → what does it; `storage` is the database that has everybody's accounts."""

    async def audit_after(arguments: dict[str, Any]) -> dict[str, Any]:
        """Read a page."""
        page = await storage.auth.audit_after(arguments["cursor"], limit=min(arguments["limit"], _MOST))
        rows = [{"seq": row.seq, "at": row.at, **msgspec.to_builtins(row.entry)} for row in page.rows]
        return {"head": page.head, "rows": rows}

    return {"audit_after": audit_after}
