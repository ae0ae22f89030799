"""What people do to their own account over HTTP: sessions, passwords, keys, registration, tokens of services."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx2
import pytest
from tests.unit.auth.house import SECRET, House, all_at_once, open_house

from runwire.auth import tokens
from runwire.auth.service import users
from runwire.errors import Unavailable
from runwire.storage.base import AuditEntry

PASSWORD = "correct horse battery"
OTHER = "another fine battery"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house("sqlite", tmp_path, follows=False) as opened:
        for name in ("ada", "bob"):
            await users.add_user(opened.store, name, password=PASSWORD, settings=opened.settings)
        yield opened


class Person:
    """Somebody who is signed in."""

    def __init__(self, house: House, granted: dict[str, Any]) -> None:
        self.house = house
        self.user: str = granted["user"]
        self.token: str = granted["access_token"]

    async def ask(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        return await asked(self.house, self.token, method, path, body)

    async def session(self) -> str:
        items = (await self.ask("GET", "/auth/sessions")).json()["items"]
        (current,) = [item["session"] for item in items if item["is_current"]]
        return str(current)

    async def is_signed_in(self) -> bool:
        return await self.house.is_active(self.token)


async def asked(house: House, token: str, method: str, path: str, body: Any = None) -> httpx2.Response:
    sent = {} if body is None else {"json": body}
    return await house.http.request(method, path, headers={"authorization": f"Bearer {token}"}, **sent)


async def signed_in(house: House, name: str, password: str = PASSWORD) -> Person:
    return Person(house, await house.sign_in(name, password))


async def audited(house: House, action: str) -> list[AuditEntry]:
    return [row.entry for row in (await house.store.audit_after(0)).rows if row.entry.action == action]


# Sessions


async def test_people_see_their_own_sessions_and_which_is_this_one(house: House) -> None:
    first, second = await signed_in(house, "ada"), await signed_in(house, "ada")
    await signed_in(house, "bob")
    answer = await second.ask("GET", "/auth/sessions")
    assert answer.headers["cache-control"] == "no-store"
    items = answer.json()["items"]
    assert {item["session"] for item in items} == {await first.session(), await second.session()}
    assert sorted(item["is_current"] for item in items) == [False, True]
    assert {(item["client"], item["address"]) for item in items} == {("runwire", "127.0.0.1")}
    assert "refresh_key" not in answer.text


async def test_sessions_are_listed_page_by_page(house: House) -> None:
    people = [await signed_in(house, "ada") for _ in range(3)]
    seen, cursor = [], ""
    for _ in range(3):
        page = (await people[0].ask("GET", f"/auth/sessions?limit=1{cursor}")).json()
        seen += [item["session"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert (len(set(seen)), page["next_cursor"]) == (3, None)
    assert (await people[0].ask("GET", "/auth/sessions?cursor=x")).json()["field"] == "cursor"


async def test_a_person_ends_one_of_their_sessions_and_nobody_elses(house: House) -> None:
    here, there, bob = await signed_in(house, "ada"), await signed_in(house, "ada"), await signed_in(house, "bob")
    unknown = "ses_" + "0" * 32
    answers = [
        await here.ask("DELETE", f"/auth/sessions/{each}") for each in (await bob.session(), unknown, "x_0", "%00")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert await bob.is_signed_in()
    path = f"/auth/sessions/{await there.session()}"
    assert [(await here.ask("DELETE", path)).status_code for _ in range(2)] == [204, 204]
    assert not await there.is_signed_in()
    assert await here.is_signed_in()
    (entry,) = await audited(house, "session.revoke")
    assert (entry.actor, entry.subject, entry.address) == (here.user, path.rpartition("/")[2], "127.0.0.1")


@pytest.mark.parametrize(("query", "ended", "stays"), [("?keep_current=true", 2, True), ("", 3, False)])
async def test_a_person_ends_all_their_sessions_or_all_others(
    house: House, query: str, ended: int, stays: bool
) -> None:
    people = [await signed_in(house, "ada") for _ in range(3)]
    bob = await signed_in(house, "bob")
    assert (await people[0].ask("DELETE", f"/auth/sessions{query}")).json() == {"sessions": ended}
    assert [await person.is_signed_in() for person in people] == [stays, False, False]
    assert await bob.is_signed_in()
    assert [entry.actor for entry in await audited(house, "user.sign_out")] == [people[0].user]


async def test_an_api_key_does_nothing_to_its_owners_account(house: House) -> None:
    ada = await signed_in(house, "ada")
    key = await users.create_api_key(house.store, "ada")
    for method, path in OWN:
        answer = await asked(house, key, method, path.format(session=await ada.session(), key=key.rpartition("_")[0]))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
    assert await ada.is_signed_in()
    assert await house.is_active(key)


OWN = [
    ("GET", "/auth/sessions"),
    ("DELETE", "/auth/sessions"),
    ("DELETE", "/auth/sessions/{session}"),
    ("POST", "/auth/password"),
    ("GET", "/auth/keys"),
    ("POST", "/auth/keys"),
    ("DELETE", "/auth/keys/{key}"),
]


async def test_a_sign_in_is_audited_with_how_and_from_where(house: House) -> None:
    ada = await signed_in(house, "ada")
    link = await users.create_sign_in_link(house.store, "ada")
    assert (await house.http.post("/auth/sessions", json={"link": link})).status_code == 201
    entries = await audited(house, "session.create")
    assert [(entry.actor, entry.detail["by"]) for entry in entries] == [(ada.user, "password"), (ada.user, "link")]
    assert {entry.address for entry in entries} == {"127.0.0.1"}
    assert (entries[0].subject, entries[0].detail["session"]) == (ada.user, await ada.session())


async def test_a_failed_sign_in_is_audited_at_the_account_and_never_what_was_typed(house: House) -> None:
    await users.disable_user(house.store, "bob")
    for name, password in (("ada", "wrong password"), ("bob", PASSWORD), ("nobody-here", "typed by mistake")):
        body = {"user": name, "password": password}
        assert (await house.http.post("/auth/sessions", json=body)).status_code == 401
    ada, bob = [(await house.store.user_by_name(name)) for name in ("ada", "bob")]
    assert ada
    assert bob
    entries = await audited(house, "session.refuse")
    assert [(entry.subject, entry.detail) for entry in entries] == [
        (ada.user, {"reason": "password"}),
        (bob.user, {"reason": "disabled"}),
    ]
    assert all((entry.actor, entry.address) == (None, "127.0.0.1") for entry in entries)
    assert not any(typed in repr(entries) for typed in ("nobody-here", "typed", "wrong", PASSWORD, "ada"))


async def test_what_the_limit_refuses_is_not_audited_however_the_name_is_spelled(house: House) -> None:
    spellings = ["ada", "\uff41da", "a\uff44a", "ad\uff41"]
    burst = house.settings.account_burst
    statuses = []
    for n in range(burst + 5):
        body = {"user": spellings[n % 4], "password": "wrong password"}
        statuses.append((await house.http.post("/auth/sessions", json=body)).status_code)
    assert statuses == [401] * burst + [429] * 5
    assert len(await audited(house, "session.refuse")) == burst


async def test_a_refresh_token_used_again_is_audited_once(house: House) -> None:
    granted = await house.sign_in("ada", PASSWORD)
    session = await Person(house, granted).session()
    stolen = granted["refresh_token"]
    second = (await house.refresh(stolen)).json()["refresh_token"]
    await house.refresh(second)
    assert [(await house.refresh(stolen)).status_code for _ in range(3)] == [400, 400, 400]
    (entry,) = await audited(house, "session.reuse")
    assert (entry.actor, entry.subject, entry.detail) == (None, granted["user"], {"session": session})


# Passwords


async def test_a_person_changes_their_password_and_only_this_session_stays(house: House) -> None:
    here, there, bob = await signed_in(house, "ada"), await signed_in(house, "ada"), await signed_in(house, "bob")
    link = await users.create_sign_in_link(house.store, "ada")
    assert (await here.ask("POST", "/auth/password", {"old": PASSWORD, "new": OTHER})).status_code == 204
    assert [await person.is_signed_in() for person in (here, there, bob)] == [True, False, True]
    body = {"user": "ada", "password": PASSWORD}
    assert (await house.http.post("/auth/sessions", json=body)).status_code == 401
    assert (await house.http.post("/auth/sessions", json={"link": link})).status_code == 401
    await signed_in(house, "ada", OTHER)
    (entry,) = await audited(house, "password.change")
    assert (entry.actor, entry.subject) == (here.user, here.user)


async def test_a_wrong_old_password_counts_as_a_failed_sign_in(house: House) -> None:
    ada = await signed_in(house, "ada")
    wrong = {"old": "wrong password", "new": OTHER}
    answers = [await ada.ask("POST", "/auth/password", wrong) for _ in range(house.settings.account_burst + 1)]
    assert [answer.status_code for answer in answers] == [403] * house.settings.account_burst + [429]
    assert answers[0].json()["field"] == "old"
    body = {"user": "ada", "password": PASSWORD}
    assert (await house.http.post("/auth/sessions", json=body)).status_code == 429
    assert await ada.is_signed_in(), "no limit ends a session"
    assert len(await audited(house, "password.refuse")) == house.settings.account_burst


async def test_a_bad_new_password_changes_nothing_and_names_its_field(house: House) -> None:
    ada = await signed_in(house, "ada")
    for body, field in (
        ({"old": PASSWORD, "new": "short"}, "new"),
        ({"old": PASSWORD}, "new"),
        ({"old": PASSWORD, "new": OTHER, "user": "bob"}, "user"),
    ):
        answer = await ada.ask("POST", "/auth/password", body)
        assert (answer.status_code, answer.json()["field"]) == (400, field)
        assert PASSWORD not in answer.text
    await signed_in(house, "ada")


class Meanwhile:
    """Does something when a password was verified, before what follows from that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, does: Callable[[], Awaitable[object]]) -> None:
        from runwire.auth.service.passwords import Passwords

        verify = Passwords.verify

        async def verified(passwords: Passwords, stored: str | None, password: str) -> bool:
            fits = await verify(passwords, stored, password)
            await does()
            return fits

        monkeypatch.setattr(Passwords, "verify", verified)


