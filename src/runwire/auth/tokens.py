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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, OKPKey, RSAKey

from runwire.errors import Unauthenticated

__all__ = [
    "ALGORITHM",
    "LEEWAY_S",
    "MAX_CREDENTIAL_BYTES",
    "MAX_LIFETIME_S",
    "AccessToken",
    "ApiKey",
    "ForeignToken",
    "PublicKeys",
    "RefreshToken",
    "Rules",
    "UnknownKid",
    "claimed_issuer",
    "is_api_key",
    "kid_of",
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
    "verify_foreign",
]

ALGORITHM: Final = "ES256"
MAX_CREDENTIAL_BYTES: Final = 8192  # looked at before any parsing (reference/auth §1.2)
LEEWAY_S: Final = 30  # clock differences that are forgiven, both ways
MAX_LIFETIME_S: Final = 3600  # a token that claims to live longer is refused: views forget revocations after it

_TYPE = "at+jwt"
_HEADER_NAMES = frozenset({"alg", "typ", "kid"})  # exactly these: no jwk, jku, x5u, crit, b64
_IGNORED_NAMES = frozenset({"x5t", "x5t#S256"})  # hashes of a certificate, which some issuers add and nobody reads
_AUDIENCES = 16  # of a foreign token; ours has one
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192  # RFC 7518 §3.3; above, one signature costs milliseconds
_MAX_DATE = 2**53  # beyond it a JSON number is no exact second any more
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARS = 43  # 62**43 > 2**256
_CRC_CHARS = 6  # 62**6 > 2**32
_API_KEY = re.compile(rf"rw_([0-9a-f]{{32}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})([0-9A-Za-z]{{{_CRC_CHARS}}})", re.ASCII)
_REFRESH = re.compile(rf"rwr_([0-9a-f]{{32}})_([1-9][0-9]{{0,9}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})", re.ASCII)

PublicKeys = Mapping[str, ECKey | RSAKey | OKPKey]

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


