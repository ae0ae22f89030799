"""The auth tables in PostgreSQL. Each change is one call of a function: the change, its number, event and audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from runwire.errors import Conflict
from runwire.protocol.ids import new_id
from runwire.storage.base_audit import AuditEntry, AuditPage
from runwire.storage.base_auth import (
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
from runwire.storage.postgres import auth_rows as rows
from runwire.storage.postgres.auth_rows import SQL, audit_text, listed, unknown_user
from runwire.storage.postgres.auth_users import PostgresUsers

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["PostgresAuthStore"]

_PAGE: Final = 2_000  # rows read in one go: some ms of the event loop, and a small part of a statement's limit
_SNAPSHOT_S: Final = 10.0


class PostgresAuthStore(PostgresUsers):
    """The `AuthStore` of a PostgreSQL database; `PostgresUsers` has the users and their sessions."""

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
        ttl_ms = None if ttl_s is None else ttl_s * 1000
        values = (key, user, secret_hash, label, ttl_ms, listed(scopes), audit_text(audit))
        row = await self._row("create_key", *values)
        if row is None:
            raise unknown_user()
        if row["status"] != "active":
            raise Conflict("This user is disabled; enable it first.")
        at = row["at"]
        return KeyRow(
            key=key,
            holder=rows.user(row),
            secret_hash=secret_hash,
            label=label,
            created_at=at,
            expires_at=None if ttl_ms is None else at + ttl_ms,
            revoked_at=None,
            read_at=at,
            scopes=tuple(sorted(set(scopes))),
        )

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        row = await self._row("key", key)
        return None if row is None else rows.key(row)

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those API keys that there are, by id, live or not."""
        found = await self._database.fetch(SQL["keys"], list(keys), self._clock())
        return {row["key"]: rows.key(row) for row in found}

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        return [rows.key(row) for row in await self._database.fetch(SQL["list_keys"], user, self._clock())]

    async def touch_keys(self, keys: Sequence[str]) -> None:
        """Note that API keys are in use."""
        await self._database.execute(SQL["touch_keys"], list(keys), self._clock())

    async def revoke_key(self, key: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End an API key for good; returns whether it was live."""
        was_live: bool = await self._value("revoke_key", key, reason, audit_text(audit))
        return was_live

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff none signs now, and return those in force."""
        return await self._signing_keys(await self._value("create_signing_key", kid, private_jwk))

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
        retire_in_ms = None if retire_others_in_s is None else retire_others_in_s * 1000
        values = (kid, private_jwk, activate_in_s * 1000, retire_in_ms, at_most, audit_text(audit))
        at = await self._value("add_signing_key", *values)
        if at is None:
            raise Conflict("There is a signing key of this name already.", field="kid")
        if at < 0:
            raise too_many_signing_keys(at_most or 0)
        return await self._signing_keys(at)

    async def signing_keys(self, *, with_ended: bool = False) -> list[SigningKeyRow]:
        """Return the signing keys in force, by the time at which they begin to sign."""
        return await self._signing_keys(self._clock(), with_ended=with_ended)

    async def _signing_keys(self, at: int | None, *, with_ended: bool = False) -> list[SigningKeyRow]:
        return [rows.signing_key(row) for row in await self._database.fetch(SQL["signing_keys"], at, with_ended)]

    async def revoke_signing_key(self, kid: str, *, audit: AuditEntry | None = None) -> bool:
        """End a signing key and all it has signed; returns whether it was not revoked yet."""
        did: bool = await self._value("revoke_signing_key", kid, audit_text(audit))
        return did

    # External issuers

    async def link_external(
        self, issuer: str, subject: str, *, name: str, roles: Sequence[str], audit: AuditEntry | None = None
    ) -> UserRow:
        """Return the user of an external identity, created on its first contact."""
        known = await self.external_user(issuer, subject)
        if known is not None:  # nearly always: nothing is locked
            return known
        user = new_id("usr")
        names = list(names_for(name, user))
        values = (subject_hash(issuer, subject), issuer, subject, user, names, listed(roles), audit_text(audit))
        return await self._change("link_external", *values)

    async def external_of(self, user: str) -> tuple[str, str] | None:
        """Return issuer and subject of a user, None for one of the built-in service and for a tombstone."""
        row = await self._database.fetchrow(SQL["external_of"], user)
        return None if row is None else (row["issuer"], row["subject"])

    async def external_user(self, issuer: str, subject: str) -> UserRow | None:
        """Return the user of an external identity, a tombstone too, if it was ever here."""
        row = await self._database.fetchrow(SQL["external_user"], subject_hash(issuer, subject))
        return None if row is None else rows.user(row)

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
        invite = secret_hash[:8].hex()
        values = (secret_hash, invite, listed(roles), created_by, ttl_s * 1000, audit_text(audit))
        at: int = await self._value("create_invite", *values)
        return InviteRow(
            invite=invite,
            roles=tuple(sorted(set(roles))),
            created_by=created_by,
            created_at=at,
            ends_at=at + ttl_s * 1000,
        )

    async def list_invites(self) -> list[InviteRow]:
        """List invitations that are still good, newest first."""
        return [rows.invite(row) for row in await self._database.fetch(SQL["list_invites"], self._clock())]

    async def revoke_invite(self, invite: str, *, audit: AuditEntry | None = None) -> bool:
        """Take an invitation back; returns whether it was there."""
        did: bool = await self._value("revoke_invite", invite, audit_text(audit))
        return did

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        if not await self._value("create_link", user, secret_hash, ttl_s * 1000, audit_text(audit)):
            raise unknown_user()

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time."""
        row = await self._row("consume_link", secret_hash)
        return row["user_id"] if row is not None and row["is_in_time"] else None

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        text = msgspec.json.encode(ticket).decode()
        await self._database.execute(SQL["create_ticket"], text, secret_hash, ttl_s * 1000, self._clock())

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time."""
        row = await self._row("consume_ticket", secret_hash)
        if row is None or not row["is_in_time"]:
            return None
        return msgspec.json.decode(row["ticket"], type=TicketRow)

    # The audit

    async def record(self, entry: AuditEntry) -> None:
        """Append an entry of what changes nothing."""
        await self._value("record", audit_text(entry))

    async def audit_after(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read rows with seq > cursor, oldest first."""
        return await self._audit_page("audit_after", cursor, limit)

    async def breaker_orders(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read the orders to circuit breakers with seq > cursor, oldest first."""
        return await self._audit_page("breaker_orders", cursor, limit)

    async def _audit_page(self, block: str, cursor: int, limit: int) -> AuditPage:
        found = await self._database.fetch(SQL[block], cursor, limit)
        return AuditPage(
            head=found[0]["head"],  # there is always a row
            rows=[rows.audit_row(row) for row in found if row["seq"] is not None],
        )

    async def audit_pseudonymise(self, user: str, *, names: Sequence[str] = ()) -> int:
        """Make rows about a user say nothing about them, for good."""
        erased: int = await self._database.fetchval(SQL["erase_in_audit"], [user, *names])
        return erased

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""
        # Every process comes here all the time, whatever it does: none of them stays on a history that is over. Of
        # several databases only the first is asked this: see also `heads` and `renew`.
        await self._database.look()
        found = await self._database.follow(SQL["events_after"], cursor, limit, self._clock())
        first = found[0]  # the counter's row is always there
        return AuthPage(
            generation=self._generation(first["generation"]),
            head=first["head"],
            read_at=first["read_at"],
            events=[rows.event(row) for row in found if row["seq"] is not None],
        )

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to, page by page in a transaction that sees one instant."""

        async def work(connection: Connection[Record]) -> AuthSnapshot:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                # Between two pages this process may be busy; the transaction holds nothing that others need.
                await connection.fetch(SQL["be_patient"], f"{_SNAPSHOT_S:.0f}s")
                (head,) = await connection.fetch(SQL["head"], self._clock())
                since = head["read_at"] - revoked_within_s * 1000
                return AuthSnapshot(
                    generation=head["generation"],
                    head=head["seq"],
                    read_at=head["read_at"],
                    users=await _all_users(connection),
                    revoked_sessions=await _revoked(connection, "revoked_sessions", since),
                    revoked_keys=await _revoked(connection, "revoked_keys", since),
                    revoked_kids=[row["kid"] for row in await connection.fetch(SQL["revoked_kids"])],
                )

        taken = await self._database.lend(work, timeout_s=_SNAPSHOT_S)
        return msgspec.structs.replace(taken, generation=self._generation(taken.generation))

    def _generation(self, ours: str) -> str:
        """Return another one, too, once a connection leads to a promoted standby, which may lack the last changes."""
        return f"{ours}.{self._database.log}"


async def _all_users(connection: Connection[Record]) -> list[UserRow]:
    users: list[UserRow] = []
    while True:
        page = await connection.fetch(SQL["all_users"], users[-1].user if users else "", _PAGE)
        users += map(rows.user, page)
        if len(page) < _PAGE:
            return users


async def _revoked(connection: Connection[Record], block: str, since: int) -> list[tuple[str, int]]:
    revoked: list[tuple[str, int]] = []
    after: tuple[Any, ...] = (since, "")
    while True:
        page = await connection.fetch(SQL[block], *after, _PAGE)
        revoked += [(row["id"], row["revoked_at"]) for row in page]
        if len(page) < _PAGE:
            return revoked
        ident, at = revoked[-1]
        after = (at, ident)
