"""Whether a presented token stands, by the tables themselves: introspect (RFC 7662), revoke (RFC 7009)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from runwire.auth import tokens
from runwire.auth.service.keyring import Keyring
from runwire.auth.service.settings import AuthSettings
from runwire.auth.sessions import is_key_live, is_session_live
from runwire.errors import RunwireError, Unauthenticated
from runwire.storage.base import AuditEntry, AuthStore, KeyRow, SessionRow, UserRow

__all__ = ["Standing"]

_log = structlog.get_logger("runwire.auth")


class Standing:
    """Say what a token is good for, and end it.

    Args:
        store: the auth tables.
        settings: issuer, audience, service secrets.
        keyring: public keys of access tokens.
        wall_s: clock of `iat` and `exp`.
        changed: called after each change that views must learn.
    """

    def __init__(
        self,
        store: AuthStore,
        settings: AuthSettings,
        *,
        keyring: Keyring,
        wall_s: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._keyring = keyring
        self._wall_s = wall_s
        self._changed = changed

    def check_service(self, secret: str) -> None:
        """Refuse whoever does not know a service secret. Raises Unauthenticated."""
        given = secret.encode("utf-8", "surrogatepass")
        # All are compared, in constant time each: the answer's time tells nothing about which is near.
        fits = [hmac.compare_digest(given, known.encode()) for known in self._settings.service_secrets]
        if not any(fits):
            raise Unauthenticated("This needs a service secret; give the backend the one of the auth service.")

    async def introspect(self, token: str) -> dict[str, Any]:
        """Describe an access token or an API key; `{"active": false}` for everything that does not stand."""
        try:
            if tokens.is_api_key(token):
                return _key_members(await self.live_key(token))
            claims, row = await self.live_session(token)
        except Unauthenticated:
            return {"active": False}
        return {
            "active": True,
            "token_type": "Bearer",
            "iss": claims.iss,
            "aud": claims.aud,
            "sub": claims.sub,
            "username": row.holder.name,
            "client_id": claims.client_id,
            "scope": claims.scope,
            "iat": claims.iat,
            "exp": claims.exp,
            "jti": claims.jti,
            "sid": claims.sid,
            "epo": claims.epo,
        }

    async def introspect_keys(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Describe API keys, in their order, as `introspect` would each; anything else does not stand here."""
        presented = [_read(key) for key in keys]
        # One read for all of them: it is a crowd that asks, and sign-ins need the database too.
        rows = await self._store.keys(sorted({one.key for one in presented if one is not None}))
        return [_introspected(one, rows) for one in presented]

    async def touch(self, keys: Sequence[str]) -> None:
        """Note that API keys are in use; that fails without a word to whoever uses them."""
        try:
            await self._store.touch_keys(keys)
        except RunwireError as error:
            _log.warning("keys_not_touched", keys=len(keys), error=type(error).__name__)

    async def sign_out(self, access_token: str, *, address: str) -> None:
        """End the session of an access token. Raises Unauthenticated if it does not stand."""
        _, row = await self.live_session(access_token)
        await self._revoke_session(row, reason="signed_out", address=address)

    async def revoke(self, token: str, *, address: str) -> None:
        """End what a token stands for: the whole session, or the API key. Knowing a token is right enough.

        An unknown token is no error (RFC 7009 §2.2): nobody learns whether it was one.
        """
        try:
            if tokens.is_api_key(token):
                row = await self.live_key(token)
                entry = _entry("key.revoke", row.holder, address, by="token")
                if await self._store.revoke_key(row.key, reason="revoked", audit=entry):
                    _log.info("key_revoked", user=row.holder.user, key=row.key)
                    self._changed()
                return
            await self._revoke_session(await self._session_of(token), reason="revoked", address=address)
        except Unauthenticated:
            return

    async def _session_of(self, token: str) -> SessionRow:
        if not token.startswith("rwr_"):
            return (await self.live_session(token))[1]
        refresh = tokens.read_refresh_token(token)
        row = await self._store.session(refresh.session)
        if row is None or not refresh.is_genuine(row.refresh_key):
            raise _refused()
        return row

    async def live_session(self, token: str) -> tuple[tokens.AccessToken, SessionRow]:
        """Return what an access token says, and its session. Raises Unauthenticated if it does not stand."""
        claims = tokens.verify(
            token,
            await self._keyring.keys(),
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            now_s=self._wall_s(),
        )
        row = await self._store.session(claims.sid)
        if row is None or row.holder.user != claims.sub or row.epoch != claims.epo or not is_session_live(row):
            raise _refused()
        return claims, row

    async def live_key(self, token: str) -> KeyRow:
        """Return an API key. Raises Unauthenticated if it does not stand."""
        presented = tokens.read_api_key(token)
        return _proved(presented, await self._store.key(presented.key))

    async def _revoke_session(self, row: SessionRow, *, reason: str, address: str) -> None:
        entry = _entry("session.revoke", row.holder, address, by="token")
        if await self._store.revoke_session(row.session, reason=reason, audit=entry):
            _log.info("session_revoked", user=row.holder.user, session=row.session, reason=reason)
            self._changed()


def _entry(action: str, holder: UserRow, address: str, **detail: str) -> AuditEntry:
    """Return the audit's line of what was done by who had a token of this person."""
    return AuditEntry(actor=holder.user, actor_kind="user", action=action, address=address, detail=detail)


def _refused() -> Unauthenticated:
    return Unauthenticated("This credential is not valid; sign in again.")


def _proved(presented: tokens.ApiKey, row: KeyRow | None) -> KeyRow:
    if row is None or not hmac.compare_digest(row.secret_hash, presented.secret_hash) or not is_key_live(row):
        raise _refused()
    return row


def _read(text: str) -> tokens.ApiKey | None:
    try:
        return tokens.read_api_key(text) if tokens.is_api_key(text) else None
    except Unauthenticated:
        return None


def _introspected(presented: tokens.ApiKey | None, rows: Mapping[str, KeyRow]) -> dict[str, Any]:
    try:
        return {"active": False} if presented is None else _key_members(_proved(presented, rows.get(presented.key)))
    except Unauthenticated:
        return {"active": False}


def _key_members(row: KeyRow) -> dict[str, Any]:
    members: dict[str, Any] = {
        "active": True,
        "token_type": "api_key",
        "sub": row.holder.user,
        "username": row.holder.name,
        "key": row.key,
        "epo": row.holder.epoch,
        "scope": " ".join(row.scopes),
    }
    if row.expires_at is not None:
        members["exp"] = row.expires_at // 1000
    return members
