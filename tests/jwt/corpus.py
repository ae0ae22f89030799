"""The attack corpus: tokens that no server may take, each with the name of what is wrong with it.

Signature attacks, key injection, claims that libraries let through, and shapes that exhaust a parser.
Every token but the signature attacks is *validly signed* by the right key: only the verifier's own rules
refuse it. Made for any server by a `Mint` with its key and the claims that it takes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

__all__ = ["AUDIENCE", "ISSUER", "KID", "NOW_S", "SECTIONS", "Mint", "b64", "claims", "corpus", "signed", "signed_raw"]

ISSUER = "https://auth.example.org"
AUDIENCE = "runwire"
KID = "k1"
NOW_S = 1_790_000_000
_DAY_S = 86_400
_SIGNATURE_BYTES = 32  # of each half, P-256


def _good_claims() -> dict[str, Any]:
    return {
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


@dataclass(frozen=True, kw_only=True)
class Mint:
    """Makes tokens that one server would take, and such that differ from these by one fault."""

    key: ECKey  # the private key that the server trusts
    kid: str = KID  # under which it does
    typ: str = "at+jwt"  # of the tokens that it takes
    now_s: int = NOW_S  # its clock
    slack_s: int = 0  # more for faults in time, where its clock goes on while the corpus is sent
    good: Mapping[str, Any] = field(default_factory=_good_claims)  # the claims of a token that it takes

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims, changed; a value of `...` leaves a claim out."""
        return {name: value for name, value in {**self.good, **changes}.items() if value is not ...}

    def signed(self, payload: Mapping[str, Any] | None = None, *, key: ECKey | None = None, **header: Any) -> str:
        """Sign claims; a header value of `...` leaves a name out."""
        names: dict[str, Any] = {"alg": "ES256", "typ": self.typ, "kid": self.kid, **header}
        shown = {name: value for name, value in names.items() if value is not ...}
        body = json.dumps(self.claims() if payload is None else payload)
        return signed_raw(key or self.key, json.dumps(shown).encode(), body.encode())

    def raw(self, payload: bytes) -> str:
        """Sign any bytes under a good header."""
        header = json.dumps({"alg": "ES256", "typ": self.typ, "kid": self.kid}).encode()
        return signed_raw(self.key, header, payload)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the good claims of this file, changed; a value of `...` leaves a claim out."""
    return {name: value for name, value in {**_good_claims(), **changes}.items() if value is not ...}


def signed(key: ECKey, payload: Mapping[str, Any] | None = None, **header: Any) -> str:
    """Sign claims of this file's own server; a header value of `...` leaves a name out."""
    return Mint(key=key).signed(payload, **header)


def signed_raw(key: ECKey, header: bytes, payload: bytes) -> str:
    """Sign any bytes with ES256, around every check of a library."""
    signing_input = f"{b64(header)}.{b64(payload)}"
    private = key.private_key
    assert private is not None, "the corpus needs the private key"
    r, s = decode_dss_signature(private.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signing_input}.{b64(_joined(r, s))}"


def _joined(r: int, s: int) -> bytes:
    return r.to_bytes(_SIGNATURE_BYTES, "big") + s.to_bytes(_SIGNATURE_BYTES, "big")


def b64(raw: bytes) -> str:
    """Spell bytes as base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def corpus(mint: Mint) -> dict[str, str]:
    """Return all refused tokens by name."""
    return {name: token for make in SECTIONS.values() for name, token in make(mint).items()}


def _signatures(mint: Mint) -> dict[str, str]:
    good = mint.signed()
    head, body, signature = good.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    other = ECKey.generate_key("P-256")
    cases: dict[str, str] = {}
    for spelling in ("none", "None", "NONE"):
        header = b64(json.dumps({"alg": spelling, "typ": mint.typ, "kid": mint.kid}).encode())
        cases[f"alg {spelling}"] = f"{header}.{body}."
        cases[f"alg {spelling}, old signature"] = f"{header}.{body}.{signature}"
    assert mint.key.public_key is not None
    pem = mint.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = b64(json.dumps({"alg": "HS256", "typ": mint.typ, "kid": mint.kid}).encode())
    for name, secret in (("the public PEM", pem), ("an empty key", b"")):
        mac = hmac.digest(secret, f"{header}.{body}".encode(), hashlib.sha256)
        cases[f"HS256 with {name}"] = f"{header}.{body}.{b64(mac)}"
    rsa_key = RSAKey.import_key(rsa.generate_private_key(65537, 2048))
    rs_header = {"alg": "RS256", "typ": mint.typ, "kid": mint.kid}
    cases["RS256 with a key of their own"] = jws.serialize_compact(
        rs_header, json.dumps(mint.claims()), rsa_key, algorithms=["RS256"]
    )
    forged = b64(json.dumps(mint.claims(sub="usr_somebody_else")).encode())
    return cases | {
        "signature stripped": f"{head}.{body}.",
        "signature segment missing": f"{head}.{body}",
        "signature of zeros": f"{head}.{body}.{b64(bytes(64))}",
        "signature in DER": f"{head}.{body}.{b64(encode_dss_signature(r, s))}",
        "signature padded": f"{good}==",
        "signature with trailing bits": f"{head}.{body}.{_other_trailing_bits(signature)}",
        "signature cut by a byte": f"{head}.{body}.{b64(raw[:-1])}",
        "signature of another token": ".".join([head, forged, signature]),
        "signed by another key": mint.signed(key=other),
        "ES384 named": mint.signed(alg="ES384"),
        "ES512 named": mint.signed(alg="ES512"),
    }


def _other_trailing_bits(segment: str) -> str:
    """Spell the same 64 bytes with other unused bits in the last character."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) ^ 1]


