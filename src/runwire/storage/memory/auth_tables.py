"""What the auth tables in memory hold, and what every change of them does."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from runwire.errors import Conflict, NotFound
from runwire.storage.base_audit import AuditEntry, AuditRow, storable
from runwire.storage.base_auth import (
    AuthEvent,
    AuthKind,
    InviteRow,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
)
from runwire.storage.clock import now_ms

__all__ = ["AuthTables", "changed_to"]


class AuthTables:
    """Dictionaries; a lock makes each call one step for all event loops.

    Args:
        clock: the database's clock, ms UTC.
    """

    def __init__(self, *, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # held for dictionary work only, never across an await
        self._generation = secrets.token_hex(8)
        self._events: list[AuthEvent] = []
        self._audit: list[AuditRow] = []
        self._users: dict[str, UserRow] = {}
        self._names: dict[str, str] = {}
        self._passwords: dict[str, str] = {}
        self._sessions: dict[str, SessionRow] = {}
        self._keys: dict[str, KeyRow] = {}
        self._signing_keys: dict[str, SigningKeyRow] = {}
        self._externals: dict[tuple[str, str], str] = {}
        self._invites: dict[bytes, InviteRow] = {}
        self._resets: dict[bytes, tuple[str, int]] = {}
        self._links: dict[bytes, tuple[str, int]] = {}
        self._tickets: dict[bytes, tuple[TicketRow, int]] = {}

    # Below: only with the lock held

    def _existing(self, user: str) -> UserRow:
        row = self._users.get(user)
        if row is None or row.status == "deleted":
            raise NotFound("There is no such user.", field="user")
        return row

    def _add_user(self, user: str, name: str, roles: Iterable[str], *, reason: str | None = None) -> UserRow:
        row = UserRow(
            user=user,
            name=name,
            status="active",
            epoch=1,
            roles=tuple(sorted(set(roles))),
            created_at=self._clock(),
        )
        self._names[name] = user
        return self._changed(AuthKind.USER_CREATED, row, reason=reason)

    def _changed(self, kind: AuthKind, row: UserRow, *, reason: str | None = None) -> UserRow:
        self._users[row.user] = row
        self._append(kind, user=row.user, holder=row, reason=reason)
        return row

    def _check_admins(self, without: UserRow) -> None:
        others = (row for row in self._users.values() if row.user != without.user and row.status == "active")
        if without.status == "active" and "admin" in without.roles and not any("admin" in row.roles for row in others):
            raise Conflict("This is the last active administrator; make another one first.", field="user")

    def _end_all(self, user: str, *, reason: str) -> None:
        """End what a user could go on with; one event of the caller stands for all."""
        at = self._clock()
        for session in self._live_sessions(user):
            self._sessions[session.session] = changed_to(session, revoked_at=at)
        for key in self._live_keys(user):
            self._keys[key.key] = changed_to(key, revoked_at=at)
        self._drop_secrets(user)

    def _drop_secrets(self, user: str) -> None:
        self._links = {known: held for known, held in self._links.items() if held[0] != user}
        self._resets = {known: held for known, held in self._resets.items() if held[0] != user}

    def _live_sessions(self, user: str) -> list[SessionRow]:
        return [row for row in self._sessions.values() if row.holder.user == user and row.revoked_at is None]

    def _live_keys(self, user: str) -> list[KeyRow]:
        return [row for row in self._keys.values() if row.holder.user == user and row.revoked_at is None]

    def _is_live(self, session: str) -> bool:
        row = None if session not in self._sessions else self._read(self._sessions[session])
        return (
            row is not None
            and row.revoked_at is None
            and row.expires_at > row.read_at
            and row.holder.status == "active"
            and row.holder.epoch == row.epoch
        )

    def _is_ended_key(self, client: str) -> bool:
        row = self._keys.get(client)
        if row is None:
            return False
        return row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self._clock())

    def _read(self, row: Any) -> Any:
        """Return a session or key as a join would: with the holder and the clock of now."""
        return changed_to(row, holder=self._users[row.holder.user], read_at=self._clock())

    def _revoke_session(self, row: SessionRow, *, reason: str) -> bool:
        if row.revoked_at is not None:
            return False
        self._sessions[row.session] = changed_to(row, revoked_at=self._clock())
        self._append(AuthKind.SESSION_REVOKED, user=row.holder.user, session=row.session, reason=reason)
        return True

    def _revoke_key(self, row: KeyRow, *, reason: str) -> bool:
        if row.revoked_at is not None:
            return False
        self._keys[row.key] = changed_to(row, revoked_at=self._clock())
        self._append(AuthKind.KEY_REVOKED, user=row.holder.user, key=row.key, reason=reason)
        for session in [held for held in self._live_sessions(row.holder.user) if held.client == row.key]:
            self._revoke_session(session, reason="key_revoked")
        return True

    def _append(self, kind: AuthKind, **fields: Any) -> None:
        self._events.append(AuthEvent(seq=len(self._events) + 1, kind=kind, at=self._clock(), **fields))

    def _note(self, audit: AuditEntry | None, subject: str | None) -> None:
        if audit is not None:
            entry = storable(audit, subject=subject)
            self._audit.append(AuditRow(seq=len(self._audit) + 1, at=self._clock(), entry=entry))


def changed_to(row: Any, **changes: Any) -> Any:
    """Return a record with other values."""
    return msgspec.structs.replace(row, **changes)
