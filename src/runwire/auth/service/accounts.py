"""What is done to accounts by others than their owner: on the machine and over HTTP by the same steps.

Each is one write of the store with its line in the audit, or none. Who may is asked before, by who calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec

from runwire.auth import tokens
from runwire.auth.service import keyring, users
from runwire.errors import NotFound
from runwire.storage.base import AuditEntry, AuthStore, InviteRow, KeyRow, SessionRow, SigningKeyRow, UserRow

__all__ = ["INVITE_TTL_S", "RESET_TTL_S", "Accounts", "Entry", "KeyState", "Profile", "ShownSigningKey", "key_state"]

INVITE_TTL_S: Final = 7 * 86_400
RESET_TTL_S: Final = 3_600

KeyState = Literal["active", "expired", "revoked"]
SigningKeyState = Literal["pending", "active", "retired", "revoked"]


class Entry(Protocol):
    """Makes a line of the audit: it knows who acts, and from where."""

    def __call__(self, action: str, subject: str | None = None, **detail: str) -> AuditEntry:
        """Return the line of one change."""
        ...


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an account."""

    user: str
    name: str
    status: str
    roles: list[str]
    created_at: int
    has_password: bool
    issuer: str | None  # of another issuer's user
    subject: str | None
    sessions: int  # live ones
    api_keys: int  # active ones


class ShownSigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key, without what it signs with."""

    kid: str
    created_at: int
    activates_at: int
    retires_at: int | None
    revoked_at: int | None
    state: SigningKeyState


@dataclass(frozen=True, slots=True)
class Accounts:
    """Change accounts, invitations and signing keys.

    Args:
        store: the auth tables.
        changed: called after each change that views must learn.
        keys_changed: called before that after each change of the signing keys: what this service signs now counts.
    """

    store: AuthStore
    changed: Callable[[], None]
    keys_changed: Callable[[], None] = lambda: None

    # Users

    async def found(self, name: str) -> UserRow:
        """Return an account by its name, or its id. Raises NotFound."""
        return await self.store.user_by_id(name) or await users.find_user(self.store, name)

    async def by_id(self, user: str) -> UserRow:
        """Return an account by its id, a tombstone too. Raises NotFound."""
        row = await self.store.user_by_id(user)
        if row is None:
            raise NotFound("There is no user of this id.", field="user")
        return row

    async def profile(self, row: UserRow) -> Profile:
        """Tell what is known of an account, a deleted one too."""
        external = await self.store.external_of(row.user)
        keys = await self.store.list_keys(row.user)
        return Profile(
            user=row.user,
            name=row.name,
            status=row.status,
            roles=list(row.roles),
            created_at=row.created_at,
            has_password=await self.store.password_hash(row.user) is not None,
            issuer=external and external[0],
            subject=external and external[1],
            sessions=len(await self.store.list_sessions(row.user)),
            api_keys=sum(key_state(key) == "active" for key in keys),
        )

    async def add(self, name: str, roles: Sequence[str], entry: Entry, *, password: str | None = None) -> UserRow:
        """Add a user. Raises Conflict: the name is taken; ProtocolError: a bad name, password or role."""
        audit = entry("user.create", roles=",".join(roles))
        row = await users.add_user(self.store, name, password=password, roles=tuple(roles), audit=audit)
        self.changed()
        return row

    async def disable(self, user: str, entry: Entry, *, keep_admin: bool) -> UserRow:
        """Withdraw a user's access. Raises NotFound; Conflict: the last administrator, with `keep_admin`."""
        row = await self.store.disable_user(user, keep_admin=keep_admin, audit=entry("user.disable"))
        self.changed()
        return row

    async def enable(self, user: str, entry: Entry) -> UserRow:
        """Let a user sign in again. Raises NotFound."""
        row = await self.store.enable_user(user, audit=entry("user.enable"))
        self.changed()
        return row

    async def delete(self, user: str, entry: Entry) -> None:
        """Withdraw a user's access for good; a tombstone stays. Raises NotFound; Conflict: the last administrator."""
        await self.store.delete_user(user, keep_admin=True, audit=entry("user.delete"))
        self.changed()

    async def set_roles(self, holder: UserRow, roles: Sequence[str], entry: Entry) -> UserRow:
        """Replace a user's roles. Raises NotFound; ProtocolError: a bad role; Conflict: the last administrator."""
        wanted = users.checked_roles(roles)
        audit = entry("user.roles", roles=",".join(sorted(wanted)), before=",".join(holder.roles))
        row = await self.store.set_roles(holder.user, wanted, keep_admin=True, audit=audit)
        self.changed()
        return row

    # Sessions

    async def sessions(self, user: str) -> list[SessionRow]:
        """List a user's live sessions, newest first."""
        return await self.store.list_sessions(user)

    async def sign_out(self, user: str, entry: Entry, *, with_keys: bool = False, before: int | None = None) -> int:
        """End a user's sessions, with `with_keys` their API keys too; return how many sessions. Raises NotFound."""
        ended = await self.store.sign_out_everywhere(
            user, with_keys=with_keys, before=before, reason="operator", audit=entry("user.sign_out")
        )
        self.changed()
        return ended

    # One-time secrets

    async def reset(self, user: str, ttl_s: int, entry: Entry) -> str:
        """Make a one-time secret by which a person sets a new password, and return it. Raises NotFound."""
        secret = tokens.mint_secret(secrets.token_bytes(32))
        await self.store.create_reset(
            user, secret_hash=tokens.secret_hash(secret), ttl_s=ttl_s, audit=entry("user.reset")
        )
        return secret

    async def invite(
        self, roles: Sequence[str], ttl_s: int, entry: Entry, *, created_by: str | None = None
    ) -> tuple[str, InviteRow]:
        """Make an invitation; return its secret and its row. Raises ProtocolError: a bad role."""
        wanted = users.checked_roles(roles)
        secret = tokens.mint_secret(secrets.token_bytes(32))
        row = await self.store.create_invite(
            secret_hash=tokens.secret_hash(secret),
            roles=wanted,
            ttl_s=ttl_s,
            created_by=created_by,
            audit=entry("invite.create", roles=",".join(sorted(wanted))),
        )
        return secret, row

    async def revoke_invite(self, invite: str, entry: Entry) -> None:
        """Take an invitation back. Raises NotFound."""
        if not await self.store.revoke_invite(invite, audit=entry("invite.revoke", invite)):
            raise NotFound(f"There is no invitation {invite}.", field="invite")

    # Signing keys

    async def signing_keys(self) -> list[ShownSigningKey]:
        """List the signing keys, those that are not in force any more too."""
        now = await self.now()
        return [_shown(row, now=now) for row in await self.store.signing_keys(with_ended=True)]

    async def rotate_signing_key(self, access_ttl_s: int, entry: Entry) -> ShownSigningKey:
        """Have a new signing key follow; `access_ttl_s` is the life of what the others have signed."""
        row = await keyring.rotate(self.store, access_ttl_s=access_ttl_s, audit=entry("signing_key.create"))
        self.keys_changed()
        self.changed()
        return _shown(row, now=await self.now())

    async def revoke_signing_key(self, kid: str, entry: Entry) -> None:
        """End a signing key and all it has signed. Raises NotFound."""
        await keyring.revoke(self.store, kid, audit=entry("signing_key.revoke"))
        self.keys_changed()
        self.changed()

    async def now(self) -> int:
        """Return the time by the database's clock, which rows have theirs from; ms UTC."""
        return (await self.store.events_after(2**53, limit=1)).read_at


def key_state(row: KeyRow) -> KeyState:
    """Say what has become of an API key."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= row.read_at else "active"


def _shown(row: SigningKeyRow, *, now: int) -> ShownSigningKey:
    return ShownSigningKey(
        kid=row.kid,
        created_at=row.created_at,
        activates_at=row.activates_at,
        retires_at=row.retires_at,
        revoked_at=row.revoked_at,
        state=keyring.key_state(row, now=now),
    )
