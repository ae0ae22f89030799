"""The port of erasure: what a database has of one person goes, and is not to be found in its files afterwards."""

from __future__ import annotations

from typing import Protocol

import msgspec

__all__ = ["Erased", "Erasure"]


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of `erase` did."""

    runs: int  # that are gone, with all that was theirs
    threads: tuple[str, ...]  # that are gone: whoever holds something of them must be told
    unfinished: int  # runs that somebody holds, or is about to
    has_more: bool  # call again


class Erasure(Protocol):
    """The end of a person's data. Who calls has seen to it that the person can make nothing new."""

    async def erase(self, user: str, *, is_forced: bool = False) -> Erased:
        """Delete some of a user's threads, runs, events, waits and stored values: as much as one short write may.

        Args:
            user: the id; of somebody unknown there is nothing to erase.
            is_forced: runs that somebody holds go, too: that holder is fenced, and stops at its next append. Else
                nothing is deleted while there are any.

        Of a process's own name (`RESERVED`) the row of the user goes too: there is no account whose tombstone it is.

        Promises: cut off anywhere, another call goes on. What belongs to others is neither touched nor waited for.

        Raises:
            Unavailable: some of it is done, or nothing; call again.
        """
        ...

    async def leftovers(self, *, older_s: float) -> list[str]:
        """Return the processes' own names (`RESERVED`) of which there is something that was begun so long ago.

        The clock is this machine's, which made the rows.

        Raises:
            Unavailable: ask again.
        """
        ...

    async def wipe(self, *, is_thorough: bool = False) -> None:
        """Take what was deleted, by anybody, out of the database's files; may take minutes.

        Args:
            is_thorough: on a database server, write its tables anew, so that their files have nothing of it any more;
                each is locked meanwhile. A database file is always written anew; its writers wait.

        Raises:
            Unavailable: it was not done, or only in part; call again.
        """
        ...
