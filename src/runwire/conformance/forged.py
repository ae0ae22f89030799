"""Tokens that no deployment may take, made of one that it takes. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, Final

import msgspec

__all__ = ["ends_at", "tokens"]

_FAR_S: Final = 4_102_444_800  # 2100, in seconds: no forged token is refused for its age
_LONG: Final = 6_000  # characters: below every limit of a request's head, above that of a token


def tokens(good: str, *, user: str, url: str) -> dict[str, str]:
    """Return forged tokens by what is wrong with each; those that have worked somewhere come first.

    Args:
        good: what the deployment takes: an access token, or an API key.
        user: whose it is.
        url: of the deployment, as the issuer where the good one does not say.
    """
    header, claims, parts = _read(good)
    claims = {"iss": url, "sub": user, "aud": "runwire", "iat": 0, **claims, "exp": _FAR_S}
    key = hashlib.sha256(url.encode()).digest()
    signature = parts[2] if len(parts) == 3 else _b64(b"x" * 64)
    forged = {
        "alg none": _jwt({**header, "alg": "none"}, claims, ""),
        "alg None, in another case": _jwt({**header, "alg": "nOnE"}, claims, ""),
        "HS256 with a key that anybody can know": _signed({**header, "alg": "HS256"}, claims, key),
        "claims changed under a signature that stands": _jwt(header, {**claims, "roles": ["admin"]}, signature),
        "no signature": _jwt(header, claims, ""),
        "a signature of zeros": _jwt(header, claims, _b64(bytes(64))),
        "a key in its own header": _signed(
            {**header, "alg": "HS256", "jwk": {"kty": "oct", "k": _b64(key)}}, claims, key
        ),
        "a kid that is a path": _jwt({**header, "kid": "../../dev/null"}, claims, signature),
        "one character changed": _changed(good),
        "cut short": good[:-4],
        "made longer": f"{good}A",
        "in capitals": good.upper() if good.upper() != good else good.lower(),
        "a word": "token",
        "very long": "a" * _LONG,
    }
    return {name: token for name, token in forged.items() if token != good}


def ends_at(token: str) -> float | None:
    """Return when a token says that it ends, seconds since 1970; None if it is no JWT or does not say."""
    end = _read(token)[1].get("exp")
    return float(end) if isinstance(end, (int, float)) else None


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    parts = token.split(".")
    try:
        header, claims = (msgspec.json.decode(_unb64(part), type=dict[str, Any]) for part in parts[:2])
    except (ValueError, msgspec.DecodeError):
        return {"alg": "ES256", "typ": "at+jwt"}, {}, []
    return header, claims, parts


def _changed(token: str) -> str:
    middle = len(token) * 3 // 4  # within the signature, or the key's secret
    return f"{token[:middle]}{'A' if token[middle] != 'A' else 'B'}{token[middle + 1 :]}"


def _jwt(header: dict[str, Any], claims: dict[str, Any], signature: str) -> str:
    return f"{_b64(msgspec.json.encode(header))}.{_b64(msgspec.json.encode(claims))}.{signature}"


def _signed(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    unsigned = _jwt(header, claims, "")
    return unsigned + _b64(hmac.digest(key, unsigned[:-1].encode(), "sha256"))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
