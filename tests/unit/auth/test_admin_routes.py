"""Administration over HTTP: who may do what, what it does, and what the audit says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.unit.auth.house import House, open_house

from runwire.auth.service import users

PASSWORD = "correct horse battery staple"


class Office:
    """A house with one account of each kind, and their access tokens."""

    def __init__(self, house: House, tokens: Mapping[str, str], ids: Mapping[str, str]) -> None:
        self.house = house
        self.tokens = tokens
        self.ids = ids

    async def ask(self, who: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.tokens[who]}"}
        if body is None:
            return await self.house.http.request(method, path, headers=headers)
        return await self.house.http.request(method, path, headers=headers, json=body)

    async def audited(self, action: str) -> list[Any]:
        page = await self.house.store.audit_after(0, limit=1_000)
        return [row.entry for row in page.rows if row.entry.action == action]


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with open_house("sqlite", tmp_path) as house:
        ids, tokens = {}, {}
        for name, role in (("root", "admin"), ("olga", "operator"), ("ann", "user")):
            row = await users.add_user(house.store, name, password=PASSWORD, roles=(role,), settings=house.settings)
            ids[name] = row.user
            tokens[name] = (await house.sign_in(name, PASSWORD))["access_token"]
        tokens["key"] = await users.create_api_key(house.store, "root")
        yield Office(house, tokens, ids)


# What is there: method, path, body, and the least that may: "operator" or "admin".
ROUTES = [
    ("GET", "/auth/users", None, "operator"),
    ("POST", "/auth/users", {"name": "new"}, "admin"),
    ("GET", "/auth/users/{ann}", None, "operator"),
    ("GET", "/auth/users/{ann}/sessions", None, "operator"),
    ("POST", "/auth/users/{ann}/roles", {"roles": ["operator"]}, "admin"),
    ("POST", "/auth/users/{ann}/reset", {}, "admin"),
    ("POST", "/auth/users/{ann}/sign-out", {}, "operator"),
    ("POST", "/auth/users/{ann}/disable", None, "operator"),
    ("POST", "/auth/users/{ann}/enable", None, "admin"),
    ("DELETE", "/auth/users/{ann}", None, "admin"),
    ("GET", "/auth/invites", None, "admin"),
    ("POST", "/auth/invites", {}, "admin"),
    ("GET", "/auth/signing-keys", None, "admin"),
    ("POST", "/auth/signing-keys", None, "admin"),
    ("DELETE", "/auth/signing-keys/unknown", None, "admin"),
    ("GET", "/auth/audit", None, "operator"),
]


@pytest.mark.parametrize(("method", "path", "body", "least"), ROUTES, ids=[f"{r[0]} {r[1]}" for r in ROUTES])
async def test_each_route_is_for_whom_it_is_for_and_for_no_api_key(
    office: Office, method: str, path: str, body: Any, least: str
) -> None:
    where = path.format(**office.ids)
    for who in ("ann", "key", *(("olga",) if least == "admin" else ())):
        refused = await office.ask(who, method, where, body)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), who
    nobody = await office.house.http.request(method, where, json=body)
    assert nobody.status_code == 401
    for who in ("root", *(("olga",) if least == "operator" else ())):
        allowed = await office.ask(who, method, where, body)
        assert allowed.status_code in ((404,) if "unknown" in path else (200, 201, 204)), allowed.text


async def test_a_new_user_sets_a_password_that_nobody_else_has_typed(office: Office) -> None:
    made = await office.ask("root", "POST", "/auth/users", {"name": "\uff42ob", "roles": ["user", "service"]})
    assert made.status_code == 201
    assert (made.json()["name"], made.json()["roles"]) == ("bob", ["service", "user"])
    assert len(made.json()["reset"]["secret"]) >= 32
    again = await office.ask("root", "POST", "/auth/users", {"name": "bob"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    wrong: list[Any] = [{"name": "x", "roles": ["king"]}, {"name": ""}, {"name": "x", "password": "y"}, {}, []]
    for bad in wrong:
        refused = await office.ask("root", "POST", "/auth/users", bad)
        assert refused.status_code == 400, bad
    (entry,) = await office.audited("user.create")
    assert (entry.actor, entry.actor_kind, entry.address) == (office.ids["root"], "user", "127.0.0.1")
    assert made.json()["reset"]["secret"] not in str(await office.house.store.audit_after(0, limit=1_000))


async def test_the_last_administrator_stays_one(office: Office) -> None:
    root = office.ids["root"]
    for method, path, body in (
        ("POST", f"/auth/users/{root}/roles", {"roles": ["user"]}),
        ("POST", f"/auth/users/{root}/disable", None),
        ("DELETE", f"/auth/users/{root}", None),
    ):
        refused = await office.ask("root", method, path, body)
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict"), path
    assert (await office.ask("root", "POST", f"/auth/users/{office.ids['ann']}/roles", {"roles": ["admin"]})).is_success
    assert (await office.ask("root", "POST", f"/auth/users/{root}/roles", {"roles": ["user"]})).status_code == 200
    assert (await office.ask("root", "GET", "/auth/users")).status_code == 403, "with the very next request"


async def test_an_operator_stops_people_but_no_administrator(office: Office) -> None:
    root, ann = office.ids["root"], office.ids["ann"]
    for what, body in (("disable", None), ("sign-out", {"with_keys": True})):
        refused = await office.ask("olga", "POST", f"/auth/users/{root}/{what}", body)
        assert refused.status_code == 403, what
    signed_out = await office.ask("olga", "POST", f"/auth/users/{ann}/sign-out", {})
    assert signed_out.json() == {"sessions": 1}
    assert not await office.house.is_active(office.tokens["ann"])
    assert (await office.ask("olga", "POST", f"/auth/users/{ann}/disable")).json()["status"] == "disabled"
    assert [entry.actor for entry in await office.audited("user.disable")] == [office.ids["olga"]]


async def test_a_deleted_user_is_a_tombstone_and_told_as_one(office: Office) -> None:
    ann = office.ids["ann"]
    assert (await office.ask("root", "DELETE", f"/auth/users/{ann}")).status_code == 204
    assert (await office.ask("root", "DELETE", f"/auth/users/{ann}")).status_code == 204, "a repeat changes nothing"
    assert len(await office.audited("user.delete")) == 1
    shown = (await office.ask("root", "GET", f"/auth/users/{ann}")).json()
    assert (shown["status"], shown["name"], shown["roles"], shown["sessions"]) == ("deleted", ann, [], 0)
    for path in ("/auth/users/usr_" + "0" * 32, "/auth/users/x", "/auth/users/%00"):
        assert (await office.ask("root", "GET", path)).status_code == 404, path
    listed = (await office.ask("root", "GET", "/auth/users")).json()["items"]
    assert [one["name"] for one in listed] == ["olga", "root"]


async def test_lists_come_in_pages_that_leave_nobody_out(office: Office) -> None:
    for n in range(5):
        assert (await office.ask("root", "POST", "/auth/invites", {"roles": ["user"]})).status_code == 201
        await users.add_user(office.house.store, f"user{n}")
    for path in ("/auth/users", "/auth/invites"):
        whole = (await office.ask("root", "GET", path)).json()
        assert whole["next_cursor"] is None
        seen: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await office.ask("root", "GET", f"{path}?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
            seen += page["items"]
            cursor = page["next_cursor"]
        assert seen == whole["items"]
        assert (await office.ask("root", "GET", f"{path}?cursor=%00")).status_code == 400
    after: int | None = 0
    rows: list[Any] = []
    while after is not None:
        page = (await office.ask("olga", "GET", f"/auth/audit?limit=3&after={after}")).json()
        rows += page["items"]
        after = page["next_cursor"]
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    assert len(rows) == len((await office.house.store.audit_after(0, limit=1_000)).rows) >= 5


async def test_an_invitation_is_taken_back_and_a_revoked_signing_key_takes_its_tokens_with_it(office: Office) -> None:
    made = (await office.ask("root", "POST", "/auth/invites", {"roles": ["operator"], "ttl_s": 60})).json()
    assert (made["roles"], made["created_by"]) == (["operator"], office.ids["root"])
    assert (await office.ask("root", "DELETE", f"/auth/invites/{made['invite']}")).status_code == 204
    assert (await office.ask("root", "DELETE", f"/auth/invites/{made['invite']}")).status_code == 404
    (first,) = (await office.ask("root", "GET", "/auth/signing-keys")).json()["items"]
    follower = await office.ask("root", "POST", "/auth/signing-keys")
    assert (follower.status_code, follower.json()["state"]) == (201, "pending")
    assert (await office.ask("root", "DELETE", f"/auth/signing-keys/{first['kid']}")).status_code == 204
    office.house.clock.move(2)  # the service itself reads its keys anew each second
    assert (await office.ask("root", "GET", "/auth/users")).status_code == 401, "what it has signed is dead"
