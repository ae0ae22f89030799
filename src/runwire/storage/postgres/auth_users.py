"""Users, their passwords and their sessions, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runwire.errors import Conflict, NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base_audit import AuditEntry
from runwire.storage.base_auth import AuthKind, SessionRow, UserRow
from runwire.storage.external import is_reserved
from runwire.storage.postgres import auth_rows as rows
from runwire.storage.postgres.auth_rows import SQL, AuthTables, audit_text, listed, unknown_user

__all__ = ["PostgresUsers"]

_BATCH: Final = 500  # sessions ended in one write


class PostgresUsers(AuthTables):
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
        values = (new_id("usr"), name, listed(roles), password_hash, invite_hash, audit_text(audit))
        row = None if is_reserved(name) else await self._row("create_user", *values)
        if row is None and not is_reserved(name):
            raise NotFound("This invitation was used already or is too old.", field="invite")
        if row is None or row["fault"] is not None:
            raise Conflict(f"There is a user {name} already.", field="name")
        return rows.user(row)

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        row = await self._database.fetchrow(SQL["user_by_id"], user)
        return None if row is None else rows.user(row)

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        row = await self._database.fetchrow(SQL["user_by_name"], name)
        return None if row is None else rows.user(row)

    async def list_users(
        self, *, after: str | None = None, limit: int = 100, with_deleted: bool = False
    ) -> list[UserRow]:
        """List users by name."""
        found = await self._database.fetch(SQL["list_users"], after or "", limit, with_deleted)
        return [rows.user(row) for row in found]

    async def disable_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access. Idempotent. Raises NotFound, Conflict."""
        return await self._change("change_user", AuthKind.USER_DISABLED, user, None, keep_admin, audit_text(audit))

    async def enable_user(self, user: str, *, audit: AuditEntry | None = None) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        return await self._change("change_user", AuthKind.USER_ENABLED, user, None, False, audit_text(audit))

    async def delete_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access for good and leave a tombstone. Idempotent. Raises NotFound, Conflict."""
        return await self._change("delete_user", user, keep_admin, audit_text(audit))

    async def set_roles(
        self, user: str, roles: Sequence[str], *, keep_admin: bool = False, audit: AuditEntry | None = None
    ) -> UserRow:
        """Replace the roles. Idempotent. Raises NotFound, Conflict."""
        return await self._change(
            "change_user", AuthKind.ROLES_CHANGED, user, listed(roles), keep_admin, audit_text(audit)
        )

    # Passwords

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if there is none."""
        found: str | None = await self._database.fetchval(SQL["password_hash"], user)
        return found

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
        values = (user, password_hash, keep_session, expected_hash, audit_text(audit))
        return await self._change("set_password", *values)

    async def create_reset(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time password reset. Raises NotFound."""
        if not await self._value("create_reset", user, secret_hash, ttl_s * 1000, audit_text(audit)):
            raise unknown_user()

    async def reset_password(
        self, secret_hash: bytes, password_hash: str, *, audit: AuditEntry | None = None
    ) -> UserRow | None:
        """Use up a reset and replace the password of its user."""
        row = await self._row("reset_password", secret_hash, password_hash, audit_text(audit))
        return None if row is None else rows.user(row)

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
        values = (session, user, epoch, client, refresh_key, ttl_s * 1000, address, audit_text(audit))
        row = await self._row("create_session", *values)
        if row is None:
            raise Conflict("Access was withdrawn meanwhile; sign in again.")
        at = row["at"]
        return SessionRow(
            session=session,
            holder=rows.user(row),
            client=client,
            epoch=epoch,
            refresh_key=refresh_key,
            counter=1,
            rotated_at=at,
            created_at=at,
            expires_at=at + ttl_s * 1000,
            revoked_at=None,
            read_at=at,
            address=address,
        )

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        row = await self._row("session", session)
        return None if row is None else rows.session(row)

    async def list_sessions(self, user: str) -> list[SessionRow]:
        """List a user's live sessions, newest first."""
        found = await self._database.fetch(SQL["list_sessions"], user, self._clock())
        return [rows.session(row) for row in found]

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter by one, iff it is there and the session is live."""
        return await self._row("rotate_session", session, counter) is not None

    async def revoke_session(self, session: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End a session for good; returns whether it was live."""
        was_live: bool = await self._value("revoke_session", session, reason, audit_text(audit))
        return was_live

    async def revoke_external_session(
        self, session: str, user: str, *, reason: str, audit: AuditEntry | None = None
    ) -> bool:
        """End a session of an external issuer; returns whether this call did. Raises NotFound."""
        did: bool | None = await self._value("revoke_external_session", session, user, reason, audit_text(audit))
        if did is None:
            raise unknown_user()
        return did

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
        values = (user, keep_session, with_keys, before, reason, audit_text(audit))
        ended: int | None = await self._value("sign_out_everywhere", *values)
        if ended is None:
            raise unknown_user()
        return ended

    async def sign_out_before(self, before: int, *, reason: str, audit: AuditEntry | None = None) -> int:
        """End all sessions of everybody made before a time, each with its event."""
        ended, after = 0, ""
        while True:
            values = (before, after, _BATCH, reason, audit_text(audit), self._clock())
            batch = [row["id"] for row in await self._database.fetch(SQL["sign_out_before"], *values)]
            ended += len(batch)
            if len(batch) < _BATCH:
                return ended
            after = batch[-1]
