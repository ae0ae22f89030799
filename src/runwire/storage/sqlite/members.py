"""The members in SQLite: one process owns the file, so there is one; a new owner begins without any."""

from __future__ import annotations

import builtins
import sqlite3
from typing import Any, Final

import msgspec

from runwire.storage.base import Member, MemberRow, Offered
from runwire.storage.base_members import GOOD_S, MAX_MEMBERS
from runwire.storage.clock import now_ms
from runwire.storage.offering import KEPT_MS, Word, offered
from runwire.storage.sql import load
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = ["SqliteMembers", "agents_elsewhere"]

_SQL: Final = load("sqlite_members.sql")


class SqliteMembers:
    """The processes that serve one SQLite file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def announce(self, member: Member, *, good_s: float = GOOD_S) -> bool:
        """Say that a process is there; see `Members.announce`."""
        agents = _json(member.agents)
        said = (member.node, _json(member.roles), agents, member.default_agent, member.version, member.code)

        def work(connection: sqlite3.Connection) -> bool:
            now = now_ms()
            before = connection.execute(_SQL["said_before"], (member.node,)).fetchone()
            connection.execute(_SQL["announce"], (*said, now, int(good_s * 1000)))
            connection.execute(_SQL["forget_unseen"], (member.node, now - KEPT_MS, MAX_MEMBERS))
            return bool(before != (agents, member.default_agent))

        return await self._database.write(work)

    async def leave(self, node: str) -> None:
        """Say goodbye; see `Members.leave`."""
        await self._database.write(lambda connection: connection.execute(_SQL["leave"], (node, now_ms())).rowcount)

    async def offered(self) -> Offered:
        """Return which agents may be asked; see `Members.offered`."""
        values = (now_ms(), KEPT_MS)
        rows = await self._database.read(lambda connection: connection.execute(_SQL["offered"], values).fetchall())
        return offered(
            Word(agents=_names(agents), default=default, is_live=bool(is_live), is_gone=bool(is_gone))
            for agents, default, is_live, is_gone in rows
        )

    async def list(self) -> builtins.list[MemberRow]:
        """List all members, those that were seen last first."""
        values = (now_ms(), MAX_MEMBERS)
        rows = await self._database.read(lambda connection: connection.execute(_SQL["members"], values).fetchall())
        return [_row(*row) for row in rows]


def agents_elsewhere(connection: sqlite3.Connection, worker: str) -> str:
    """Return the agents that other members than this worker have, as a JSON array."""
    ((found,),) = connection.execute(_SQL["agents_elsewhere"], (worker, now_ms())).fetchall()
    return str(found)


def _row(
    node: str, roles: str, agents: str, default: str | None, version: str, code: str | None, *times: Any
) -> MemberRow:
    since, seen_at, left_at, is_live = times
    member = Member(
        node=node, roles=_names(roles), agents=_names(agents), default_agent=default, version=version, code=code
    )
    return MemberRow(member=member, since=since, seen_at=seen_at, left_at=left_at, is_live=bool(is_live))


def _json(names: tuple[str, ...]) -> str:
    return msgspec.json.encode(sorted(names)).decode()


def _names(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
