"""Users, their passwords and their sessions, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from runwire.errors import Conflict, NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base_audit import AuditEntry
from runwire.storage.base_auth import AuthKind, SessionRow, UserRow
from runwire.storage.conflicts import changed_meanwhile
from runwire.storage.external import is_reserved
from runwire.storage.sqlite.auth_rows import (
    SQL,
    AuthTables,
    all_rows,
    append,
    changed,
    existing,
    key_revoked,
    listed,
    maybe,
    note,
    one,
    session,
    user,
)

__all__ = ["SqliteUsers"]

_BATCH: Final = 500  # sessions ended in one write


class SqliteUsers(AuthTables):
    """That part of the `AuthStore`."""

    # Users

    async def create_user(
        self,
        name: str,
        *,
        roles: Sequence[str] = ("user",),
        password_hash: str | None = None,
        invite_hash: bytes | None = None,
        audit: AuditEntry | None = None,
    ) -> UserRow:
        """Create an active user. Raises NotFound, Conflict."""
        ident, at = new_id("usr"), self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            text = listed(roles)
            if invite_hash is not None:
                invited = one(db, "consume_invite", invite_hash, at)
                if invited is None:
                    raise NotFound("This invitation was used already or is too old.", field="invite")
                (text,) = invited
            row = None if is_reserved(name) else one(db, "add_user", ident, name, text, password_hash, at)
            if row is None:  # raised, so the invitation is there again
                raise Conflict(f"There is a user {name} already.", field="name")
            note(db, audit, at, ident)
            return changed(db, AuthKind.USER_CREATED, at, user(row))

        return await self._database.write(work)

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        return await self._database.read(lambda db: maybe(one(db, "user_by_id", user)))

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        return await self._database.read(lambda db: maybe(one(db, "user_by_name", name)))

    async def list_users(
        self, *, after: str | None = None, limit: int = 100, with_deleted: bool = False
    ) -> list[UserRow]:
        """List users by name."""
        rows = await self._database.read(lambda db: all_rows(db, "list_users", after or "", limit, with_deleted))
        return [user(row) for row in rows]

    async def disable_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access. Idempotent. Raises NotFound, Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            before = existing(db, user)
            if before.status == "disabled":
                return before
            if keep_admin:
                _check_admins(db, before)
            _end_all(db, user, at, reason="user_disabled")
            note(db, audit, at, user)
            return _changed(db, AuthKind.USER_DISABLED, at, "disable_user", user, at)

        return await self._database.write(work)

    async def enable_user(self, user: str, *, audit: AuditEntry | None = None) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            before = existing(db, user)
            if before.status == "active":
                return before
            note(db, audit, at, user)
            return _changed(db, AuthKind.USER_ENABLED, at, "enable_user", user)

        return await self._database.write(work)

    async def delete_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access for good and leave a tombstone. Idempotent. Raises NotFound, Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            before = maybe(one(db, "user_by_id", user)) or existing(db, user)
            if before.status == "deleted":
                return before
            if keep_admin:
                _check_admins(db, before)
            _end_all(db, user, at, reason="user_deleted")
            note(db, audit, at, user)
            gone = _changed(db, AuthKind.USER_DELETED, at, "bury_user", user, at)
            db.execute(SQL["forget_in_events"], (user, msgspec.json.encode(gone).decode()))
            for block in ("forget_in_sessions", "forget_in_keys", "forget_subject"):
                db.execute(SQL[block], (user,))
            return gone

        return await self._database.write(work)

    async def set_roles(
        self, user: str, roles: Sequence[str], *, keep_admin: bool = False, audit: AuditEntry | None = None
    ) -> UserRow:
        """Replace the roles. Idempotent. Raises NotFound, Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            before = existing(db, user)
            if before.roles == tuple(sorted(set(roles))):
                return before
            if keep_admin and "admin" not in roles:
                _check_admins(db, before)
            note(db, audit, at, user)
            return _changed(db, AuthKind.ROLES_CHANGED, at, "set_roles", user, listed(roles))

        return await self._database.write(work)

    # Passwords

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if there is none."""
        row = await self._database.read(lambda db: one(db, "password_hash", user))
        return None if row is None else row[0]

    async def set_password(
        self,
        user: str,
        password_hash: str,
        *,
        keep_session: str | None = None,
        expected_hash: str | None = None,
        audit: AuditEntry | None = None,
    ) -> UserRow:
        """Replace the password and revoke every other session. Raises NotFound, Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            existing(db, user)
            if expected_hash is not None and one(db, "may_change", user, expected_hash, keep_session, at) is None:
                raise changed_meanwhile()
            return _set_password(db, user, password_hash, keep=keep_session, at=at, audit=audit)

        return await self._database.write(work)

    async def create_reset(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time password reset. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> None:
            existing(db, user)
            db.execute(SQL["drop_old_resets"], (at,))
            db.execute(SQL["add_reset"], (secret_hash, user, at + ttl_s * 1000))
            note(db, audit, at, user)

        await self._database.write(work)

    async def reset_password(
        self, secret_hash: bytes, password_hash: str, *, audit: AuditEntry | None = None
    ) -> UserRow | None:
        """Use up a reset and replace the password of its user."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow | None:
            ident, expires_at = one(db, "consume_reset", secret_hash) or ("", 0)
            holder = maybe(one(db, "user_by_id", ident))
            if holder is None or holder.status != "active" or expires_at <= at:
                return None
            return _set_password(db, ident, password_hash, keep=None, at=at, audit=audit)

        return await self._database.write(work)

    # Sessions

    async def create_session(
        self,
        user: str,
        *,
        session: str,
        epoch: int,
        client: str,
        refresh_key: bytes,
        ttl_s: int,
        address: str = "",
        audit: AuditEntry | None = None,
    ) -> SessionRow:
        """Create a session, iff the user is active and still in that epoch. Raises Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> SessionRow:
            values = (session, user, epoch, client, refresh_key, at, at + ttl_s * 1000, address)
            if one(db, "add_session", *values) is None:
                raise Conflict("Access was withdrawn meanwhile; sign in again.")
            append(db, AuthKind.SESSION_CREATED, at, user=user, session=session)
            note(db, audit, at, user)
            return _session(one(db, "session", session) or (), at)

        return await self._database.write(work)

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        row = await self._database.read(lambda db: one(db, "session", session))
        return None if row is None else _session(row, self._clock())

    async def list_sessions(self, user: str) -> list[SessionRow]:
        """List a user's live sessions, newest first."""
        at = self._clock()
        return [
            _session(row, at) for row in await self._database.read(lambda db: all_rows(db, "list_sessions", user, at))
        ]

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter by one, iff it is there and the session is live."""
        at = self._clock()
        return await self._database.write(lambda db: one(db, "rotate_session", session, counter, at)) is not None

    async def revoke_session(self, session: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End a session for good; returns whether it was live."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            if not _revoke(db, session, at, reason):
                return False
            note(db, audit, at, session)
            return True

        return await self._database.write(work)

    async def revoke_external_session(
        self, session: str, user: str, *, reason: str, audit: AuditEntry | None = None
    ) -> bool:
        """End a session of an external issuer; returns whether this call did. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            existing(db, user)
            if one(db, "add_external_session", session, user, at, reason) is None:
                return False
            append(db, AuthKind.SESSION_REVOKED, at, user=user, session=session, reason=reason)
            note(db, audit, at, session)
            return True

        return await self._database.write(work)

    async def sign_out_everywhere(
        self,
        user: str,
        *,
        keep_session: str | None = None,
        with_keys: bool = False,
        before: int | None = None,
        reason: str,
        audit: AuditEntry | None = None,
    ) -> int:
        """End a user's sessions in one write, each with its event. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> int:
            existing(db, user)
            ended = _revoke_others(db, user, at, reason=reason, keep=keep_session, before=before)
            if with_keys:
                for (key,) in all_rows(db, "revoke_older_keys", user, at, reason, before):
                    key_revoked(db, user, key, at, reason)
            is_foreign = keep_session is None and before is None and one(db, "external_of", user) is not None
            if with_keys or is_foreign:
                moved = _changed(db, AuthKind.SIGNED_OUT_EVERYWHERE, at, "move_epoch", user, at, reason=reason)
                db.execute(SQL["carry_sessions_over"], (user, moved.epoch))
            if ended or with_keys or is_foreign:
                note(db, audit, at, user)
            return ended

        return await self._database.write(work)

    async def sign_out_before(self, before: int, *, reason: str, audit: AuditEntry | None = None) -> int:
        """End all sessions of everybody made before a time, each with its event."""
        ended, after = 0, ""

        def work(db: sqlite3.Connection) -> list[str]:
            at = self._clock()
            rows = all_rows(db, "sessions_before", after, before, _BATCH)
            for ident, _ in rows:
                _revoke(db, ident, at, reason)
            if rows and not after:
                note(db, audit, at, None)
            return [ident for ident, _ in rows]

        while True:
            batch = await self._database.write(work)
            ended += len(batch)
            if len(batch) < _BATCH:
                return ended
            after = batch[-1]


_session = session  # methods have an argument of that name


def _changed(
    db: sqlite3.Connection, kind: AuthKind, at: int, block: str, *values: object, reason: str | None = None
) -> UserRow:
    """Execute a change of a user that is known to be there, and append it."""
    return changed(db, kind, at, user(one(db, block, *values) or ()), reason=reason)


def _check_admins(db: sqlite3.Connection, before: UserRow) -> None:
    is_admin = before.status == "active" and "admin" in before.roles
    if is_admin and one(db, "other_admin", before.user) is None:
        raise Conflict("This is the last active administrator; make another one first.", field="user")


def _end_all(db: sqlite3.Connection, ident: str, at: int, *, reason: str) -> None:
    """End what a user could go on with; one event of the caller stands for all."""
    for block in ("revoke_keys_of_user", "revoke_sessions_of_user"):
        db.execute(SQL[block], (ident, at, reason))
    _drop_secrets(db, ident)


def _drop_secrets(db: sqlite3.Connection, ident: str) -> None:
    for block in ("drop_links_of_user", "drop_resets_of_user"):
        db.execute(SQL[block], (ident,))


def _set_password(
    db: sqlite3.Connection, ident: str, password_hash: str, *, keep: str | None, at: int, audit: AuditEntry | None
) -> UserRow:
    _revoke_others(db, ident, at, reason="credential_changed", keep=keep)
    _drop_secrets(db, ident)
    note(db, audit, at, ident)
    return _changed(db, AuthKind.CREDENTIAL_CHANGED, at, "set_password", ident, password_hash)


def _revoke(db: sqlite3.Connection, ident: str, at: int, reason: str) -> bool:
    row = one(db, "revoke_session", ident, at, reason)
    if row is not None:
        append(db, AuthKind.SESSION_REVOKED, at, user=row[0], session=ident, reason=reason)
    return row is not None


def _revoke_others(
    db: sqlite3.Connection, ident: str, at: int, *, reason: str, keep: str | None, before: int | None = None
) -> int:
    rows = all_rows(db, "revoke_other_sessions", ident, keep or "", at, reason, before)
    for (session_id,) in rows:
        append(db, AuthKind.SESSION_REVOKED, at, user=ident, session=session_id, reason=reason)
    return len(rows)
