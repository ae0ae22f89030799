"""Credentials as pure code: what they look like, how they are made, and the one strict verifier.

No clock, randomness or I/O: time and entropy are arguments. Nothing else in the product decodes a token.

    access token    ES256 JWT, type `at+jwt` (RFC 9068): iss sub aud exp iat jti sid client_id scope epo
    refresh token   rwr_<session>_<counter>_<mac>; opaque to clients, one row per session
    API key         rw_<id>_<secret><crc>; the prefix is for leak scanners, the crc for typing errors
    one-time secret 43 characters: sign-in links, tickets
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from runwire.errors import Unauthenticated

__all__ = [
    "ALGORITHM",
    "LEEWAY_S",
    "MAX_CREDENTIAL_BYTES",
    "MAX_LIFETIME_S",
    "AccessToken",
    "ApiKey",
    "PublicKeys",
    "RefreshToken",
    "UnknownKid",
    "is_api_key",
    "mint",
    "mint_api_key",
    "mint_refresh_token",
    "mint_secret",
    "new_signing_key",
    "public_jwk",
    "read_api_key",
    "read_jwks",
    "read_refresh_token",
    "read_signing_key",
    "secret_hash",
    "verify",
]

ALGORITHM: Final = "ES256"
MAX_CREDENTIAL_BYTES: Final = 8192  # looked at before any parsing (reference/auth §1.2)
LEEWAY_S: Final = 30  # clock differences that are forgiven, both ways
MAX_LIFETIME_S: Final = 3600  # a token that claims to live longer is refused: views forget revocations after it

_TYPE = "at+jwt"
_HEADER_NAMES = frozenset({"alg", "typ", "kid"})  # exactly these: no jwk, jku, x5u, crit, b64
_MAX_DATE = 2**53  # beyond it a JSON number is no exact second any more
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARS = 43  # 62**43 > 2**256
_CRC_CHARS = 6  # 62**6 > 2**32
_API_KEY = re.compile(rf"rw_([0-9a-f]{{32}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})([0-9A-Za-z]{{{_CRC_CHARS}}})", re.ASCII)
_REFRESH = re.compile(rf"rwr_([0-9a-f]{{32}})_([1-9][0-9]{{0,9}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})", re.ASCII)

PublicKeys = Mapping[str, ECKey]

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """The claims of an access token."""

    iss: _Text
    sub: _Text  # user id
    aud: _Text  # a single string: a list with ours and another's is refused
    exp: int | float  # NumericDate, s UTC
    iat: int | float
    jti: _Text
    sid: _Text  # session id
    client_id: _Text
    scope: str
    epo: Annotated[int, msgspec.Meta(ge=1)]  # the user's epoch when it was minted
    nbf: int | float | msgspec.UnsetType = msgspec.UNSET


class UnknownKid(Unauthenticated):
    """The token names a signing key that is not among the known ones; to its sender a refusal like any other."""


def _refused(kind: type[Unauthenticated] = Unauthenticated) -> Unauthenticated:
    # One sentence for every fault: an answer that tells faults apart teaches the attacker.
    return kind("This credential is not valid; sign in again.")


def mint(claims: AccessToken, *, kid: str, key: ECKey) -> str:
    """Sign an access token."""
    header = {"alg": ALGORITHM, "typ": _TYPE, "kid": kid}
    return jws.serialize_compact(header, msgspec.json.encode(claims), key, algorithms=[ALGORITHM])


def verify(token: str, keys: PublicKeys, *, issuer: str, audience: str, now_s: float) -> AccessToken:
    """Return the claims of a genuine, present access token.

    Args:
        token: the compact JWS, at most 8 KiB.
        keys: public keys by kid; the token's own header never brings one.
        issuer: the only accepted `iss`.
        audience: the only accepted `aud`.
        now_s: wall clock, seconds UTC.

    Raises:
        UnknownKid: well-formed, but signed by a key that is not in `keys`.
        Unauthenticated: anything else; always the same sentence.
    """
    if len(token) > MAX_CREDENTIAL_BYTES:
        raise _refused()
    segments = token.split(".")
    if len(segments) != 3 or not all(_is_canonical(segment) for segment in segments):
        raise _refused()
    key = keys.get(_kid(_object(_decoded(segments[0]))))
    if key is None:
        raise _refused(UnknownKid)
    try:
        payload = jws.deserialize_compact(token, key, algorithms=[ALGORITHM]).payload
    except (JoseError, ValueError):
        raise _refused() from None
    return _checked(_object(payload), issuer=issuer, audience=audience, now_s=now_s)


def _is_canonical(segment: str) -> bool:
    """Return whether a segment is the one base64url spelling of its bytes (RFC 7515 §2: no padding)."""
    try:
        return base64.urlsafe_b64encode(_decoded(segment)).rstrip(b"=").decode("ascii") == segment
    except ValueError:
        return False


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _kid(header: dict[str, object]) -> str:
    kid = header.get("kid")
    if header.keys() != _HEADER_NAMES or header["alg"] != ALGORITHM or header["typ"] != _TYPE:
        raise _refused()
    if not isinstance(kid, str):
        raise _refused()
    return kid


def _object(raw: bytes) -> dict[str, object]:
    """Read a JSON object; duplicate names, NaN and Infinity are refused (RFC 8725 §2.4 and §3.10)."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _refused() from None
    if not isinstance(value, dict):
        raise _refused()
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate name")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _checked(payload: dict[str, object], *, issuer: str, audience: str, now_s: float) -> AccessToken:
    try:
        claims = msgspec.convert(payload, AccessToken)
    except (msgspec.ValidationError, OverflowError):
        raise _refused() from None
    starts = claims.iat if claims.nbf is msgspec.UNSET else max(claims.iat, claims.nbf)
    is_ours = claims.iss == issuer and claims.aud == audience
    # Comparisons with infinity and with integers of any size are exact, so the bounds come first.
    are_dates = all(0 <= date < _MAX_DATE for date in (claims.iat, claims.exp, starts))
    if not (is_ours and are_dates):
        raise _refused()
    if not (starts - LEEWAY_S <= now_s < claims.exp + LEEWAY_S and 0 < claims.exp - claims.iat <= MAX_LIFETIME_S):
        raise _refused()
    return claims


