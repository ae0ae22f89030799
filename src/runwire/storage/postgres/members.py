"""The members of a fleet in PostgreSQL; who is live, the database's clock decides."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Final

import msgspec

from runwire.storage.base import Member, MemberRow, Offered
from runwire.storage.base_members import GOOD_S, MAX_MEMBERS
from runwire.storage.offering import KEPT_MS, Word, offered
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["PostgresMembers"]

_SQL: Final = load("postgres_members.sql")


class PostgresMembers:
    """The processes that serve one PostgreSQL database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def announce(self, member: Member, *, good_s: float = GOOD_S) -> bool:
        """Say that a process is there; see `Members.announce`."""
        is_news: bool = await self._database.fetchval(
            _SQL["announce"],
            member.node,
            _json(member.roles),
            _json(member.agents),
            member.default_agent,
            member.version,
            member.code,
            int(good_s * 1000),
            KEPT_MS,
            MAX_MEMBERS,
            is_urgent=True,
        )
        return is_news

    async def leave(self, node: str) -> None:
        """Say goodbye; see `Members.leave`."""
        await self._database.execute(_SQL["leave"], node, is_urgent=True)

    async def offered(self) -> Offered:
        """Return which agents may be asked; see `Members.offered`."""
        rows = await self._database.fetch(_SQL["offered"], KEPT_MS)
        return offered(
            Word(
                agents=_names(row["agents"]),
                default=row["default_agent"],
                is_live=row["is_live"],
                is_gone=row["is_gone"],
            )
            for row in rows
        )

    async def list(self) -> builtins.list[MemberRow]:
        """List all members, those that were seen last first."""
        return [_row(row) for row in await self._database.fetch(_SQL["members"], MAX_MEMBERS)]


def _row(row: Record) -> MemberRow:
    return MemberRow(
        member=Member(
            node=row["node"],
            roles=_names(row["roles"]),
            agents=_names(row["agents"]),
            default_agent=row["default_agent"],
            version=row["version"],
            code=row["code"],
        ),
        since=row["since"],
        seen_at=row["seen_at"],
        left_at=row["left_at"],
        is_live=row["is_live"],
    )


def _json(names: tuple[str, ...]) -> str:
    return msgspec.json.encode(sorted(names)).decode()


def _names(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
