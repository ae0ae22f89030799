"""The way through a gateway to an auth service elsewhere: what goes along it, and what if its end is missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from runwire.auth.forward import Forward, Forwarded

SECRET = "backend-secret-" + "s" * 32
Answer = Callable[[httpx2.Request], httpx2.Response]


@asynccontextmanager
async def gateway(answer: Any, *, address: str = "203.0.113.7", deadline_s: float = 5.0) -> AsyncIterator[Any]:
    """Give a client of a gateway whose auth service is `answer`."""
    transport = answer if isinstance(answer, httpx2.AsyncBaseTransport) else httpx2.MockTransport(answer)
    async with httpx2.AsyncClient(transport=transport, base_url="https://auth.internal/below") as http:
        app = Forward(http, secret=SECRET, deadline_s=deadline_s)
        way = httpx2.ASGITransport(app=app, client=(address, 4711))
        async with httpx2.AsyncClient(transport=way, base_url="https://people") as client:
            yield client


async def test_only_what_the_service_reads_goes_to_it_and_only_what_clients_read_comes_back() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        headers = {"content-type": "application/json", "cache-control": "no-store", "retry-after": "3"}
        return httpx2.Response(201, json={"ok": 1}, headers={**headers, "set-cookie": "a=b", "server": "x"})

    async with gateway(answer) as people:
        given = {
            "authorization": "Bearer t",
            "origin": "https://page",
            "user-agent": "a browser",
            "cookie": "a=b",
            "x-forwarded-for": "198.51.100.1",
            "x-runwire-service": "guess",
            "x-other": "1",
            "connection": "keep-alive, x-other",
        }
        got = await people.post("/auth/sessions?a=b", json={"user": "ada"}, headers=given)
    (request,) = asked
    assert str(request.url) == "https://auth.internal/below/auth/sessions?a=b"
    assert (request.method, json.loads(request.content)) == ("POST", {"user": "ada"})
    sent = dict(request.headers)
    assert sent["x-forwarded-for"] == "203.0.113.7"
    assert sent["x-runwire-service"] == SECRET
    assert (sent["authorization"], sent["origin"], sent["user-agent"]) == ("Bearer t", "https://page", "a browser")
    assert not {"cookie", "x-other"} & set(sent)
    assert got.status_code == 201
    assert got.json() == {"ok": 1}
    assert got.headers["retry-after"] == "3"
    assert not {"set-cookie", "server"} & set(got.headers)
    assert set(request.extensions["timeout"].values()) == {None}, "the deadline is the way's own: a hash waits its turn"


async def test_a_header_that_is_no_ascii_goes_along_as_it_came() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(401)

    async with gateway(answer) as people:
        got = await people.get("/auth/sessions", headers=[(b"user-agent", b"\xff\xfe"), (b"origin", b"http://\xe4")])
    assert got.status_code == 401
    sent = dict(asked[0].headers.raw)
    assert (sent[b"user-agent"], sent[b"origin"]) == (b"\xff\xfe", b"http://\xe4")


def _breaks(_request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("cannot reach https://auth.internal with secret")


async def _hangs(_request: httpx2.Request) -> httpx2.Response:
    await asyncio.Event().wait()
    raise AssertionError


def _floods(_request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=b"x" * 2_000_000)


@pytest.mark.parametrize("answer", [_breaks, _hangs, _floods])
async def test_a_service_that_fails_is_a_problem_that_says_when_to_come_back(answer: Any) -> None:
    async with gateway(answer, deadline_s=0.2) as people:
        got = await people.post("/auth/token", data={"grant_type": "refresh_token"})
    assert got.status_code == 503
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json()["code"] == "unavailable"
    assert "auth.internal" not in got.text
    if answer is not _floods:
        assert got.json()["retry_after_s"] == 1.0
        assert got.headers["retry-after"] == "1"


async def test_redirect_is_not_followed_and_shown_only_on_the_way_to_another_issuer() -> None:
    def answer(_request: httpx2.Request) -> httpx2.Response:
        cookies = [("set-cookie", "runwire_sign_in=a; HttpOnly"), ("set-cookie", "b=c")]
        return httpx2.Response(302, headers=[("location", "https://elsewhere"), *cookies])

    async with gateway(answer) as people:
        got = await people.get("/.well-known/jwks.json")
        to_issuer = await people.get("/auth/external/example")
    assert (got.status_code, got.headers.get("location"), got.headers.get("set-cookie")) == (302, None, None)
    assert (to_issuer.status_code, to_issuer.headers["location"]) == (302, "https://elsewhere")
    assert to_issuer.headers.get_list("set-cookie") == ["runwire_sign_in=a; HttpOnly"]


@pytest.mark.parametrize("path", ["/auth/../admin", "/auth/%2e%2e/admin", "/auth//x", "/auth/a%20b", "/auth/\\x"])
async def test_a_path_that_could_mean_another_there_is_not_asked_for(path: str) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="https://auth.internal") as http:
        status, _ = await asked_raw(Forward(http, secret=SECRET), unquote(path), b"")
    assert status == 404
    assert asked == []


@pytest.mark.parametrize("path", ["/auth/introspect", "/auth/introspect/", "/internal/introspect", "/internal"])
async def test_what_only_backends_ask_is_not_asked_for(path: str) -> None:
    """They know the service's own address; who comes here with a service secret is trying one."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={"active": True})

    async with gateway(answer) as people:
        got = await people.post(path, headers={"authorization": f"Bearer {SECRET}"}, data={"token": "rwk_x"})
        assert (got.status_code, got.json()["code"]) == (404, "not_found")
        assert asked == []
        assert (await people.post("/auth/introspection")).status_code == 200, "another path"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "TRACK", "X-OTHER"])
