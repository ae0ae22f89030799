"""The served OpenAPI document against the served routes: every route, every credential, whatever its types allow."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.mission_critical.deployment import Deployment

PASSWORD = "correct horse battery staple"
EXAMPLES = 4  # of each route and credential in `make test`, always the same ones
REFUSED = 2  # of those that are refused before anything is read; what they are told is the same each time
CAMPAIGN = 40  # times as many in `make chaos`, new ones each time
CONFORM = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXPIRED = (
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJhdCtqd3QifQ."
    "eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xIiwic3ViIjoidXNyXzEiLCJleHAiOjF9.AAAA"
)


class Served:
    """A server, its document, and who asks it."""

    def __init__(self, server: Deployment, document: dict[str, Any], keys: dict[str, str], ids: dict[str, str]) -> None:
        self.server = server
        self.document = document
        self.keys = keys
        self.ids = ids  # of `owner`, and of what belongs to them
        self.schema = schemathesis.openapi.from_dict(document)
        self.schema.config.update(base_url=server.url)
        self.session = requests.Session()
        self.statuses: Counter[tuple[str, int]] = Counter()

    def operations(self) -> Iterator[Any]:
        for found in self.schema.get_all_operations():
            assert isinstance(found, Ok), found
            yield found.ok()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Deployment(tmp_path_factory.mktemp("openapi"))

    async def prepare() -> Served:
        await server.start()
        keys = {name: await server.key(name) for name in ("owner", "stranger")}
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {keys['owner']}"
        document = session.get(f"{server.url}/v1/openapi.json", timeout=10).json()
        thread = session.post(f"{server.url}/v1/threads", timeout=10).json()["thread"]
        path = f"{server.url}/v1/threads/{thread}/messages"
        run = session.post(path, json={"content": "hello", "agent": "golden"}, timeout=10).json()["run"]
        owner = session.get(f"{server.url}/v1/me", timeout=10).json()["user"]
        (key,) = session.get(f"{server.url}/.well-known/jwks.json", timeout=10).json()["keys"]
        ids = {"thread": thread, "run": run, "ref": "blob_" + "0" * 32, "user": owner, "kid": key["kid"]}
        ids |= {"invite": "0" * 16, "name": "example", "session": "ses_" + "0" * 32, "key": "key_" + "0" * 32}
        ids |= {"kind": "tool", "order": "reset"}  # of the breaker `name`
        await server.process.cli("user", "add", "root", "--role", "admin", "--password-stdin", stdin=PASSWORD)
        signed = session.post(f"{server.url}/auth/sessions", json={"user": "root", "password": PASSWORD}, timeout=10)
        return Served(server, document, keys | {"admin": signed.json()["access_token"]}, ids)

    yield asyncio.run(prepare())
    asyncio.run(server.kill9())


CREDENTIALS = ("none", "wrong scheme", "expired", "foreign", "valid", "admin")


def _headers(served: Served, credential: str) -> dict[str, str]:
    match credential:
        case "none":
            return {}
        case "wrong scheme":
            return {"Authorization": f"Basic {served.keys['owner']}"}
        case "expired":
            return {"Authorization": f"Bearer {EXPIRED}"}
        case "foreign":
            return {"Authorization": f"Bearer {served.keys['stranger']}"}
        case "admin":
            return {"Authorization": f"Bearer {served.keys['admin']}"}
        case _:
            return {"Authorization": f"Bearer {served.keys['owner']}"}


def _sweep(served: Served, credential: str, *, examples: int, is_fixed: bool) -> None:
    for operation in served.operations():
        # What takes away is not tried on what the other tests need, by those who may.
        is_safe = operation.method.upper() == "GET" or (credential == "valid" and operation.method.upper() != "DELETE")
        if credential == "admin" and (operation.method.upper(), operation.path) in ENDING:
            continue
        ask = _asking(served, credential, is_safe=is_safe)
        configured = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=is_fixed,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        configured(given(operation.as_strategy(), st.booleans())(ask))()


def _asking(served: Served, credential: str, *, is_safe: bool) -> Callable[[Any, bool], None]:
    def ask(case: Any, is_real: bool) -> None:
        _ask(served, credential, case, is_real=is_real, is_safe=is_safe)

    return ask


def _ask(served: Served, credential: str, case: Any, *, is_real: bool, is_safe: bool) -> None:
    if is_real and (is_safe or credential not in ("valid", "admin")) and case.path_parameters:
        # Ids that exist, and are the owner's.
        case.path_parameters = {name: served.ids[name] for name in case.path_parameters}
    if case.query and "wait" in case.query:
        case.query = {**case.query, "wait": 0}
    headers = {"Accept": "application/json", "Connection": "keep-alive", **_headers(served, credential)}
    case.headers = {
        name: value for name, value in (case.headers or {}).items() if name.lower() not in ("authorization", "accept")
    }
    response = case.call(session=served.session, headers=headers, timeout=20)
    served.statuses[f"{case.method} {case.operation.path}", response.status_code] += 1
    checks = CONFORM if response.status_code == 501 else [not_a_server_error, *CONFORM]
    case.validate_response(response, checks=checks)
    if response.status_code >= 400:
        shown = response.json()
        assert response.headers["content-type"][0] == "application/problem+json"
        assert shown["status"] == response.status_code
        assert shown["code"]
        assert response.headers["cache-control"] == ["no-store"]
    if credential in ("none", "wrong scheme", "expired") and not _is_public(case.operation.definition.raw):
        assert response.status_code in (400, 401), response.status_code


def _is_public(operation: dict[str, Any]) -> bool:
    return operation.get("security") == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_route_keeps_its_document_with_any_credential(served: Served, credential: str) -> None:
    is_refused = credential in ("none", "wrong scheme", "expired")
    _sweep(served, credential, examples=REFUSED if is_refused else EXAMPLES, is_fixed=True)
    if credential == "valid":  # what only ever refuses shows nothing of its answers
        answered = {route for route, status in served.statuses if status < 300}
        assert len(answered) >= 10, sorted(answered)
    if credential == "admin":
        assert served.session.get(f"{served.server.url}/auth/users", headers=_headers(served, "admin"), timeout=20).ok
    assert served.server.process.is_running
    assert "Traceback" not in served.server.process.logs(lines=10_000)


@pytest.mark.campaign
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_route_keeps_its_document_in_the_long_run(served: Served, credential: str) -> None:
    _sweep(served, credential, examples=CAMPAIGN * EXAMPLES, is_fixed=False)
    assert "Traceback" not in served.server.process.logs(lines=10_000)


# What would end the administrator's own session in the middle of the sweep.
ENDING = {("DELETE", "/auth/sessions"), ("DELETE", "/auth/sessions/current")}

# What asks for no credential, and why (tests/hostile/identity/routes.py has the reasons): nothing else may.
PUBLIC = {
    ("POST", "/auth/sessions"),
    ("POST", "/auth/token"),
    ("POST", "/auth/revoke"),
    ("POST", "/auth/password/reset"),
    ("POST", "/auth/register"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/auth/external"),
    ("POST", "/auth/external/{name}/backchannel"),
}


def _templates(served: Served) -> Iterator[tuple[str, str]]:
    """Give each route that asks for a credential."""
    for path, operations in served.document["paths"].items():
        for method, operation in operations.items():
            if not _is_public(operation):
                yield method.upper(), path


def test_only_these_routes_ask_for_no_credential(served: Served) -> None:
    every = {(method.upper(), path) for path, each in served.document["paths"].items() for method in each}
    assert every - set(_templates(served)) == PUBLIC


def test_all_refusals_of_a_credential_are_the_same(served: Served) -> None:
    """No route tells more than another of its service about who asks, or about whether something exists."""
    said: dict[tuple[str, str], set[bytes]] = {}
    for credential in ("none", "wrong scheme", "expired"):
        for method, path in _templates(served):
            for ids in (served.ids, dict.fromkeys(served.ids, "x_0")):
                url = served.server.url + path.format(**ids)
                answer = served.session.request(method, url, headers=_headers(served, credential), timeout=20)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                service = "a backend's" if path == "/auth/introspect" else path.split("/")[1]
                said.setdefault((credential, service), set()).add(answer.content)
    assert {asked: len(bodies) for asked, bodies in said.items()} == dict.fromkeys(said, 1)


def test_on_every_route_a_foreign_id_is_answered_as_an_unknown_one(served: Served) -> None:
    unknown = {name: f"{value.split('_', maxsplit=1)[0]}_" + "f" * 32 for name, value in served.ids.items()}
    headers = _headers(served, "foreign")
    body: dict[str, dict[str, Any]] = {"PATCH": {"title": "x"}, "POST": {}}
    bodies: dict[str, dict[str, Any]] = {
        "messages": {"content": "x", "agent": "plain"},
        "answers": {"wait": "wt_1", "value": True},
    }
    count = 0
    for method, path in _templates(served):
        if "{" not in path:
            continue
        count += 1
        sent = bodies.get(path.rsplit("/", maxsplit=1)[-1]) or body.get(method)
        answers = [
            served.session.request(
                method, served.server.url + path.format(**ids), headers=headers, json=sent, timeout=20
            )
            for ids in (served.ids, unknown)
        ]
        # What is for administrators is refused before anybody looks whether it exists.
        wanted = 403 if path.startswith(("/auth/", "/admin/")) else 404
        assert answers[0].status_code == wanted, (method, path, answers[0].content)
        assert answers[0].content == answers[1].content, (method, path)
        kept = [{name: value for name, value in each.headers.items() if name != "date"} for each in answers]
        assert kept[0] == kept[1], (method, path)
    assert count >= 10
    for path, name in (
        ("/v1/runs?thread={}", "thread"),
        ("/v1/runs?cursor={}", "run"),
        ("/v1/threads?cursor={}", "thread"),
    ):
        pages = [
            served.session.get(served.server.url + path.format(ids[name]), headers=headers, timeout=20).content
            for ids in (served.ids, unknown)
        ]
        assert pages[0] == pages[1], path


def test_the_document_describes_every_answer(served: Served) -> None:
    for method, path in _templates(served):
        responses = served.document["paths"][path][method.lower()]["responses"]
        assert {"400", "401", "503"} <= set(responses), (method, path)
        assert "422" not in responses
        for status, response in responses.items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)
    assert json.dumps(served.document).count("HTTPValidationError") == 0
