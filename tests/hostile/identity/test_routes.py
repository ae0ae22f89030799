"""Every route of gateway and auth service with each wrong credential: authentication is really asked for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from tests.hostile.identity.household import SECRET, Household, claims_of
from tests.hostile.identity.routes import PUBLIC, Route, all_routes
from tests.jwt.corpus import Mint

_REFUSED = 401
# What a public route may say to a request without a body: no such thing, done, or that something is missing.
_PUBLIC_ANSWERS = {200, 204, 302, 303, 400, 401, 403, 404, 501}


@pytest.fixture(scope="module")
def routes() -> list[Route]:
    return asyncio.run(all_routes())


@pytest.fixture(scope="module")
def wrong(household: Household) -> dict[str, str | None]:
    return asyncio.run(_wrong(household))


async def _wrong(household: Household) -> dict[str, str | None]:
    """Return one credential of each kind that must not be enough, by its name."""
    mint: Mint = await household.mint("ada")
    revoked = (await household.sign_in("ada"))["access_token"]
    key = await household.api_key("bob")
    async with household.http() as http:
        for token in (revoked, key):
            assert (await http.post("/auth/revoke", data={"token": token})).status_code == 200
    return {
        "no credential": None,
        "an expired token": mint.signed(mint.claims(iat=mint.now_s - 400, exp=mint.now_s - 100)),
        "a foreign issuer's token": mint.signed(mint.claims(iss="https://auth.elsewhere.example")),
        "a revoked session's token": revoked,
        "a revoked API key": key,
        "an unsigned token": mint.signed().rpartition(".")[0] + ".",
        "a wrong service secret": SECRET + "x",
    }


async def asked(http: httpx2.AsyncClient, route: Route, credential: str | None, **values: str) -> httpx2.Response:
    headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
    return await http.request(route.method, route.url(**values), headers=headers)


def test_the_public_routes_are_a_short_list_and_each_is_there_for_a_reason(routes: list[Route]) -> None:
    assert len(routes) >= 25
    names = {str(route) for route in routes}
    assert len(names & set(PUBLIC)) >= 9
    assert all(PUBLIC.values())
    assert len(PUBLIC) <= 20


async def test_every_other_route_refuses_each_wrong_credential_alike(
    household: Household, routes: list[Route], wrong: dict[str, str | None]
) -> None:
    answers: dict[tuple[str, str], httpx2.Response] = {}
    async with household.http() as http:
        for route in routes:
            if not route.is_public and not route.path.startswith("/internal/"):
                for name, credential in wrong.items():
                    answers[str(route), name] = await asked(http, route, credential)
    statuses = {key: answer.status_code for key, answer in answers.items() if answer.status_code != _REFUSED}
    assert statuses == {}
    for key, answer in answers.items():
        assert answer.headers["www-authenticate"].startswith("Bearer"), key
        assert answer.headers["content-type"] == "application/problem+json", key
        assert answer.json()["code"] == "unauthenticated", key
        assert answer.headers["cache-control"] == "no-store", key


async def test_what_is_for_services_leads_nowhere_from_outside(household: Household, routes: list[Route]) -> None:
    internal = [route for route in routes if route.path.startswith("/internal/")]
    assert internal
    async with household.http() as http:
        for route in internal:
            for credential in (None, SECRET):
                answer = await asked(http, route, credential)
                assert answer.status_code in (404, 405), (str(route), credential)


async def test_public_routes_answer_without_a_credential_and_never_with_a_fault(
    household: Household, routes: list[Route], wrong: dict[str, str | None]
) -> None:
    async with household.http() as http:
        for route in routes:
            if route.is_public:
                for credential in wrong.values():
                    answer = await asked(http, route, credential)
                    assert answer.status_code in _PUBLIC_ANSWERS, (str(route), answer.status_code)


async def test_an_ordinary_user_is_forbidden_what_is_for_administrators(
    household: Household, routes: list[Route]
) -> None:
    token = (await household.sign_in("bob"))["access_token"]
    root = claims_of((await household.sign_in("root"))["access_token"])["sub"]
    async with household.http() as http:
        for route in routes:
            if route.is_for_admins:
                answer = await asked(http, route, token, user=root, id=root)
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), str(route)
        assert (await http.get("/v1/me", headers={"authorization": f"Bearer {token}"})).status_code == 200


async def test_an_api_key_is_forbidden_what_only_its_owner_may_do(household: Household, routes: list[Route]) -> None:
    """Of an administrator's key, too: whoever finds one makes nothing more of it, and signs nobody out."""
    key = await household.api_key("root")
    asked_for = [route for route in routes if route.is_for_persons]
    assert {"DELETE /auth/sessions", "GET /auth/users"} <= {str(route) for route in asked_for}
    async with household.http() as http:
        for route in asked_for:
            answer = await asked(http, route, key)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), str(route)


async def test_with_a_good_token_no_route_answers_with_a_fault_or_an_undocumented_status(
    household: Household, routes: list[Route]
) -> None:
    """Without a body, and with ids that do not exist: whatever is wrong with that is said, as the document says."""
    documents: dict[str, Any] = {}
    async with household.http() as http:
        for path in ("/v1/openapi.json", "/auth/openapi.json"):
            answer = await http.get(path)
            documents |= answer.json()["paths"] if answer.status_code == 200 else {}
        for name in ("bob", "root"):
            token = (await household.sign_in(name))["access_token"]
            for route in sorted(routes, key=_signs_out):
                answer = await asked(http, route, token)
                assert answer.status_code < 500 or answer.status_code == 501, (str(route), answer.text)
                described = documents.get(route.path, {}).get(route.method.lower())
                if described:
                    assert str(answer.status_code) in described["responses"], (str(route), answer.status_code)


async def test_a_socket_refuses_each_wrong_credential_alike(household: Household, wrong: dict[str, str | None]) -> None:
    from tests.hostile.identity.test_tokens import ending

    ends = {name: await ending(household, token) for name, token in wrong.items() if token is not None}
    assert {code for code, _ in ends.values()} == {4501}, ends


def _signs_out(route: Route) -> bool:
    return route.method == "DELETE" and route.path in ("/auth/sessions", "/auth/sessions/current")


def test_both_documents_describe_every_route(routes: list[Route], household: Household) -> None:
    described: set[str] = set()
    for path in ("/v1/openapi.json", "/auth/openapi.json"):
        answer = httpx2.get(household.url + path, timeout=30)
        if answer.status_code == 200:
            for template, operations in json.loads(answer.content)["paths"].items():
                described |= {f"{method.upper()} {template}" for method in operations}
    unspoken = {
        str(route).replace("{name:path}", "{name}")  # as OpenAPI writes it
        for route in routes
        if not route.path.startswith(("/health", "/metrics", "/internal")) and "{path:path}" not in route.path
    }
    missing = {name for name in unspoken - described if not name.endswith("openapi.json")}
    if any(name.startswith("POST /auth") for name in described):  # the auth service serves a document
        assert missing == set()
    else:
        assert {name for name in missing if "/v1/" in name} == set()