def new_signing_key(kid: str) -> bytes:
    """Make a P-256 key (the one draw of randomness here is the key itself) and return its private JWK."""
    return msgspec.json.encode({**ECKey.generate_key("P-256").as_dict(private=True), "kid": kid, "alg": ALGORITHM})


def read_signing_key(private_jwk: bytes) -> ECKey:
    """Read a private JWK made by `new_signing_key`."""
    return _ec_key(msgspec.json.decode(private_jwk, type=dict[str, str]), names=("kty", "crv", "x", "y", "d"))


def public_jwk(kid: str, key: ECKey) -> dict[str, str]:
    """Return what `/.well-known/jwks.json` shows of a key."""
    parts = key.as_dict(private=False)
    shown = {name: str(parts[name]) for name in ("kty", "crv", "x", "y")}
    return {**shown, "kid": kid, "use": "sig", "alg": ALGORITHM}


def read_jwks(document: bytes) -> PublicKeys:
    """Read the usable keys of a JWKS (RFC 7517 §5): EC, P-256, with a kid, for ES256; others are skipped.

    Raises:
        ValueError: this is no JWKS, or it has no usable key: keep the last good one.
    """
    jwks = msgspec.json.decode(document, type=dict[str, list[dict[str, object]]])
    keys: dict[str, ECKey] = {}
    for entry in jwks.get("keys", []):
        kid = entry.get("kid")
        if not isinstance(kid, str) or entry.get("kty") != "EC" or entry.get("crv") != "P-256":
            continue
        if entry.get("use", "sig") != "sig" or entry.get("alg", ALGORITHM) != ALGORITHM:
            continue  # RFC 7517 §4.2 and §4.4: a key for something else proves nothing here
        try:
            keys[kid] = _ec_key(entry, names=("kty", "crv", "x", "y"))
        except (JoseError, ValueError, TypeError):
            continue
    if not keys:
        raise ValueError("no usable key")
    return keys


def _ec_key(jwk: Mapping[str, object], *, names: tuple[str, ...]) -> ECKey:
    # Only the named parameters: a `d`, `key_ops` or `x5u` in a fetched document has no say.
    return ECKey.import_key({name: str(jwk.get(name, "")) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as it was presented, split."""

    key: str  # "key_…", its id
    secret_hash: bytes  # to be compared with the stored one, in constant time


def is_api_key(credential: str) -> bool:
    """Return whether a credential claims to be an API key."""
    return credential.startswith("rw_")


def mint_api_key(key: str, *, entropy: bytes) -> tuple[str, bytes]:
    """Make an API key.

    Args:
        key: its id, `key_<32 hex digits>`.
        entropy: 32 random bytes.

    Returns:
        The text for its owner, shown once, and the hash to be stored.
    """
    secret = mint_secret(entropy)
    body = f"rw_{key.removeprefix('key_')}_{secret}"
    return body + _crc(body), secret_hash(secret)


def read_api_key(text: str) -> ApiKey:
    """Split an API key. Raises Unauthenticated if it was mistyped or is none."""
    match = _API_KEY.fullmatch(text)
    if match is None or _crc(text[:-_CRC_CHARS]) != match[3]:
        raise _refused()
    return ApiKey(key=f"key_{match[1]}", secret_hash=secret_hash(match[2]))


def _crc(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), _CRC_CHARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A refresh token as it was presented, split."""

    session: str  # "ses_…"
    counter: int
    mac: str

    def is_genuine(self, refresh_key: bytes) -> bool:
        """Return whether it was made with this session's key; constant time."""
        return hmac.compare_digest(self.mac, _mac(self.session, self.counter, refresh_key))


def mint_refresh_token(session: str, counter: int, *, refresh_key: bytes) -> str:
    """Make the refresh token of that number; the same every time, so a lost reply can be repeated."""
    return f"rwr_{session.removeprefix('ses_')}_{counter}_{_mac(session, counter, refresh_key)}"


def read_refresh_token(text: str) -> RefreshToken:
    """Split a refresh token; says nothing about its being genuine. Raises Unauthenticated."""
    match = _REFRESH.fullmatch(text)
    if match is None:
        raise _refused()
    return RefreshToken(session=f"ses_{match[1]}", counter=int(match[2]), mac=match[3])


def _mac(session: str, counter: int, refresh_key: bytes) -> str:
    digest = hmac.digest(refresh_key, f"{session}.{counter}".encode(), "sha256")
    return _base62(int.from_bytes(digest, "big"), _SECRET_CHARS)


def mint_secret(entropy: bytes) -> str:
    """Spell 32 random bytes in letters and digits: nothing to escape in a URL or a shell."""
    return _base62(int.from_bytes(entropy, "big"), _SECRET_CHARS)


def secret_hash(secret: str) -> bytes:
    """Return what is stored of a random secret: SHA-256 (256 bits of entropy need no slow hash)."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
