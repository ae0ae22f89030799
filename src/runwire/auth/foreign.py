"""Proving what other issuers gave: access tokens, ID tokens, logout tokens, and tokens that only they can read.

Used on both sides of identity: a gateway proves a token here before it asks whose it is, and the auth service proves it
again before it writes anything, so that neither has to believe the other.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from runwire.auth import tokens
from runwire.auth.issuers import Issuer
from runwire.auth.outbound import Outbound
from runwire.auth.published import Published
from runwire.errors import Unauthenticated

__all__ = ["CACHE_S", "Foreign", "LoggedOut", "Proved", "Provider", "external_session"]

CACHE_S: Final = 5.0  # how long it is believed what an issuer says of an opaque token
_CACHED: Final = 4_096  # opaque tokens; past it the one proved longest ago is asked about again
_ID_TYPES: Final = ("jwt", "")  # OpenID Connect says nothing of it; RFC 9068 and the log-out's have their own
_LOGOUT_TYPES: Final = ("logout+jwt", "jwt", "")  # OpenID Connect Back-Channel Logout 1.0 §2.4 recommends the first
_LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
_LOGOUT_AGE_S: Final = 120.0
_NOT_ACCESS: Final = ("at_hash", "c_hash", "nonce", "events")  # claims of other kinds of token

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """Whom a token is about."""

    issuer: Issuer
    subject: str
    session: str | None  # "ext_…": the issuer's session, if the token names one
    issued_at: int  # ms UTC, the issuer's clock
    expires_at: int  # ms UTC
    claims: Mapping[str, object] = field(repr=False)
    is_opaque: bool = False  # only its issuer can read it, and can end it before its time

    def claim(self, path: Sequence[str]) -> object:
        """Return what stands at the end of a path; None: nothing."""
        value: object = self.claims
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def name(self) -> str | None:
        """Return what the person is called there."""
        value = self.claim(self.issuer.claims.name)
        return value if isinstance(value, str) and value else None

    def roles(self) -> list[str]:
        """Return our roles by the issuer's words; the default ones only, if it has no say."""
        rules = self.issuer.claims
        said = self.claim(rules.roles) if rules.roles else ()
        words = [said] if isinstance(said, str) else said if isinstance(said, list | tuple) else []
        given = {rules.role_values[word] for word in words if isinstance(word, str) and word in rules.role_values}
        return sorted(given | set(rules.default_roles))

    def digest(self) -> bytes:
        """Return what changes when the name or the roles do."""
        rules = self.issuer.claims
        return hashlib.sha256(msgspec.json.encode([self.name(), rules.roles and self.roles()])).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedOut:
    """Who has logged out there."""

    issuer: Issuer
    subject: str
    session: str | None  # "ext_…"; None: all of them
    issued_at: int  # ms UTC
    jti: str


