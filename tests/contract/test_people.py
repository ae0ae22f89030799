"""The promises of `People`, on every adapter."""

from __future__ import annotations

import pytest
from tests.contract.adapters import send
from tests.contract.test_auth_store import all_at_once

from runwire.errors import Conflict
from runwire.storage.base import Storage

IDP = "https://idp.example"


async def test_fifty_first_meetings_make_one_row(storage: Storage) -> None:
    met = await all_at_once([storage.people.meet("usr_ada", IDP, "42") for _ in range(50)])
    assert sorted(met) == [False] * 49 + [True]
    (row,) = await storage.people.list()
    assert (row.user, row.issuer, row.subject, row.quarantined_at) == ("usr_ada", IDP, "42", None)
    assert await storage.people.get("usr_ada") == row
    assert await storage.people.get("usr_bob") is None
    with pytest.raises(Conflict):
        await storage.people.meet("usr_bob", IDP, "42")
    assert await storage.people.list() == [row]


async def test_a_row_made_by_a_first_message_is_brought_in_line(storage: Storage) -> None:
    await send(storage, user="usr_ada")
    (row,) = await storage.people.list()
    assert (row.user, row.issuer, row.subject) == ("usr_ada", "builtin", "usr_ada")
    assert not await storage.people.meet("usr_ada", IDP, "42")
    found = await storage.people.get("usr_ada")
    assert found is not None
    assert (found.issuer, found.subject, found.met_at) == (IDP, "42", row.met_at)
    assert len(await storage.threads.list("usr_ada")) == 1


async def test_people_are_listed_marked_and_forgotten(storage: Storage) -> None:
    people = storage.people
    for n in range(3):
        await people.meet(f"usr_{n}", "builtin", f"usr_{n}")
    assert [row.user for row in await people.list(limit=2)] == ["usr_0", "usr_1"]
    assert [row.user for row in await people.list(after="usr_1")] == ["usr_2"]
    assert [await people.quarantine(user) for user in ("usr_1", "usr_1", "usr_none")] == [True, False, False]
    row = await people.get("usr_1")
    assert row is not None
    assert row.quarantined_at is not None
    assert [await people.release("usr_1"), await people.release("usr_1")] == [True, False]
    assert [await people.forget(user) for user in ("usr_1", "usr_1", "usr_none")] == [True, False, False]
    assert await people.get("usr_1") is None
    assert [row.user for row in await people.list()] == ["usr_0", "usr_2"]
    assert await people.meet("usr_1", IDP, "9")
    assert not await people.meet("usr_1", IDP, "9")
