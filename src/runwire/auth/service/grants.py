"""What the service gives for a credential: sign-in by password or link, registration, refresh, a service's key."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from runwire.auth import tokens
from runwire.auth.service import clients
from runwire.auth.service.clients import Client
from runwire.auth.service.keyring import Keyring
from runwire.auth.service.passwords import Passwords
from runwire.auth.service.settings import AuthSettings
from runwire.auth.service.tries import Tries
from runwire.auth.service.users import normal_name
from runwire.auth.sessions import Turn, turn
from runwire.errors import Conflict, Forbidden, NotFound, ProtocolError, Unauthenticated, Unavailable
from runwire.protocol.ids import new_id
from runwire.storage.base import AuditEntry, AuthStore, SessionRow, UserRow

__all__ = ["CLIENT_ID", "Granted", "Grants"]

CLIENT_ID: Final = "runwire"  # our own pages and command line; other clients come with external issuers

_SCOPE: Final = "runwire"
_REFRESH_TRIES: Final = 5  # a loser of the compare-and-set decides anew; twice in a row needs two other refreshes

_log = structlog.get_logger("runwire.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A pair of tokens."""

    user: str
    session: str
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)  # None: of a service, which asks with its key again
    expires_in: int  # of the access token, seconds
    scope: str = _SCOPE