@pytest.mark.parametrize("entrance", ["sign in", "change"])
async def test_who_knows_the_old_password_gets_nothing_past_a_reset_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch, entrance: str
) -> None:
    thief = await signed_in(house, "ada")

    async def reset() -> None:
        await users.set_password(house.store, "ada", OTHER, settings=house.settings)

    Meanwhile(monkeypatch, reset)
    if entrance == "sign in":
        answer = await house.http.post("/auth/sessions", json={"user": "ada", "password": PASSWORD})
    else:
        answer = await thief.ask("POST", "/auth/password", {"old": PASSWORD, "new": "the thief's own"})
    assert answer.status_code == 401
    monkeypatch.undo()
    assert await house.store.list_sessions(thief.user) == []
    await signed_in(house, "ada", OTHER)


@pytest.mark.parametrize("meanwhile", ["another change", "a sign-out"])
async def test_a08_who_is_overtaken_at_the_last_moment_changes_no_password(
    house: House, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """A8: of two changes that both know the old password one wins, though all was right before the other's write."""
    thief = await signed_in(house, "ada")
    session = await thief.session()
    overtaken = type(house.store).set_password

    async def set_password(store: Any, user: str, password_hash: str, **options: Any) -> Any:
        monkeypatch.undo()
        if meanwhile == "another change":
            await users.set_password(house.store, "ada", OTHER, settings=house.settings)
        else:
            await house.store.revoke_session(session, reason="signed_out")
        return await overtaken(store, user, password_hash, **options)

    monkeypatch.setattr(type(house.store), "set_password", set_password)
    answer = await thief.ask("POST", "/auth/password", {"old": PASSWORD, "new": "the thief's own"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert await audited(house, "password.change") == []
    await signed_in(house, "ada", OTHER if meanwhile == "another change" else PASSWORD)


async def reset_of(house: House, name: str, ttl_s: int = 600) -> str:
    row = await house.store.user_by_name(name)
    assert row
    secret = tokens.mint_secret(bytes(32))
    await house.store.create_reset(row.user, secret_hash=tokens.secret_hash(secret), ttl_s=ttl_s)
    return secret


async def test_a_reset_sets_a_password_once_and_ends_all_sessions(house: House) -> None:
    ada = await signed_in(house, "ada")
    secret = await reset_of(house, "ada")
    short = await house.http.post("/auth/password/reset", json={"token": secret, "password": "short"})
    assert (short.status_code, short.json()["field"]) == (400, "password")
    bodies = [{"token": secret, "password": f"{OTHER} {n}"} for n in range(8)]
    answers = await all_at_once([house.http.post("/auth/password/reset", json=body) for body in bodies])
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [204] + [401] * 7
    assert not await ada.is_signed_in()
    await signed_in(house, "ada", f"{OTHER} {statuses.index(204)}")
    (entry,) = await audited(house, "password.reset")
    assert (entry.subject, entry.address) == (ada.user, "127.0.0.1")


async def test_an_old_and_an_invented_reset_are_one_answer_and_limited(house: House) -> None:
    secret = await reset_of(house, "ada", ttl_s=60)
    house.clock.move(60)
    tried = [secret, *("x" * 43 for _ in range(house.settings.address_burst))]
    answers = [await house.http.post("/auth/password/reset", json={"token": t, "password": OTHER}) for t in tried]
    assert [answer.status_code for answer in answers] == [401] * house.settings.address_burst + [429]
    assert len({answer.text for answer in answers[:-1]}) == 1
    await signed_in_later(house)


async def signed_in_later(house: House) -> None:
    house.clock.move(house.settings.address_refill_s)
    await signed_in(house, "ada")


# API keys


async def test_a_person_makes_a_key_sees_it_without_its_secret_and_ends_it(house: House) -> None:
    ada, bob = await signed_in(house, "ada"), await signed_in(house, "bob")
    body = {"label": "nightly build", "scopes": ["runwire:read"], "ttl_s": 3600}
    answer = await ada.ask("POST", "/auth/keys", body)
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    made = answer.json()
    secret = made.pop("secret")
    assert await house.is_active(secret)
    assert (made["label"], made["scopes"], made["state"]) == ("nightly build", ["runwire:read"], "active")
    assert made["expires_at"] - made["created_at"] == 3_600_000
    listed = await ada.ask("GET", "/auth/keys")
    assert listed.json() == {"items": [{**made, "last_used_at": house.clock.ms()}], "next_cursor": None}
    assert secret not in listed.text
    assert (await bob.ask("GET", "/auth/keys")).json()["items"] == []
    unknown = "key_" + "0" * 32
    refused = [await bob.ask("DELETE", f"/auth/keys/{key}") for key in (made["key"], unknown, "x_0")]
    assert [one.status_code for one in refused] == [404] * 3
    assert len({one.text for one in refused}) == 1
    assert await house.is_active(secret)
    assert [(await ada.ask("DELETE", f"/auth/keys/{made['key']}")).status_code for _ in range(2)] == [204, 204]
    assert not await house.is_active(secret)
    assert (await ada.ask("GET", "/auth/keys")).json()["items"][0]["state"] == "revoked"
    entries = [(await audited(house, action))[0] for action in ("key.create", "key.revoke")]
    assert [(entry.actor, entry.subject) for entry in entries] == [(ada.user, made["key"])] * 2
    assert secret not in repr(entries)


async def test_a_wrong_body_of_a_key_is_refused_naming_the_field(house: House) -> None:
    ada = await signed_in(house, "ada")
    for body, field in (
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"label": "x" * 129}, "label"),
        ({"user": "bob"}, "user"),
    ):
        answer = await ada.ask("POST", "/auth/keys", body)
        assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert (await ada.ask("GET", "/auth/keys")).json()["items"] == []


async def test_one_person_has_only_so_many_keys(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.auth.service.own.MAX_KEYS", 2)
    ada = await signed_in(house, "ada")
    answers = [await ada.ask("POST", "/auth/keys") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    await ada.ask("DELETE", f"/auth/keys/{answers[0].json()['key']}")
    assert (await ada.ask("POST", "/auth/keys")).status_code == 201


async def test_a_key_says_when_it_was_used_and_nobody_waits_for_that(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await signed_in(house, "ada")
    made = (await ada.ask("POST", "/auth/keys")).json()
    assert made["last_used_at"] is None

    async def last_used() -> int | None:
        ((item,),) = [(await ada.ask("GET", "/auth/keys")).json()["items"]]
        found: int | None = item["last_used_at"]
        return found

    assert await house.is_active(made["secret"])
    first = await last_used()
    assert first == house.clock.ms()
    house.clock.move(30)
    await house.is_active(made["secret"])
    assert await last_used() == first, "once a minute is enough"
    house.clock.move(60)

    async def fails(*_: object) -> None:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(house.store, "touch_keys", fails)
    assert await house.is_active(made["secret"])
    monkeypatch.undo()
    headers = {"authorization": f"Bearer {SECRET}"}
    await house.http.post("/internal/introspect", json={"keys": [made["secret"], "x"]}, headers=headers)
    assert await last_used() == house.clock.ms()


# Registration


async def register(house: House, **body: str) -> httpx2.Response:
    return await house.http.post("/auth/register", json={"user": "eve", "password": OTHER, **body})


async def invited(house: House, *, ttl_s: int = 600) -> str:
    secret = tokens.mint_secret(bytes(32))
    await house.store.create_invite(
        secret_hash=tokens.secret_hash(secret), roles=("operator",), ttl_s=ttl_s, created_by=None
    )
    return secret


def registering(folder: Path, registration: str) -> AbstractAsyncContextManager[House]:
    return open_house("sqlite", folder, follows=False, service={"registration": registration})


async def test_nobody_registers_where_that_is_not_said(house: House) -> None:
    for body in ({}, {"invite": await invited(house)}):
        answer = await register(house, **body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert await house.store.user_by_name("eve") is None
    assert len(await house.store.list_invites()) == 1


async def test_an_invitation_makes_one_account_with_its_roles_however_many_try(tmp_path: Path) -> None:
    async with registering(tmp_path, "invite") as house:
        await users.add_user(house.store, "ada", password=PASSWORD, settings=house.settings)
        secret = await invited(house)
        without, invented = await register(house), await register(house, invite="x" * 43)
        assert [(one.status_code, one.json()["field"]) for one in (without, invented)] == [(403, "invite")] * 2
        taken = await register(house, user="ada", invite=secret)
        assert (taken.status_code, taken.json()["field"]) == (409, "user")
        assert len(await house.store.list_invites()) == 1, "the invitation stays good"
        answers = await all_at_once([register(house, user=f"eve{n}", invite=secret) for n in range(5)])
        assert sorted(answer.status_code for answer in answers) == [201] + [403] * 4
        (granted,) = [answer.json() for answer in answers if answer.status_code == 201]
        assert granted["refresh_token"]
        assert await Person(house, granted).is_signed_in()
        row = await house.store.user_by_id(granted["user"])
        assert row
        assert row.roles == ("operator",)
        (entry,) = await audited(house, "user.register")
        assert (entry.subject, entry.address) == (row.user, "127.0.0.1")
        late = await invited(house, ttl_s=60)
        house.clock.move(60)
        assert (await register(house, invite=late)).status_code == 403


async def test_everybody_registers_where_that_is_said_but_not_without_a_limit(tmp_path: Path) -> None:
    async with registering(tmp_path, "open") as house:
        for body, field in (
            ({"password": "short"}, "password"),
            ({"user": "a b"}, "user"),
            ({"role": "admin"}, "role"),
        ):
            answer = await register(house, **body)
            assert (answer.status_code, answer.json()["field"]) == (400, field)
        assert (await register(house)).status_code == 201
        row = await house.store.user_by_name("eve")
        assert row
        assert row.roles == ("user",)
        await signed_in(house, "eve", OTHER)
        answers = [await register(house, password=PASSWORD) for _ in range(house.settings.account_burst + 1)]
        assert {(answer.status_code, answer.json().get("field")) for answer in answers[:-1]} == {(409, "user")}
        assert answers[-1].status_code == 429, "each of them is a try of her password"
        assert len(await audited(house, "session.refuse")) == house.settings.account_burst
        answers = [await register(house, user=f"eve{n}") for n in range(house.settings.address_burst)]
        assert (answers[0].status_code, answers[-1].status_code) == (201, 429)


@pytest.mark.parametrize("registration", ["invite", "open"])
async def test_whoever_registers_again_because_no_answer_came_is_signed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registration: str
) -> None:
    """A15: the service dies between the account and its session; the same request again makes no second account."""
    async with registering(tmp_path, registration) as house:
        body = {"invite": await invited(house)} if registration == "invite" else {}
        create = type(house.store).create_session

        async def dies(*_: Any, **__: Any) -> Any:
            raise Unavailable("The database refused the work; try again.")

        monkeypatch.setattr(type(house.store), "create_session", dies)
        assert (await register(house, **body)).status_code == 503
        monkeypatch.setattr(type(house.store), "create_session", create)
        row = await house.store.user_by_name("eve")
        assert row, "the account is there, and the invitation used"
        stranger = await register(house, password=PASSWORD, **body)
        assert (stranger.status_code, stranger.json()["field"]) == ((403, "invite") if body else (409, "user"))
        again = [await register(house, **body) for _ in range(2)]
        assert [(answer.status_code, answer.json()["user"]) for answer in again] == [(201, row.user)] * 2
        assert row.roles == (("operator",) if body else ("user",))
        assert [user.name for user in await house.store.list_users()] == ["eve"]
        await house.store.disable_user(row.user)
        assert (await register(house, **body)).status_code == stranger.status_code, "knowing it is not enough"


# Tokens of services


@dataclass(frozen=True, slots=True, kw_only=True)
class Robot:
    """A service account and its API key."""

    house: House
    secret: str
    key: str

    async def ask(self, name: str = "robot", *, is_basic: bool = False, **form: str) -> httpx2.Response:
        sent = {"grant_type": "client_credentials", **form}
        if is_basic:
            # As a form first (RFC 6749 §2.3.1).
            basic = base64.b64encode(f"{quote_plus(name)}:{quote_plus(self.secret)}".encode()).decode()
            return await self.house.http.post("/auth/token", data=sent, headers={"authorization": f"Basic {basic}"})
        return await self.house.http.post("/auth/token", data={"client_id": name, "client_secret": self.secret, **sent})


async def robot_of(house: House, *scopes: str, ttl_s: int | None = None, name: str = "robot") -> Robot:
    if await house.store.user_by_name(name) is None:
        await users.add_user(house.store, name, roles=["service"])
    secret = await users.create_api_key(house.store, name, scopes=scopes or ("runwire",), ttl_s=ttl_s)
    return Robot(house=house, secret=secret, key=tokens.read_api_key(secret).key)


@pytest.mark.parametrize("is_basic", [True, False])
async def test_a_service_gets_an_access_token_for_its_key_and_no_refresh_token(house: House, is_basic: bool) -> None:
    robot = await robot_of(house, name="robot+1@here")
    answer = await robot.ask("robot+1@here", is_basic=is_basic)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    granted = answer.json()
    assert set(granted) == {"access_token", "token_type", "expires_in", "scope"}
    assert (granted["token_type"], granted["expires_in"], granted["scope"]) == ("Bearer", 300, "runwire")
    said = (await house.introspect(granted["access_token"])).json()
    assert (said["active"], said["username"], said["client_id"]) == (True, "robot+1@here", "robot+1@here")
    row = await house.store.session(said["sid"])
    assert row
    assert row.expires_at - row.created_at == 300_000
    (entry,) = await audited(house, "session.create")
    assert (entry.actor, entry.actor_kind, entry.detail["by"]) == (row.holder.user, "service", "key")


async def test_whoever_does_not_prove_to_be_a_service_is_one_answer(house: House) -> None:
    robot = await robot_of(house)
    person = Robot(house=house, secret=await users.create_api_key(house.store, "ada"), key="")
    dead = await robot_of(house)
    assert (await house.http.post("/auth/revoke", data={"token": dead.secret})).status_code == 200
    late = await robot_of(house, ttl_s=60)
    house.clock.move(60)
    nobody = base64.b64encode(b"robot").decode()
    answers = [
        await robot.ask("ada"),
        await robot.ask("nobody"),
        await robot.ask("not a name!"),
        await person.ask("ada"),
        await robot.ask(client_secret="wrong"),
        await robot.ask(client_secret=f"{robot.secret[:-1]}x"),
        await dead.ask(),
        await late.ask(is_basic=True),
        await house.http.post("/auth/token", data={"grant_type": "client_credentials"}),
        *[
            await house.http.post(
                "/auth/token", data={"grant_type": "client_credentials"}, headers={"authorization": f"Basic {basic}"}
            )
            for basic in (nobody, "%", "", "/" * 8)
        ],
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].json()["error"] == "invalid_client"
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Basic realm="runwire"'}
    assert (await robot.ask()).status_code == 200
    both = await robot.ask(is_basic=True, client_secret=robot.secret)
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")


async def test_a_token_is_good_for_no_more_than_its_key(house: House) -> None:
    reader = await robot_of(house, "runwire:read", ttl_s=120)
    granted = (await reader.ask()).json()
    assert (granted["scope"], granted["expires_in"]) == ("runwire:read", 120)
    refused = await reader.ask(scope="runwire:read runwire")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    both = await robot_of(house, "runwire", "runwire:read")
    granted = (await both.ask(scope="runwire:read")).json()
    assert granted["scope"] == (await house.introspect(granted["access_token"])).json()["scope"] == "runwire:read"


@pytest.mark.parametrize("how", ["by its own text", "by its owner", "on the machine"])
async def test_a_services_tokens_end_with_its_key_and_no_others(house: House, how: str) -> None:
    robot, spared = await robot_of(house), await robot_of(house)
    dead, good = [(await each.ask()).json()["access_token"] for each in (robot, spared)]
    row = await house.store.key(robot.key)
    assert row
    if how == "by its own text":
        assert (await house.http.post("/auth/revoke", data={"token": robot.secret})).status_code == 200
    elif how == "by its owner":
        await users.set_password(house.store, "robot", PASSWORD, settings=house.settings)
        dead, good = [(await each.ask()).json()["access_token"] for each in (robot, spared)]
        owner = await signed_in(house, "robot")
        assert (await owner.ask("DELETE", f"/auth/keys/{robot.key}")).status_code == 204
    else:
        assert await house.store.revoke_key(row.key, reason="operator")
    assert not await house.is_active(dead)
    assert await house.is_active(good)


async def test_a_key_that_ends_while_a_token_is_made_gives_none(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = await robot_of(house)
    create = type(house.store).create_session

    async def created(store: Any, *arguments: Any, **options: Any) -> Any:
        await house.http.post("/auth/revoke", data={"token": robot.secret})
        return await create(store, *arguments, **options)

    monkeypatch.setattr(type(house.store), "create_session", created)
    assert (await robot.ask()).status_code == 401
    row = await house.store.user_by_name("robot")
    assert row
    assert await house.store.list_sessions(row.user) == []


async def test_a_services_token_does_nothing_to_accounts(house: House) -> None:
    robot = await robot_of(house)
    row = await house.store.user_by_name("robot")
    assert row
    await house.store.set_roles(row.user, ("admin", "service"))
    token = (await robot.ask()).json()["access_token"]
    assert await house.is_active(token)
    for method, path in [*OWN, ("GET", "/auth/users"), ("POST", "/auth/users")]:
        answer = await asked(house, token, method, path.format(session="ses_x", key="key_x"))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
    assert await house.is_active(token)


async def test_tokens_for_one_key_are_limited_and_no_other_waits_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runwire.auth.service.tries._TOKENS", 3)
    async with open_house("memory", tmp_path, follows=False) as house:
        robot, other = await robot_of(house), await robot_of(house)
        answers = [await robot.ask() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429]
        assert answers[-1].headers["retry-after"] == "1"
        assert (await other.ask()).status_code == 200
        house.clock.move(1)
        assert (await robot.ask()).status_code == 200
