"""The attack corpus: tokens that no server may take, each with the name of what is wrong with it.

Signature attacks, key injection, claims that libraries let through, and shapes that exhaust a parser.
Every token but the signature attacks is *validly signed* by the right key: only the verifier's own rules
refuse it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

__all__ = ["AUDIENCE", "ISSUER", "KID", "NOW_S", "claims", "corpus", "signed", "signed_raw"]

ISSUER = "https://auth.example.org"
AUDIENCE = "runwire"
KID = "k1"
NOW_S = 1_790_000_000
_DAY_S = 86_400


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims, changed; a value of `...` leaves a claim out."""
    good: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "usr_1",
        "aud": AUDIENCE,
        "exp": NOW_S + 300,
        "iat": NOW_S,
        "jti": "jti_1",
        "sid": "ses_1",
        "client_id": "runwire",
        "scope": "runwire",
        "epo": 1,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def signed_raw(key: ECKey, header: bytes, payload: bytes) -> str:
    """Sign any bytes with ES256, around every check of a library."""
    signing_input = f"{b64(header)}.{b64(payload)}"
    made = jws.serialize_compact({"alg": "ES256"}, b"", key, algorithms=["ES256"])  # the key can sign at all
    assert made
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    private = key.private_key
    assert private is not None
    r, s = decode_dss_signature(private.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signing_input}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def signed(key: ECKey, payload: Mapping[str, Any] | None = None, **header: Any) -> str:
    """Sign claims; a header value of `...` leaves a name out."""
    names: dict[str, Any] = {"alg": "ES256", "typ": "at+jwt", "kid": KID, **header}
    shown = {name: value for name, value in names.items() if value is not ...}
    body = json.dumps(claims() if payload is None else payload)
    return signed_raw(key, json.dumps(shown).encode(), body.encode())


def corpus(key: ECKey) -> dict[str, str]:
    """Return all refused tokens by name; `key` is the one that the server trusts under `KID`."""
    return {**_signatures(key), **_headers(key), **_claims(key), **_shapes(key)}


