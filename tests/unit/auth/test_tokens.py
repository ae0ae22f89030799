"""Access tokens, API keys and refresh tokens: made, split, verified, and the attack corpus refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey
from tests.jwt.corpus import AUDIENCE, ISSUER, KID, NOW_S, Mint, claims, corpus, signed

from runwire.auth import tokens
from runwire.errors import Unauthenticated

KEY = tokens.read_signing_key(tokens.new_signing_key(KID))
KEYS = {KID: KEY}
CORPUS = corpus(Mint(key=KEY))
REFUSAL = "This credential is not valid; sign in again."


def verify(token: str, **changes: Any) -> tokens.AccessToken:
    asked: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "now_s": float(NOW_S), **changes}
    return tokens.verify(token, KEYS, **asked)


def test_a_minted_token_is_verified_to_the_same_claims() -> None:
    made = msgspec.convert(claims(), tokens.AccessToken)
    token = tokens.mint(made, kid=KID, key=KEY)
    assert verify(token) == made
    assert verify(signed(KEY)) == made, "the corpus differs from a good token by its faults only"


def test_the_header_of_a_minted_token_has_alg_typ_kid_and_nothing_else() -> None:
    token = tokens.mint(msgspec.convert(claims(), tokens.AccessToken), kid=KID, key=KEY)
    assert json.loads(tokens._decoded(token.split(".")[0])) == {"alg": "ES256", "typ": "at+jwt", "kid": KID}


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_the_corpus_is_refused_with_one_sentence(name: str) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        verify(CORPUS[name])
    error = refusal.value
    assert (error.message, error.code, error.field, error.retry_after_s) == (REFUSAL, "unauthenticated", None, None)
    assert error.__cause__ is None


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(CORPUS) >= 100


@pytest.mark.parametrize("name", ["kid traversal", "kid SQL"])
def test_a_kid_that_is_not_known_is_told_apart_only_inside(name: str) -> None:
    with pytest.raises(tokens.UnknownKid):
        verify(CORPUS[name])


@pytest.mark.parametrize(
    ("shift_s", "is_good"), [(-31, False), (-30, True), (0, True), (329, True), (330, False), (10_000, False)]
)
def test_clocks_may_differ_by_thirty_seconds(shift_s: int, is_good: bool) -> None:
    token = signed(KEY)
    if is_good:
        assert verify(token, now_s=NOW_S + shift_s).sub == "usr_1"
    else:
        with pytest.raises(Unauthenticated):
            verify(token, now_s=NOW_S + shift_s)


def test_a_present_nbf_and_unknown_claims_do_no_harm() -> None:
    assert verify(signed(KEY, claims(nbf=NOW_S + 30, extra={"a": 1}))).nbf == NOW_S + 30
    assert verify(signed(KEY, claims(exp=NOW_S + 300.5, iat=NOW_S - 0.25))).exp == NOW_S + 300.5


@given(st.text(max_size=300))
def test_any_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    for candidate in (text, f"{text}.{text}.{text}"):
        with pytest.raises(Unauthenticated):
            verify(candidate)


@given(st.integers(0, 600), st.integers(0, 127))
def test_no_single_character_of_a_token_can_be_changed(position: int, character: int) -> None:
    token = signed(KEY)
    position %= len(token)
    changed = token[:position] + chr(character) + token[position + 1 :]
    if changed == token:
        return
    with pytest.raises(Unauthenticated):
        verify(changed)


def test_a_jwks_shows_no_private_part_and_is_read_back() -> None:
    shown = tokens.public_jwk(KID, KEY)
    assert set(shown) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    keys = tokens.read_jwks(json.dumps({"keys": [shown]}).encode())
    checked = tokens.verify(signed(KEY), keys, issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)
    assert checked.sub == "usr_1"
    assert not keys[KID].is_private


def test_unusable_entries_of_a_jwks_are_skipped() -> None:
    good = tokens.public_jwk(KID, KEY)
    bad: list[dict[str, Any]] = [
        {**good, "kid": 1},
        {**good, "kid": "no-kty", "kty": "oct", "k": "c2VjcmV0"},
        {**good, "kid": "other-curve", "crv": "P-384"},
        {**good, "kid": "off-curve", "x": good["y"]},
        {**good, "kid": "no-x", "x": None},
        {"kid": "empty", "kty": "EC", "crv": "P-256"},
    ]
    assert set(tokens.read_jwks(json.dumps({"keys": [*bad, good]}).encode())) == {KID}
    private = {**json.loads(tokens.new_signing_key("p")), "key_ops": ["sign"]}
    assert not tokens.read_jwks(json.dumps({"keys": [private]}).encode())["p"].is_private


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys":[]}', b'{"keys":{}}', b'{"keys":[1]}', b"<html>"])
def test_a_document_without_keys_is_no_jwks(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        tokens.read_jwks(document)


def test_a_signing_key_is_p256_and_new_each_time() -> None:
    first, second = tokens.new_signing_key("a"), tokens.new_signing_key("a")
    assert first != second
    assert isinstance(tokens.read_signing_key(first), ECKey)
    assert tokens.read_signing_key(first).curve_name == "P-256"


def test_an_api_key_splits_into_what_is_stored() -> None:
    text, stored = tokens.mint_api_key("key_" + "0f" * 16, entropy=b"\xff" * 32)
    assert text.startswith("rw_" + "0f" * 16 + "_")
    assert tokens.is_api_key(text)
    assert not tokens.is_api_key(signed(KEY))
    presented = tokens.read_api_key(text)
    assert (presented.key, presented.secret_hash) == ("key_" + "0f" * 16, stored)
    assert len(stored) == 32
    assert text.encode() not in stored


@given(st.binary(min_size=32, max_size=32), st.integers(0, 84))
def test_a_mistyped_api_key_is_refused_before_anybody_is_asked(entropy: bytes, position: int) -> None:
    text, _ = tokens.mint_api_key("key_" + "a" * 32, entropy=entropy)
    assert tokens.read_api_key(text).key == "key_" + "a" * 32
    wrong = text[:position] + ("x" if text[position] != "x" else "y") + text[position + 1 :]
    for candidate in (wrong, text[:-1], text + "0", text.upper(), "rw_", "", text + "\n"):
        with pytest.raises(Unauthenticated):
            tokens.read_api_key(candidate)


@given(st.integers(1, 10**9), st.binary(min_size=32, max_size=32))
def test_a_refresh_token_is_the_same_every_time_and_bound_to_its_session(counter: int, key: bytes) -> None:
    session = "ses_" + "1a" * 16
    text = tokens.mint_refresh_token(session, counter, refresh_key=key)
    assert text == tokens.mint_refresh_token(session, counter, refresh_key=key)
    token = tokens.read_refresh_token(text)
    assert (token.session, token.counter) == (session, counter)
    assert token.is_genuine(key)
    assert not token.is_genuine(bytes(byte ^ 1 for byte in key))
    for other in (text.replace("1a", "1b", 1), text.replace(f"_{counter}_", f"_{counter + 1}_")):
        assert not tokens.read_refresh_token(other).is_genuine(key)


@pytest.mark.parametrize("text", ["", "rwr_", "rwr_" + "0" * 32 + "_0_" + "a" * 43, "rwr_x_1_y", "rw_" + "0" * 32])
def test_what_is_no_refresh_token_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read_refresh_token(text)


def test_secrets_need_no_escaping_and_are_all_different() -> None:
    made = {tokens.mint_secret(n.to_bytes(32, "big")) for n in range(1000)}
    assert len(made) == 1000
    assert all(len(secret) == 43 and secret.isalnum() for secret in made)
    assert tokens.mint_secret(b"\xff" * 32) != tokens.mint_secret(b"\xff" * 31 + b"\xfe")


def test_a_token_is_not_in_what_is_shown_of_it() -> None:
    text, _ = tokens.mint_api_key("key_" + "0" * 32, entropy=b"s" * 32)
    assert text[-49:-6] not in repr(tokens.read_api_key(text))