async def test_method_that_a_proxy_may_answer_with_what_it_was_sent_is_not_forwarded(method: str) -> None:
    def echo(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=repr(request.headers.raw).encode())

    async with gateway(echo) as people:
        got = await people.request(method, "/auth/sessions")
    assert SECRET not in got.text
    assert got.status_code == 405
    assert "POST" in got.headers["allow"]


async def asked_raw(app: Any, path: str, body: bytes, **more: Any) -> tuple[int, Any]:
    """Ask an ASGI app as a server does; give the status and the JSON of its answer."""
    sent: list[MutableMapping[str, Any]] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers: list[tuple[bytes, bytes]] = []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, **more}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent) or b"{}")


async def test_body_over_the_bound_is_refused_here() -> None:
    async with gateway(_breaks) as people:
        got = await people.post("/auth/sessions", content=b"x" * 16_385)
    assert (got.status_code, got.json()["code"]) == (413, "too_large")


async def test_only_so_many_wait_for_the_service_at_once() -> None:
    async with gateway(_hangs, deadline_s=3.0) as people, asyncio.TaskGroup() as crowd:
        calls = [crowd.create_task(people.post("/auth/token", data={"a": "b"})) for _ in range(257)]
        first = await next(asyncio.as_completed(calls))
        assert first.status_code == 503
        assert "Too many" in first.json()["detail"]
        for call in calls:
            call.cancel()


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({"x-forwarded-for": "203.0.113.7, 10.0.0.1", "x-runwire-service": SECRET}, "203.0.113.7"),
        ({"x-forwarded-for": "203.0.113.7", "x-runwire-service": SECRET[:-1]}, "10.0.0.9"),
        ({"x-forwarded-for": "203.0.113.7", "x-runwire-service": "ü"}, "10.0.0.9"),
        ({"x-forwarded-for": "203.0.113.7"}, "10.0.0.9"),
        ({"x-runwire-service": SECRET}, "10.0.0.9"),
    ],
)
async def test_service_believes_an_address_only_of_who_knows_the_secret(headers: dict[str, str], seen: str) -> None:
    async def service(
        scope: MutableMapping[str, Any],
        _receive: Callable[[], Awaitable[Any]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(scope["client"][0]).encode()})

    given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    app = Forwarded(service, secrets=(SECRET,))
    _, said = await asked_raw(app, "/auth/sessions", b"", headers=given, client=("10.0.0.9", 1))
    assert said == seen
