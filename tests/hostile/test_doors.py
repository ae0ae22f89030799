"""What comes before a socket is one: heads of upgrades and of HTTP, and bodies, in every wrong shape."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from tests.hostile.raw import dialled, say, socket, upgrade
from tests.hostile.target import CANARY, Target

_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
_VERSION = "Sec-WebSocket-Version: 13"


def _head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _upgrade_with(port: int, *changes: tuple[str, str]) -> bytes:
    text = upgrade(port).decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text.encode("latin-1")


WRONG_UPGRADES: dict[str, tuple[tuple[tuple[str, str], ...], int]] = {
    "no key": (((f"{_KEY}\r\n", ""),), 400),
    "a key that is no base64": (((_KEY, "Sec-WebSocket-Key: ***"),), 400),
    "a short key": (((_KEY, "Sec-WebSocket-Key: YQ=="),), 400),
    "two keys": (((_KEY, f"{_KEY}\r\n{_KEY}"),), 400),
    "no version": (((f"{_VERSION}\r\n", ""),), 426),
    "version 8": (((_VERSION, "Sec-WebSocket-Version: 8"),), 426),
    "two versions": (((_VERSION, f"{_VERSION}\r\n{_VERSION}"),), 426),
    "two hosts": ((("Upgrade:", "Host: evil.example\r\nUpgrade:"),), 400),
    "no host": ((("Host: 127.0.0.1", "X-Host: 127.0.0.1"),), 400),
    "another name": ((("Host: 127.0.0.1", "Host: evil.example"),), 400),
    "a method that opens nothing": ((("GET /v1/ws", "POST /v1/ws"),), 405),
    "HTTP/1.0": ((("HTTP/1.1", "HTTP/1.0"),), 404),  # RFC 9110 §7.8: its Upgrade is ignored
    "a space in a header's name": (((_VERSION, f"{_VERSION}\r\nBad Name: x"),), 400),
    "a folded header": (((_VERSION, f"{_VERSION}\r\n folded"),), 426),
    "a NUL in a header": (((_VERSION, f"{_VERSION}\r\nX-Nul: a\0b"),), 400),
    "a header of 10 KiB": (((_VERSION, f"{_VERSION}\r\nX-Long: {'x' * 10_240}"),), 431),
    "200 headers": (((_VERSION, "\r\n".join([_VERSION, *(f"X-{n}: 1" for n in range(200))])),), 431),
    "a path of 10 KiB": ((("/v1/ws", "/v1/ws?" + "x" * 10_240),), 414),
    "a header of 70 KiB": (((_VERSION, f"{_VERSION}\r\nX-Long: {'x' * 70_000}"),), 431),
    "a subprotocol that is no token": (((_VERSION, f"{_VERSION}\r\nSec-WebSocket-Protocol: a b, (c)"),), 400),
    "an extension that is no extension": (
        ((_VERSION, f"{_VERSION}\r\nSec-WebSocket-Extensions: ;;="),),
        101,
    ),  # none is spoken here
    "another path": ((("/v1/ws", "/v1/nowhere"),), 404),
    "a path that climbs": ((("/v1/ws", "/v1/../v1/ws"),), 404),
    "an encoded slash": ((("/v1/ws", "/v1%2fws"),), 101),  # RFC 3986 §6.2.2: decoded, it is the same path
    "a token in the query": ((("/v1/ws", f"/v1/ws?access_token={CANARY}"),), 400),
    "a foreign origin": (((_VERSION, f"{_VERSION}\r\nOrigin: https://evil.example"),), 403),
    "a foreign origin before our own": (
        ((_VERSION, f"{_VERSION}\r\nOrigin: https://evil.example\r\nOrigin: http://localhost"),),
        400,
    ),
}


@pytest.mark.parametrize("case", WRONG_UPGRADES)
async def test_a_wrong_upgrade_is_refused_with_a_problem_and_closed(target: Target, case: str) -> None:
    changes, status = WRONG_UPGRADES[case]
    async with dialled(target.port, _upgrade_with(target.port, *changes)) as raw:
        if status == 101:
            assert (await raw.head())[0] == 101
            return
        found = await raw.problem()
        assert found["status"] == status, found
        assert CANARY not in json.dumps(found)
        assert await raw.gone() == b""


WRONG_HTTP: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 " + CANARY.encode() + b"\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two hosts": (_head("GET /v1/me HTTP/1.1", "Host: 127.0.0.1", "Host: evil.example"), 400),
    "no host": (_head("GET /v1/me HTTP/1.1", "X: 1"), 400),
    "a length that is no number": (_head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Content-Length: x"), 400),
    "two lengths": (
        _head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 2", "Content-Length: 3"),
        400,
    ),
    "a length below zero": (_head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Content-Length: -1"), 400),
    "length and chunks": (
        _head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 4", "Transfer-Encoding: chunked")
        + b"0\r\n\r\nGET /v1/me HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        400,
    ),
    "chunks and length": (
        _head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Transfer-Encoding: chunked", "Content-Length: 4")
        + b"0\r\n\r\n",
        400,
    ),
    "an encoding that nobody knows": (
        _head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Transfer-Encoding: xchunked"),
        501,
    ),
    "chunks that end elsewhere": (
        _head("POST /v1/threads HTTP/1.1", "Host: 127.0.0.1", "Transfer-Encoding: chunked, identity"),
        501,
    ),
    "a head of 100 KiB": (_head("GET /v1/me HTTP/1.1", "Host: 127.0.0.1", "X: " + "x" * 100_000), 431),
    "a path of bytes": (b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", WRONG_HTTP)
async def test_what_is_no_http_is_refused_with_a_problem_and_closed(target: Target, case: str) -> None:
    """Closed: what follows a head that two readers may understand differently is nobody's request (RFC 9112 §6.1)."""
    said, status = WRONG_HTTP[case]
    async with dialled(target.port, said) as raw:
        found = await raw.problem()
        assert found["status"] == status, found
        assert await raw.gone() == b"", "an answer to what was smuggled in"