class Grants:
    """Give tokens for credentials.

    Args:
        store: the auth tables.
        settings: lifetimes and limits.
        keyring: signs.
        passwords: checks.
        tries: counts failures.
        wall_s: clock of `iat` and `exp`.
        changed: called after each change that views must learn.
    """

    def __init__(
        self,
        store: AuthStore,
        settings: AuthSettings,
        *,
        keyring: Keyring,
        passwords: Passwords,
        tries: Tries,
        wall_s: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._keyring = keyring
        self._passwords = passwords
        self._tries = tries
        self._wall_s = wall_s
        self._changed = changed

    async def by_password(
        self, name: str, password: str, *, address: str, refused: Callable[[AuditEntry], None]
    ) -> Granted:
        """Sign in; an unknown user and a wrong password are the same answer in the same time.

        Args:
            name: as typed.
            password: as typed.
            address: where the person is; "": not known.
            refused: called with the audit's line of a failure at an account there is. Whoever calls writes it when the
                answer is out: the time of a write would tell which accounts there are.

        Raises:
            Unauthenticated: wrong, whatever is wrong.
            Unavailable: `rate_limited`: too many failures; `unavailable`: too many sign-ins at once.
        """
        # Only failures stay counted: a live session refreshes and signs in past any attack on its account.
        self._tries.take(name, address)
        try:
            holder = await self._named(name)
            stored = None if holder is None else await self._store.password_hash(holder.user)
            is_right = await self._passwords.verify(stored, password)
        except Unavailable:
            self._tries.give_back(name, address)
            raise
        if holder is None or not is_right or holder.status != "active":
            if holder is not None:
                refused(_refusal(holder, address, reason="disabled" if is_right else "password"))
            raise Unauthenticated("Name or password is wrong.")
        granted = await self._sign_in(holder, by="password", address=address)
        if await self._store.password_hash(holder.user) != stored:
            # Looked at when the session is there: whoever replaces a password ends those that are there by then.
            await self._store.revoke_session(granted.session, reason="credential_changed")
            self._changed()
            raise Unauthenticated("Name or password is wrong.")
        self._tries.give_back(name, address)
        return granted

    async def by_link(self, link: str, *, address: str) -> Granted:
        """Sign in by a link's secret; it is used up by this, also when the rest fails.

        Raises:
            Unauthenticated: unknown, used, or over its time.
            Unavailable: `rate_limited`.
        """
        self._tries.take("", address)
        user = await self._store.consume_link(tokens.secret_hash(link))
        holder = None if user is None else await self._store.user_by_id(user)
        if holder is None:
            raise Unauthenticated("This sign-in link was used already or is too old; ask for a new one.")
        # That the link was ours as a whole is known now, so what it says of another issuer's session is true.
        session = link.partition("~")[2]
        granted = await self._sign_in(holder, by="link", address=address, client=session or CLIENT_ID)
        if session:
            await self._refuse_if_logged_out(session, granted.session)
        self._tries.give_back("", address)
        return granted

    async def register(
        self, name: str, password: str, invite: str | None, *, address: str, refused: Callable[[AuditEntry], None]
    ) -> Granted:
        """Make an account and sign it in; an invitation is used up in the same write, and says the roles.

        Whoever repeats it, because the answer was lost or this process died between the two, is signed in: as anybody
        who knows name and password.

        Args:
            name: as typed.
            password: as typed.
            invite: the invitation's secret.
            address: where the person is; "": not known.
            refused: as of `by_password`.

        Raises:
            Forbidden: nobody may register, or only with an invitation, or this one is not good any more.
            Conflict: the name is taken; the invitation stays good.
            ProtocolError: a bad name or password.
            Unavailable: `rate_limited`: too many registrations; `unavailable`: too many hashes at once.
        """
        allowed = self._settings.registration
        if allowed == "off":
            raise Forbidden("Nobody can register here; ask whoever runs this server for an account.")
        if allowed == "invite" and invite is None:
            raise Forbidden("Only who has an invitation can register here.", field="invite")
        self._tries.register(address)
        try:
            normal = normal_name(name)
        except ProtocolError as error:
            raise ProtocolError(error.message, field="user") from None
        hashed = await self._passwords.hash(password)
        entry = AuditEntry(actor=None, actor_kind="user", action="user.register", address=address)
        try:
            holder = await self._store.create_user(
                normal,
                password_hash=hashed,
                invite_hash=None if invite is None else tokens.secret_hash(invite),
                audit=entry,
            )
        except (NotFound, Conflict) as error:
            try:
                return await self.by_password(name, password, address=address, refused=refused)
            except Unauthenticated:
                pass
            if isinstance(error, NotFound):
                raise Forbidden(error.message, field="invite") from None
            raise Conflict("This name is taken; choose another one.", field="user") from None
        _log.info("user_registered", user=holder.user)
        return await self._sign_in(holder, by="register", address=address)

    async def refresh(self, text: str, *, address: str) -> Granted:
        """Give the next pair of tokens for a refresh token (rotation, RFC 9700 §4.14).

        Raises:
            Unauthenticated: not genuine, over, revoked; or used before, and then the session ends.
        """
        token = tokens.read_refresh_token(text)
        for _ in range(_REFRESH_TRIES):
            row = await self._store.session(token.session)
            if row is None or not token.is_genuine(row.refresh_key):
                break
            settings = self._settings
            todo = turn(row, token.counter, idle_ttl_s=settings.refresh_ttl_s, window_s=settings.refresh_window_s)
            if todo is Turn.ROTATE and await self._store.rotate_session(row.session, counter=row.counter):
                return await self._granted(row, row.counter + 1)
            if todo is Turn.REPEAT:
                return await self._granted(row, row.counter)
            if todo is Turn.REUSED:
                await self._kill(row, address)
            if todo is not Turn.ROTATE:
                break
        raise Unauthenticated("This refresh token is not valid any more; sign in again.")

    async def by_client(self, client: Client, *, scope: str, address: str) -> Granted:
        """Give a service account an access token, without a refresh token (RFC 6749 §4.4.3).

        Args:
            client: who it says it is.
            scope: what it asks for, with blanks between; "": all that its key is good for.
            address: where it is; "": not known.

        Raises:
            Unauthenticated: it is not.
            Forbidden: its key is not good for that.
            Unavailable: `rate_limited`.
        """
        self._tries.take("", address)
        key = await clients.proved_key(self._store, client)
        self._tries.give_back("", address)
        wanted = sorted(set(scope.split())) or list(key.scopes)
        if not set(wanted) <= set(key.scopes):
            raise Forbidden(f"This key is good for {' '.join(key.scopes) or 'nothing'} and no more.", field="scope")
        self._tries.grant(key.key)
        ttl_s = self._settings.access_ttl_s
        if key.expires_at is not None:
            ttl_s = max(min(ttl_s, (key.expires_at - key.read_at) // 1000), 1)
        row = await self._open(key.holder, by="key", address=address, client=key.key, ttl_s=ttl_s)
        text = await self._access_token(row, client_id=key.holder.name, scope=" ".join(wanted), ttl_s=ttl_s)
        return Granted(
            user=row.holder.user,
            session=row.session,
            access_token=text,
            refresh_token=None,
            expires_in=ttl_s,
            scope=" ".join(wanted),
        )

    async def _named(self, name: str) -> UserRow | None:
        try:
            return await self._store.user_by_name(normal_name(name))
        except ProtocolError:
            return None

    async def _refuse_if_logged_out(self, external: str, session: str) -> None:
        """End a sign-in whose session has ended at its issuer while it was under way. Raises Unauthenticated."""
        # Looked at when the session is there: a log-out first says that it has ended, and then looks for sessions.
        row = await self._store.session(external)
        if row is not None and row.revoked_at is not None:
            await self._store.revoke_session(session, reason="backchannel_logout")
            self._changed()
            raise Unauthenticated("You have logged out meanwhile; sign in again.")

    async def _sign_in(self, holder: UserRow, *, by: str, address: str, client: str = CLIENT_ID) -> Granted:
        row = await self._open(holder, by=by, address=address, client=client, ttl_s=self._settings.session_ttl_s)
        return await self._granted(row, row.counter)

    async def _open(self, holder: UserRow, *, by: str, address: str, client: str, ttl_s: int) -> SessionRow:
        session = new_id("ses")
        entry = AuditEntry(
            actor=holder.user,
            actor_kind="service" if by == "key" else "user",
            action="session.create",
            address=address,
            detail={"by": by, "session": session},
        )
        try:
            row = await self._store.create_session(
                holder.user,
                session=session,
                epoch=holder.epoch,
                client=client,
                refresh_key=secrets.token_bytes(32),
                ttl_s=ttl_s,
                address=address,
                audit=entry,
            )
        except Conflict as error:
            raise Unauthenticated(error.message) from None
        _log.info("session_created", user=holder.user, session=row.session)
        self._changed()
        return row

    async def _kill(self, row: SessionRow, address: str) -> None:
        # By nobody: which of the two was the thief is not known.
        entry = AuditEntry(
            actor=None,
            actor_kind="system",
            action="session.reuse",
            subject=row.holder.user,
            address=address,
            detail={"session": row.session},
        )
        if await self._store.revoke_session(row.session, reason="refresh_reused", audit=entry):
            _log.warning("refresh_token_reused", user=row.holder.user, session=row.session)
            self._changed()

    async def _granted(self, row: SessionRow, counter: int) -> Granted:
        ttl_s = self._settings.access_ttl_s
        return Granted(
            user=row.holder.user,
            session=row.session,
            access_token=await self._access_token(row, client_id=row.client, scope=_SCOPE, ttl_s=ttl_s),
            refresh_token=tokens.mint_refresh_token(row.session, counter, refresh_key=row.refresh_key),
            expires_in=ttl_s,
        )

    async def _access_token(self, row: SessionRow, *, client_id: str, scope: str, ttl_s: int) -> str:
        kid, key = await self._keyring.newest()
        now_s = int(self._wall_s())
        claims = tokens.AccessToken(
            iss=self._settings.issuer,
            sub=row.holder.user,
            aud=self._settings.audience,
            exp=now_s + ttl_s,
            iat=now_s,
            jti=new_id("jti"),
            sid=row.session,
            client_id=client_id,
            scope=scope,
            epo=row.epoch,
        )
        return tokens.mint(claims, kid=kid, key=key)


def _refusal(holder: UserRow, address: str, *, reason: str) -> AuditEntry:
    return AuditEntry(
        actor=None,
        actor_kind="user",
        action="session.refuse",
        subject=holder.user,
        address=address,
        detail={"reason": reason},
    )
