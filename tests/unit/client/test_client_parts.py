"""Backoff, close codes, HTTP and sign-in, each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from runwire.client.backoff import Backoff
from runwire.client.http import Http
from runwire.client.refusal import may_reconnect, stopped
from runwire.client.sign_in import sign_in
from runwire.errors import Conflict, Forbidden, NotFound, ProtocolError, Unauthenticated, Unavailable


def test_waits_grow_to_a_bound_and_chance_spreads_them_from_zero() -> None:
    backoff = Backoff()
    bounds = []
    for _ in range(8):
        backoff.lost(lived_s=0)
        bounds.append(backoff.wait_s(chance=1.0))
        assert backoff.wait_s(chance=0.0) == 0.0
    assert bounds == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_a_connection_that_lived_starts_over() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.lost(lived_s=0)
    backoff.lost(lived_s=60)
    assert backoff.wait_s(chance=1.0) == 0.5


def test_a_bye_that_asks_to_wait_is_honoured() -> None:
    backoff = Backoff()
    backoff.lost(lived_s=60)
    assert backoff.wait_s(chance=0.0, asked_s=7.5) == 7.5
    assert backoff.wait_s(chance=1.0, asked_s=7.5) == 8.0


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1012, 4000, 4001, 4002, 4005, 4008, 4012, 4013, 4029, 4499])
def test_codes_to_come_back_after(code: int) -> None:
    assert may_reconnect(code)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4500, 4501, 4503, 4504, 4506, 4507, 4999])
def test_codes_to_stop_at(code: int) -> None:
    assert not may_reconnect(code)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4500, ProtocolError), (4501, Unauthenticated), (4503, Forbidden), (4507, Unauthenticated), (4999, ProtocolError)],
)
def test_a_stop_has_the_error_of_who_must_act(code: int, kind: type[Exception]) -> None:
    assert type(stopped(code, "why")) is kind


def transport(answer: Callable[[httpx2.Request], Any]) -> httpx2.MockTransport:
    return httpx2.MockTransport(answer)


async def get_thread(answer: Callable[[httpx2.Request], httpx2.Response]) -> dict[str, Any]:
    http = Http("http://server/prefix", "key", transport=transport(answer))
    try:
        return await http.thread("th_1")
    finally:
        await http.aclose()


def test_http_asks_below_the_prefix_with_the_token() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/prefix/v1/threads/th_1"
        assert request.headers["Authorization"] == "Bearer key"
        return httpx2.Response(200, json={"thread": "th_1"})

    assert asyncio.run(get_thread(answer)) == {"thread": "th_1"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFound),
        (409, "run_active", Conflict),
        (401, "unauthenticated", Unauthenticated),
        (429, "rate_limited", Unavailable),
        (501, "unsupported", ProtocolError),
    ],
)
def test_a_problem_is_the_error_of_its_code(status: int, code: str, kind: type[Exception]) -> None:
    body = {"code": code, "message": "no", "field": "f", "retry_after_s": 1.5}
    with pytest.raises(kind) as raised:
        asyncio.run(get_thread(lambda _: httpx2.Response(status, json=body)))
    assert type(raised.value) is kind
    assert (raised.value.code, raised.value.field, raised.value.retry_after_s) == (code, "f", 1.5)  # type: ignore[attr-defined]  # all of ours have them


def test_a_proxys_error_page_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="502"):
        asyncio.run(get_thread(lambda _: httpx2.Response(502, text="<html>bad gateway")))


def test_no_answer_is_unavailable() -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(Unavailable, match="refused"):
        asyncio.run(get_thread(answer))


class Auth:
    """An auth service that counts."""

    def __init__(self, *, life_s: int) -> None:
        self.life_s = life_s
        self.asked: list[tuple[str, str]] = []
        self.is_ended = False

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0)  # as a network does, let others run in between
        self.asked.append((f"{request.method} {request.url.path}", request.content.decode()))
        is_old = not request.content.decode().endswith(f"=r{len(self.asked) - 1}")  # each works once
        if request.url.path == "/auth/token" and (self.is_ended or is_old):
            return httpx2.Response(400, json={"error": "invalid_grant", "code": "unauthenticated", "message": "used"})
        number = len(self.asked)
        body = {"access_token": f"a{number}", "refresh_token": f"r{number}", "expires_in": self.life_s, "user": "usr_1"}
        return httpx2.Response(201 if number == 1 else 200, json=body)


def test_a_sign_in_link_may_be_the_whole_address() -> None:
    auth = Auth(life_s=600)
    signed = asyncio.run(sign_in("http://s", link="http://s/?link=abc", transport=transport(auth)))
    assert signed.user == "usr_1"
    assert auth.asked == [("POST /auth/sessions", '{"link":"abc"}')]


def test_a_token_that_lives_is_used_again_and_an_old_one_is_refreshed_once() -> None:
    async def run(life_s: int) -> tuple[list[str], Auth]:
        auth = Auth(life_s=life_s)
        signed = await sign_in("http://s", user="ada", password="p", transport=transport(auth))
        async with asyncio.TaskGroup() as tasks:
            found = [tasks.create_task(signed()) for _ in range(3)]
        return [task.result() for task in found], auth

    tokens, auth = asyncio.run(run(600))
    assert tokens == ["a1", "a1", "a1"]
    assert len(auth.asked) == 1
    tokens, auth = asyncio.run(run(0))
    assert auth.asked[1] == ("POST /auth/token", "grant_type=refresh_token&refresh_token=r1")
    assert tokens == ["a2", "a3", "a4"]


def test_an_ended_session_says_to_sign_in_again() -> None:
    async def run() -> None:
        auth = Auth(life_s=0)
        signed = await sign_in("http://s", link="abc", transport=transport(auth))
        auth.is_ended = True
        await signed()

    with pytest.raises(Unauthenticated):
        asyncio.run(run())


def test_one_way_to_sign_in_must_be_named() -> None:
    for options in ({}, {"user": "ada"}, {"user": "ada", "password": "p", "link": "x"}):
        with pytest.raises(ProtocolError):
            asyncio.run(sign_in("http://s", **options))  # type: ignore[arg-type]  # that is the test
