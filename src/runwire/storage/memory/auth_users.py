"""Users, their passwords and their sessions, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runwire.errors import Conflict, NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base_audit import AuditEntry
from runwire.storage.base_auth import AuthKind, SessionRow, UserRow
from runwire.storage.conflicts import changed_meanwhile
from runwire.storage.external import is_reserved
from runwire.storage.memory.auth_tables import AuthTables, changed_to

__all__ = ["MemoryUsers"]


class MemoryUsers(AuthTables):
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
        with self._lock:
            if invite_hash is not None:
                invite = self._invites.get(invite_hash)
                if invite is None or invite.ends_at <= self._clock():
                    raise NotFound("This invitation was used already or is too old.", field="invite")
                roles = invite.roles
            if name in self._names or is_reserved(name):
                raise Conflict(f"There is a user {name} already.", field="name")
            self._invites.pop(invite_hash or b"", None)
            row = self._add_user(new_id("usr"), name, roles)
            if password_hash is not None:
                self._passwords[row.user] = password_hash
            self._note(audit, row.user)
            return row

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        with self._lock:
            return self._users.get(user)

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        with self._lock:
            return self._users.get(self._names.get(name, ""))

    async def list_users(
        self, *, after: str | None = None, limit: int = 100, with_deleted: bool = False
    ) -> list[UserRow]:
        """List users by name."""
        with self._lock:
            rows = [self._users[user] for name, user in sorted(self._names.items()) if name > (after or "")]
            return [row for row in rows if with_deleted or row.status != "deleted"][:limit]

    async def disable_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access. Idempotent. Raises NotFound, Conflict."""
        with self._lock:
            row = self._existing(user)
            if row.status == "disabled":
                return row
            if keep_admin:
                self._check_admins(row)
            self._end_all(user, reason="user_disabled")
            self._note(audit, user)
            moved = changed_to(row, status="disabled", epoch=row.epoch + 1, valid_from=self._clock())
            return self._changed(AuthKind.USER_DISABLED, moved)

    async def enable_user(self, user: str, *, audit: AuditEntry | None = None) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        with self._lock:
            row = self._existing(user)
            if row.status == "active":
                return row
            self._note(audit, user)
            return self._changed(AuthKind.USER_ENABLED, changed_to(row, status="active"))

    async def delete_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access for good and leave a tombstone. Idempotent. Raises NotFound, Conflict."""
        with self._lock:
            row = self._users.get(user) or self._existing(user)
            if row.status == "deleted":
                return row
            if keep_admin:
                self._check_admins(row)
            self._end_all(user, reason="user_deleted")
            del self._names[row.name]
            self._names[user] = user
            self._passwords.pop(user, None)
            gone = changed_to(row, name=user, status="deleted", epoch=row.epoch + 1, roles=(), valid_from=self._clock())
            self._forget(gone)
            self._note(audit, user)
            return self._changed(AuthKind.USER_DELETED, gone)

    def _forget(self, gone: UserRow) -> None:
        self._events = [
            changed_to(event, holder=gone) if event.holder is not None and event.user == gone.user else event
            for event in self._events
        ]
        for name, session in self._sessions.items():
            if session.holder.user == gone.user:
                self._sessions[name] = changed_to(session, address="", refresh_key=b"")
        for name, key in self._keys.items():
            if key.holder.user == gone.user:
                self._keys[name] = changed_to(key, label="")

    async def set_roles(
        self, user: str, roles: Sequence[str], *, keep_admin: bool = False, audit: AuditEntry | None = None
    ) -> UserRow:
        """Replace the roles. Idempotent. Raises NotFound, Conflict."""
        with self._lock:
            row = self._existing(user)
            wanted = tuple(sorted(set(roles)))
            if row.roles == wanted:
                return row
            if keep_admin and "admin" not in wanted:
                self._check_admins(row)
            self._note(audit, user)
            return self._changed(AuthKind.ROLES_CHANGED, changed_to(row, roles=wanted))

    # Passwords

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if there is none."""
        with self._lock:
            return self._passwords.get(user)

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
        with self._lock:
            row = self._existing(user)
            if expected_hash is not None:
                is_kept = keep_session is None or self._is_live(keep_session)
                if self._passwords.get(user) != expected_hash or not is_kept:
                    raise changed_meanwhile()
            return self._set_password(row, password_hash, keep_session, audit)

    def _set_password(self, row: UserRow, password_hash: str, keep: str | None, audit: AuditEntry | None) -> UserRow:
        self._passwords[row.user] = password_hash
        self._revoke(self._live_sessions(row.user), keep=keep, reason="credential_changed")
        self._drop_secrets(row.user)
        self._note(audit, row.user)
        return self._changed(AuthKind.CREDENTIAL_CHANGED, row)

    async def create_reset(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time password reset. Raises NotFound."""
        with self._lock:
            self._existing(user)
            at = self._clock()
            self._resets = {known: held for known, held in self._resets.items() if held[1] > at}
            self._resets[secret_hash] = (user, at + ttl_s * 1000)
            self._note(audit, user)

    async def reset_password(
        self, secret_hash: bytes, password_hash: str, *, audit: AuditEntry | None = None
    ) -> UserRow | None:
        """Use up a reset and replace the password of its user."""
        with self._lock:
            user, expires_at = self._resets.pop(secret_hash, ("", 0))
            row = self._users.get(user)
            if row is None or row.status != "active" or expires_at <= self._clock():
                return None
            return self._set_password(row, password_hash, None, audit)

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
        with self._lock:
            holder, at = self._users.get(user), self._clock()
            if holder is None or holder.status != "active" or holder.epoch != epoch or self._is_ended_key(client):
                raise Conflict("Access was withdrawn meanwhile; sign in again.")
            row = SessionRow(
                session=session,
                holder=holder,
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
            self._sessions[session] = row
            self._append(AuthKind.SESSION_CREATED, user=user, session=session)
            self._note(audit, user)
            return row

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        with self._lock:
            row = self._sessions.get(session)
            return None if row is None else self._read(row)

    async def list_sessions(self, user: str) -> list[SessionRow]:
        """List a user's live sessions, newest first."""
        with self._lock:
            at = self._clock()
            rows: list[SessionRow] = [self._read(row) for row in self._live_sessions(user)]
            live = [row for row in rows if row.expires_at > at and row.epoch == row.holder.epoch]
            return sorted(live, key=lambda row: (row.created_at, row.session), reverse=True)

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter by one, iff it is there and the session is live."""
        with self._lock:
            if not self._is_live(session) or self._sessions[session].counter != counter:
                return False
            row = self._read(self._sessions[session])
            self._sessions[session] = changed_to(row, counter=counter + 1, rotated_at=row.read_at)
            return True

    async def revoke_session(self, session: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End a session for good; returns whether it was live."""
        with self._lock:
            row = self._sessions.get(session)
            if row is None or not self._revoke_session(row, reason=reason):
                return False
            self._note(audit, session)
            return True

    async def revoke_external_session(
        self, session: str, user: str, *, reason: str, audit: AuditEntry | None = None
    ) -> bool:
        """End a session of an external issuer; returns whether this call did. Raises NotFound."""
        with self._lock:
            holder, at = self._existing(user), self._clock()
            if session in self._sessions:
                return False
            self._sessions[session] = SessionRow(
                session=session,
                holder=holder,
                client="external",
                epoch=holder.epoch,
                refresh_key=b"",
                counter=1,
                rotated_at=at,
                created_at=at,
                expires_at=at,
                revoked_at=None,
                read_at=at,
            )
            self._note(audit, session)
            return self._revoke_session(self._sessions[session], reason=reason)

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
        with self._lock:
            row = self._existing(user)
            head = len(self._events)
            ended = self._revoke(self._live_sessions(user), keep=keep_session, before=before, reason=reason)
            if with_keys:
                for key in [k for k in self._live_keys(user) if before is None or k.created_at < before]:
                    self._revoke_key(key, reason=reason)
            is_foreign = user in self._externals.values() and keep_session is None and before is None
            if with_keys or is_foreign:
                moved = changed_to(row, epoch=row.epoch + 1, valid_from=self._clock())
                for spared in [s for s in self._live_sessions(user) if s.epoch == row.epoch]:
                    self._sessions[spared.session] = changed_to(spared, epoch=moved.epoch)
                self._changed(AuthKind.SIGNED_OUT_EVERYWHERE, moved, reason=reason)
            if len(self._events) > head:
                self._note(audit, user)
            return ended

    async def sign_out_before(self, before: int, *, reason: str, audit: AuditEntry | None = None) -> int:
        """End all sessions of everybody made before a time, each with its event."""
        with self._lock:
            live = [row for row in self._sessions.values() if row.revoked_at is None]
            ended = self._revoke(live, before=before, reason=reason)
            if ended:
                self._note(audit, None)
            return ended

    def _revoke(
        self, rows: Iterable[SessionRow], *, keep: str | None = None, before: int | None = None, reason: str
    ) -> int:
        chosen = [row for row in rows if row.session != keep and (before is None or row.created_at < before)]
        return sum(self._revoke_session(row, reason=reason) for row in chosen)
