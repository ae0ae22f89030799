"""What is configured of other issuers, and their tokens before the one verifier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from runwire.auth import issuers
from runwire.auth.foreign import Foreign, Provider, external_session
from runwire.auth.issuers import Issuer, read_issuers
from runwire.auth.outbound import Answer, Outbound
from runwire.auth.published import Published
from runwire.auth.service.settings import ROLES
from runwire.errors import ConfigurationError, Unauthenticated, Unavailable
from runwire.settings import load

NOW_S = 1_790_000_000
GOOD: dict[str, Any] = {"name": "company", "issuer": "https://id.example.org", "audience": "api", "client_id": "page"}
KEYS: dict[str, ECKey | RSAKey | OKPKey] = {
    "ES256": ECKey.generate_key("P-256"),
    "RS256": RSAKey.generate_key(2048),
    "EdDSA": OKPKey.generate_key("Ed25519"),
}


def issuer(**differs: Any) -> Issuer:
    return read_issuers([{**GOOD, **differs}])[0]


@pytest.mark.parametrize(
    ("differs", "named"),
    [
        ({"name": "Our Company"}, "name"),
        ({"issuer": None}, "issuer"),
        ({"issuer": "http://id.example.org"}, "issuer"),
        ({"issuer": "https://user:secret-word@id.example.org"}, "issuer"),
        ({"issuer": "http://127.0.0.1:9000"}, "allow_private_addresses"),
        ({"jwks_url": "http://127.0.0.1/jwks"}, "issuer"),
        ({"audience": "page"}, "audience"),
        ({"audience": None, "client_id": None}, "audience"),
        ({"algorithms": ["ES256", "RS256"]}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"token_types": ["secevent+jwt"]}, "token_types"),
        ({"client_secret": "secret-word", "client_id": None}, "client_id"),
        ({"client_secret": "secret-word", "client_secret_file": "/x"}, "client_secret_file"),
        ({"client_secret_file": "/does/not/exist"}, "client_secret_file"),
        ({"introspection_url": "https://id.example.org/ask"}, "introspection_url"),
        ({"scopes": ["profile"]}, "scopes"),
        ({"may_create_users": "yes"}, "may_create_users"),
        ({"claims": {"roles": "groups", "role_values": {"x": "king"}}}, "role_values"),
        ({"claims": {"role_values": {"x": "admin"}}}, "roles"),
        ({"audiense": "api"}, "audiense"),
    ],
)
def test_a_bad_issuer_is_a_fault_that_names_the_field_and_no_secret(differs: dict[str, Any], named: str) -> None:
    table = {name: value for name, value in {**GOOD, **differs}.items() if value is not None}
    with pytest.raises(ConfigurationError) as refused:
        load(environ={"RUNWIRE_ISSUERS": json.dumps([table])})
    (fault,) = refused.value.faults
    assert fault.startswith("issuers (from RUNWIRE_ISSUERS): ")
    assert f" {named}" in fault
    assert "secret-word" not in fault


def test_http_is_for_development_on_this_machine() -> None:
    table = {**GOOD, "issuer": "http://127.0.0.1:9000", "allow_private_addresses": True}
    environ = {"RUNWIRE_ISSUERS": json.dumps([table])}
    assert load(environ={**environ, "RUNWIRE_ENVIRONMENT": "development"}).settings.issuers[0].is_loopback
    with pytest.raises(ConfigurationError, match="rule http-issuers"):
        load(environ=environ)


def test_two_issuers_are_told_apart() -> None:
    for differs in ({"name": "other"}, {"issuer": "https://other.example.org"}):
        with pytest.raises(ValueError, match="is there twice"):
            read_issuers([GOOD, {**GOOD, **differs}])


def test_a_secret_is_shown_nowhere() -> None:
    made = issuer(client_secret="secret-word")
    assert "secret-word" not in repr(made)
    assert issuers._ROLES == ROLES


def provider(answers: Mapping[str, object], made: Issuer | None = None, algorithm: str = "ES256") -> Provider:
    """Return an issuer whose documents are there."""
    made = made or issuer(algorithms=[algorithm], token_types=["JWT"])
    found = Provider(made, wall_s=lambda: NOW_S, monotonic_s=lambda: 0.0)
    key = {**KEYS[algorithm].as_dict(private=False), "kid": "k", "use": "sig"}
    found.published = Published(made, _Answering(made, {**answers, "jwks": {"keys": [key]}}), monotonic_s=lambda: 0.0)
    return found


class _Answering(Outbound):
    """An issuer's documents, without a network."""

    def __init__(self, made: Issuer, documents: Mapping[str, object]) -> None:
        super().__init__(made)
        self.documents = documents
        self.asked: list[str] = []

    async def get(self, url: str) -> Answer:
        self.asked.append(url)
        if url.endswith("configuration"):
            body = {"issuer": self.documents.get("iss", GOOD["issuer"]), "jwks_uri": "https://id.example.org/jwks"}
        else:
            body = self.documents["jwks"]  # type: ignore[assignment] # a document is any object
        return Answer(status=200, body=msgspec.json.encode(body), date_s=None)


