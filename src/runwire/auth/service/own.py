"""What people do to their own account; each is one write of the store with its line in the audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runwire.auth.service.callers import Caller
from runwire.errors import NotFound
from runwire.storage.base import AuthStore, SessionRow

__all__ = ["OwnAccount"]


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """Change the account of who asks.

    Args:
        store: the auth tables.
        changed: called after each change that views must learn.
    """

    store: AuthStore
    changed: Callable[[], None]

    # Sessions

    async def sessions(self, caller: Caller) -> list[SessionRow]:
        """List the caller's live sessions, newest first."""
        return await self.store.list_sessions(caller.user)

    async def end_session(self, caller: Caller, session: str) -> None:
        """End a session of the caller; a repeat does nothing. Raises NotFound: unknown, or somebody else's."""
        row = await self.store.session(session)
        if row is None or row.holder.user != caller.user:
            raise NotFound("There is no such session of yours.", field="session")
        if await self.store.revoke_session(session, reason="signed_out", audit=caller.entry("session.revoke")):
            self.changed()

    async def end_sessions(self, caller: Caller, *, keep_current: bool) -> int:
        """End all sessions of the caller, or all others; return how many. Raises NotFound."""
        ended = await self.store.sign_out_everywhere(
            caller.user,
            keep_session=caller.session if keep_current else None,
            reason="signed_out",
            audit=caller.entry("user.sign_out"),
        )
        self.changed()
        return ended
