"""The verifier without one of its checks at a time. Each must be seen by the corpus or the vectors."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One change of the verifier's source; several where two checks stand behind each other."""

    name: str
    changes: tuple[tuple[str, str], ...]

    @contextmanager
    def loaded(self, source: Path) -> Iterator[types.ModuleType]:
        """Give the changed module until the block ends; nobody else sees it."""
        text = source.read_text(encoding="utf-8")
        for old, new in self.changes:
            assert text.count(old) == 1, f"the verifier is written otherwise now: {old}"
            text = text.replace(old, new)
        module = types.ModuleType(f"mutant_of_{source.stem}")
        sys.modules[module.__name__] = module  # msgspec looks annotations up there, at the first use
        try:
            exec(compile(text, str(source), "exec"), module.__dict__)
            yield module
        finally:
            del sys.modules[module.__name__]


def _one(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, ((old, new),))


_VERIFIED = "jws.deserialize_compact(token, key, registry=_Algorithms(algorithms=rules.algorithms)).payload"

MUTANTS = (
    _one("any length", "if len(token) > MAX_CREDENTIAL_BYTES:", "if False:"),
    _one("any spelling of base64", " or not all(_is_canonical(segment) for segment in segments)", ""),
    _one("no signature", _VERIFIED, "_decoded(segments[1])"),
    _one("any kid", "key = keys.get(_kid(_object(_decoded(segments[0])), rules))",
         "_kid(_object(_decoded(segments[0])), rules); key = next(iter(keys.values()))"),
    _one("any header names", "header.keys() != _HEADER_NAMES or header[\"alg\"]", "header.get(\"alg\")"),
    Mutant("any algorithm", (
        (' or header["alg"] not in rules.algorithms', ""),
        (_VERIFIED, "_decoded(segments[1])"),
    )),
    _one("any typ", ' or header["typ"] not in rules.types', ""),
    _one("kid of any kind", "    if not isinstance(kid, str):\n        raise _refused()\n    return kid",
         "    return kid"),
    _one("names twice", ", object_pairs_hook=_unique", ""),
    _one("NaN as a number", ", parse_constant=_no_constant", ""),
    _one("deep JSON raises", "    except (ValueError, RecursionError):", "    except UnicodeDecodeError:"),
    _one("payload of any kind", "    if not isinstance(value, dict):\n        raise _refused()\n", ""),
    _one("any issuer", "claims.iss == issuer and ", ""),
    _one("any audience", " and claims.aud == audience", ""),
    Mutant("ours among audiences", (
        ("    aud: _Text  #", "    aud: str | list[str]  #"), ("claims.aud == audience", "audience in claims.aud"),
    )),
    _one("any date", "all(0 <= date < _MAX_DATE for date in (claims.iat, claims.exp, starts))", "True"),
    _one("no expiry", " < claims.exp + LEEWAY_S and 0", " and 0"),
    _one("no beginning", "starts - LEEWAY_S <= now_s", "now_s"),
    _one("no nbf", "max(claims.iat, claims.nbf)", "claims.iat"),
    _one("any lifetime", " <= MAX_LIFETIME_S):", "):"),
    _one("lives backwards", "0 < claims.exp - claims.iat", "claims.exp - claims.iat"),
    _one("wider leeway", "LEEWAY_S: Final = 30 ", "LEEWAY_S: Final = 90 "),
    _one("longer life", "MAX_LIFETIME_S: Final = 3600 ", "MAX_LIFETIME_S: Final = 90_000 "),
    _one("epoch of any number", "Annotated[int, msgspec.Meta(ge=1)]  # the user", "float  # the user"),
    _one("subject of any length", "    sub: _Text  # user id", "    sub: str  # user id"),
    _one("no subject", "    sub: _Text  # user id", '    sub: str = ""  # user id'),
    _one("no session", "    sid: _Text  # session id", '    sid: str = ""  # session id'),
    _one("no jti", "    jti: _Text\n", '    jti: str = ""\n'),
    _one("claims of any kind", "else payload, shape)", "else payload, shape, strict=False)"),
    _one("keys of any curve", "_KEY_OF[algorithm] == kind", '_KEY_OF[algorithm][0] == entry.get("kty")'),
    _one("keys for anything", 'entry.get("use", "sig") == "sig" and ', ""),
    _one("keys for any algorithm", "if named is None or named == algorithm", ""),
)  # fmt: skip