def signed(algorithm: str = "ES256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
    said = {
        "iss": GOOD["issuer"], "aud": "api", "sub": "ada", "iat": NOW_S, "exp": NOW_S + 300, "sid": "s", "jti": "j",
    } | claims  # fmt: skip
    kept = {name: value for name, value in said.items() if value is not None}
    head = {"alg": "Ed25519" if algorithm == "EdDSA" else algorithm, "typ": "JWT", "kid": "k", **(header or {})}
    return jws.serialize_compact(head, msgspec.json.encode(kept), KEYS[algorithm], algorithms=[head["alg"]])


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_an_access_token_is_taken_for_an_hour_at_most(algorithm: str) -> None:
    token = signed(algorithm, aud=["api", "others"], exp=NOW_S + 90_000)
    proved = await provider({}, algorithm=algorithm).access(token)
    assert (proved.subject, proved.session) == ("ada", external_session(GOOD["issuer"], "s"))
    assert proved.expires_at == (NOW_S + 3600) * 1000


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "page"}, {"aud": ["page", "others"]}, {"aud": ["x"] * 20 + ["api"]}, {"iss": "https://id.example.org/"},
        {"exp": NOW_S - 31}, {"exp": None}, {"iat": None}, {"iat": NOW_S + 31}, {"sub": None}, {"sub": 7},
        {"nonce": "n"}, {"at_hash": "h"}, {"events": {}}, {"typ": "ID"}, {"exp": True}, {"aud": {"api": 1}},
    ],
)  # fmt: skip
async def test_what_is_no_access_token_for_us_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await provider({}).access(signed(**claims))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "logout+jwt"},
        {"typ": "at+jwt"},
        {"kid": "other"},
        {"jku": "https://x.example"},
        {"x5u": "https://x.example"},
    ],
)
async def test_a_header_that_says_more_or_else_is_refused(header: dict[str, Any]) -> None:
    proved = await provider({}).access(signed(header={"x5t": "a-hash", "typ": "application/JWT"}))
    assert proved.subject == "ada"
    with pytest.raises(Unauthenticated):
        await provider({}).access(signed(header=header))


async def test_an_id_token_is_for_one_sign_in_of_one_client() -> None:
    found = provider({})
    assert (await found.id_token(signed(aud="page", nonce="n"), nonce="n")).subject == "ada"
    wrongs: list[dict[str, Any]] = [
        {"nonce": "m"},
        {"nonce": None},
        {"aud": "api"},
        {"azp": "other"},
        {"aud": ["page", "api"]},
    ]
    for wrong in wrongs:
        with pytest.raises(Unauthenticated):
            await found.id_token(signed(**({"aud": "page", "nonce": "n"} | wrong)), nonce="n")


async def test_a_logout_token_is_one_and_new() -> None:
    found = provider({})
    good: dict[str, Any] = {
        "aud": "page",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        "exp": NOW_S + 120,
    }
    said = await found.logout(signed(**good, header={"typ": "logout+jwt"}))
    assert (said.subject, said.session) == ("ada", external_session(GOOD["issuer"], "s"))
    wrongs: list[dict[str, Any]] = [
        {"nonce": "n"}, {"events": {}}, {"events": None}, {"jti": None}, {"aud": "api"}, {"sub": None},
        {"iat": NOW_S - 200}, {"events": {"http://schemas.openid.net/event/backchannel-logout": 1}},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(Unauthenticated):
            await found.logout(signed(**(good | wrong)))


async def test_a_document_of_somebody_else_gives_no_keys() -> None:
    with pytest.raises(Unavailable):
        await provider({"iss": "https://evil.example.org"}).access(signed())


async def test_unknown_kids_lead_to_one_read_in_ten_seconds_and_silence_to_the_last_good_keys() -> None:
    now = [0.0]
    made = issuer(jwks_url="https://id.example.org/jwks", token_types=["JWT"])
    key = {**KEYS["ES256"].as_dict(private=False), "kid": "k"}
    asked = _Answering(made, {"jwks": {"keys": [key]}})
    published = Published(made, asked, monotonic_s=lambda: now[0])
    assert list(await published.keys()) == ["k"]
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(published.after_unknown_kid())
    assert len(asked.asked) == 2
    now[0] = 11.0
    await published.after_unknown_kid()
    assert len(asked.asked) == 3

    asked.documents = {"jwks": {"keys": []}}  # what it shows now is no use
    now[0] += 80_000
    assert list(await published.keys()) == ["k"]
    now[0] += 10_000
    with pytest.raises(Unavailable):
        await published.keys()


@pytest.mark.parametrize("url", ["https://127.0.0.1/jwks", "https://localhost/jwks", "http://id.example.org/jwks"])
async def test_no_document_sends_us_into_the_private_network(url: str) -> None:
    outbound = Outbound(issuer())
    async with httpx2.AsyncClient(transport=outbound.transport(), trust_env=False) as client:
        with pytest.raises((httpx2.ConnectError, httpx2.UnsupportedProtocol), match="address"):
            await client.get(url)


def test_what_says_that_it_is_of_another_issuer_is_theirs() -> None:
    foreign = Foreign([issuer()], wall_s=lambda: NOW_S, monotonic_s=lambda: 0.0)
    assert foreign.of(signed()) is foreign.providers["company"]
    for other in (signed(iss="https://other.example.org"), "a.b.c", "rwr_x", "é.é.é", "." * 9000, ""):
        assert foreign.of(other) is None
