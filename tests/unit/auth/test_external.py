"""People of other issuers in the auth tables, and the way of a sign-in through a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from tests.unit.auth.house import FakeClock, Kind, all_at_once, open_house, opened_store

from runwire.auth import tokens
from runwire.auth.foreign import Foreign, LoggedOut, Proved, external_session
from runwire.auth.forward import Forward
from runwire.auth.issuers import Issuer, read_issuers
from runwire.auth.service.external import External
from runwire.errors import Forbidden, ProtocolError, Unauthenticated
from runwire.storage.base import AuthStore

ISSUER = read_issuers(
    [
        {
            "name": "company", "issuer": "https://id.example.org", "audience": "api", "may_create_users": True,
            "claims": {"roles": ["realm", "roles"], "role_values": {"bosses": "admin"}},
        }
    ]
)[0]  # fmt: skip
SESSION = external_session(ISSUER.issuer, "s")


class Office:
    """The service's part, on a store whose clock is told the time."""

    def __init__(self, store: AuthStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.external = self.started_anew()

    def started_anew(self) -> External:
        foreign = Foreign([ISSUER], wall_s=self.clock.s, monotonic_s=self.clock.s)
        return External(self.store, foreign, changed=lambda: None)

    def proved(self, subject: str, *, bosses: bool = False, issuer: Issuer = ISSUER, name: str = "ada") -> Proved:
        claims = {"preferred_username": name, "realm": {"roles": ["bosses"] if bosses else ["others"]}}
        now = self.clock.ms()
        return Proved(
            issuer=issuer, subject=subject, session=SESSION, issued_at=now, expires_at=now + 300_000, claims=claims
        )


@asynccontextmanager
async def opened(kind: Kind, folder: Path) -> AsyncIterator[Office]:
    clock = FakeClock()
    async with opened_store(kind, folder, clock) as store:
        yield Office(store, clock)


@pytest.fixture(params=["memory", "sqlite"])
async def office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Office]:
    async with opened(request.param, tmp_path) as one:
        yield one


async def test_fifty_first_contacts_at_once_are_one_user_and_a_name_is_nobody(office: Office) -> None:
    proved = office.proved("1")
    rows = await all_at_once([office.external.meet(proved) for _ in range(50)])
    assert len({row.user for row in rows}) == 1
    # A20: another subject with the name, or the address, of the first.
    other = await office.external.meet(office.proved("2"))
    assert other.user != rows[0].user
    # The same subject with another name.
    assert (await office.external.meet(office.proved("1", name="bob"))).user == rows[0].user


async def test_a_role_taken_away_there_is_not_given_back_by_an_older_token(office: Office) -> None:
    older = office.proved("1", bosses=True)
    assert (await office.external.meet(older)).roles == ("admin", "user")
    office.clock.move(5)
    assert (await office.external.meet(office.proved("1"))).roles == ("user",)
    for external in (office.external, office.started_anew()):
        with pytest.raises(Unauthenticated):
            await external.meet(older)
    office.clock.move(5)
    assert (await office.started_anew().meet(office.proved("1", bosses=True))).roles == ("admin", "user")


async def test_nobody_comes_in_who_may_not(office: Office) -> None:
    strict = read_issuers([{"name": "strict", "issuer": "https://strict.example.org", "audience": "api"}])[0]
    with pytest.raises(Forbidden):
        await office.external.meet(office.proved("1", issuer=strict))
    user = (await office.external.meet(office.proved("1"))).user
    before = office.proved("1")
    office.clock.move(5)
    await office.store.disable_user(user)
    with pytest.raises(Unauthenticated):
        await office.external.meet(office.proved("1"))
    await office.store.enable_user(user)
    with pytest.raises(Unauthenticated):  # A3: what was dead stays dead
        await office.external.meet(before)
    office.clock.move(5)
    assert (await office.external.meet(office.proved("1"))).user == user


async def test_a_log_out_ends_its_session_once(office: Office) -> None:
    user = (await office.external.meet(office.proved("1"))).user
    for session, client in (("ses_" + "1" * 32, SESSION), ("ses_" + "2" * 32, "runwire")):
        await office.store.create_session(
            user, session=session, epoch=1, client=client, refresh_key=b"k" * 32, ttl_s=3600
        )
    said = LoggedOut(issuer=ISSUER, subject="1", session=SESSION, issued_at=office.clock.ms(), jti="j")
    await office.external.log_out(said, address="")
    assert [row.client for row in await office.store.list_sessions(user)] == ["runwire"]
    assert [name for name, _ in (await office.store.snapshot(revoked_within_s=60)).revoked_sessions] == [
        SESSION, "ses_" + "1" * 32,
    ]  # fmt: skip
    with pytest.raises(ProtocolError):
        await office.external.log_out(said, address="")


async def test_a_log_out_of_everything_ends_everything_and_its_repeat_nothing(office: Office) -> None:
    user = (await office.external.meet(office.proved("1"))).user
    said = LoggedOut(issuer=ISSUER, subject="1", session=None, issued_at=office.clock.ms(), jti="j")
    office.clock.move(5)
    await office.external.log_out(said, address="")
    office.clock.move(5)
    holder = await office.external.meet(office.proved("1"))
    # A process that was started anew does not know that it was there before; the tables do.
    await office.started_anew().log_out(said, address="")
    again = await office.store.user_by_id(user)
    assert again is not None
    assert again.epoch == holder.epoch == 2


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_who_logged_out_on_the_way_is_not_signed_in(kind: Kind, tmp_path: Path) -> None:
    async with open_house(kind, tmp_path) as house:
        row = await house.store.link_external(ISSUER.issuer, "1", name="ada", roles=["user"])
        for is_logged_out in (False, True):
            link = f"{tokens.mint_secret(bytes([is_logged_out]) * 32)}~{SESSION}"
            await house.store.create_link(row.user, secret_hash=tokens.secret_hash(link), ttl_s=60)
            if is_logged_out:
                await house.store.revoke_external_session(SESSION, row.user, reason="backchannel_logout")
            answer = await house.http.post("/auth/sessions", json={"link": link})
            assert answer.status_code == (401 if is_logged_out else 201)
        assert [one.client for one in await house.store.list_sessions(row.user)] == [SESSION]


async def test_a_sign_in_goes_through_a_gateway_with_its_own_cookie_and_no_other() -> None:
    service, seen = FastAPI(), list[str]()

    @service.get("/auth/external/company/callback")
    async def callback(request: Request) -> Response:
        seen.append(request.headers.get("cookie", ""))
        headers: dict[str, Any] = {"location": "/#link=x", "set-cookie": "runwire_sign_in=; Max-Age=0"}
        return Response(status_code=303, headers=headers)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=service), base_url="http://auth") as way:
        gateway = httpx2.ASGITransport(app=Forward(way, secret="s" * 32))
        async with httpx2.AsyncClient(transport=gateway, base_url="http://gateway") as browser:
            cookies = {"cookie": "other=secret; runwire_sign_in=1.abc"}
            answer = await browser.get("/auth/external/company/callback?code=c", headers=cookies)
    assert (answer.status_code, answer.headers["location"]) == (303, "/#link=x")
    assert answer.headers["set-cookie"] == "runwire_sign_in=; Max-Age=0"
    assert seen == ["runwire_sign_in=1.abc"]
