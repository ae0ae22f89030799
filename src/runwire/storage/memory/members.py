"""The members in memory."""

from __future__ import annotations

import builtins

import msgspec

from runwire.storage.base import Member, MemberRow, Offered
from runwire.storage.base_members import GOOD_S, MAX_MEMBERS
from runwire.storage.clock import now_ms
from runwire.storage.memory.state import Present, State
from runwire.storage.offering import KEPT_MS, Word, offered

__all__ = ["MemoryMembers"]


class MemoryMembers:
    """The processes that serve one database in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def announce(self, member: Member, *, good_s: float = GOOD_S) -> bool:
        """Say that a process is there; see `Members.announce`."""
        with self._state.lock:
            now, members = now_ms(), self._state.members
            before = members.get(member.node)
            member = msgspec.structs.replace(
                member, roles=tuple(sorted(member.roles)), agents=tuple(sorted(member.agents))
            )
            is_gap = before is None or before.left_at is not None or before.has_gap(now)
            since = now if before is None or is_gap else before.since
            good_until = now + int(good_s * 1000)
            members[member.node] = Present(member=member, since=since, seen_at=now, good_until=good_until)
            self._forget(member.node, now)
            if before is None or before.left_at is not None:
                return True
            return (before.member.agents, before.member.default_agent) != (member.agents, member.default_agent)

    async def leave(self, node: str) -> None:
        """Say goodbye; see `Members.leave`."""
        with self._state.lock:
            found = self._state.members.get(node)
            if found is not None and found.left_at is None:
                now = now_ms()
                found.good_until += now - found.seen_at
                found.left_at = found.seen_at = now

    async def offered(self) -> Offered:
        """Return which agents may be asked; see `Members.offered`."""
        with self._state.lock:
            now = now_ms()
            return offered(
                Word(
                    agents=one.member.agents,
                    default=one.member.default_agent,
                    is_live=one.left_at is None and one.is_good(now),
                    is_gone=one.left_at is not None and not one.is_good(now),
                )
                for one in self._state.members.values()
                if one.seen_at > now - KEPT_MS
            )

    async def list(self) -> builtins.list[MemberRow]:
        """List all members, those that were seen last first."""
        with self._state.lock:
            now = now_ms()
            rows = [
                MemberRow(
                    member=one.member,
                    since=one.since,
                    seen_at=one.seen_at,
                    left_at=one.left_at,
                    is_live=one.left_at is None and one.is_good(now),
                )
                for one in self._state.members.values()
            ]
        return sorted(rows, key=lambda row: (-row.seen_at, row.member.node))[:MAX_MEMBERS]

    def _forget(self, node: str, now: int) -> None:
        times = sorted((one.seen_at for one in self._state.members.values()), reverse=True)
        oldest = max([now - KEPT_MS, *times[MAX_MEMBERS : MAX_MEMBERS + 1]])
        for name, one in list(self._state.members.items()):
            if name != node and one.seen_at < oldest:
                del self._state.members[name]