async def test_garbage_behind_an_answered_request_is_no_fault_of_ours(target: Target) -> None:
    """The answer is out, the body comes late and wrong: the connection ends, and no line of the log is a traceback."""
    token = await target.key("mallory")
    chunked = ("POST /v1/nowhere HTTP/1.1", "Host: 127.0.0.1", "Transfer-Encoding: chunked")
    async with dialled(target.port, _head(*chunked)) as raw:
        assert (await raw.answer())[0] == 404
        await raw.write(b"zz" + CANARY.encode() + b"\r\n")
        await raw.gone()
    stream = ("GET /v1/threads/{} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}")
    mallory = target.client(token)
    _, made = await asyncio.to_thread(mallory.http, "POST", "/v1/threads", {})
    head = _head(
        stream[0].format(made["thread"] + "/events"), *stream[1:], "Accept: text/event-stream",
        "Transfer-Encoding: chunked",
    )  # fmt: skip
    async with dialled(target.port, head) as raw:
        assert (await raw.head())[0] == 200
        await raw.write(b"zz" + CANARY.encode() + b"\r\n")
        await raw.gone()


PATHS = {
    "up": "/v1/../v1/me",
    "up, encoded": "/v1/%2e%2e/v1/me",
    "up from the page's files": "/assets/../../../../etc/passwd",
    "up from the page's files, encoded": "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "up, doubly encoded": "/%252e%252e/%252e%252e/etc/passwd",
    "up from the documents": "/docs/%2e%2e/%2e%2e/pyproject.toml",
    "backslashes": "/..\\..\\etc\\passwd",
    "a NUL": "/v1/me%00",
    "bytes that are no UTF-8": "/v1/threads/%ff%fe",
    "two slashes": "//v1/me",
    "an absolute form": "http://evil.example/v1/me",
    "a semicolon": "/v1/me;x=1",
    "a NUL in an id": "/v1/threads/th_%00",
    "a surrogate in an id": "/v1/threads/%ed%a0%80",
    "a long id": "/v1/threads/" + "t" * 4_000,
    "a NUL in a query": "/v1/runs?thread=%00&agent=%00",
    "bytes in a query": "/v1/runs?thread=%ff",
    "10,000 parameters": "/v1/runs?" + "&".join(f"a{n}=1" for n in range(5_000)),
    "a cursor of bytes": "/v1/threads?cursor=%ff%00",
    "a limit beyond 64 bits": f"/v1/threads?limit={2**70}",
    "a limit of 5,000 digits": "/v1/threads?limit=" + "9" * 5_000,
    "after beyond 64 bits": f"/v1/threads/th_0/events?after={2**63}",
    "an endless wait": "/v1/threads/th_0/events?wait=inf",
    "a wait that is no number": "/v1/threads/th_0/events?wait=nan",
}


