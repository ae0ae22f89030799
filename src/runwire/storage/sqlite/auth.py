"""The auth tables on SQLite. Each change is one write: the change, its number, its event, its line of the audit."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from runwire.errors import Conflict
from runwire.protocol.ids import new_id
from runwire.storage.base_audit import AuditEntry, AuditPage
from runwire.storage.base_auth import (
    AuthKind,
    AuthPage,
    AuthSnapshot,
    InviteRow,
    KeyRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
)
from runwire.storage.conflicts import too_many_signing_keys
from runwire.storage.external import names_for, subject_hash
from runwire.storage.sqlite import auth_rows as rows
from runwire.storage.sqlite.auth_rows import (
    SQL,
    all_rows,
    append,
    changed,
    existing,
    key_revoked,
    listed,
    maybe,
    note,
    one,
)
from runwire.storage.sqlite.auth_users import SqliteUsers

__all__ = ["SqliteAuthStore"]


class SqliteAuthStore(SqliteUsers):
    """The `AuthStore` of a data file; `SqliteUsers` has the users and their sessions."""

    # API keys

    async def create_key(
        self,
        user: str,
        *,
        key: str,
        secret_hash: bytes,
        label: str = "",
        ttl_s: int | None = None,
        scopes: Sequence[str] = ("runwire",),
        audit: AuditEntry | None = None,
    ) -> KeyRow:
        """Create an API key. Raises NotFound, Conflict."""
        at = self._clock()
        expires_at = None if ttl_s is None else at + ttl_s * 1000

        def work(db: sqlite3.Connection) -> KeyRow:
            if existing(db, user).status != "active":
                raise Conflict("This user is disabled; enable it first.")
            db.execute(SQL["add_key"], (key, user, secret_hash, label, at, expires_at, listed(scopes)))
            append(db, AuthKind.KEY_CREATED, at, user=user, key=key)
            note(db, audit, at, key)
            return rows.key(one(db, "key", key) or (), at)

        return await self._database.write(work)

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        row = await self._database.read(lambda db: one(db, "key", key))
        return None if row is None else rows.key(row, self._clock())

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those API keys that there are, by id, live or not."""
        wanted = msgspec.json.encode(list(keys)).decode()
        found = await self._database.read(lambda db: all_rows(db, "keys", wanted))
        at = self._clock()
        return {row[0]: rows.key(row, at) for row in found}

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        found = await self._database.read(lambda db: all_rows(db, "list_keys", user))
        at = self._clock()
        return [rows.key(row, at) for row in found]

    async def touch_keys(self, keys: Sequence[str]) -> None:
        """Note that API keys are in use."""
        at, used = self._clock(), msgspec.json.encode(list(keys)).decode()
        await self._database.write(lambda db: db.execute(SQL["touch_keys"], (used, at)).rowcount)

    async def revoke_key(self, key: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End an API key for good; returns whether it was live."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            row = one(db, "revoke_key", key, at, reason)
            if row is not None:
                key_revoked(db, row[0], key, at, reason)
                note(db, audit, at, key)
            return row is not None

        return await self._database.write(work)

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff none signs now, and return those in force."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> list[SigningKeyRow]:
            if one(db, "add_signing_key_if_none", kid, private_jwk, at) is not None:
                append(db, AuthKind.SIGNING_KEY_CREATED, at, kid=kid)
            return rows.signing_keys(db, at)

        return await self._database.write(work)

    async def add_signing_key(
        self,
        kid: str,
        private_jwk: bytes,
        *,
        activate_in_s: int,
        retire_others_in_s: int | None,
        at_most: int | None = None,
        audit: AuditEntry | None = None,
    ) -> list[SigningKeyRow]:
        """Create a signing key beside those there are, and return those in force. Raises Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> list[SigningKeyRow]:
            if at_most is not None and len(rows.signing_keys(db, at)) >= at_most:
                raise too_many_signing_keys(at_most)
            if one(db, "add_signing_key", kid, private_jwk, at, at + activate_in_s * 1000) is None:
                raise Conflict("There is a signing key of this name already.", field="kid")
            if retire_others_in_s is not None:
                retires_at = at + max(retire_others_in_s, activate_in_s) * 1000
                db.execute(SQL["retire_signing_keys"], (kid, retires_at))
            append(db, AuthKind.SIGNING_KEY_CREATED, at, kid=kid)
            note(db, audit, at, kid)
            return rows.signing_keys(db, at)

        return await self._database.write(work)

    async def signing_keys(self, *, with_ended: bool = False) -> list[SigningKeyRow]:
        """Return the signing keys in force, by the time at which they begin to sign."""
        at = self._clock()
        return await self._database.read(lambda db: rows.signing_keys(db, at, with_ended=with_ended))

    async def revoke_signing_key(self, kid: str, *, audit: AuditEntry | None = None) -> bool:
        """End a signing key and all it has signed; returns whether it was not revoked yet."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            if one(db, "revoke_signing_key", kid, at) is None:
                return False
            append(db, AuthKind.SIGNING_KEY_REVOKED, at, kid=kid)
            note(db, audit, at, kid)
            return True

        return await self._database.write(work)

    # External issuers

    async def link_external(
        self, issuer: str, subject: str, *, name: str, roles: Sequence[str], audit: AuditEntry | None = None
    ) -> UserRow:
        """Return the user of an external identity, created on its first contact."""
        known = subject_hash(issuer, subject)
        user, at = new_id("usr"), self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            found = maybe(one(db, "external_user", known))
            if found is not None:
                return found
            tries = (one(db, "add_user", user, wanted, listed(roles), None, at) for wanted in names_for(name, user))
            row = next(row for row in tries if row is not None)  # the last name is the id, which nobody has
            db.execute(SQL["add_external"], (known, issuer, subject, user))
            note(db, audit, at, user)
            return changed(db, AuthKind.USER_CREATED, at, rows.user(row), reason="external")

        return await self._database.write(work)

    async def external_of(self, user: str) -> tuple[str, str] | None:
        """Return issuer and subject of a user, None for one of the built-in service and for a tombstone."""
        row = await self._database.read(lambda db: one(db, "external_of", user))
        return None if row is None else (row[0], row[1])

    async def external_user(self, issuer: str, subject: str) -> UserRow | None:
        """Return the user of an external identity, a tombstone too, if it was ever here."""
        known = subject_hash(issuer, subject)
        return await self._database.read(lambda db: maybe(one(db, "external_user", known)))

    # One-time secrets

    async def create_invite(
        self,
        *,
        secret_hash: bytes,
        roles: Sequence[str],
        ttl_s: int,
        created_by: str | None,
        audit: AuditEntry | None = None,
    ) -> InviteRow:
        """Keep the hash of an invitation."""
        at = self._clock()
        row = (secret_hash[:8].hex(), listed(roles), created_by, at, at + ttl_s * 1000)

        def work(db: sqlite3.Connection) -> InviteRow:
            db.execute(SQL["drop_old_invites"], (at,))
            db.execute(SQL["add_invite"], (secret_hash, *row))
            note(db, audit, at, row[0])
            return rows.invite(row)

        return await self._database.write(work)

    async def list_invites(self) -> list[InviteRow]:
        """List invitations that are still good, newest first."""
        at = self._clock()
        return [rows.invite(row) for row in await self._database.read(lambda db: all_rows(db, "list_invites", at))]

    async def revoke_invite(self, invite: str, *, audit: AuditEntry | None = None) -> bool:
        """Take an invitation back; returns whether it was there."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            if not all_rows(db, "revoke_invite", invite):
                return False
            note(db, audit, at, invite)
            return True

        return await self._database.write(work)

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> None:
            existing(db, user)
            db.execute(SQL["drop_old_links"], (at,))
            db.execute(SQL["add_link"], (secret_hash, user, at + ttl_s * 1000))
            note(db, audit, at, user)

        await self._database.write(work)

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time."""
        row = await self._database.write(lambda db: one(db, "consume_link", secret_hash))
        return row[0] if row is not None and row[1] > self._clock() else None

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        at, text = self._clock(), msgspec.json.encode(ticket).decode()

        def work(db: sqlite3.Connection) -> None:
            db.execute(SQL["drop_old_tickets"], (at,))
            db.execute(SQL["add_ticket"], (secret_hash, text, at + ttl_s * 1000))

        await self._database.write(work)

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time."""
        row = await self._database.write(lambda db: one(db, "consume_ticket", secret_hash))
        if row is None or row[1] <= self._clock():
            return None
        return msgspec.json.decode(row[0], type=TicketRow)

    # The audit

    async def record(self, entry: AuditEntry) -> None:
        """Append an entry of what changes nothing."""
        at = self._clock()
        await self._database.write(lambda db: note(db, entry, at, None))

    async def audit_after(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read rows with seq > cursor, oldest first."""
        return await self._audit_page("audit_after", cursor, limit)

    async def breaker_orders(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read the orders to circuit breakers with seq > cursor, oldest first."""
        return await self._audit_page("breaker_orders", cursor, limit)

    async def _audit_page(self, block: str, cursor: int, limit: int) -> AuditPage:
        def work(db: sqlite3.Connection) -> AuditPage:
            (head,) = one(db, "audit_head") or (0,)
            return AuditPage(head=head, rows=[rows.audit_row(row) for row in all_rows(db, block, cursor, limit)])

        return await self._database.read(work)

    async def audit_pseudonymise(self, user: str, *, names: Sequence[str] = ()) -> int:
        """Make rows about a user say nothing about them, for good."""
        words = msgspec.json.encode([user, *names]).decode()
        return await self._database.write(lambda db: db.execute(SQL["erase_in_audit"], (words,)).rowcount)

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""

        def work(db: sqlite3.Connection) -> AuthPage:
            generation, head = _head(db)
            found = all_rows(db, "events_after", cursor, head, limit) if head > cursor else []
            events = [rows.event(row) for row in found]
            return AuthPage(generation=generation, head=head, read_at=self._clock(), events=events)

        return await self._database.read(work)

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to, in one read transaction."""

        def work(db: sqlite3.Connection) -> AuthSnapshot:
            at = self._clock()
            since = at - revoked_within_s * 1000
            generation, head = _head(db)
            return AuthSnapshot(
                generation=generation,
                head=head,
                read_at=at,
                users=[rows.user(row) for row in all_rows(db, "all_users")],
                revoked_sessions=[(row[0], row[1]) for row in all_rows(db, "revoked_sessions", since)],
                revoked_keys=[(row[0], row[1]) for row in all_rows(db, "revoked_keys", since)],
                revoked_kids=[row[0] for row in all_rows(db, "revoked_kids")],
            )

        return await self._database.read(work)


def _head(db: sqlite3.Connection) -> tuple[str, int]:
    generation, head = one(db, "head") or ("", 0)
    return generation, head
