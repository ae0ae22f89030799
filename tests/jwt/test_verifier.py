"""The one strict verifier against the corpus and the vectors; and without each of its checks, which must show."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
from tests.jwt.corpus import AUDIENCE, ISSUER, KID, NOW_S, SECTIONS, Mint, corpus
from tests.jwt.mutants import MUTANTS, Mutant
from tests.jwt.vectors import Vector, read_vectors

from runwire.auth import tokens
from runwire.errors import Unauthenticated

KEY = tokens.read_signing_key(tokens.new_signing_key(KID))
CORPUS = corpus(Mint(key=KEY))
VECTORS = read_vectors()
# The cases of the list that this corpus grew from, by the names that they have here.
ASKED_FOR = (
    "alg none", "alg None", "alg NONE", "HS256 with the public PEM", "HS256 with an empty key", "signature stripped",
    "signature of zeros", "signature in DER", "signature padded", "embedded jwk of the attacker", "jku", "x5u",
    "kid traversal", "kid SQL", "kid integer", "kid list", "crit unknown", "b64 false", "expired", "nbf in the future",
    "iat in one day", "no exp", "iss of somebody else", "no iss", "no sub", "sub integer", "exp infinity as a number",
    "typ of an ID token", "typ missing", "aud of somebody else", "aud list with ours and another", "no aud",
    "one megabyte", "ten thousand claims", "fifty thousand deep", "sub twice", "exp NaN", "a refresh token", "no iat",
)  # fmt: skip


def test_the_corpus_has_every_case_that_was_asked_for_and_many_more() -> None:
    assert len(ASKED_FOR) >= 39
    assert set(ASKED_FOR) <= set(CORPUS)
    assert len(CORPUS) >= 120
    assert len(CORPUS) == sum(len(make(Mint(key=KEY))) for make in SECTIONS.values()), "no name is there twice"


def is_taken(module: types.ModuleType, vector: Vector) -> bool:
    try:
        keys = module.read_jwks(json.dumps({"keys": [vector.jwk]}).encode())
        module.verify(vector.jws, keys, issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)
    except (ValueError, Unauthenticated):
        return False
    return True


def test_each_vector_is_judged_as_its_file_says() -> None:
    judged = {f"{vector.id} {vector.comment}": (is_taken(tokens, vector), vector.is_valid) for vector in VECTORS}
    assert {name: pair for name, pair in judged.items() if pair[0] != pair[1]} == {}
    assert len(VECTORS) >= 90
    assert sum(vector.is_valid for vector in VECTORS) >= 6, "a verifier that takes nothing is no verifier"


def seen_by(module: types.ModuleType) -> str | None:
    """Return the first case that shows a verifier to be broken."""
    for name, token in CORPUS.items():
        if _shows(module, token):
            return name
    for vector in VECTORS:
        try:
            if is_taken(module, vector) != vector.is_valid:
                return vector.comment
        except Exception:
            return vector.comment
    return None


def _shows(module: types.ModuleType, token: str) -> bool:
    try:
        module.verify(token, {KID: KEY}, issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)
    except Unauthenticated as error:
        return error.message != "This credential is not valid; sign in again."
    except Exception:  # whatever a broken verifier raises is not the one refusal
        return True
    return True


def test_the_verifier_as_it_stands_shows_nothing() -> None:
    assert seen_by(tokens) is None
    with Mutant("nothing changed", ()).loaded(Path(tokens.__file__)) as module:
        assert seen_by(module) is None, "what is seen of a mutant is its change"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_a_verifier_without_one_of_its_checks_is_seen(mutant: Mutant) -> None:
    with mutant.loaded(Path(tokens.__file__)) as module:
        assert seen_by(module) is not None
