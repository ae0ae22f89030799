"""The auth tables in PostgreSQL. Each change is one call of a function: the change, its number, its event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from runwire.errors import Conflict, NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base_auth import (
    AuthEvent,
    AuthKind,
    AuthPage,
    AuthSnapshot,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
)
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["PostgresAuthStore"]

_SQL: Final = load("postgres_auth.sql")


def _of_the_database() -> int | None:
    return None


class PostgresAuthStore:
    """The `AuthStore` of a PostgreSQL database, which any number of auth services share.

    Args:
        database: the open database; the row of the counter serialises all changes, so numbers are commit-ordered.
        clock: ms UTC; None: the database's.
    """

    def __init__(self, database: PostgresDatabase, *, clock: Callable[[], int | None] = _of_the_database) -> None:
        self._database = database
        self._clock = clock

    # Users

    async def create_user(
        self, name: str, *, roles: Sequence[str] = ("user",), password_hash: str | None = None
    ) -> UserRow:
        """Create an active user. Raises Conflict."""
        values = (new_id("usr"), name, _roles_text(roles), password_hash, self._clock())
        row = await self._database.fetchrow(_SQL["create_user"], *values)
        if row is None:
            raise Conflict(f"There is a user {name} already.", field="name")
        return _user(row)

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        row = await self._database.fetchrow(_SQL["user_by_id"], user)
        return None if row is None else _user(row)

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        row = await self._database.fetchrow(_SQL["user_by_name"], name)
        return None if row is None else _user(row)

    async def list_users(self, *, after: str | None = None, limit: int = 100) -> list[UserRow]:
        """List users by name."""
        return [_user(row) for row in await self._database.fetch(_SQL["list_users"], after or "", limit)]

    async def disable_user(self, user: str) -> UserRow:
        """Withdraw all access. Idempotent. Raises NotFound."""
        return await self._change("change_user", AuthKind.USER_DISABLED, user, None)

    async def enable_user(self, user: str) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        return await self._change("change_user", AuthKind.USER_ENABLED, user, None)

    async def set_roles(self, user: str, roles: Sequence[str]) -> UserRow:
        """Replace the roles. Idempotent. Raises NotFound."""
        return await self._change("change_user", AuthKind.ROLES_CHANGED, user, _roles_text(roles))

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if there is none."""
        found: str | None = await self._database.fetchval(_SQL["password_hash"], user)
        return found

    async def set_password(self, user: str, password_hash: str, *, keep_session: str | None = None) -> UserRow:
        """Replace the password and revoke every other session. Raises NotFound."""
        return await self._change("set_password", user, password_hash, keep_session or "", "credential_changed")

    async def _change(self, block: str, *values: object) -> UserRow:
        row = await self._database.fetchrow(_SQL[block], *values, self._clock())
        if row is None:
            raise _unknown_user()
        return _user(row)

    # Sessions

    async def create_session(
        self, user: str, *, session: str, epoch: int, client: str, refresh_key: bytes, ttl_s: int
    ) -> SessionRow:
        """Create a session, iff the user is active and still in that epoch. Raises Conflict."""
        values = (session, user, epoch, client, refresh_key, ttl_s * 1000, self._clock())
        row = await self._database.fetchrow(_SQL["create_session"], *values)
        if row is None:
            raise Conflict("Access was withdrawn meanwhile; sign in again.")
        at = row["at"]
        return SessionRow(
            session=session,
            holder=_user(row),
            client=client,
            epoch=epoch,
            refresh_key=refresh_key,
            counter=1,
            rotated_at=at,
            created_at=at,
            expires_at=at + ttl_s * 1000,
            revoked_at=None,
            read_at=at,
        )

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        row = await self._database.fetchrow(_SQL["session"], session, self._clock())
        if row is None:
            return None
        return SessionRow(
            session=session,
            holder=_user(row),
            client=row["client"],
            epoch=row["session_epoch"],
            refresh_key=row["refresh_key"],
            counter=row["counter"],
            rotated_at=row["rotated_at"],
            created_at=row["since"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            read_at=row["read_at"],
        )

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter by one, iff it is there and the session is live."""
        return await self._database.fetchrow(_SQL["rotate_session"], session, counter, self._clock()) is not None

    async def revoke_session(self, session: str, *, reason: str) -> bool:
        """End a session for good; returns whether it was live."""
        was_live: bool = await self._database.fetchval(_SQL["revoke_session"], session, reason, self._clock())
        return was_live

    # API keys

    async def create_key(
        self, user: str, *, key: str, secret_hash: bytes, label: str = "", ttl_s: int | None = None
    ) -> KeyRow:
        """Create an API key. Raises NotFound, Conflict."""
        ttl_ms = None if ttl_s is None else ttl_s * 1000
        values = (key, user, secret_hash, label, ttl_ms, self._clock())
        row = await self._database.fetchrow(_SQL["create_key"], *values)
        if row is None:
            raise _unknown_user()
        if row["status"] != "active":
            raise Conflict("This user is disabled; enable it first.")
        at = row["at"]
        return KeyRow(
            key=key,
            holder=_user(row),
            secret_hash=secret_hash,
            label=label,
            created_at=at,
            expires_at=None if ttl_ms is None else at + ttl_ms,
            revoked_at=None,
            read_at=at,
        )

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        row = await self._database.fetchrow(_SQL["key"], key, self._clock())
        return None if row is None else _key(row)

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those API keys that there are, by id, live or not."""
        rows = await self._database.fetch(_SQL["keys"], list(keys), self._clock())
        return {row["key"]: _key(row) for row in rows}

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        return [_key(row) for row in await self._database.fetch(_SQL["list_keys"], user, self._clock())]

    async def revoke_key(self, key: str, *, reason: str) -> bool:
        """End an API key for good; returns whether it was live."""
        was_live: bool = await self._database.fetchval(_SQL["revoke_key"], key, reason, self._clock())
        return was_live

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff there is none, and return those there are."""
        rows = await self._database.fetch(_SQL["create_signing_key"], kid, private_jwk, self._clock())
        return [_signing_key(row) for row in rows]

    async def signing_keys(self) -> list[SigningKeyRow]:
        """Return the signing keys in force, oldest first."""
        return [_signing_key(row) for row in await self._database.fetch(_SQL["signing_keys"])]

    # One-time secrets

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        values = (user, secret_hash, ttl_s * 1000, self._clock())
        if await self._database.fetchrow(_SQL["create_link"], *values) is None:
            raise _unknown_user()

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time."""
        row = await self._database.fetchrow(_SQL["consume_link"], secret_hash, self._clock())
        return row["user_id"] if row is not None and row["is_in_time"] else None

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        text = msgspec.json.encode(ticket).decode()
        await self._database.execute(_SQL["create_ticket"], text, secret_hash, ttl_s * 1000, self._clock())

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time."""
        row = await self._database.fetchrow(_SQL["consume_ticket"], secret_hash, self._clock())
        if row is None or not row["is_in_time"]:
            return None
        return msgspec.json.decode(row["ticket"], type=TicketRow)

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""
        # Every process comes here all the time, whatever it does: none of them stays on a history that is over. Of
        # several databases only the first is asked this: see also `heads` and `renew`.
        await self._database.look()
        rows = await self._database.fetch(_SQL["events_after"], cursor, limit, self._clock())
        first = rows[0]  # the counter's row is always there
        return AuthPage(
            generation=self._generation(first["generation"]),
            head=first["head"],
            read_at=first["read_at"],
            events=[_event(row) for row in rows if row["seq"] is not None],
        )

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to, in one statement."""
        rows = await self._database.fetch(_SQL["snapshot"], revoked_within_s * 1000, self._clock())
        (head,) = (row for row in rows if row["what"] == "head")
        return AuthSnapshot(
            generation=self._generation(head["id"]),
            head=head["epoch"],
            read_at=head["created_at"],
            users=[_user(row) for row in rows if row["what"] == "user"],
            revoked_sessions=[(row["id"], row["created_at"]) for row in rows if row["what"] == "session"],
            revoked_keys=[(row["id"], row["created_at"]) for row in rows if row["what"] == "key"],
        )

    def _generation(self, ours: str) -> str:
        """Return another one, too, once a connection leads to a promoted standby, which may lack the last changes."""
        return f"{ours}.{self._database.log}"


def _unknown_user() -> NotFound:
    return NotFound("There is no such user.", field="user")


def _roles_text(roles: Sequence[str]) -> str:
    return msgspec.json.encode(sorted(set(roles))).decode()


def _user(row: Record) -> UserRow:
    return UserRow(
        user=row["id"],
        name=row["name"],
        status=row["status"],
        epoch=row["epoch"],
        roles=msgspec.json.decode(row["roles"], type=tuple[str, ...]),
        created_at=row["created_at"],
    )


def _key(row: Record) -> KeyRow:
    return KeyRow(
        key=row["key"],
        holder=_user(row),
        secret_hash=row["secret_hash"],
        label=row["label"],
        created_at=row["since"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        read_at=row["read_at"],
    )


def _signing_key(row: Record) -> SigningKeyRow:
    return SigningKeyRow(kid=row["kid"], private_jwk=row["private_jwk"], created_at=row["created_at"])


def _event(row: Record) -> AuthEvent:
    holder = row["holder"]
    return AuthEvent(
        seq=row["seq"],
        kind=AuthKind(row["kind"]),
        at=row["at"],
        user=row["user_id"],
        session=row["session_id"],
        key=row["key_id"],
        kid=row["kid"],
        holder=None if holder is None else msgspec.json.decode(holder, type=UserRow),
        reason=row["reason"],
    )
