"""B8-B10 where several auth services share one PostgreSQL: one successor, and one end for what was stolen."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from tests.identity.house import House, Session
from tests.identity.test_cases import cut_off, everywhere, refused

pytestmark = pytest.mark.timeout(90)

ROUNDS = 10
TABS = 50
WINDOW_MS = 10_000  # in which a lost answer is given again


async def refreshed(house: House, token: str, *, at: int) -> Any:
    """Use a refresh token at one of the auth services itself."""
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return await house.http.post(f"{house.cluster.auths[at].url}/auth/token", data=form)


async def reuses(house: House, session: Session) -> list[tuple[str | None, str, str | None]]:
    """Return who is said to have used a token of a session again: actor, its kind, and whose it was."""
    rows, cursor = [], 0
    while (page := await house.storage.auth.audit_after(cursor)).rows:
        rows += page.rows
        cursor = page.rows[-1].seq
    entries = [row.entry for row in rows if row.entry.action == "session.reuse"]
    return [(e.actor, e.actor_kind, e.subject) for e in entries if e.detail["session"] == session.session]


async def test_b08_of_fifty_refreshes_at_two_auth_services_all_get_one_successor_in_each_round(house: House) -> None:
    """B8: one row in one database decides, whichever service is asked."""
    assert len(house.cluster.auths) == 2
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    token, seen = session.refresh_token, {session.refresh_token}
    for round_ in range(1, ROUNDS + 1):
        async with asyncio.TaskGroup() as tasks:
            tabs = [tasks.create_task(refreshed(house, token, at=n % 2)) for n in range(TABS)]
        answers = [tab.result() for tab in tabs]
        assert {answer.status_code for answer in answers} == {200}
        (token,) = {answer.json()["refresh_token"] for answer in answers}
        assert token not in seen, "each round has one of its own"
        seen.add(token)
        row = await house.storage.auth.session(session.session)
        assert row is not None
        assert row.counter == round_ + 1
    for at, answer in zip(itertools.chain(range(3), range(3)), answers, strict=False):
        assert (await house.get("/v1/me", answer.json()["access_token"], at=at)).status_code == 200, "all tabs live"
    assert await reuses(house, session) == []


async def test_b09_a_lost_answer_is_given_again_by_the_other_auth_service(house: House) -> None:
    """B9: who did not hear the first one may be led elsewhere by the next try."""
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    first, again = [await refreshed(house, session.refresh_token, at=at) for at in range(2)]
    assert first.json()["refresh_token"] == again.json()["refresh_token"]
    assert (await refreshed(house, again.json()["refresh_token"], at=0)).status_code == 200
    assert await reuses(house, session) == []


@pytest.mark.parametrize("late", ["its successor was used", "the window is over"])
async def test_b10_a_stolen_token_used_after_its_owners_refresh_ends_the_family_and_its_sockets(
    house: House, late: str
) -> None:
    """B10: however many thieves there are, and wherever they ask: one end, one line in the audit, nobody else hit."""
    ada = await house.person("ada")
    session, other = await house.sign_in(ada), await house.sign_in(ada, at=1)
    newest = (await refreshed(house, session.refresh_token, at=0)).json()
    if late == "its successor was used":
        newest = (await refreshed(house, newest["refresh_token"], at=1)).json()
    else:
        sql = "UPDATE auth_session SET rotated_at = rotated_at - $2 WHERE id = $1"
        await house.storage.database.execute(sql, session.session, WINDOW_MS)
    sockets = await everywhere(house, session.access_token, session.session)
    sockets += await everywhere(house, newest["access_token"], session.session)
    spared = await everywhere(house, other.access_token, other.session)
    async with house.changing(ada) as change, asyncio.TaskGroup() as tasks:
        thieves = [tasks.create_task(refreshed(house, session.refresh_token, at=n % 2)) for n in range(20)]
    assert {(thief.result().status_code, thief.result().json()["error"]) for thief in thieves} == {
        (400, "invalid_grant")
    }
    await cut_off(sockets, at_s=change.at_s)
    assert [(event.kind, event.session, event.reason) for event in change.events] == [
        ("session_revoked", session.session, "refresh_reused")
    ]
    assert await reuses(house, session) == [(None, "system", ada.user)]
    for token in (session.access_token, newest["access_token"]):
        await refused(house, token)
    for at in range(2):
        assert (await refreshed(house, newest["refresh_token"], at=at)).status_code == 400
    assert all(socket.is_alive for socket in spared)
    assert (await refreshed(house, other.refresh_token, at=1)).status_code == 200
    for socket in spared:
        socket.drop()
