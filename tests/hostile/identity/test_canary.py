"""B20: what is secret is in no log line at any level, no answer and no close reason of a server that runs."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest
import websockets
from tests.hostile.identity.household import CANARY, SECRET, Household

_LOG_LINES = 1_000_000


async def test_b20_no_secret_is_in_a_log_an_error_or_a_close_reason(household: Household) -> None:
    granted = await household.sign_in("ada")
    key = await household.api_key("ada")
    shown: list[str] = []
    async with household.http() as http:
        await _misused(http, household, granted["access_token"], granted["refresh_token"], key, shown)
    wrong = (granted["access_token"] + "x", key[:-1], granted["refresh_token"], SECRET)
    shown += [await _closed(household, credential) for credential in wrong]
    with pytest.raises(Exception) as refused:  # noqa: PT011 - whatever a command line would show
        await household.ask("user_add", name="ada", password=household.password("ada"), roles=["user"])
    shown += [repr(refused.value)]
    assert len(household.secrets) >= 6
    assert len(shown) >= 25
    assert found(household, "\n".join(shown)) == []
    log = household.process.log_path.read_text(encoding="utf-8", errors="replace")
    assert "session_created" in log, "the log is that of this server, and says what happens"
    assert found(household, log) == []


async def test_b20_what_is_made_for_others_is_shown_once_and_never_logged(household: Household) -> None:
    """Invitations, resets, keys, tokens of services and codes of issuers: each answered to whoever made it alone."""
    root = {"authorization": f"Bearer {(await household.sign_in('root'))['access_token']}"}
    shown: list[str] = []
    async with household.http() as http:
        made = await _made(http, household, root)
        household.secrets |= made
        asked = [
            await http.request(method, path, headers=root)
            for method, path in (
                ("GET", "/auth/users"),
                ("GET", "/auth/invites"),
                ("GET", "/auth/signing-keys"),
                ("GET", "/auth/keys"),
                ("GET", "/auth/audit"),
                ("GET", "/admin/v1/breakers"),
                ("GET", "/metrics"),
            )
        ]
        asked += [await http.get(f"/auth/external/none/callback?code={secret}&state={secret}") for secret in made]
        asked += [await http.post("/auth/external/none/backchannel", data={"logout_token": secret}) for secret in made]
        for secret in made:  # used a second time, or for what it is not
            asked.append(await http.post("/auth/password/reset", json={"token": secret, "password": "short"}))
            asked.append(await http.delete(f"/auth/invites/{secret}", headers=root))
            asked.append(await http.delete(f"/auth/signing-keys/{secret}", headers=root))
            asked.append(
                await http.post("/auth/token", data={"grant_type": "client_credentials", "client_secret": secret})
            )
        shown += [f"{answer.status_code} {answer.headers} {answer.text}" for answer in asked]
    assert len(made) >= 7
    assert all(answer.status_code < 500 or answer.status_code == 501 for answer in asked)
    assert found(household, "\n".join(shown)) == []
    assert found(household, household.process.log_path.read_text(encoding="utf-8", errors="replace")) == []


async def _made(http: httpx2.AsyncClient, household: Household, root: dict[str, str]) -> set[str]:
    """Make one of everything that has a secret; return the secrets."""
    made = (await http.post("/auth/users", json={"name": "carl"}, headers=root)).raise_for_status().json()
    again = (await http.post(f"/auth/users/{made['user']}/reset", headers=root)).raise_for_status().json()
    invite = (await http.post("/auth/invites", json={}, headers=root)).raise_for_status().json()
    password = household.password("dora")
    who = {"user": "dora", "password": password, "invite": invite["secret"]}
    dora = (await http.post("/auth/register", json=who)).raise_for_status().json()
    bearer = {"authorization": f"Bearer {dora['access_token']}"}
    key = (await http.post("/auth/keys", json={"scopes": ["runwire"]}, headers=bearer)).raise_for_status().json()
    await household.ask("user_add", name="nightly", roles=["service"], password=None)
    service = await household.api_key("nightly")
    form = {"grant_type": "client_credentials", "client_id": "nightly", "client_secret": service}
    token = (await http.post("/auth/token", data=form)).raise_for_status().json()
    chosen = household.password("carl")
    reset = {"token": again["secret"], "password": chosen}
    (await http.post("/auth/password/reset", json=reset)).raise_for_status()
    return {
        made["reset"]["secret"],
        again["secret"],
        invite["secret"],
        dora["access_token"],
        dora["refresh_token"],
        key["secret"],
        token["access_token"],
    }


def found(household: Household, text: str) -> list[str]:
    """Return the secrets that a text has; of tokens also their signatures alone."""
    parts = {secret.rpartition(".")[2] for secret in household.secrets if secret.count(".") == 2}
    return [secret for secret in household.secrets | parts if secret in text] + [CANARY] * (CANARY in text)


def test_b20_a_line_that_shows_a_secret_would_be_seen(household: Household) -> None:
    assert found(household, f"2026-11-23 sign_in_failed password={household.password('ada')}") != []
    assert found(household, f"introspect with {SECRET}") == [SECRET]


async def _misused(
    http: httpx2.AsyncClient, household: Household, access: str, refresh: str, key: str, shown: list[str]
) -> None:
    password = household.password("ada")
    bearer = {"authorization": f"Bearer {access}"}
    asked = [
        http.post("/auth/sessions", json={"user": "ada", "password": password + "!"}),
        http.post("/auth/sessions", json={"user": password, "password": "ada"}),
        http.post("/auth/sessions", json={"user": "ada", "passwort": password}),
        http.post("/auth/sessions", content=f'{{"user": "ada", "password": "{password}'),
        http.post("/auth/sessions", json={"link": password}),
        http.post("/auth/sessions", json={"user": "ada", "password": [password]}),
        http.post("/auth/token", data={"grant_type": refresh}),
        http.post("/auth/token", data={"grant_type": "refresh_token", "refresh_token": refresh + "x"}),
        http.post("/auth/token", content=f"refresh_token={refresh}&refresh_token=x"),
        http.post("/auth/token", data={"grant_type": "client_credentials", "client_id": "ada", "client_secret": key}),
        http.post("/auth/introspect", data={"token": access}, headers=bearer),
        http.post("/auth/introspect", data={"token": access}, headers={"authorization": f"Bearer {SECRET}x"}),
        http.post("/auth/revoke", data={"token": access + "x"}),
        http.post("/auth/register", json={"user": "eve", "password": password}),
        http.post("/auth/password", json={"old": password, "new": "x"}, headers=bearer),
        http.post("/auth/password/reset", json={"token": password, "password": password}),
        http.get(f"/v1/me?access_token={access}"),
        http.get(f"/v1/threads/{key}", headers=bearer),
        http.get("/v1/me", headers={"authorization": f"Basic {key}"}),
        http.get(f"/v1/{password}", headers=bearer),
        http.request("TRACE", "/v1/me", headers=bearer),
        http.get("/metrics"),
        http.get("/health/ready"),
        http.get("/auth/sessions", headers=bearer),
        http.get("/auth/keys", headers=bearer),
    ]
    async with asyncio.TaskGroup() as tasks:
        under_way = [tasks.create_task(each) for each in asked]
    answers = [task.result() for task in under_way]
    shown += [f"{answer.status_code} {answer.headers} {answer.text}" for answer in answers]


async def _closed(household: Household, credential: str) -> str:
    url = household.url.replace("http", "ws", 1) + "/v1/ws"
    said: list[str] = []
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps({"op": "hello", "token": credential}))
        try:
            async with asyncio.timeout(20):
                said += [str(await socket.recv()) for _ in range(10)]
        except websockets.ConnectionClosed:
            pass
        return f"{said} {socket.close_code} {socket.close_reason}"