def _headers(mint: Mint) -> dict[str, str]:
    attacker = ECKey.generate_key("P-256")
    own = {name: str(value) for name, value in attacker.as_dict(private=False).items()}
    good = json.dumps(mint.claims()).encode()
    twice = f'{{"alg":"ES256","typ":{json.dumps(mint.typ)},"kid":{json.dumps(mint.kid)},"kid":{json.dumps(mint.kid)}}}'
    return {
        "embedded jwk of the attacker": mint.signed(key=attacker, jwk=own),
        "embedded jwk, rightly signed": mint.signed(jwk={"kty": "EC"}),
        "jku": mint.signed(key=attacker, jku="https://evil.example/jwks.json"),
        "x5u": mint.signed(key=attacker, x5u="https://evil.example/cert.pem"),
        "x5c": mint.signed(key=attacker, x5c=["MIIB"]),
        "kid traversal": mint.signed(kid="../../../../dev/null"),
        "kid SQL": mint.signed(kid=f"{mint.kid}' OR '1'='1"),
        "kid integer": mint.signed(kid=1),
        "kid list": mint.signed(kid=[mint.kid]),
        "kid null": mint.signed(kid=None),
        "kid missing": mint.signed(kid=...),
        "crit unknown": mint.signed(crit=["exp"], exp=1),
        "crit empty": mint.signed(crit=[]),
        "b64 false": mint.signed(b64=False, crit=["b64"]),
        "zip": mint.signed(zip="DEF"),
        "cty JWT": mint.signed(cty="JWT"),
        "typ missing": mint.signed(typ=...),
        "typ of an ID token": mint.signed(typ="JWT" if mint.typ != "JWT" else "id+jwt"),
        "typ of a logout token": mint.signed(typ="logout+jwt"),
        "typ in other case": mint.signed(typ=mint.typ.swapcase()),
        "alg missing": mint.signed(alg=...),
        "alg list": mint.signed(alg=["ES256"]),
        "alg in lower case": mint.signed(alg="es256"),
        "header is a list": signed_raw(mint.key, b'["ES256"]', good),
        "header is no JSON": signed_raw(mint.key, b"ES256", good),
        "header with kid twice": signed_raw(mint.key, twice.encode(), good),
    }