class ForeignToken(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of each kind of token of another issuer; all else is in its payload."""

    iss: _Text
    # ours, whoever else it is for
    aud: _Text
    exp: int | float  # at most `MAX_LIFETIME_S` after `iat`, whatever it says
    iat: int | float
    sub: _Text | None = None  # of a logout token there may be a `sid` alone
    jti: _Text | None = None
    sid: _Text | None = None
    azp: _Text | None = None
    nonce: _Text | None = None
    nbf: int | float | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Whose tokens, for whom, of what kind and signed how. The defaults are those of our own."""

    issuer: str  # the only accepted `iss`
    audience: str  # the only accepted `aud`
    algorithms: tuple[str, ...] = (ALGORITHM,)  # of one family: a key fits all of them or none
    types: tuple[str, ...] = (_TYPE,)  # "" stands for a header without `typ`
    is_foreign: bool = False  # taken for us, whoever else it is for, and as ending in time, however long it says


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
    return _verified(token, keys, Rules(issuer=issuer, audience=audience), AccessToken, now_s=now_s)[0]


def verify_foreign(
    token: str, keys: PublicKeys, rules: Rules, *, now_s: float
) -> tuple[ForeignToken, dict[str, object]]:
    """Return the claims of a genuine, present token of another issuer, and its whole payload.

    What it is good for is the caller's to look at: the claims that are particular to an access token, an ID token or
    a logout token. Raises as `verify`.
    """
    return _verified(token, keys, rules, ForeignToken, now_s=now_s)


def kid_of(token: str) -> str:
    """Return by which key a token is signed that `verify` has taken."""
    return str(_object(_decoded(token.partition(".")[0]))["kid"])


def claimed_issuer(token: str) -> str | None:
    """Return who a token says has issued it, to choose by whose rules it is verified; it proves nothing."""
    segments = token.split(".")
    if len(token) > MAX_CREDENTIAL_BYTES or len(segments) != 3:
        return None
    try:
        issuer = _object(_decoded(segments[1])).get("iss")
    except (ValueError, Unauthenticated):
        return None
    return issuer if isinstance(issuer, str) else None


_Claims = TypeVar("_Claims", AccessToken, ForeignToken)


def _verified(
    token: str, keys: PublicKeys, rules: Rules, claims: type[_Claims], *, now_s: float
) -> tuple[_Claims, dict[str, object]]:
    if len(token) > MAX_CREDENTIAL_BYTES:
        raise _refused()
    segments = token.split(".")
    if len(segments) != 3 or not all(_is_canonical(segment) for segment in segments):
        raise _refused()
    key = keys.get(_kid(_object(_decoded(segments[0])), rules))
    if key is None:
        raise _refused(UnknownKid)
    try:
        payload = jws.deserialize_compact(token, key, registry=_Algorithms(algorithms=rules.algorithms)).payload
    except (JoseError, ValueError):
        raise _refused() from None
    said = _object(payload)
    return _checked(said, rules, claims, now_s=now_s), said


class _Algorithms(jws.JWSRegistry):
    """Those of some rules. `EdDSA` is no reason for a warning: issuers still call Ed25519 so (RFC 9864 §2.2)."""

    def get_alg(self, name: str) -> JWSAlgModel:
        if name == "EdDSA" and name in (self.allowed or ()):
            return self.algorithms[name]
        return super().get_alg(name)


def _is_canonical(segment: str) -> bool:
    """Return whether a segment is the one base64url spelling of its bytes (RFC 7515 §2: no padding)."""
    try:
        return base64.urlsafe_b64encode(_decoded(segment)).rstrip(b"=").decode("ascii") == segment
    except ValueError:
        return False


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _kid(header: dict[str, object], rules: Rules) -> str:
    if rules.is_foreign:
        header = _plain(header)
    kid = header.get("kid")
    if header.keys() != _HEADER_NAMES or header["alg"] not in rules.algorithms or header["typ"] not in rules.types:
        raise _refused()
    if not isinstance(kid, str):
        raise _refused()
    return kid


def _plain(header: dict[str, object]) -> dict[str, object]:
    """Return another issuer's header as we write ours: with a `typ`, in its short spelling (RFC 7515 §4.1.9)."""
    kept = {name: value for name, value in header.items() if name not in _IGNORED_NAMES}
    named = kept.get("typ", "")
    return {**kept, "typ": named.lower().removeprefix("application/") if isinstance(named, str) else named}


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


def _fitted(payload: dict[str, object], audience: str) -> dict[str, object]:
    """Return another issuer's payload as one for us alone that ends in time, if it is for us at all."""
    fitted = dict(payload)
    audiences, issued_at, ends_at = payload.get("aud"), payload.get("iat"), payload.get("exp")
    if isinstance(audiences, list) and len(audiences) <= _AUDIENCES and audience in audiences:
        fitted["aud"] = audience
    if isinstance(issued_at, int | float) and isinstance(ends_at, int | float) and issued_at < _MAX_DATE:
        # Revocations are remembered for as long as a token may live, and no longer.
        fitted["exp"] = min(ends_at, issued_at + MAX_LIFETIME_S)
    return fitted


def _checked(payload: dict[str, object], rules: Rules, shape: type[_Claims], *, now_s: float) -> _Claims:
    issuer, audience = rules.issuer, rules.audience
    try:
        claims = msgspec.convert(_fitted(payload, audience) if rules.is_foreign else payload, shape)
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


def read_jwks(document: bytes, algorithms: Sequence[str] = (ALGORITHM,)) -> PublicKeys:
    """Read the usable keys of a JWKS (RFC 7517 §5): those with a kid that fit the algorithms; others are skipped.

    Raises:
        ValueError: this is no JWKS, or it has no usable key: keep the last good one.
    """
    jwks = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    keys: dict[str, ECKey | RSAKey | OKPKey] = {}
    for entry in msgspec.json.decode(jwks.get("keys", b"[]"), type=list[dict[str, object]]):
        kid = entry.get("kid")
        if not isinstance(kid, str) or not _fits(entry, algorithms):
            continue
        try:
            keys[kid] = _public_key(entry)
        except (JoseError, ValueError, TypeError):
            continue
    if not keys:
        raise ValueError("no usable key")
    return keys


# RFC 7518 §3.1, RFC 9864: what a key must be to sign so.
_KEY_OF: Final[Mapping[str, tuple[str, str | None]]] = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
}


def _fits(entry: Mapping[str, object], algorithms: Sequence[str]) -> bool:
    """Return whether a key may sign by one of the algorithms; RFC 7517 §4.2 and §4.4: unless it says otherwise."""
    kind = (entry.get("kty"), entry.get("crv"))
    named = entry.get("alg")
    return entry.get("use", "sig") == "sig" and any(
        _KEY_OF[algorithm] == kind for algorithm in algorithms if named is None or named == algorithm
    )


def _public_key(jwk: Mapping[str, object]) -> ECKey | RSAKey | OKPKey:
    if jwk["kty"] == "EC":
        return _ec_key(jwk, names=("kty", "crv", "x", "y"))
    if jwk["kty"] == "OKP":
        return OKPKey.import_key({name: str(jwk.get(name, "")) for name in ("kty", "crv", "x")})
    bits = int.from_bytes(_decoded(str(jwk.get("n", "")))).bit_length()
    if not _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS:
        raise ValueError("an RSA key of another size")
    return RSAKey.import_key({name: str(jwk.get(name, "")) for name in ("kty", "n", "e")})


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
