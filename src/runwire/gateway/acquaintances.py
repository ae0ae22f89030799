"""Whom this node has met: the backend's own row of a person is there before anything of theirs is."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from runwire.errors import Forbidden
from runwire.storage.base import AuthStore, People

__all__ = ["BUILTIN", "Acquaintances"]

BUILTIN: Final = "builtin"  # the issuer of accounts that are the auth service's own

_REMEMBERED: Final = (
    100_000  # people, about 100 bytes each; whoever was met longest ago is met again, which costs a write
)


class Acquaintances:
    """People of one database whom this process has met.

    Args:
        people: their rows.
        accounts: tell which issuer an account is of.
    """

    def __init__(self, people: People, accounts: AuthStore) -> None:
        self._people = people
        self._accounts = accounts
        self._met: OrderedDict[str, None] = OrderedDict()

    async def meet(self, user: str) -> None:
        """See that there is a row of a user, before the first thread or run of theirs is made by this process.

        If it fails, or whatever comes after it, the next call is as good as the first.

        Raises:
            Forbidden: the person is quarantined.
            Conflict: the identity behind this account is another user here.
            Unavailable: a database does not answer.
        """
        if user in self._met:
            return
        issuer, subject = await self._accounts.external_of(user) or (BUILTIN, user)
        if not await self._people.meet(user, issuer, subject):
            row = await self._people.get(user)
            if row is not None and row.quarantined_at is not None:
                raise Forbidden(
                    "What is yours here is set aside; an operator can give it back: `runwire doctor auth-sync`."
                )
        self._met[user] = None
        if len(self._met) > _REMEMBERED:
            self._met.popitem(last=False)
