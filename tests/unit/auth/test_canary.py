"""No password, token, key or secret in a log line, an error's text, an error's body or a repr."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable
from pathlib import Path

import pytest
import structlog
from tests.unit.auth.house import SECRET, House, open_house

from runwire.auth.client import AuthClientSettings
from runwire.auth.service import users
from runwire.errors import RunwireError

PASSWORD = "canary-password-5b1f"
WRONG = "canary-wrong-password-77aa"


def test_nothing_secret_is_ever_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    secrets: set[str] = {PASSWORD, WRONG, SECRET}

    async def check() -> None:
        async with open_house("sqlite", tmp_path) as house:
            await _whole_life(house, shown, secrets)

    caplog.set_level(logging.DEBUG)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    try:
        asyncio.run(check())
    finally:
        structlog.reset_defaults()
    out, err = capfd.readouterr()
    everything = "\n".join([out, err, caplog.text, *shown])
    for event in ("session_created", "refresh_token_reused", "session_revoked", "key_revoked", "auth_request_failed"):
        assert event in everything, "the flow that logs it was taken"
    assert len(secrets) >= 12
    found = [secret for secret in secrets if secret in everything]
    assert found == []


async def _whole_life(house: House, shown: list[str], secrets: set[str]) -> None:
    await users.add_user(house.store, "ada", password=PASSWORD, settings=house.settings)
    granted = await house.sign_in("ada", PASSWORD)
    link = await users.create_sign_in_link(house.store, "ada")
    key, other_key = [await users.create_api_key(house.store, "ada") for _ in range(2)]
    second = (await house.refresh(granted["refresh_token"])).json()
    third = (await house.refresh(second["refresh_token"])).json()
    who = await house.client.authenticate(third["access_token"])
    ticket = await house.client.issue_ticket(who, None)
    for pair in (granted, second, third):
        secrets |= {pair["access_token"], pair["refresh_token"], pair["access_token"].split(".")[2]}
    secrets |= {link, key, key[-49:-6], other_key, ticket}
    (signing,) = await house.store.signing_keys()
    row = await house.store.session(who.session or "")
    stored = await house.store.password_hash(who.user)
    assert row is not None
    assert stored is not None
    secrets |= {signing.private_jwk.decode(), repr(row.refresh_key), row.refresh_key.hex(), stored}
    shown += [repr(x) for x in (signing, row, who, house.settings, AuthClientSettings(service_secret=SECRET))]
    await _refusals(house, shown, key=other_key, link=link, ticket=ticket, old=granted, present=third)
    await house.http.post("/auth/revoke", data={"token": key})
    shown += [repr(event) for event in (await house.store.events_after(0)).events]
    await _failures(house, shown, token=third["access_token"], key=key)


async def _refusals(
    house: House,
    shown: list[str],
    *,
    key: str,
    link: str,
    ticket: str,
    old: dict[str, str],
    present: dict[str, str],
) -> None:
    client = house.client
    await client.authenticate(key)
    await client.redeem_ticket(ticket, None)
    await house.http.post("/auth/sessions", json={"link": link})
    bodies = [
        await house.http.post("/auth/sessions", json={"user": "ada", "password": WRONG}),
        await house.http.post("/auth/sessions", json={"user": "ada", "password": [PASSWORD]}),
        await house.http.post("/auth/sessions", json={"user": "ada", "passwort": PASSWORD}),
        await house.http.post("/auth/sessions", content=f'{{"password": "{PASSWORD}"'),
        await house.http.post("/auth/sessions", json={"link": link}),
        await house.http.post("/auth/token", data={"grant_type": old["refresh_token"]}),
        await house.http.post("/auth/token", content=f"refresh_token={old['refresh_token']}&refresh_token=x"),
        await house.refresh(old["refresh_token"]),
        await house.refresh(present["refresh_token"]),
        await house.introspect(present["access_token"], secret=SECRET + "x"),
        await house.introspect(present["access_token"]),
        await house.http.delete(
            "/auth/sessions/current", headers={"authorization": f"Bearer {present['access_token']}"}
        ),
    ]
    shown += [f"{answer.headers} {answer.text}" for answer in bodies]
    await client.check()
    for credential in (present["access_token"], key[:-1], key + "x", old["refresh_token"], ticket):
        await _shown_error(client.authenticate(credential), shown)
    await _shown_error(client.redeem_ticket(ticket, None), shown)


async def _failures(house: House, shown: list[str], *, token: str, key: str) -> None:
    async def breaks(*values: object, **named: object) -> None:
        raise RuntimeError(f"a driver that quotes what it was given: {values} {named} {token} {key}")

    original = house.store.session
    setattr(house.store, "session", breaks)  # noqa: B010 - a driver that fails
    headers = {"authorization": f"Bearer {token}"}
    answer = await house.http.delete("/auth/sessions/current", headers=headers)
    assert answer.status_code == 500
    shown.append(f"{answer.headers} {answer.text}")
    setattr(house.store, "session", original)  # noqa: B010 - as it was
    await _shown_error(house.client.authenticate(key), shown)


async def _shown_error(call: Awaitable[object], shown: list[str]) -> None:
    with pytest.raises(RunwireError) as refusal:
        await call
    shown.append(repr(refusal.value))
    shown.append("".join(traceback.format_exception(refusal.value)))
