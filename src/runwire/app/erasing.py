"""The steps of an erasure: all that is kept of one person goes; what remains is an id that is never used again."""

from __future__ import annotations

import math
from typing import Any

from runwire.auth.service import users
from runwire.errors import NotFound
from runwire.storage.base import AuditEntry, Bus, BusMessage, CancelRequest, Storage, UserRow, Wake
from runwire.storage.placed import Placed
from runwire.storage.sqlite.control import Verb

__all__ = ["ErasureVerbs", "find_account"]


class ErasureVerbs:
    """What whoever owns the databases does of an erasure, in steps that bear being done again.

    Args:
        storages: the databases; accounts are in the first one.
        bus: wakes the parts of the running server; None: this process serves nobody.
    """

    def __init__(self, storages: Placed[Storage], bus: Bus | None) -> None:
        self._storages = storages
        self._bus = bus
        # Nobody else has the file, and nothing runs here: nobody will end what a dead server has left.
        self._is_alone = bus is None and math.isinf(storages.first.lease_s)

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {
            "erase_begin": self.begin,
            "erase_step": self.step,
            "erase_end": self.end,
            "erase_wipe": self.wipe,
        }

    async def begin(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Withdraw the person's access, so that nothing new comes, and end what runs for them."""
        row = await find_account(self._storages.first, arguments["name"])
        if row.status == "active":
            await self._storages.first.auth.disable_user(row.user, audit=_entry("user.disable", row.user))
        self._tell(Wake(topic="auth"))
        request = CancelRequest(by="revoked", reason="access was withdrawn")
        cancelled = await self._storages.of(row.user).runs.cancel_user(row.user, request)
        self._tell(*(committed for run in cancelled for committed in run.committed), Wake(topic="signals"))
        return {"user": row.user, "name": row.name}

    async def step(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Delete a stretch of what is theirs."""
        user: str = arguments["user"]
        is_forced = arguments["is_forced"] or self._is_alone
        done = await self._storages.of(user).erasure.erase(user, is_forced=is_forced)
        self._tell(*(Wake(topic="deleted", thread=thread) for thread in done.threads))
        return {
            "runs": done.runs,
            "threads": len(done.threads),
            "unfinished": done.unfinished,
            "has_more": done.has_more,
        }

    async def end(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Leave a tombstone, and nothing that says whose it is."""
        user, names = arguments["user"], arguments["names"]
        first = self._storages.first
        await first.auth.delete_user(user, audit=_entry("user.delete", user))
        self._tell(Wake(topic="auth"))
        await first.auth.audit_pseudonymise(user, names=names)
        await first.auth.record(_entry("user.erase", None))
        # Last: as long as this row is there, `doctor auth-sync` finds an erasure that was cut off.
        await self._storages.of(user).people.forget(user)
        return {}

    async def wipe(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take what was deleted out of a database's files."""
        await tuple(self._storages)[arguments["place"]].erasure.wipe(is_thorough=arguments["is_thorough"])
        return {}

    def _tell(self, *messages: BusMessage) -> None:
        if self._bus is not None:
            for message in messages:
                self._bus.publish(message)


async def find_account(storage: Storage, name: str) -> UserRow:
    """Return an account by its name or id, a tombstone too. Raises NotFound."""
    row = await storage.auth.user_by_id(name)
    if row is not None:
        return row
    try:
        return await users.find_user(storage.auth, name)
    except NotFound as error:
        raise NotFound(f"There is no user {name}; `runwire user list` shows who there is.", field="name") from error


def _entry(action: str, user: str | None) -> AuditEntry:
    return AuditEntry(actor=None, actor_kind="operator", action=action, subject=user)