def external_session(issuer: str, sid: str) -> str:
    """Return what a session of another issuer is called here. Stored data rely on it."""
    digest = hashlib.sha256(f"{len(issuer)} {issuer}{sid}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"ext_{digest[:32]}"


class _Introspection(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 7662 §2.2."""

    active: bool
    iss: _Text | None = None
    sub: _Text | None = None
    aud: str | list[str] | None = None
    client_id: str | None = None
    token_type: str | None = None
    exp: int | float | None = None
    iat: int | float | None = None


class Provider:
    """One issuer, with what it shows of itself."""

    def __init__(self, issuer: Issuer, *, wall_s: Callable[[], float], monotonic_s: Callable[[], float]) -> None:
        self.issuer = issuer
        self.outbound = Outbound(issuer)
        self.published = Published(issuer, self.outbound, monotonic_s=monotonic_s)
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._known: OrderedDict[bytes, tuple[Proved, float]] = OrderedDict()  # hash of token -> (who, until)

    async def access(self, token: str) -> Proved:
        """Prove an access token. Raises Unauthenticated, Unavailable."""
        audience = self.issuer.audience
        if audience is None:
            raise _refused()
        claims, payload = await self._verified(token, audience, self.issuer.token_types)
        # An ID token may be for our audience too where an operator adds it to all; Keycloak says in `typ` what it is.
        is_other = any(name in payload for name in _NOT_ACCESS) or payload.get("typ") in ("ID", "Refresh", "Logout")
        if is_other or claims.sub is None:
            raise _refused()
        return self._proved(claims, claims.sub, payload)

    async def id_token(self, token: str, *, nonce: str) -> Proved:
        """Prove an ID token of our client, made for one sign-in (OpenID Connect Core §3.1.3.7)."""
        client = self.issuer.client_id or ""
        claims, payload = await self._verified(token, client, _ID_TYPES)
        audiences = payload.get("aud")
        is_ours = claims.azp == client or (claims.azp is None and not (isinstance(audiences, list) and audiences[1:]))
        if claims.sub is None or claims.nonce != nonce or not is_ours or "events" in payload:
            raise _refused()
        return self._proved(claims, claims.sub, payload)

    async def logout(self, token: str) -> LoggedOut:
        """Prove a logout token (OpenID Connect Back-Channel Logout 1.0 §2.6); its single use is the caller's."""
        claims, payload = await self._verified(token, self.issuer.client_id or "", _LOGOUT_TYPES)
        events = payload.get("events")
        is_one = isinstance(events, dict) and isinstance(events.get(_LOGOUT_EVENT), dict) and "nonce" not in payload
        is_recent = abs(self._wall_s() - claims.iat) <= _LOGOUT_AGE_S + tokens.LEEWAY_S
        if not is_one or not is_recent or claims.jti is None or claims.sub is None:
            raise _refused()
        return LoggedOut(
            issuer=self.issuer,
            subject=claims.sub,
            session=external_session(self.issuer.issuer, claims.sid) if claims.sid else None,
            issued_at=int(claims.iat * 1000),
            jti=claims.jti,
        )

    async def opaque(self, token: str, *, is_asked_anew: bool = False) -> Proved:
        """Ask the issuer what a token is good for; its yes is believed for 5 s. Raises as `access`."""
        digest = tokens.secret_hash(token)
        known, until_s = self._known.get(digest, (None, 0.0))
        if known is not None and not is_asked_anew and self._monotonic_s() < until_s:
            return known
        self._known.pop(digest, None)
        began_s = self._monotonic_s()
        proved = self._introspected(await self._introspect(token), digest)
        self._known[digest] = (proved, began_s + CACHE_S)
        if len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return proved

    async def _verified(
        self, token: str, audience: str, types: tuple[str, ...]
    ) -> tuple[tokens.ForeignToken, dict[str, object]]:
        rules = tokens.Rules(
            issuer=self.issuer.issuer,
            audience=audience,
            algorithms=self.issuer.algorithms,
            types=types,
            is_foreign=True,
        )
        try:
            return tokens.verify_foreign(token, await self.published.keys(), rules, now_s=self._wall_s())
        except tokens.UnknownKid:
            keys = await self.published.after_unknown_kid()
            return tokens.verify_foreign(token, keys, rules, now_s=self._wall_s())

    def _proved(self, claims: tokens.ForeignToken, subject: str, payload: dict[str, object]) -> Proved:
        return self._required(
            Proved(
                issuer=self.issuer,
                subject=subject,
                session=external_session(self.issuer.issuer, claims.sid) if claims.sid else None,
                issued_at=int(claims.iat * 1000),
                expires_at=int(claims.exp * 1000),
                claims=payload,
            )
        )

    def _required(self, proved: Proved) -> Proved:
        if any(proved.claims.get(name) != value for name, value in self.issuer.claims.required.items()):
            raise _refused()
        return proved

    async def _introspect(self, token: str) -> dict[str, Any]:
        url = self.issuer.introspection_url
        if url is None or len(token) > tokens.MAX_CREDENTIAL_BYTES or not (token.isascii() and token.isprintable()):
            raise _refused()
        answer = await self.outbound.post(url, {"token": token, "token_type_hint": "access_token"})
        try:
            if answer.status == 200:
                return msgspec.json.decode(answer.body, type=dict[str, Any])
        except ValueError:
            pass
        raise self.outbound.silent()

    def _introspected(self, answer: dict[str, Any], digest: bytes) -> Proved:
        try:
            said = msgspec.convert(answer, _Introspection)
        except msgspec.ValidationError:
            raise _refused() from None
        issuer, now_s = self.issuer, self._wall_s()
        audiences = [said.aud] if isinstance(said.aud, str) else said.aud
        # What names no audience is for the client that it was given to; another client's proves nothing here.
        is_ours = said.client_id == issuer.client_id if audiences is None else issuer.audience in audiences
        # A refresh token is active too, and must not be one here.
        is_access = (said.token_type or "").lower() == "bearer" and said.iss in (None, issuer.issuer)
        if not (said.active and is_ours and is_access) or said.sub is None or said.iat is None:
            raise _refused()
        longest_s = said.iat + tokens.MAX_LIFETIME_S
        ends_s = longest_s if said.exp is None else min(said.exp, longest_s)
        if not said.iat - tokens.LEEWAY_S <= now_s < ends_s:
            raise _refused()
        return self._required(
            Proved(
                issuer=issuer,
                subject=said.sub,
                # A session of its own: that this token has ended says nothing of others of the same sign-in.
                session=external_session(issuer.issuer, f"token {digest.hex()}"),
                issued_at=int(said.iat * 1000),
                expires_at=int(ends_s * 1000),
                claims=answer,
                is_opaque=True,
            )
        )


class Foreign:
    """All other issuers."""

    def __init__(
        self, issuers: Sequence[Issuer], *, wall_s: Callable[[], float], monotonic_s: Callable[[], float]
    ) -> None:
        self.providers = {one.name: Provider(one, wall_s=wall_s, monotonic_s=monotonic_s) for one in issuers}
        self._by_issuer = {one.issuer.issuer: one for one in self.providers.values()}
        self._of_opaque = next((one for one in self.providers.values() if one.issuer.introspection_url), None)

    def of(self, token: str) -> Provider | None:
        """Return whose token it says it is; None: ours, or nobody's whom we know."""
        if token.count(".") == 2:
            return self._by_issuer.get(tokens.claimed_issuer(token) or "")
        return self._of_opaque

    async def prove(self, token: str) -> Proved:
        """Prove an access token of any of them. Raises Unauthenticated, Unavailable."""
        provider = self.of(token)
        if provider is None:
            raise _refused()
        return await (provider.access(token) if token.count(".") == 2 else provider.opaque(token))


def _refused() -> Unauthenticated:
    return Unauthenticated("This credential is not valid; sign in again.")
