"""The port of the auth service's tables: users, sessions, keys, one-time secrets, and the log of changes.

Every change is one write and appends its `auth_event` rows in it, numbered from one counter row that the
write locks: numbers are commit-ordered, so a reader with a cursor never skips a late commit.
What no reader's view depends on appends nothing: a live session's next refresh token, links,
tickets, invitations, resets, when a key was last used.

Times are the database's clock (ms UTC): methods take lifetimes, rows carry `read_at`, so that two
processes with different clocks decide alike. Secrets never come here: only their SHA-256, or a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runwire.storage.base_audit import Audit, AuditEntry
from runwire.storage.base_auth_rows import (
    AuthEvent,
    AuthKind,
    AuthPage,
    AuthSnapshot,
    InviteRow,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
    UserStatus,
)

__all__ = [
    "AuthEvent",
    "AuthKind",
    "AuthPage",
    "AuthSnapshot",
    "AuthStore",
    "InviteRow",
    "KeyRow",
    "SessionRow",
    "SigningKeyRow",
    "TicketRow",
    "UserRow",
    "UserStatus",
]


class AuthStore(Audit, Protocol):
    """What the auth service keeps. Each change appends to `auth_event` in the same write.

    So it does to the audit, if it is given an `audit` entry and changed anything. An entry without subject gets the
    id of what was changed. A deleted user is a tombstone: reads show it, every change but `delete_user` says NotFound.
    """

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
        """Create an active user.

        Args:
            name: in its one spelling (`normal_name`).
            roles: of an uninvited user.
            password_hash: argon2id.
            invite_hash: of an invitation, which is used up in the same write and says the roles.
            audit: who did it.

        Raises:
            NotFound: the invitation is unknown, used, or over its time.
            Conflict: the name is taken; the invitation is as it was.
        """
        ...

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        ...

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        ...

    async def list_users(
        self, *, after: str | None = None, limit: int = 100, with_deleted: bool = False
    ) -> list[UserRow]:
        """List users by name; `after` is the last name of the previous page."""
        ...

    async def disable_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access: status disabled, epoch moved. Idempotent; a repeat writes nothing.

        Sessions, API keys, sign-in links and resets end in the same write; the one event stands for all of them,
        because nothing of an earlier epoch is good.

        Raises:
            NotFound: no such user.
            Conflict: with `keep_admin`, this is the last active user with the role `admin`.

        Promises: sessions, tokens and API keys made before this stay dead after `enable_user`.
        """
        ...

    async def enable_user(self, user: str, *, audit: AuditEntry | None = None) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        ...

    async def delete_user(self, user: str, *, keep_admin: bool = False, audit: AuditEntry | None = None) -> UserRow:
        """Withdraw all access for good and leave a tombstone: its name is the id, it has no roles and no password.

        Name, addresses, labels and the foreign subject are gone from all rows of these tables, the log of changes
        too (the audit: `audit_pseudonymise`). Of a foreign identity the hash stays: it signs nobody up again.
        Idempotent; a repeat writes nothing. Raises NotFound, Conflict as `disable_user`.
        """
        ...

    async def set_roles(
        self, user: str, roles: Sequence[str], *, keep_admin: bool = False, audit: AuditEntry | None = None
    ) -> UserRow:
        """Replace the roles; the epoch stays, views show the new roles. Idempotent.

        Raises:
            NotFound: no such user.
            Conflict: with `keep_admin`, this would leave no active user with the role `admin`.
        """
        ...

    # Passwords

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if the user has no password or does not exist."""
        ...

    async def set_password(
        self,
        user: str,
        password_hash: str,
        *,
        keep_session: str | None = None,
        expected_hash: str | None = None,
        audit: AuditEntry | None = None,
    ) -> UserRow:
        """Replace the password; every other session, and each reset and link, ends (ASVS 7.4.3).

        Args:
            user: the id.
            password_hash: argon2id.
            keep_session: one that goes on.
            expected_hash: of who changes their own: what the old password was checked against; None: somebody else
                replaces it, whatever it is.
            audit: who did it.

        Raises:
            NotFound: no such user.
            Conflict: with `expected_hash`: the password is another one by now, or `keep_session` is not live.
        """
        ...

    async def create_reset(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time password reset. Raises NotFound."""
        ...

    async def reset_password(
        self, secret_hash: bytes, password_hash: str, *, audit: AuditEntry | None = None
    ) -> UserRow | None:
        """Use up a reset and replace the password of its user, as `set_password` without a session to keep.

        Returns:
            The user; None: unknown, used, over its time, or the user is not active. One winner.
        """
        ...

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
        """Create a session, iff the user is active and still in that epoch.

        Args:
            user: the id.
            session: a new id.
            epoch: in which the credential was good.
            client: who asked; an API key's id: that must be live, and the session ends with it.
            refresh_key: HMAC key of its refresh tokens.
            ttl_s: its absolute life.
            address: where the sign-in came from; "": not known.
            audit: who did it.

        Raises:
            Conflict: access was withdrawn between the check of the credential and this write.
        """
        ...

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        ...

    async def list_sessions(self, user: str) -> list[SessionRow]:
        """List a user's live sessions, newest first."""
        ...

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter from `counter` to `counter + 1`, iff it is there and the session is live.

        Returns:
            Whether this call moved it. At most one of any number of concurrent calls does.
        """
        ...

    async def revoke_session(self, session: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End a session for good. Returns whether it was live; a repeat writes nothing."""
        ...

    async def revoke_external_session(
        self, session: str, user: str, *, reason: str, audit: AuditEntry | None = None
    ) -> bool:
        """End a session of an external issuer, of which there is no row until now; snapshots have it from then on.

        Args:
            session: "ext_" and a hash of its issuer and `sid`.
            user: whose it is.
            reason: a stable word.
            audit: who did it.

        Returns:
            Whether this call ended it; a repeat writes nothing.

        Raises:
            NotFound: no such user.
        """
        ...

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
        """End a user's sessions in one write, each with its event.

        Args:
            user: the id.
            keep_session: one that goes on.
            with_keys: API keys made before `before` end, too, each with its event and the sessions that were got by it,
                and the epoch moves.
            before: ms UTC: sessions made at that time or later go on; None: none does.
            reason: a stable word.
            audit: who did it.

        Returns:
            How many sessions ended.

        Raises:
            NotFound: no such user.

        The epoch also moves for a user of an external issuer, unless a session or time is to be spared: there are no
        rows of such sessions. Sessions and keys that are spared go on in the new epoch, with their next token.
        """
        ...

    async def sign_out_before(self, before: int, *, reason: str, audit: AuditEntry | None = None) -> int:
        """End all sessions of everybody made before a time, ms UTC, each with its event. Returns how many.

        In batches of 500, each one write; the audit goes with the first, and a call that was cut short is repeated.
        Of sessions of external issuers there are no rows: their issuer ends them.
        """
        ...

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
        """Create an API key.

        Raises:
            NotFound: no such user.
            Conflict: the user is disabled.
        """
        ...

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        ...

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those of 0..1,000 API keys that there are, by id, live or not, in one read.

        Promises: all are as of one instant; a crowd that comes at once costs one read, not one each.
        """
        ...

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        ...

    async def touch_keys(self, keys: Sequence[str]) -> None:
        """Note that 0..1,000 API keys are in use; of one that was noted in the last minute it writes nothing."""
        ...

    async def revoke_key(self, key: str, *, reason: str, audit: AuditEntry | None = None) -> bool:
        """End an API key, and each session whose client it is, for good.

        Returns whether it was live; a repeat writes nothing.
        """
        ...

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff none signs now, and return those in force as `signing_keys` does.

        Any number of processes may start at once: they end up with the same key.
        """
        ...

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
        """Create a signing key beside those there are, and return those in force as `signing_keys` does.

        Args:
            kid: new.
            private_jwk: JSON.
            activate_in_s: when it begins to sign; until then others learn it from the JWKS.
            retire_others_in_s: when the others leave the JWKS, not before this one signs; None: they stay.
            at_most: how many may be in force with the new one; None: any number.
            audit: who did it.

        Raises:
            Conflict: there is a key of this kid, or was (field `kid`); there would be more than `at_most`.
        """
        ...

    async def signing_keys(self, *, with_ended: bool = False) -> list[SigningKeyRow]:
        """Return the signing keys that are not retired and not revoked, by the time at which they begin to sign.

        Those that do not sign yet are among them; `with_ended`: so are those that are not in force any more.
        """
        ...

    async def revoke_signing_key(self, kid: str, *, audit: AuditEntry | None = None) -> bool:
        """End a signing key and all it has signed, for good; its private part is deleted. A repeat writes nothing.

        Returns:
            Whether it was not revoked yet. If no key signs now, `create_signing_key` makes one.
        """
        ...

    # External issuers

    async def link_external(
        self, issuer: str, subject: str, *, name: str, roles: Sequence[str], audit: AuditEntry | None = None
    ) -> UserRow:
        """Return the user of an external identity, created on its first contact; any number at once create one.

        Args:
            issuer: its exact `iss`.
            subject: its `sub`; never an e-mail address, which may pass to somebody else.
            name: wanted; one that is taken gets a part of the id at its end.
            roles: of a new user; those of one that is there stay.
            audit: written if the user is created.

        Returns:
            The user; the caller looks whether it is active. One that was deleted is a tombstone and stays one.
        """
        ...

    async def external_of(self, user: str) -> tuple[str, str] | None:
        """Return issuer and subject of a user, None for one of the built-in service and for a tombstone."""
        ...

    async def external_user(self, issuer: str, subject: str) -> UserRow | None:
        """Return the user of an external identity, a tombstone too, if it was ever here."""
        ...

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
        """Keep the hash of an invitation, at least 8 bytes; `create_user` uses it up."""
        ...

    async def list_invites(self) -> list[InviteRow]:
        """List invitations that are still good, newest first; the newest 1,000."""
        ...

    async def revoke_invite(self, invite: str, *, audit: AuditEntry | None = None) -> bool:
        """Take an invitation back, by `InviteRow.invite`. Returns whether it was there."""
        ...

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int, audit: AuditEntry | None = None) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        ...

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time. One winner."""
        ...

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        ...

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time. One winner."""
        ...

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""
        ...

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to; revocations only of the last `revoked_within_s`.

        Promises: one instant. It may read all accounts, and takes up to 10 s for that.
        """
        ...
