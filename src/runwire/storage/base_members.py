"""The port of members: the processes that serve this database, and which agents they have."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

__all__ = ["GOOD_S", "MAX_AGENTS", "MAX_MEMBERS", "RESERVED", "Member", "MemberRow", "Members", "Offered"]

MAX_AGENTS: Final = 1_000  # of one process
MAX_MEMBERS: Final = 10_000  # rows kept; a process that is started again and again leaves one each time
GOOD_S: Final = 60.0  # for how long a member's word is good, unless it says otherwise; it is said again much sooner
RESERVED: Final = "~"  # begins what is a process's own: no agent of an author and no person can have such a name
_NAME: Final = 255  # characters of a node's or agent's name


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An immutable record of a port; it holds no cycle, which spares the garbage collector (`events.EventData`)."""


class Member(_Value, frozen=True):
    """What a process says of itself.

    Raises:
        ValueError: more agents than `MAX_AGENTS`, or a name of over 255 characters.
    """

    node: str  # its name; a restart is another member. A worker claims under the same name
    roles: tuple[str, ...]  # of "gateway", "worker", "auth"
    agents: tuple[str, ...] = ()  # that its worker has
    default_agent: str | None = None  # that somebody chose; a worker's only agent is nobody's choice
    version: str = ""  # release of Runwire
    code: str | None = None  # version of its agents' code, as `agent_started` tells it

    def __post_init__(self) -> None:
        count = sum(not name.startswith(RESERVED) for name in self.agents)
        if count > MAX_AGENTS:
            raise ValueError(f"{count} agents; a process may have {MAX_AGENTS}")
        for name in (self.node, *self.roles, *self.agents):
            if not 0 < len(name) <= _NAME:
                raise ValueError(f"a name has 1 to {_NAME} characters, not {len(name)}")


class MemberRow(_Value, frozen=True):
    """A member as the database knows it; times are its own, ms UTC."""

    member: Member
    since: int  # it has announced itself since then without a gap
    seen_at: int  # when it last did
    left_at: int | None  # when it said goodbye
    is_live: bool  # it may be counted on: seen not longer ago than its word is good for, and not gone


class Offered(_Value, frozen=True):
    """Which agents may be asked."""

    names: tuple[str, ...] = ()  # sorted
    chosen: str | None = None  # the default that somebody chose

    @property
    def default(self) -> str | None:
        """Return who answers when none is named: whom somebody chose, or the only one; None: it must be said."""
        return self.chosen or (self.names[0] if len(self.names) == 1 else None)


class Members(Protocol):
    """The processes that serve this database. A hint of who is there; who owns a run is decided by `Runs` alone.

    A member's word is good for a time that it names itself: so long after it was last seen, or has said goodbye, its
    agents count as its own. The database's clock decides, and without one the machine's.
    """

    async def announce(self, member: Member, *, good_s: float = GOOD_S) -> bool:
        """Say, or say again, that a process is there; those that were not seen for a day are removed.

        Of more than `MAX_MEMBERS` rows those that were seen last are kept. Any number may call at once.

        Args:
            member: that calls.
            good_s: for how long its word is good. It was there without a gap if it calls again within half of that.

        Returns:
            Whether others must look: it was not there, or had other agents or another default.

        Raises:
            Unavailable: said or not, nobody knows; call again.
        """
        ...

    async def leave(self, node: str) -> None:
        """Say goodbye. Its agents count as there as long as its word is good, so that who comes next finds its runs.

        Raises:
            Unavailable: said or not, nobody knows.
        """
        ...

    async def offered(self) -> Offered:
        """Return which agents may be asked: those of all workers that were seen within a day, none with `RESERVED`.

        Of a worker that said goodbye only as long as its word is good, unless no worker is live: then what was there
        last comes back. Chosen is, of the defaults that live workers name (of all, if none of the live ones does),
        the one first by name: so all gateways choose alike, whoever was seen last.
        """
        ...

    async def list(self) -> list[MemberRow]:
        """List all members, those that were seen last first."""
        ...