def _claims(mint: Mint) -> dict[str, str]:
    def having(**changes: Any) -> str:
        return mint.signed(mint.claims(**changes))

    now_s, issuer, audience = mint.now_s, mint.good["iss"], mint.good["aud"]
    cases = {f"no {name}": having(**{name: ...}) for name in mint.good}
    if "sid" in mint.good:
        cases["sid integer"] = having(sid=1)
    if "epo" in mint.good:
        cases |= {"epo text": having(epo="1"), "epo true": having(epo=True), "epo zero": having(epo=0)}
        cases["epo fraction"] = having(epo=1.5)
    return cases | {
        "expired": having(exp=now_s - 31, iat=now_s - 331),
        "expired yesterday": having(exp=now_s - _DAY_S, iat=now_s - _DAY_S - 300),
        "nbf in the future": having(nbf=now_s + 31 + mint.slack_s),
        "iat in one day": having(iat=now_s + _DAY_S, exp=now_s + _DAY_S + 300),
        "iat after exp": having(iat=now_s + 20, exp=now_s + 10),
        "lives a day": having(exp=now_s + _DAY_S),
        "lives for ever": having(exp=2**62),
        "iss of somebody else": having(iss="https://evil.example"),
        "iss with a slash more": having(iss=issuer + "/"),
        "iss list": having(iss=[issuer]),
        "aud of somebody else": having(aud="other"),
        "aud list with ours only": having(aud=[audience]),
        "aud list with ours and another": having(aud=[audience, "other"]),
        "aud empty": having(aud=""),
        "sub integer": having(sub=1),
        "sub empty": having(sub=""),
        "sub null": having(sub=None),
        "sub list": having(sub=[mint.good["sub"]]),
        "sub very long": having(sub="u" * 300),
        "exp text": having(exp=str(now_s + 300)),
        "exp true": having(exp=True),
        "exp negative": having(exp=-1, iat=-300),
        "exp list": having(exp=[now_s + 300]),
        **_odd_numbers(mint),
    }


def _odd_numbers(mint: Mint) -> dict[str, str]:
    """Return what JSON can spell and `json.dumps` cannot."""
    good, now_s = json.dumps(mint.claims(exp=mint.now_s + 300, iat=mint.now_s)), mint.now_s

    def raw(payload: str) -> str:
        return mint.raw(payload.encode())

    def exp(spelled: str) -> str:
        return good.replace(f'"exp": {now_s + 300}', f'"exp": {spelled}')

    def iat(text: str, spelled: str) -> str:
        return text.replace(f'"iat": {now_s}', f'"iat": {spelled}')

    return {
        "exp infinity as a number": raw(exp("1e400")),
        "exp Infinity": raw(exp("Infinity")),
        "exp NaN": raw(exp("NaN")),
        "exp of a thousand digits": raw(exp("9" * 1000)),
        "exp of five thousand digits": raw(exp("9" * 5000)),
        "exp of a thousand digits, iat a fraction": raw(iat(exp("9" * 1000), f"{now_s}.5")),
        "an unknown claim NaN": raw(good[:-1] + ', "x": NaN}'),
        "iat NaN": raw(iat(good, "NaN")),
        "iat minus infinity": raw(iat(good, "-1e400")),
        "nbf infinity": raw(good[:-1] + ', "nbf": 1e400}'),
        "sub twice": raw('{"sub": "usr_2", ' + good[1:]),
        "sub twice, same": raw(f'{{"sub": {json.dumps(mint.good["sub"])}, ' + good[1:]),
        "aud twice": raw('{"aud": "other", ' + good[1:]),
    }


def _shapes(mint: Mint) -> dict[str, str]:
    good = json.dumps(mint.claims())
    whole = mint.signed()
    raw = mint.raw
    cases: dict[str, Callable[[], str]] = {
        "one megabyte": lambda: raw((good[:-1] + ', "x": "' + "x" * 1_000_000 + '"}').encode()),
        "just over the cap": lambda: raw((good[:-1] + ', "x": "' + "x" * 6_000 + '"}').encode()),
        "ten thousand claims": lambda: raw(json.dumps({**mint.good, **{f"c{n}": n for n in range(10_000)}}).encode()),
        "fifty thousand deep": lambda: raw((good[:-1] + ', "x": ' + "[" * 50_000 + "]" * 50_000 + "}").encode()),
        "two thousand deep": lambda: raw((good[:-1] + ', "x": ' + "[" * 2_000 + "]" * 2_000 + "}").encode()),
        "payload is a list": lambda: raw(b"[]"),
        "payload is a string": lambda: raw(b'"usr_1"'),
        "payload is empty": lambda: raw(b""),
        "payload is no UTF-8": lambda: raw(good.encode().replace(str(mint.good["sub"]).encode(), b"\xff\xfe")),
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
        "standard base64 instead of base64url": lambda: _standard_alphabet(mint),
        "a refresh token": lambda: "rwr_" + "0" * 32 + "_1_" + "a" * 43,
    }
    return {name: make() for name, make in cases.items()}


def _standard_alphabet(mint: Mint) -> str:
    while True:  # until a signature has a character in which the alphabets differ
        token = mint.signed()
        if "-" in token or "_" in token:
            return token.replace("-", "+").replace("_", "/")


SECTIONS: Mapping[str, Callable[[Mint], dict[str, str]]] = {
    "signatures": _signatures,
    "headers": _headers,
    "claims": _claims,
    "shapes": _shapes,
}
