"""The auth service over HTTP, on real stores: sign in, refresh, sign out, introspect, limits."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.auth.house import SECRET, House, Kind, all_at_once, open_house

from runwire.auth import tokens
from runwire.auth.service import users
from runwire.errors import Unavailable
from runwire.storage.base import AuthKind

PASSWORD = "correct horse battery"

Check = Callable[[House], Awaitable[None]]
Suite = Callable[..., None]

MEMORY = pytest.mark.parametrize("in_house", ["memory"], indirect=True)  # nothing here depends on the store


@pytest.fixture(params=["memory", "sqlite"])
def in_house(request: pytest.FixtureRequest, tmp_path: Path) -> Suite:
    kind: Kind = request.param

    def run(check: Check, **options: Any) -> None:
        async def main() -> None:
            async with open_house(kind, tmp_path, follows=False, **options) as house:
                await users.add_user(house.store, "ada", password=PASSWORD, settings=house.settings)
                await check(house)

        asyncio.run(main())

    return run


def payload_of(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def test_a_person_signs_in_with_a_password(in_house: Suite) -> None:
    async def check(house: House) -> None:
        answer = await house.http.post("/auth/sessions", json={"user": "ada", "password": PASSWORD})
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        granted = answer.json()
        assert set(granted) == {"access_token", "token_type", "expires_in", "refresh_token", "user"}
        assert (granted["token_type"], granted["expires_in"]) == ("Bearer", 300)
        ada = await house.store.user_by_name("ada")
        assert ada is not None
        assert granted["user"] == ada.user
        claims = payload_of(granted["access_token"])
        assert set(claims) == {"iss", "sub", "aud", "exp", "iat", "jti", "sid", "client_id", "scope", "epo"}
        assert (claims["sub"], claims["epo"], claims["exp"] - claims["iat"]) == (ada.user, 1, 300)
        assert await house.is_active(granted["access_token"])

    in_house(check)


def test_unknown_user_wrong_password_and_disabled_user_are_one_answer(in_house: Suite) -> None:
    async def check(house: House) -> None:
        await users.add_user(house.store, "off", password=PASSWORD, settings=house.settings)
        await users.disable_user(house.store, "off")
        await users.add_user(house.store, "by-key-only")
        answers = [
            await house.http.post("/auth/sessions", json={"user": name, "password": password})
            for name, password in [
                ("nobody", PASSWORD),
                ("ada", "wrong password"),
                ("off", PASSWORD),
                ("by-key-only", PASSWORD),
                ("not a name!", PASSWORD),
                ("ada", PASSWORD + "x" * 4000),
            ]
        ]
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].json()["code"] == "unauthenticated"
        assert answers[0].headers["content-type"] == "application/problem+json"
        assert answers[0].headers["www-authenticate"] == "Bearer"

    in_house(check)


def test_an_unknown_user_costs_as_many_hashes_as_a_known_one(in_house: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    from runwire.auth.service.passwords import Passwords

    verified: list[str] = []
    fits = Passwords._fits

    def counting(self: Passwords, stored: str, password: str) -> bool:
        verified.append(stored)
        return fits(self, stored, password)

    monkeypatch.setattr(Passwords, "_fits", counting)

    async def check(house: House) -> None:
        for name in ("ada", "nobody", "not a name!"):
            before = len(verified)
            await house.http.post("/auth/sessions", json={"user": name, "password": "wrong password"})
            assert len(verified) == before + 1
        assert all(stored.startswith("$argon2id$") for stored in verified)

    in_house(check)


@MEMORY
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", None),
        ("[]", None),
        ("{", None),
        ('"x"', None),
        ("{}", "user"),
        ('{"user":"ada"}', "password"),
        ('{"password":"x"}', "user"),
        ('{"user":"ada","password":1}', "password"),
        ('{"user":"","password":"x"}', "user"),
        ('{"user":"ada","password":"x","extra":1}', "extra"),
        ('{"link":"x","user":"ada"}', "link"),
        ('{"link":7}', "link"),
        ('{"user":"\\ud800","password":"x"}', None),
        ("[" * 10_000, None),
    ],
)
def test_a_wrong_body_is_refused_naming_the_field(in_house: Suite, body: str, field: str | None) -> None:
    async def check(house: House) -> None:
        answer = await house.http.post("/auth/sessions", content=body)
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (400, "bad_request", field)

    in_house(check)


@MEMORY
def test_a_body_over_its_limit_is_refused_while_it_is_read(in_house: Suite) -> None:
    async def check(house: House) -> None:
        answer = await house.http.post("/auth/sessions", content=b"x" * 20_000)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")

    in_house(check)


def test_a_link_signs_in_once_however_many_try(in_house: Suite) -> None:
    async def check(house: House) -> None:
        link = await users.create_sign_in_link(house.store, "ada")
        answers = await all_at_once([house.http.post("/auth/sessions", json={"link": link}) for _ in range(20)])
        assert sorted(answer.status_code for answer in answers) == [201] + [401] * 19
        late = await users.create_sign_in_link(house.store, "ada", ttl_s=60)
        house.clock.move(60)
        assert (await house.http.post("/auth/sessions", json={"link": late})).status_code == 401
        dead = await users.create_sign_in_link(house.store, "ada")
        await users.disable_user(house.store, "ada")
        answer = await house.http.post("/auth/sessions", json={"link": dead})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")

    in_house(check)


def test_of_twenty_refreshes_at_once_all_get_the_same_successor(in_house: Suite) -> None:
    async def check(house: House) -> None:
        refresh_token = (await house.sign_in("ada", PASSWORD))["refresh_token"]
        for _ in range(10):
            answers = await all_at_once([house.refresh(refresh_token) for _ in range(20)])
            assert [answer.status_code for answer in answers] == [200] * 20
            successors = {answer.json()["refresh_token"] for answer in answers}
            assert len(successors) == 1
            refresh_token = successors.pop()
        rows = await house.store.snapshot(revoked_within_s=60)
        assert rows.revoked_sessions == []

    in_house(check)


def test_a_lost_reply_is_repeated_within_the_window_only(in_house: Suite) -> None:
    async def check(house: House) -> None:
        first = (await house.sign_in("ada", PASSWORD))["refresh_token"]
        second = (await house.refresh(first)).json()["refresh_token"]
        house.clock.move(9.9)
        again = await house.refresh(first)
        assert (again.status_code, again.json()["refresh_token"]) == (200, second)
        house.clock.move(0.2)
        assert (await house.refresh(first)).status_code == 400
        assert (await house.refresh(second)).status_code == 400, "reuse ended the session"

    in_house(check)


def test_a_used_token_after_its_successor_was_used_kills_the_session(in_house: Suite) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        stolen = granted["refresh_token"]
        second = (await house.refresh(stolen)).json()
        third = (await house.refresh(second["refresh_token"])).json()
        other = await house.sign_in("ada", PASSWORD)
        refused = await house.refresh(stolen)
        assert refused.status_code == 400
        assert (refused.json()["error"], refused.json()["code"]) == ("invalid_grant", "unauthenticated")
        for dead in (second, third):
            assert (await house.refresh(dead["refresh_token"])).status_code == 400
            assert not await house.is_active(dead["access_token"])
        assert await house.is_active(other["access_token"]), "another session of hers is nobody's business"
        last = (await house.store.events_after(0)).events[-1]
        assert (last.kind, last.reason) == (AuthKind.SESSION_REVOKED, "refresh_reused")

    in_house(check)


def test_a_session_ends_without_use_and_at_its_absolute_end(in_house: Suite) -> None:
    async def check(house: House) -> None:
        idle = (await house.sign_in("ada", PASSWORD))["refresh_token"]
        kept = (await house.sign_in("ada", PASSWORD))["refresh_token"]
        for _ in range(4):
            house.clock.move(90)
            answer = await house.refresh(kept)
            assert answer.status_code == 200
            kept = answer.json()["refresh_token"]
        assert (await house.refresh(idle)).status_code == 400
        house.clock.move(50)
        assert (await house.refresh(kept)).status_code == 400

    in_house(check, service={"refresh_ttl_s": 100, "session_ttl_s": 400})


@pytest.mark.parametrize("forged", ["wrong mac", "next counter", "other session", "nonsense", "access token"])
def test_a_forged_refresh_token_is_refused_and_harms_nobody(in_house: Suite, forged: str) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        good: str = granted["refresh_token"]
        prefix, session, counter, mac = good.split("_")
        text = {
            "wrong mac": f"{prefix}_{session}_{counter}_{mac[::-1]}",
            "next counter": f"{prefix}_{session}_{int(counter) + 1}_{mac}",
            "other session": f"{prefix}_{'0' * 32}_{counter}_{mac}",
            "nonsense": "rwr_nonsense",
            "access token": granted["access_token"],
        }[forged]
        answer = await house.refresh(text)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
        assert (await house.refresh(good)).status_code == 200

    in_house(check)


def test_signing_out_ends_this_session_and_no_other(in_house: Suite) -> None:
    async def check(house: House) -> None:
        mine, other = await house.sign_in("ada", PASSWORD), await house.sign_in("ada", PASSWORD)
        headers = {"authorization": f"Bearer {mine['access_token']}"}
        assert (await house.http.delete("/auth/sessions/current", headers=headers)).status_code == 204
        assert (await house.http.delete("/auth/sessions/current", headers=headers)).status_code == 401
        assert (await house.refresh(mine["refresh_token"])).status_code == 400
        assert not await house.is_active(mine["access_token"])
        assert await house.is_active(other["access_token"])
        assert (await house.refresh(other["refresh_token"])).status_code == 200

    in_house(check)


def test_a_disabled_user_has_nothing_and_reenabled_only_what_is_new(in_house: Suite) -> None:
    async def check(house: House) -> None:
        before = await house.sign_in("ada", PASSWORD)
        key = await users.create_api_key(house.store, "ada")
        assert await house.is_active(key)
        await users.disable_user(house.store, "ada")
        for is_enabled in (False, True):
            if is_enabled:
                await users.enable_user(house.store, "ada")
            assert not await house.is_active(before["access_token"])
            assert not await house.is_active(key)
            assert (await house.refresh(before["refresh_token"])).status_code == 400
        after = await house.sign_in("ada", PASSWORD)
        assert await house.is_active(after["access_token"])
        assert payload_of(after["access_token"])["epo"] == 2

    in_house(check)


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
def test_revoking_either_token_ends_the_session(in_house: Suite, which: str) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        for _ in range(2):  # RFC 7009 §2.2: the second time is no error
            assert (await house.http.post("/auth/revoke", data={"token": granted[which]})).status_code == 200
        assert not await house.is_active(granted["access_token"])
        assert (await house.refresh(granted["refresh_token"])).status_code == 400

    in_house(check)


def test_revoking_nonsense_is_no_error_and_a_key_is_revoked_by_whoever_has_it(in_house: Suite) -> None:
    async def check(house: House) -> None:
        for nonsense in ("x", "rwr_" + "0" * 32 + "_1_" + "a" * 43, "rw_x", "a.b.c"):
            assert (await house.http.post("/auth/revoke", data={"token": nonsense})).status_code == 200
        key = await users.create_api_key(house.store, "ada")
        assert (await house.http.post("/auth/revoke", data={"token": key})).status_code == 200
        assert not await house.is_active(key)
        assert (await house.http.post("/auth/revoke", data={})).json()["field"] == "token"

    in_house(check)


def test_introspection_needs_a_service_secret_and_two_are_valid_at_once(in_house: Suite) -> None:
    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        for wrong in ("", "wrong", SECRET + "x", SECRET[:-1], token):
            answer = await house.introspect(token, secret=wrong)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert (await house.http.post("/auth/introspect", data={"token": token})).status_code == 401
        for right in ("n" * 40, "o" * 40):
            assert (await house.introspect(token, secret=right)).json()["active"]

    in_house(check, secrets=("n" * 40, "o" * 40))


def test_without_service_secrets_nobody_introspects(in_house: Suite) -> None:
    async def check(house: House) -> None:
        for secret in ("", "x", "None"):
            assert (await house.introspect("x", secret=secret)).status_code == 401

    in_house(check, secrets=())


def test_an_api_key_ends_with_its_lifetime_and_shows_what_it_is(in_house: Suite) -> None:
    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada", ttl_s=60)
        shown = (await house.introspect(key)).json()
        assert (shown["token_type"], shown["username"], shown["epo"]) == ("api_key", "ada", 1)
        assert shown["exp"] == int(house.clock.now_s) + 60
        assert key not in json.dumps(shown)
        twin, _ = tokens.mint_api_key(shown["key"], entropy=b"\0" * 32)
        assert tokens.read_api_key(twin).key == shown["key"]
        assert not await house.is_active(twin), "the same id with another secret"
        house.clock.move(60)
        assert not await house.is_active(key)

    in_house(check)


def test_an_access_token_ends_with_its_lifetime(in_house: Suite) -> None:
    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        house.clock.move(329)
        assert await house.is_active(token)
        house.clock.move(1)
        assert not await house.is_active(token)

    in_house(check)


@MEMORY
@pytest.mark.parametrize(
    ("form", "status", "error", "code"),
    [
        ({}, 400, "invalid_request", "bad_request"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request", "bad_request"),
        ({"grant_type": "password", "username": "ada"}, 400, "unsupported_grant_type", "bad_request"),
        ({"grant_type": "client_credentials"}, 401, "invalid_client", "unauthenticated"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant", "unauthenticated"),
    ],
)
def test_errors_of_the_token_endpoint_speak_oauth_and_ours(
    in_house: Suite, form: dict[str, str], status: int, error: str, code: str
) -> None:
    async def check(house: House) -> None:
        for answer in (
            await house.http.post("/auth/token", data=form),
            await house.http.post("/auth/token", json=form),
        ):
            shown = answer.json()
            assert (answer.status_code, shown["error"], shown["code"]) == (status, error, code)

    in_house(check)


@MEMORY
@pytest.mark.parametrize("body", [b"token=a&token=b", b"\xff\xfe", b"token", b"&" * 100, b"a=1&" * 30])
def test_a_form_that_is_none_is_refused(in_house: Suite, body: bytes) -> None:
    async def check(house: House) -> None:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await house.http.post("/auth/revoke", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")

    in_house(check)


def test_keys_and_metadata_are_public_and_show_no_secret(in_house: Suite) -> None:
    async def check(house: House) -> None:
        jwks = (await house.http.get("/.well-known/jwks.json")).json()
        assert [sorted(key) for key in jwks["keys"]] == [["alg", "crv", "kid", "kty", "use", "x", "y"]]
        metadata = (await house.http.get("/.well-known/oauth-authorization-server")).json()
        assert metadata["issuer"] == house.settings.issuer
        assert metadata["token_endpoint"] == f"{house.settings.issuer}/auth/token"

    in_house(check)


def test_two_services_on_one_store_sign_with_one_key(in_house: Suite, tmp_path: Path) -> None:
    async def check(house: House) -> None:
        import httpx2

        from runwire.auth.service.app import make_auth_app

        apps = [make_auth_app(house.store, house.settings) for _ in range(5)]
        clients = [httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://a") for app in apps]
        answers = await all_at_once([client.get("/.well-known/jwks.json") for client in clients])
        assert len({answer.text for answer in answers}) == 1
        await all_at_once([client.aclose() for client in clients])

    in_house(check)


@MEMORY
def test_brute_force_on_an_account_is_slowed_and_a_live_session_is_not(in_house: Suite) -> None:
    async def check(house: House) -> None:
        refresh_token = (await house.sign_in("ada", PASSWORD))["refresh_token"]

        async def guess() -> int:
            answer = await house.http.post("/auth/sessions", json={"user": "ada", "password": "wrong password"})
            return answer.status_code

        assert [await guess() for _ in range(12)] == [401] * 10 + [429] * 2
        answer = await house.http.post("/auth/sessions", json={"user": "ada", "password": PASSWORD})
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert answer.json()["retry_after_s"] == 6.0
        assert answer.headers["retry-after"] == "6"
        assert (await house.refresh(refresh_token)).status_code == 200
        house.clock.move(6)
        assert await guess() == 401
        assert await guess() == 429

    in_house(check)


@MEMORY
def test_one_address_guessing_many_names_is_slowed(in_house: Suite) -> None:
    async def check(house: House) -> None:
        statuses = [
            (await house.http.post("/auth/sessions", json={"user": f"u{n}", "password": "wrong"})).status_code
            for n in range(32)
        ]
        assert statuses == [401] * 30 + [429] * 2

    in_house(check)


@MEMORY
def test_good_sign_ins_are_never_limited(in_house: Suite) -> None:
    async def check(house: House) -> None:
        for _ in range(40):
            await house.sign_in("ada", PASSWORD)

    in_house(check)


def test_hashing_is_bounded_and_refuses_with_a_time_to_come_back(in_house: Suite) -> None:
    async def check(house: House) -> None:
        answers = await all_at_once(
            [house.http.post("/auth/sessions", json={"user": "ada", "password": PASSWORD}) for _ in range(30)]
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert set(statuses) == {201, 503}
        busy = next(answer for answer in answers if answer.status_code == 503)
        assert busy.json()["code"] == "unavailable"
        assert "retry-after" in busy.headers
        await house.sign_in("ada", PASSWORD)

    in_house(
        check,
        service={"argon2_threads": 1, "argon2_waiting": 2, "account_burst": 100, "address_burst": 100},
    )


def test_a_store_that_does_not_answer_is_503_with_a_time_to_come_back(
    in_house: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(house: House) -> None:
        async def fails(*_: object, **__: object) -> None:
            raise Unavailable("The database refused the work (SQLITE_BUSY); try again.", retry_after_s=1.0)

        monkeypatch.setattr(house.store, "user_by_name", fails)
        answer = await house.http.post("/auth/sessions", json={"user": "ada", "password": PASSWORD})
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "1")

    in_house(check)


@MEMORY
def test_unknown_paths_and_methods_are_problems_too(in_house: Suite) -> None:
    async def check(house: House) -> None:
        missing = await house.http.get("/auth/nothing")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        wrong = await house.http.get("/auth/token")
        assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "bad_request", "POST")
        for path in ("/openapi.json", "/docs", "/redoc"):
            assert (await house.http.get(path)).status_code == 404

    in_house(check)
