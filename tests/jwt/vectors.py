"""JWS vectors for ES256 in the form of Project Wycheproof, made here: `python -m tests.jwt.vectors --write`.

What is in `es256.json` is data for any verifier: a group has a public key, each of its tests a compact JWS and whether
it is valid. All are about the signature and the key; the payload is that of a good token of `corpus`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from joserfc.jwk import ECKey
from tests.jwt.corpus import KID, b64, claims

__all__ = ["FILE", "Vector", "read_vectors"]

FILE: Final = Path(__file__).with_name("es256.json")
_N: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # order of P-256 (SEC 2 §2.4.2)
_P: Final = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF  # its field
_HEADER: Final = {"alg": "ES256", "typ": "at+jwt", "kid": KID}


@dataclass(frozen=True)
class Vector:
    """One test of the file, with the key of its group."""

    id: int
    comment: str
    jwk: dict[str, Any]
    jws: str
    is_valid: bool


def read_vectors() -> list[Vector]:
    """Read the file."""
    groups = json.loads(FILE.read_text(encoding="utf-8"))["testGroups"]
    return [
        Vector(test["tcId"], test["comment"], group["public"], test["jws"], test["result"] == "valid")
        for group in groups
        for test in group["tests"]
    ]


def _private(key: ECKey) -> ec.EllipticCurvePrivateKey:
    private = key.private_key
    assert private is not None
    return private


def _text(header: dict[str, Any] | None = None) -> str:
    return f"{b64(json.dumps(header or _HEADER).encode())}.{b64(json.dumps(claims()).encode())}"


def _of(private: ec.EllipticCurvePrivateKey, data: bytes, hashed: hashes.HashAlgorithm) -> tuple[int, int]:
    return utils.decode_dss_signature(private.sign(data, ec.ECDSA(hashed)))


def _both(r: int, s: int, *, size: int = 32) -> bytes:
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


class _Group:
    def __init__(self, jwk: dict[str, Any], comment: str) -> None:
        self.jwk = jwk
        self.comment = comment
        self.tests: list[dict[str, Any]] = []

    def add(self, comment: str, jws: str, *, is_valid: bool = False) -> None:
        self.tests.append({"comment": comment, "jws": jws, "result": "valid" if is_valid else "invalid"})


def _signatures(key: ECKey, jwk: dict[str, Any]) -> _Group:
    group, private, text = _Group(jwk, "forms of a signature"), _private(key), _text()
    r, s = _of(private, text.encode(), hashes.SHA256())

    def add(comment: str, signature: bytes, *, is_valid: bool = False) -> None:
        group.add(comment, f"{text}.{b64(signature)}", is_valid=is_valid)

    add("plain", _both(r, s), is_valid=True)
    add(
        "n - s: the other signature of the same text (RFC 7518 has no rule against it)", _both(r, _N - s), is_valid=True
    )
    add("leading zero byte in r", _searched(private, text, lambda r, s: r < 1 << 248), is_valid=True)
    add("leading zero byte in s", _searched(private, text, lambda r, s: s < 1 << 248), is_valid=True)
    add("r without its leading zero byte", _searched(private, text, lambda r, s: r < 1 << 248)[1:])
    odd = {
        "r = 0": (0, s), "s = 0": (r, 0), "r = s = 0": (0, 0), "r = n": (_N, s), "s = n": (r, _N),
        "r = s = n": (_N, _N), "r = 1, s = 1": (1, 1), "r = 1, s = 0": (1, 0), "r = 0, s = 1": (0, 1),
        "r = n - 1": (_N - 1, s), "s = n - 1": (r, _N - 1), "r = n + 1": (_N + 1, s), "r = p": (_P, s),
        "r = p - n": (_P - _N, s),
        "r = 2**256 - 1": (2**256 - 1, s), "s = 2**256 - 1": (r, 2**256 - 1), "r = n - r": (_N - r, s),
        "r and s exchanged": (s, r), "r + 1": (r + 1, s), "s + 1": (r, s + 1), "s = r": (r, r),
    }  # fmt: skip
    for comment, pair in odd.items():
        add(comment, _both(*pair))
    whole = _both(r, s)
    der = utils.encode_dss_signature(r, s)
    forms = {
        "a byte less": whole[:-1], "a byte more": whole + b"\0", "a zero before": b"\0" + whole,
        "each half in 33 bytes": _both(r, s, size=33), "each half in 48 bytes, as of P-384": _both(r, s, size=48),
        "r alone": whole[:32], "twice": whole * 2, "nothing": b"", "one byte": b"\0", "DER": der,
        "DER and a zero": der + b"\0",
        "little endian": whole[31::-1] + whole[:31:-1], "hexadecimal": whole.hex().encode(),
    }  # fmt: skip
    for comment, signature in forms.items():
        add(comment, signature)
    for position in (0, 31, 32, 63):
        changed = bytearray(whole)
        changed[position] ^= 1
        add(f"a bit of byte {position} changed", bytes(changed))
    for comment, spelled in _spellings(b64(whole)).items():
        group.add(comment, f"{text}.{spelled}")
    return group


def _searched(private: ec.EllipticCurvePrivateKey, text: str, fits: Callable[[int, int], bool]) -> bytes:
    while True:
        r, s = _of(private, text.encode(), hashes.SHA256())
        if fits(r, s):
            return _both(r, s)


def _spellings(good: str) -> dict[str, str]:
    return {
        "padded": good + "==",
        "wrongly padded": good + "=",
        "a line break inside": good[:40] + "\n" + good[40:],
        "a space before": " " + good,
        "a space behind": good + " ",
        "a character of no alphabet": good[:40] + "*" + good[41:],
        "a character more": good + "A",
        "quoted": f'"{good}"',
        "percent-encoded": "%" + good[1:],
    }


def _texts(key: ECKey, jwk: dict[str, Any]) -> _Group:
    group, private, text = _Group(jwk, "what is signed, and how it was hashed"), _private(key), _text()
    head, body = text.split(".")
    wrong = {
        "the payload alone": body,
        "the header alone": head,
        "without the dot": head + body,
        "the payload first": f"{body}.{head}",
        "the text and a zero": text + "\0",
        "the decoded bytes": json.dumps(_HEADER) + "." + json.dumps(claims()),
        "nothing": "",
    }
    for comment, signed in wrong.items():
        group.add(f"signed: {comment}", f"{text}.{b64(_both(*_of(private, signed.encode(), hashes.SHA256())))}")
    for hashed in (hashes.SHA384(), hashes.SHA512(), hashes.SHA224(), hashes.SHA3_256()):
        group.add(f"hashed with {hashed.name}", f"{text}.{b64(_both(*_of(private, text.encode(), hashed)))}")
    twice = private.sign(hashlib.sha256(text.encode()).digest(), ec.ECDSA(hashes.SHA256()))
    group.add("hashed twice", f"{text}.{b64(_both(*utils.decode_dss_signature(twice)))}")
    return group


def _algorithms(key: ECKey, jwk: dict[str, Any]) -> _Group:
    group, private = _Group(jwk, "what the header says of the algorithm"), _private(key)
    named: tuple[Any, ...] = ("ES384", "ES512", "ES256K", "HS256", "RS256", "PS256", "none", "", "es256", "ES256 ")
    for alg in (*named, None, 256, ["ES256"], {"ES256": True}):
        text = _text({**_HEADER, "alg": alg})
        signature = _both(*_of(private, text.encode(), hashes.SHA256()))
        group.add(f"alg {json.dumps(alg)}, signed with ES256", f"{text}.{b64(signature)}")
    return group


def _keys(key: ECKey, jwk: dict[str, Any]) -> list[_Group]:
    text = _text()
    good = f"{text}.{b64(_both(*_of(_private(key), text.encode(), hashes.SHA256())))}"
    other = ECKey.generate_key("P-256").as_dict(private=False)
    wrong: dict[str, dict[str, Any]] = {
        "another key": {**jwk, "x": other["x"], "y": other["y"]},
        "a point off the curve": {**jwk, "y": jwk["x"]},
        "the point at infinity": {**jwk, "x": b64(bytes(32)), "y": b64(bytes(32))},
        "coordinates of the field's size": {**jwk, "x": b64(_P.to_bytes(32, "big"))},
        "another curve": {**jwk, "crv": "P-384"},
        "secp256k1": {**jwk, "crv": "secp256k1"},
        "no curve": {name: value for name, value in jwk.items() if name != "crv"},
        "no y": {name: value for name, value in jwk.items() if name != "y"},
        "kty RSA": {**jwk, "kty": "RSA"},
        "kty oct": {"kty": "oct", "kid": KID, "k": jwk["x"]},
        "for encryption": {**jwk, "use": "enc"},
        "for another algorithm": {**jwk, "alg": "ES384"},
        "for ECDH": {**jwk, "alg": "ECDH-ES"},
        "another kid": {**jwk, "kid": "k2"},
    }
    groups = []
    for comment, shown in wrong.items():
        group = _Group(shown, f"the key: {comment}")
        group.add(f"the key: {comment}", good)
        groups.append(group)
    for comment, shown in {
        "without use and alg": {**jwk},
        "with members that nobody knows": {**jwk, "x-note": 1},
    }.items():
        for name in ("use", "alg") if comment.startswith("without") else ():
            del shown[name]
        group = _Group(shown, f"the key: {comment}")
        group.add(f"the key: {comment}", good, is_valid=True)
        groups.append(group)
    return groups


def make() -> dict[str, Any]:
    """Make the document."""
    key = ECKey.generate_key("P-256")
    shown = key.as_dict(private=False)
    jwk = {name: shown[name] for name in ("kty", "crv", "x", "y")} | {"kid": KID, "use": "sig", "alg": "ES256"}
    groups = [_signatures(key, jwk), _texts(key, jwk), _algorithms(key, jwk), *_keys(key, jwk)]
    number, shown_groups = 0, []
    for group in groups:
        tests = []
        for test in group.tests:
            number += 1
            tests.append({"tcId": number, **test})
        shown_groups.append({"type": "JsonWebSignature", "comment": group.comment, "public": group.jwk, "tests": tests})
    return {"algorithm": "ES256", "numberOfTests": number, "testGroups": shown_groups}


if __name__ == "__main__":
    made = json.dumps(make(), indent=1) + "\n"
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(made, encoding="utf-8")
    else:
        print(made)
