"""The auth tables in memory: for tests and trials. Same promises, no durability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runwire.errors import Conflict
from runwire.protocol.ids import new_id
from runwire.storage.base_audit import ERASED, AuditEntry, AuditPage, AuditRow
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
from runwire.storage.external import names_for
from runwire.storage.memory.auth_tables import changed_to
from runwire.storage.memory.auth_users import MemoryUsers

__all__ = ["MemoryAuthStore"]

_ORDERS = frozenset({"breaker.reset", "breaker.force-open", "breaker.disable"})
_TOUCH_MS = 60_000


class MemoryAuthStore(MemoryUsers):
    """An `AuthStore` of dictionaries; `MemoryUsers` has the users and their sessions."""

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
        with self._lock:
            holder, at = self._existing(user), self._clock()
            if holder.status != "active":
                raise Conflict("This user is disabled; enable it first.")
            row = KeyRow(
                key=key,
                holder=holder,
                secret_hash=secret_hash,
                label=label,
                created_at=at,
                expires_at=None if ttl_s is None else at + ttl_s * 1000,
                revoked_at=None,
                read_at=at,
                scopes=tuple(sorted(set(scopes))),
            )
            self._keys[key] = row
            self._append(AuthKind.KEY_CREATED, user=user, key=key)
            self._note(audit, key)
            return row

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        with self._lock:
            row = self._keys.get(key)
            return None if row is None else self._read(row)

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those API keys that there are, by id, live or not."""
        with self._lock:
            return {key: self._read(self._keys[key]) for key in keys if key in self._keys}

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        with self._lock:
            rows = [self._read(row) for row in self._keys.values() if row.holder.user == user]
            return sorted(rows, key=lambda row: row.key, reverse=True)

    async def touch_keys(self, keys: Sequence[str]) -> None:
        """Note that API keys are in use."""
        with self._lock:
            at = self._clock()
            for row in [self._keys[key] for key in keys if key in self._keys]:
                if row.last_used_at is None or row.last_used_at <= at - _TOUCH_MS:
                    self._keys[row.key] = changed_to(row, last_used_at=at)

    async def revoke_key(self, key: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End an API key for good; returns whether it was live."""
        with self._lock:
            row = self._keys.get(key)
            if row is None or not self._revoke_key(row, reason=reason):
                return False
            self._note(audit, key)
            return True

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff none signs now, and return those in force."""
        with self._lock:
            at = self._clock()
            if not any(row.activates_at <= at for row in self._in_force()):
                self._add_signing_key(kid, private_jwk, at)
            return self._in_force()

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
        with self._lock:
            if kid in self._signing_keys:
                raise Conflict("There is a signing key of this name already.", field="kid")
            if at_most is not None and len(self._in_force()) >= at_most:
                raise too_many_signing_keys(at_most)
            at = self._clock()
            if retire_others_in_s is not None:
                retires_at = at + max(retire_others_in_s, activate_in_s) * 1000
                for row in self._in_force():
                    ends = retires_at if row.retires_at is None else min(row.retires_at, retires_at)
                    self._signing_keys[row.kid] = changed_to(row, retires_at=ends)
            self._add_signing_key(kid, private_jwk, at + activate_in_s * 1000)
            self._note(audit, kid)
            return self._in_force()

    async def signing_keys(self, *, with_ended: bool = False) -> list[SigningKeyRow]:
        """Return the signing keys in force, by the time at which they begin to sign."""
        with self._lock:
            return self._in_force(with_ended=with_ended)

    async def revoke_signing_key(self, kid: str, *, audit: AuditEntry | None = None) -> bool:
        """End a signing key and all it has signed; returns whether it was not revoked yet."""
        with self._lock:
            row = self._signing_keys.get(kid)
            if row is None or row.revoked_at is not None:
                return False
            self._signing_keys[kid] = changed_to(row, private_jwk=b"", revoked_at=self._clock())
            self._append(AuthKind.SIGNING_KEY_REVOKED, kid=kid)
            self._note(audit, kid)
            return True

    def _add_signing_key(self, kid: str, private_jwk: bytes, activates_at: int) -> None:
        self._signing_keys[kid] = SigningKeyRow(
            kid=kid, private_jwk=private_jwk, created_at=self._clock(), activates_at=activates_at
        )
        self._append(AuthKind.SIGNING_KEY_CREATED, kid=kid)

    def _in_force(self, *, with_ended: bool = False) -> list[SigningKeyRow]:
        at = self._clock()
        rows = sorted(self._signing_keys.values(), key=lambda row: (row.activates_at, row.kid))
        if with_ended:
            return rows
        return [row for row in rows if row.revoked_at is None and (row.retires_at is None or row.retires_at > at)]

    # External issuers

    async def link_external(
        self, issuer: str, subject: str, *, name: str, roles: Sequence[str], audit: AuditEntry | None = None
    ) -> UserRow:
        """Return the user of an external identity, created on its first contact."""
        with self._lock:
            known = self._externals.get((issuer, subject))
            if known is not None:
                return self._users[known]
            user = new_id("usr")
            free = next(wanted for wanted in names_for(name, user) if wanted not in self._names)
            self._externals[issuer, subject] = user
            self._note(audit, user)
            return self._add_user(user, free, roles, reason="external")

    async def external_of(self, user: str) -> tuple[str, str] | None:
        """Return issuer and subject of a user, None for one of the built-in service and for a tombstone."""
        with self._lock:
            row = self._users.get(user)
            if row is None or row.status == "deleted":
                return None
            return next((external for external, known in self._externals.items() if known == user), None)

    async def external_user(self, issuer: str, subject: str) -> UserRow | None:
        """Return the user of an external identity, a tombstone too, if it was ever here."""
        with self._lock:
            return self._users.get(self._externals.get((issuer, subject), ""))

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
        with self._lock:
            at = self._clock()
            self._invites = {known: row for known, row in self._invites.items() if row.ends_at > at}
            row = InviteRow(
                invite=secret_hash[:8].hex(),
                roles=tuple(sorted(set(roles))),
                created_by=created_by,
                created_at=at,
                ends_at=at + ttl_s * 1000,
            )
            self._invites[secret_hash] = row
            self._note(audit, row.invite)
            return row

    async def list_invites(self) -> list[InviteRow]:
        """List invitations that are still good, newest first."""
        with self._lock:
            at = self._clock()
            rows = [row for row in self._invites.values() if row.ends_at > at]
            return sorted(rows, key=lambda row: (row.created_at, row.invite), reverse=True)[:1000]

    async def revoke_invite(self, invite: str, *, audit: AuditEntry | None = None) -> bool:
        """Take an invitation back; returns whether it was there."""
        with self._lock:
            found = [known for known, row in self._invites.items() if row.invite == invite]
            for known in found:
                del self._invites[known]
            if found:
                self._note(audit, invite)
            return bool(found)

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        with self._lock:
            self._existing(user)
            at = self._clock()
            self._links = {known: held for known, held in self._links.items() if held[1] > at}
            self._links[secret_hash] = (user, at + ttl_s * 1000)
            self._note(audit, user)

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time."""
        with self._lock:
            user, expires_at = self._links.pop(secret_hash, ("", 0))
            return user if expires_at > self._clock() else None

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        with self._lock:
            at = self._clock()
            self._tickets = {known: held for known, held in self._tickets.items() if held[1] > at}
            self._tickets[secret_hash] = (ticket, at + ttl_s * 1000)

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time."""
        with self._lock:
            ticket, expires_at = self._tickets.pop(secret_hash, (None, 0))
            return ticket if expires_at > self._clock() else None

    # The audit

    async def record(self, entry: AuditEntry) -> None:
        """Append an entry of what changes nothing."""
        with self._lock:
            self._note(entry, None)

    async def audit_after(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read rows with seq > cursor, oldest first."""
        with self._lock:
            return AuditPage(head=len(self._audit), rows=self._audit[cursor : cursor + limit])

    async def breaker_orders(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read the orders to circuit breakers with seq > cursor, oldest first."""
        with self._lock:
            orders = [row for row in self._audit[cursor:] if row.entry.action in _ORDERS]
            return AuditPage(head=len(self._audit), rows=orders[:limit])

    async def audit_pseudonymise(self, user: str, *, names: Sequence[str] = ()) -> int:
        """Make rows about a user say nothing about them, for good."""
        with self._lock:
            words = {user, *names}
            found = [n for n, row in enumerate(self._audit) if {row.entry.actor, row.entry.subject} & words]
            for n in found:
                self._audit[n] = _erased(self._audit[n], words)
            return len(found)

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""
        with self._lock:
            return AuthPage(
                generation=self._generation,
                head=len(self._events),
                read_at=self._clock(),
                events=self._events[cursor : cursor + limit],
            )

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to."""
        with self._lock:
            at = self._clock()
            since = at - revoked_within_s * 1000
            return AuthSnapshot(
                generation=self._generation,
                head=len(self._events),
                read_at=at,
                users=[self._users[user] for user in sorted(self._users)],
                revoked_sessions=_recent(((s.session, s.revoked_at) for s in self._sessions.values()), since),
                revoked_keys=_recent(((k.key, k.revoked_at) for k in self._keys.values()), since),
                revoked_kids=sorted(row.kid for row in self._signing_keys.values() if row.revoked_at is not None),
            )


def _recent(revoked: Iterable[tuple[str, int | None]], since: int) -> list[tuple[str, int]]:
    recent = [(what, at) for what, at in revoked if at is not None and at >= since]
    return sorted(recent, key=lambda entry: (entry[1], entry[0]))


def _erased(row: AuditRow, words: set[str]) -> AuditRow:
    entry = row.entry
    gone = changed_to(
        entry,
        actor=ERASED if entry.actor in words else entry.actor,
        subject=ERASED if entry.subject in words else entry.subject,
        address=ERASED if entry.address else "",
        detail=dict.fromkeys(entry.detail, ERASED),
    )
    erased: AuditRow = changed_to(row, entry=gone)
    return erased
