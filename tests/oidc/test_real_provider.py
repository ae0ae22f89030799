"""Sign-in by another issuer, with a real one: `oidc-provider` as a process, and a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.oidc.provider import API, OPAQUE, OTHER_API, SECRET, Browser, OidcProvider, free_port, signing_key
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from runwire.testing.server import ServerProcess

AGENT = Path(__file__).resolve().parent.parent / "agents" / "golden.py"
WITHDRAWN = 4507
CLOSED_S = 1.0  # DESIGN §7
MARGIN = 3

pytestmark = pytest.mark.timeout(300)  # the first of them may have to install the provider

CONFIGURATION = """
[[issuers]]
name = "company"
issuer = "{url}"
audience = "{audience}"
algorithms = ["ES256"]
client_id = "page"
client_secret = "{secret}"
may_create_users = true
allow_private_addresses = true
{more}
[issuers.claims]
name = "preferred_username"
roles = "groups"
role_values = {{ bosses = "admin" }}
"""


class Scene:
    """A provider and a server that takes its word."""

    def __init__(self, provider: OidcProvider, server: ServerProcess) -> None:
        self.provider = provider
        self.server = server
        self.browsers = AsyncExitStack()

    def browser(self) -> Browser:
        browser = Browser(self.provider, self.server.url)
        self.browsers.push_async_callback(browser.http.aclose)
        return browser

    async def status(self, token: str) -> int:
        async with httpx2.AsyncClient(timeout=20, trust_env=False) as http:
            headers = {"authorization": f"Bearer {token}"}
            return (await http.get(f"{self.server.url}/v1/threads", headers=headers)).status_code

    async def users(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(await self.server.cli("user", "list", "--json"))
        return {row["user"]: row for row in rows}


@asynccontextmanager
async def opened(folder: Path, *, audience: str = API, more: str = "") -> AsyncIterator[Scene]:
    port = free_port()
    provider = OidcProvider(f"http://127.0.0.1:{port}")
    provider.people = {"ada": {"name": "ada@example.org", "groups": ["bosses"]}, "eve": {"name": "ada@example.org"}}
    settings = {"url": provider.url, "audience": audience, "secret": SECRET, "more": more}
    text = CONFIGURATION.format(**settings).replace("{url}", provider.url)
    (folder / "runwire.toml").write_text(text, encoding="utf-8")
    await provider.start()
    try:
        async with ServerProcess(f"{AGENT}:golden", data_dir=folder / "data", port=port, cwd=folder) as server:
            scene = Scene(provider, server)
            async with scene.browsers:
                yield scene
    finally:
        await provider.kill()


@asynccontextmanager
async def listening(server: ServerProcess, token: str) -> AsyncIterator[Any]:
    url = server.url.replace("http", "ws", 1) + "/v1/ws"
    async with connect(url, additional_headers={"authorization": f"Bearer {token}"}, proxy=None) as socket:
        assert json.loads(await socket.recv())["op"] == "welcome"
        yield socket


async def closed_after(socket: Any, began_s: float) -> tuple[float, int]:
    """Return how long it took until the server closed a socket, and with what code."""
    code = 0
    try:
        async with asyncio.timeout(20):
            while True:
                said = json.loads(await socket.recv())
                code = said.get("code", code)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else code
    return time.monotonic() - began_s, code


async def test_the_page_signs_in_by_the_issuer_and_a_log_out_there_ends_it_here(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        ada, eve = scene.browser(), scene.browser()
        granted, other = await ada.sign_in("ada"), await eve.sign_in("eve")

        # A20: by issuer and subject; both are called the same there, and with the same address.
        users = await scene.users()
        assert granted["user"] != other["user"]
        assert users[granted["user"]]["name"] == "ada@example.org"
        assert users[granted["user"]]["roles"] == ["admin", "user"]
        assert users[other["user"]]["roles"] == ["user"]

        async with (
            listening(scene.server, granted["access_token"]) as socket,
            listening(scene.server, other["access_token"]) as others,
        ):
            began_s = time.monotonic()
            await ada.sign_out_there()
            took_s, code = await closed_after(socket, began_s)
            assert code == WITHDRAWN
            assert took_s < CLOSED_S * MARGIN
            assert await scene.status(granted["access_token"]) == 401
            await others.send('{"op":"ping"}')
            assert await scene.status(other["access_token"]) == 200  # somebody else's session goes on
        assert (await scene.browser().sign_in("ada"))["user"] == granted["user"]


async def test_what_does_not_belong_to_a_sign_in_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        ada, thief = scene.browser(), scene.browser()
        back = await ada.sign_in_there(await ada.go_to_issuer(), "ada")
        # Another browser has not begun it: nobody is signed in as somebody else by a link.
        assert (await thief.come_back(back)).status_code == 401
        cookie = ada.http.cookies["runwire_sign_in"]
        assert (await ada.come_back(back)).status_code == 303
        assert "runwire_sign_in" not in ada.http.cookies
        # The same state once more, with the cookie that goes with it.
        again = await thief.http.get(back, headers={"cookie": f"runwire_sign_in={cookie}"})
        assert again.status_code == 401
        # An ID token that was made for another sign-in.
        there = await ada.go_to_issuer(nonce="another")
        assert (await ada.come_back(await ada.sign_in_there(there, "ada"))).status_code == 401

        there = await ada.go_to_issuer()
        back = await ada.sign_in_there(there, "ada")
        await scene.provider.kill()
        away = await ada.come_back(back)
        assert away.status_code == 503
        assert int(away.headers["retry-after"]) >= 1


async def test_a_token_of_the_issuer_opens_the_api_and_a_socket_until_it_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        ada = scene.browser()
        token = (await ada.access_token("ada"))["access_token"]
        assert await scene.status(token) == 200
        assert [user["roles"] for user in (await scene.users()).values() if user["name"] == "ada@example.org"] == [
            ["admin", "user"]
        ]
        assert (
            await scene.status((await scene.browser().access_token("ada", resource=OTHER_API))["access_token"]) == 401
        )
        assert await scene.status((await ada.access_token("ada"))["id_token"]) == 401

        async with listening(scene.server, token) as socket:
            began_s = time.monotonic()
            await ada.sign_out_there()
            took_s, code = await closed_after(socket, began_s)
        assert code == WITHDRAWN
        assert took_s < CLOSED_S * MARGIN
        assert await scene.status(token) == 401

        (found,) = json.loads(await scene.server.cli("doctor", "issuers", "--json"))
        assert (found["fault"], found["keys"]) == (None, 1)
        assert "back-channel" in found["withdrawn_within"]["its signed tokens"]

        # The issuer changes its keys, and is away then: the last good ones go on.
        scene.provider.keys.insert(0, signing_key("second"))
        await scene.provider.restart()
        newer = (await scene.browser().access_token("ada"))["access_token"]
        assert await scene.status(newer) == 200
        await scene.provider.kill()
        assert await scene.status(newer) == 200
        assert await scene.status(newer[:-8] + "AAAAAAAA") == 401


async def test_an_opaque_token_is_asked_about_and_its_end_closes_the_socket(tmp_path: Path) -> None:
    asked = 'introspection_url = "{url}/token/introspection"'
    async with opened(tmp_path, audience=OPAQUE, more=asked) as scene:
        ada = scene.browser()
        token = (await ada.access_token("ada", resource=OPAQUE))["access_token"]
        assert "." not in token
        assert await scene.status(token) == 200
        assert await scene.status(token[:-4] + "AAAA") == 401
        async with listening(scene.server, token) as socket:
            began_s = time.monotonic()
            answer = await ada.http.post(
                f"{scene.provider.url}/token/revocation", data={"token": token}, auth=("page", SECRET)
            )
            assert answer.status_code == 200
            took_s, code = await closed_after(socket, began_s)
        assert code == WITHDRAWN
        assert took_s < 20
        assert await scene.status(token) == 401
