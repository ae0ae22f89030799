"""Whether the accounts and the people that the backend has met agree.

An account that the backend has not met is no difference: it meets people when they first ask for something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from runwire.storage.base import PersonRow, Storage, UserRow
from runwire.storage.placed import Placed
from runwire.storage.sqlite.control import Verb

__all__ = ["ReconcileVerbs"]

_PEOPLE: Final = 500  # read at once
_TOLD: Final = 1_000  # differences in one answer; the next ones show when these are repaired


class ReconcileVerbs:
    """What whoever owns the databases does of it.

    Args:
        storages: the databases; accounts are in the first one, each person is where their threads are.
    """

    def __init__(self, storages: Placed[Storage]) -> None:
        self._storages = storages

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {"auth_sync": self.compare, "auth_sync_repair": self.repair}

    async def compare(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the differences there are, at most so many."""
        # People first: whoever is met after this has an account, and whoever is erased meanwhile shows as that.
        people = [(place, row) async for place, row in self._people()]
        snapshot = await self._storages.first.auth.snapshot(revoked_within_s=0)
        accounts = {row.user: row for row in snapshot.users}
        found = []
        for place, row in people:
            kind = _difference(row, accounts.get(row.user))
            if kind is not None:
                found.append({"kind": kind, "user": row.user, "issuer": row.issuer, "place": place})
        return {
            "accounts": len(accounts),
            "people": len(people),
            "quarantined": sum(row.quarantined_at is not None for _, row in people),
            "differences": found[:_TOLD],
            "has_more": len(found) > _TOLD,
        }

    async def repair(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Repair one difference that is no matter of data: looked at again, for it may be gone."""
        user: str = arguments["user"]
        people = self._storages.of(user).people
        row = await people.get(user)
        account = await self._storages.first.auth.user_by_id(user)
        kind = None if row is None else _difference(row, account)
        match kind:
            case "no_account":
                return {"is_repaired": await people.quarantine(user)}
            case "account_is_back":
                return {"is_repaired": await people.release(user)}
        return {"is_repaired": kind is None}

    async def _people(self) -> AsyncIterator[tuple[int, PersonRow]]:
        for place, storage in enumerate(self._storages, 1):
            after: str | None = None
            while rows := await storage.people.list(after=after, limit=_PEOPLE):
                for row in rows:
                    yield place, row
                after = rows[-1].user


def _difference(row: PersonRow, account: UserRow | None) -> str | None:
    if account is None:
        return None if row.quarantined_at is not None else "no_account"
    if account.status == "deleted":
        return "not_erased"
    return None if row.quarantined_at is None else "account_is_back"