@pytest.mark.parametrize("case", PATHS)
async def test_no_path_leads_out_of_the_house(target: Target, case: str) -> None:
    token = await target.key("mallory")
    head = _head(f"GET {PATHS[case]} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}")
    async with dialled(target.port, head) as raw:
        status, said, body = await raw.answer()
    if case == "a semicolon" or not said.lower().count("application/problem+json"):
        assert status in (200, 404), (status, body)
    else:
        assert status in (400, 404), (status, body)
    assert b"root:" not in body
    assert b"build-system" not in body


async def test_a_body_of_10_mb_is_refused_before_it_is_all_there(target: Target) -> None:
    token = await target.key("mallory")
    before = target.memory_bytes
    for path in ("/v1/threads", "/auth/sessions", "/auth/token"):
        head = _head(
            f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}", "Content-Length: 10000000",
            "Content-Type: application/json",
        )  # fmt: skip
        async with dialled(target.port, head) as raw:
            await raw.write(b'{"title":"' + b"x" * 200_000)
            found = await raw.problem()
            assert (found["status"], found["code"]) == (413, "too_large")
    assert target.memory_bytes - before < 16 << 20


async def test_who_hangs_up_in_the_middle_of_a_body_leaves_no_trace(target: Target) -> None:
    token = await target.key("mallory")
    for path in ("/v1/threads", "/auth/sessions", "/auth/token", "/auth/introspect"):
        head = _head(
            f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}", "Content-Length: 100"
        )
        async with dialled(target.port, head) as raw:
            await raw.write(b'{"title":"' + CANARY.encode())
        async with dialled(target.port, head + b"{") as raw:
            raw.writer.write_eof()
            await raw.gone()
    assert (await asyncio.to_thread(target.client(token).http, "GET", "/v1/threads"))[0] == 200


async def test_requests_in_one_flight_are_answered_in_order_and_none_after_an_upgrade(target: Target) -> None:
    token = await target.key("mallory")
    ask = _head("GET /v1/me HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}")
    async with dialled(target.port, ask * 50) as raw:
        for _ in range(50):
            assert (await raw.answer())[0] == 200
    async with dialled(target.port, upgrade(target.port, token=token) + ask) as raw:
        assert b"HTTP/1.1 200" not in await raw.gone()


async def test_what_follows_the_head_of_an_upgrade_in_one_flight_is_heard(target: Target) -> None:
    """Not a client's right (RFC 6455 §4.1), but what is sent is either heard or refused, never lost in silence."""
    token = await target.key("mallory")
    hello = say({"op": "hello", "token": token, "client": "impatient/1"})
    async with dialled(target.port, upgrade(target.port) + hello) as raw:
        assert (await raw.head())[0] == 101
        assert (await raw.next())["op"] == "welcome"


async def test_many_upgrades_that_are_refused_leave_no_connection_behind(target: Target) -> None:
    async with AsyncExitStack() as stack:
        for n in range(100):
            said = _upgrade_with(target.port, (_VERSION, f"{_VERSION}\r\nX-Long: {'x' * 10_240}"))
            raw = await stack.enter_async_context(dialled(target.port, said))
            assert (await raw.problem())["status"] == 431, n
    async with socket(target.port, await target.key("mallory")) as raw:
        await raw.write(say({"op": "unsubscribe", "id": "x", "thread": "th_0"}))
        assert (await raw.reply("x"))["op"] == "unsubscribed"
