"""What people do to their own account; each is one write of the store with its line in the audit."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runwire.auth import tokens
from runwire.auth.service.accounts import key_state
from runwire.auth.service.callers import Caller
from runwire.auth.service.passwords import Passwords
from runwire.auth.service.tries import Tries
from runwire.errors import Conflict, Forbidden, NotFound, ProtocolError, RunwireError, Unauthenticated
from runwire.protocol.ids import new_id
from runwire.storage.base import AuditEntry, AuthStore, KeyRow, SessionRow

__all__ = ["MAX_KEYS", "OwnAccount"]

MAX_KEYS: Final = 100  # good ones of one person; about, if many are made at once


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """Change the account of who asks.

    Args:
        store: the auth tables.
        changed: called after each change that views must learn.
        passwords: hashes and verifies.
        tries: counts failures, those of sign-in with them.
    """

    store: AuthStore
    changed: Callable[[], None]
    passwords: Passwords
    tries: Tries

    # Sessions

    async def sessions(self, caller: Caller) -> list[SessionRow]:
        """List the caller's live sessions, newest first."""
        return await self.store.list_sessions(caller.user)

    async def end_session(self, caller: Caller, session: str) -> None:
        """End a session of the caller; a repeat does nothing. Raises NotFound: unknown, or somebody else's."""
        row = await self.store.session(session)
        if row is None or row.holder.user != caller.user:
            raise NotFound("There is no such session of yours.", field="session")
        if await self.store.revoke_session(session, reason="signed_out", audit=caller.entry("session.revoke")):
            self.changed()

    async def end_sessions(self, caller: Caller, *, keep_current: bool) -> int:
        """End all sessions of the caller, or all others; return how many. Raises NotFound."""
        ended = await self.store.sign_out_everywhere(
            caller.user,
            keep_session=caller.session if keep_current else None,
            reason="signed_out",
            audit=caller.entry("user.sign_out"),
        )
        self.changed()
        return ended

    # Passwords

    async def change_password(self, caller: Caller, old: str, new: str) -> None:
        """Replace the caller's password; their other sessions end, and each reset and link.

        Raises:
            Forbidden: the old one is wrong, or there is none.
            ProtocolError: a bad new one.
            Unauthenticated: the session or the password went meanwhile.
            Unavailable: `rate_limited`: too many failures, as at sign-in; `unavailable`: too many hashes at once.
        """
        self.tries.take(caller.name, caller.address)
        try:
            stored = await self.store.password_hash(caller.user)
            is_right = await self.passwords.verify(stored, old)
            hashed = await self._hashed(new, field="new") if is_right else ""
        except RunwireError:
            self.tries.give_back(caller.name, caller.address)
            raise
        if not is_right:
            await self.store.record(caller.entry("password.refuse", caller.user))
            raise Forbidden("The old password is wrong.", field="old")
        entry = caller.entry("password.change")
        try:
            # Hashing takes its time: whoever had their password reset in it must not have it set back by a thief.
            await self.store.set_password(
                caller.user, hashed, keep_session=caller.session, expected_hash=stored, audit=entry
            )
        except (Conflict, NotFound):
            raise Unauthenticated("Your access was withdrawn meanwhile; sign in again.") from None
        self.changed()
        self.tries.give_back(caller.name, caller.address)

    async def reset_password(self, token: str, password: str, *, address: str) -> None:
        """Set a new password by a reset's secret, once; all sessions of the person end.

        Raises:
            Unauthenticated: unknown, used, over its time.
            ProtocolError: a bad password; the reset stays good.
            Unavailable: as `change_password`.
        """
        self.tries.take("", address)
        try:
            hashed = await self._hashed(password, field="password")
        except RunwireError:
            self.tries.give_back("", address)
            raise
        entry = AuditEntry(actor=None, actor_kind="user", action="password.reset", address=address)
        if await self.store.reset_password(tokens.secret_hash(token), hashed, audit=entry) is None:
            raise Unauthenticated("This reset was used already or is too old; ask for a new one.")
        self.changed()
        self.tries.give_back("", address)

    async def _hashed(self, password: str, *, field: str) -> str:
        try:
            return await self.passwords.hash(password)
        except ProtocolError as error:
            raise ProtocolError(error.message, field=field) from None

    # API keys

    async def keys(self, caller: Caller) -> list[KeyRow]:
        """List the caller's API keys, newest first, those that have ended too."""
        return await self.store.list_keys(caller.user)

    async def create_key(
        self, caller: Caller, *, label: str, scopes: Sequence[str], ttl_s: int | None
    ) -> tuple[str, KeyRow]:
        """Create an API key of the caller; return its text, to be had only now, and its row. Raises Conflict."""
        if sum(key_state(row) == "active" for row in await self.keys(caller)) >= MAX_KEYS:
            raise Conflict(f"You have {MAX_KEYS} API keys; revoke one that you do not use.")
        key = new_id("key")
        text, secret_hash = tokens.mint_api_key(key, entropy=secrets.token_bytes(32))
        wanted = sorted(set(scopes))
        entry = caller.entry("key.create", scopes=" ".join(wanted))
        row = await self.store.create_key(
            caller.user, key=key, secret_hash=secret_hash, label=label, ttl_s=ttl_s, scopes=wanted, audit=entry
        )
        self.changed()
        return text, row

    async def revoke_key(self, caller: Caller, key: str) -> None:
        """End an API key of the caller; a repeat does nothing. Raises NotFound: unknown, or somebody else's."""
        row = await self.store.key(key)
        if row is None or row.holder.user != caller.user:
            raise NotFound("There is no such API key of yours.", field="key")
        await self.store.revoke_key(key, reason="revoked", audit=caller.entry("key.revoke"))
        self.changed()
