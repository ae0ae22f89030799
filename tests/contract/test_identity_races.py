"""What the auth tables decide in one write, so that nobody slips in between two: API keys, passwords, signing keys."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from tests.contract.test_auth_store import all_at_once, events, kinds, reread
from tests.contract.test_identity import House, did, house, noted, outcome

from runwire.errors import Conflict, NotFound
from runwire.storage.base import AuthKind, AuthStore, SessionRow, UserRow

__all__ = ["house"]  # the fixture


async def token_of(store: AuthStore, holder: UserRow, session: str, key: str) -> SessionRow:
    """Open the session of a token that an API key was exchanged for."""
    return await store.create_session(
        holder.user, session=session, epoch=holder.epoch, client=key, refresh_key=b"k", ttl_s=300
    )


async def is_live(store: AuthStore, session: str) -> bool:
    row = await reread(store, session)
    return row.revoked_at is None and row.epoch == row.holder.epoch


async def said(call: Awaitable[Any]) -> str:
    try:
        await call
    except (Conflict, NotFound) as error:
        return type(error).__name__
    return "done"


async def test_an_api_key_takes_with_it_what_was_got_by_it_in_the_same_write(house: House) -> None:
    store, clock = house
    robot, ada = await store.create_user("robot"), await store.create_user("ada")
    for key, ttl_s in (("key_1", None), ("key_2", None), ("key_3", 60)):
        await store.create_key(robot.user, key=key, secret_hash=b"h", ttl_s=ttl_s)
    for session, client in (("ses_1", "key_1"), ("ses_2", "key_1"), ("ses_3", "key_2"), ("ses_4", "runwire")):
        await token_of(store, robot, session, client)
    await token_of(store, ada, "ses_ada", "key_1")  # whose client only has the same name
    head = (await store.events_after(0)).head
    assert await store.revoke_key("key_1", reason="leaked", audit=did("key.revoke"))
    assert [await is_live(store, f"ses_{n}") for n in (1, 2, 3, 4, "ada")] == [False, False, True, True, True]
    after = await events(store, head)
    assert [(event.kind, event.reason) for event in after] == [
        ("key_revoked", "leaked"),
        ("session_revoked", "key_revoked"),
        ("session_revoked", "key_revoked"),
    ]
    assert {event.session for event in after[1:]} == {"ses_1", "ses_2"}
    assert await noted(store) == [("key.revoke", "key_1")]
    assert await said(token_of(store, robot, "ses_5", "key_1")) == "Conflict"
    clock.move(60)
    assert await said(token_of(store, robot, "ses_6", "key_3")) == "Conflict", "it is over"
    assert await said(token_of(store, robot, "ses_7", "key_2")) == "done"
    assert await store.session("ses_5") is None
    assert await store.session("ses_6") is None


async def test_of_keys_that_end_and_tokens_that_are_made_at_once_no_token_survives(house: House) -> None:
    store, _ = house
    robot = await store.create_user("robot")
    for n in range(4):
        await store.create_key(robot.user, key=f"key_{n}", secret_hash=b"h")
        calls: list[Awaitable[Any]] = [said(token_of(store, robot, f"ses_{n}_{m}", f"key_{n}")) for m in range(6)]
        calls.insert(3, store.revoke_key(f"key_{n}", reason="leaked"))
        await all_at_once(calls)
    assert await store.list_sessions(robot.user) == []


async def test_signing_out_with_keys_ends_younger_tokens_of_older_keys(house: House) -> None:
    """The key was made before the moment, and its token after: the token goes with the key."""
    store, clock = house
    robot = await store.create_user("robot")
    await store.create_key(robot.user, key="key_old", secret_hash=b"h")
    clock.move(10)
    before = clock.now
    await token_of(store, robot, "ses_of_old", "key_old")
    await token_of(store, robot, "ses_of_person", "runwire")
    await store.sign_out_everywhere(robot.user, with_keys=True, before=before, reason="operator")
    assert not await is_live(store, "ses_of_old")
    assert await is_live(store, "ses_of_person")


@pytest.mark.parametrize("each_has_one", [True, False])
async def test_a08_of_ten_who_change_one_password_one_wins(house: House, each_has_one: bool) -> None:
    """A8: the old password counts once, however many know it: a thief and its owner at the same moment, too."""
    store, _ = house
    ada = await store.create_user("ada", password_hash="old")
    for n in range(10):
        await token_of(store, ada, f"ses_{n}", "runwire")

    async def change(n: int) -> str:
        keep = f"ses_{n if each_has_one else 0}"
        audit = did("password.change")
        return await said(store.set_password(ada.user, f"new {n}", keep_session=keep, expected_hash="old", audit=audit))

    answers = await all_at_once([change(n) for n in range(10)])
    assert sorted(answers) == ["Conflict"] * 9 + ["done"]
    winner = answers.index("done")
    assert await store.password_hash(ada.user) == f"new {winner}"
    assert [row.session for row in await store.list_sessions(ada.user)] == [f"ses_{winner if each_has_one else 0}"]
    assert (await kinds(store)).count(AuthKind.CREDENTIAL_CHANGED) == 1
    assert await noted(store) == [("password.change", ada.user)]


async def test_a08_who_was_signed_out_meanwhile_changes_no_password(house: House) -> None:
    """A8: a session that ended while the new password was hashed sets none; an administrator needs no session."""
    store, clock = house
    ada, bob = await store.create_user("ada", password_hash="old"), await store.create_user("bob")
    await token_of(store, ada, "ses_gone", "runwire")
    await store.revoke_session("ses_gone", reason="signed_out")
    await token_of(store, ada, "ses_over", "runwire")
    await token_of(store, bob, "ses_of_bob", "runwire")
    clock.move(300)
    head = (await store.events_after(0)).head
    for session in ("ses_gone", "ses_over", "ses_of_bob", "ses_none"):
        call = store.set_password(ada.user, "thief", keep_session=session, expected_hash="old", audit=did("thief"))
        assert await outcome(call) == "Conflict", session
    assert (await store.events_after(0)).head == head
    assert await noted(store) == []
    assert await store.password_hash(ada.user) == "old"
    assert await outcome(store.set_password(ada.user, "new", expected_hash="old")) == "UserRow"
    assert await outcome(store.set_password(ada.user, "newer")) == "UserRow"
    await store.delete_user(ada.user)
    assert await outcome(store.set_password(ada.user, "back", expected_hash="newer")) == "NotFound"


async def test_signing_keys_in_force_are_so_many_at_most_however_many_rotate_at_once(house: House) -> None:
    store, clock = house
    await store.create_signing_key("k0", b"zero")

    async def rotate(kid: str) -> str:
        return await said(
            store.add_signing_key(kid, b"key", activate_in_s=60, retire_others_in_s=300, at_most=3, audit=did("rotate"))
        )

    answers = await all_at_once([rotate(f"k{n}") for n in range(1, 9)])
    assert sorted(answers) == ["Conflict"] * 6 + ["done"] * 2
    in_force = [row.kid for row in await store.signing_keys()]
    assert len(in_force) == 3
    assert len(await noted(store)) == 2
    assert await store.revoke_signing_key(in_force[-1])
    assert [await rotate("k10"), await rotate("k11")] == ["done", "Conflict"], "a revoked key makes room"
    clock.move(300)
    assert await rotate("k12") == "done", "so does one that has left"
    more = await store.add_signing_key("k13", b"key", activate_in_s=0, retire_others_in_s=None)
    assert "k13" in {row.kid for row in more}, "who must have one has it"