def _signatures(key: ECKey) -> dict[str, str]:
    good = signed(key)
    head, body, signature = good.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    other = ECKey.generate_key("P-256")
    cases: dict[str, str] = {}
    for spelling in ("none", "None", "NONE"):
        header = b64(json.dumps({"alg": spelling, "typ": "at+jwt", "kid": KID}).encode())
        cases[f"alg {spelling}"] = f"{header}.{body}."
        cases[f"alg {spelling}, old signature"] = f"{header}.{body}.{signature}"
    assert key.public_key is not None
    pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = b64(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": KID}).encode())
    for name, secret in (("the public PEM", pem), ("an empty key", b"")):
        mac = hmac.digest(secret, f"{header}.{body}".encode(), hashlib.sha256)
        cases[f"HS256 with {name}"] = f"{header}.{body}.{b64(mac)}"
    rsa_key = RSAKey.import_key(rsa.generate_private_key(65537, 2048))
    rs_header = {"alg": "RS256", "typ": "at+jwt", "kid": KID}
    cases["RS256 with a key of their own"] = jws.serialize_compact(
        rs_header, json.dumps(claims()), rsa_key, algorithms=["RS256"]
    )
    return cases | {
        "signature stripped": f"{head}.{body}.",
        "signature segment missing": f"{head}.{body}",
        "signature of zeros": f"{head}.{body}.{b64(bytes(64))}",
        "signature in DER": f"{head}.{body}.{b64(encode_dss_signature(r, s))}",
        "signature padded": f"{good}==",
        "signature with trailing bits": f"{head}.{body}.{_other_trailing_bits(signature)}",
        "signature cut by a byte": f"{head}.{body}.{b64(raw[:-1])}",
        "signature of another token": ".".join([head, b64(json.dumps(claims(sub="usr_2")).encode()), signature]),
        "signed by another key": signed(other),
        "ES384 named": signed(key, alg="ES384"),
        "ES512 named": signed(key, alg="ES512"),
    }


def _other_trailing_bits(segment: str) -> str:
    """Spell the same 64 bytes with other unused bits in the last character."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) ^ 1]


def _headers(key: ECKey) -> dict[str, str]:
    attacker = ECKey.generate_key("P-256")
    own = {name: str(value) for name, value in attacker.as_dict(private=False).items()}
    return {
        "embedded jwk of the attacker": signed(attacker, jwk=own),
        "embedded jwk, rightly signed": signed(key, jwk={"kty": "EC"}),
        "jku": signed(attacker, jku="https://evil.example/jwks.json"),
        "x5u": signed(attacker, x5u="https://evil.example/cert.pem"),
        "x5c": signed(attacker, x5c=["MIIB"]),
        "kid traversal": signed(key, kid="../../../../dev/null"),
        "kid SQL": signed(key, kid="k1' OR '1'='1"),
        "kid integer": signed(key, kid=1),
        "kid list": signed(key, kid=[KID]),
        "kid null": signed(key, kid=None),
        "kid missing": signed(key, kid=...),
        "crit unknown": signed(key, crit=["exp"], exp=1),
        "crit empty": signed(key, crit=[]),
        "b64 false": signed(key, b64=False, crit=["b64"]),
        "zip": signed(key, zip="DEF"),
        "cty JWT": signed(key, cty="JWT"),
        "typ missing": signed(key, typ=...),
        "typ of an ID token": signed(key, typ="JWT"),
        "typ of a logout token": signed(key, typ="logout+jwt"),
        "typ in other case": signed(key, typ="AT+JWT"),
        "alg missing": signed(key, alg=...),
        "alg list": signed(key, alg=["ES256"]),
        "header is a list": signed_raw(key, b'["ES256"]', json.dumps(claims()).encode()),
        "header is no JSON": signed_raw(key, b"ES256", json.dumps(claims()).encode()),
        "header with kid twice": signed_raw(
            key, b'{"alg":"ES256","typ":"at+jwt","kid":"k1","kid":"k1"}', json.dumps(claims()).encode()
        ),
    }


def _claims(key: ECKey) -> dict[str, str]:
    def having(**changes: Any) -> str:
        return signed(key, claims(**changes))

    missing = {f"no {name}": having(**{name: ...}) for name in claims()}
    header = json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": KID}).encode()
    good = json.dumps(claims())

    def raw(payload: str) -> str:
        return signed_raw(key, header, payload.encode())

    return missing | {
        "expired": having(exp=NOW_S - 31, iat=NOW_S - 331),
        "expired yesterday": having(exp=NOW_S - _DAY_S, iat=NOW_S - _DAY_S - 300),
        "nbf in the future": having(nbf=NOW_S + 31),
        "iat in one day": having(iat=NOW_S + _DAY_S, exp=NOW_S + _DAY_S + 300),
        "iat after exp": having(iat=NOW_S + 20, exp=NOW_S + 10),
        "lives a day": having(exp=NOW_S + _DAY_S),
        "lives for ever": having(exp=2**62),
        "iss of somebody else": having(iss="https://evil.example"),
        "iss with a slash more": having(iss=ISSUER + "/"),
        "iss list": having(iss=[ISSUER]),
        "aud of somebody else": having(aud="other"),
        "aud list with ours only": having(aud=[AUDIENCE]),
        "aud list with ours and another": having(aud=[AUDIENCE, "other"]),
        "aud empty": having(aud=""),
        "sub integer": having(sub=1),
        "sub empty": having(sub=""),
        "sub null": having(sub=None),
        "sub list": having(sub=["usr_1"]),
        "sub very long": having(sub="u" * 300),
        "sid integer": having(sid=1),
        "epo text": having(epo="1"),
        "epo true": having(epo=True),
        "epo zero": having(epo=0),
        "epo fraction": having(epo=1.5),
        "exp text": having(exp=str(NOW_S + 300)),
        "exp true": having(exp=True),
        "exp negative": having(exp=-1, iat=-300),
        "exp list": having(exp=[NOW_S + 300]),
        "exp infinity as a number": raw(good.replace(str(NOW_S + 300), "1e400")),
        "exp Infinity": raw(good.replace(str(NOW_S + 300), "Infinity")),
        "exp NaN": raw(good.replace(str(NOW_S + 300), "NaN")),
        "exp of a thousand digits": raw(good.replace(str(NOW_S + 300), "9" * 1000)),
        "exp of five thousand digits": raw(good.replace(str(NOW_S + 300), "9" * 5000)),
        "exp of a thousand digits, iat a fraction": raw(
            good.replace(str(NOW_S + 300), "9" * 1000).replace(f'"iat": {NOW_S}', f'"iat": {NOW_S}.5')
        ),
        "an unknown claim NaN": raw(good[:-1] + ', "x": NaN}'),
        "iat NaN": raw(good.replace(f'"iat": {NOW_S}', '"iat": NaN')),
        "iat minus infinity": raw(good.replace(f'"iat": {NOW_S}', '"iat": -1e400')),
        "nbf infinity": raw(good[:-1] + ', "nbf": 1e400}'),
        "sub twice": raw('{"sub": "usr_2", ' + good[1:]),
        "sub twice, same": raw('{"sub": "usr_1", ' + good[1:]),
        "aud twice": raw('{"aud": "other", ' + good[1:]),
    }


def _shapes(key: ECKey) -> dict[str, str]:
    header = json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": KID}).encode()
    good = json.dumps(claims())
    whole = signed(key)

    def raw(payload: bytes) -> str:
        return signed_raw(key, header, payload)

    cases: dict[str, Callable[[], str]] = {
        "one megabyte": lambda: raw((good[:-1] + ', "x": "' + "x" * 1_000_000 + '"}').encode()),
        "just over the cap": lambda: raw((good[:-1] + ', "x": "' + "x" * 6_000 + '"}').encode()),
        "ten thousand claims": lambda: raw(json.dumps({**claims(), **{f"c{n}": n for n in range(10_000)}}).encode()),
        "fifty thousand deep": lambda: raw((good[:-1] + ', "x": ' + "[" * 50_000 + "]" * 50_000 + "}").encode()),
        "two thousand deep": lambda: raw((good[:-1] + ', "x": ' + "[" * 2_000 + "]" * 2_000 + "}").encode()),
        "payload is a list": lambda: raw(b"[]"),
        "payload is a string": lambda: raw(b'"usr_1"'),
        "payload is empty": lambda: raw(b""),
        "payload is no UTF-8": lambda: raw(good.encode().replace(b"usr_1", b"\xff\xfe")),
        "payload is UTF-16": lambda: raw(good.encode("utf-16")),
        "payload has a BOM": lambda: raw(b"\xef\xbb\xbf" + good.encode()),
        "payload cut": lambda: raw(good[:-1].encode()),
        "two payloads": lambda: raw((good + good).encode()),
        "empty": lambda: "",
        "dots": lambda: "..",
        "four segments": lambda: f"{whole}.x",
        "five segments, as JWE": lambda: f"{whole}.x.x",
        "JSON serialisation": lambda: json.dumps({"payload": whole.split(".")[1], "signatures": []}),
        "leading space": lambda: f" {whole}",
        "trailing newline": lambda: f"{whole}\n",
        "space inside": lambda: whole.replace(".", ". ", 1),
        "not ASCII": lambda: whole[:-1] + "é",
        "a lone surrogate": lambda: whole[:-1] + "\ud800",
        "NUL": lambda: whole + "\0",
        "standard base64 instead of base64url": lambda: _standard_alphabet(key),
        "a refresh token": lambda: "rwr_" + "0" * 32 + "_1_" + "a" * 43,
    }
    return {name: make() for name, make in cases.items()}


def _standard_alphabet(key: ECKey) -> str:
    while True:  # until a signature has a character in which the alphabets differ
        token = signed(key)
        if "-" in token or "_" in token:
            return token.replace("-", "+").replace("_", "/")
