"""The promises of `AuthStore` about tombstones, sign-outs, invitations, resets, signing keys and the audit."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from tests.contract.test_auth_store import FakeClock, all_at_once, events, kinds, reread, session_of
from tests.postgres import PostgresServer

from runwire.auth.identity import Identity
from runwire.auth.view import AuthView
from runwire.errors import Conflict, NotFound
from runwire.storage.base import AuditEntry, AuthStore, UserRow
from runwire.storage.base_audit import MAX_TEXT
from runwire.storage.memory.auth import MemoryAuthStore
from runwire.storage.postgres.auth import PostgresAuthStore
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sqlite.auth import SqliteAuthStore
from runwire.storage.sqlite.database import SqliteDatabase

BY_ROOT: Final = AuditEntry(actor="usr_root", actor_kind="user", action="test", address="192.0.2.7")

AUDIT_TEXT: Final = msgspec.json.encode(BY_ROOT).decode()
WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class House(NamedTuple):
    """A store, and its clock."""

    store: AuthStore
    clock: FakeClock


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    clock = FakeClock()
    if request.param == "memory":
        yield House(MemoryAuthStore(clock=clock), clock)
    elif request.param == "sqlite":
        file = await SqliteDatabase.open(tmp_path / "runwire.db")
        yield House(SqliteAuthStore(file, clock=clock), clock)
        await file.close()
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = await server.lend()
        database = await PostgresDatabase.open(url, limit_s=10)
        yield House(PostgresAuthStore(database, clock=clock), clock)
        await database.close()
        await server.take_back(url)


async def noted(store: AuthStore) -> list[tuple[str, str | None]]:
    return [(row.entry.action, row.entry.subject) for row in (await store.audit_after(0)).rows]


def did(action: str) -> AuditEntry:
    return msgspec.structs.replace(BY_ROOT, action=action)


def secret(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


async def outcome(call: Awaitable[Any]) -> str:
    try:
        return f"{type(await call).__name__}"
    except (Conflict, NotFound) as error:
        return type(error).__name__


async def test_a_deleted_user_is_a_tombstone_for_good(house: House) -> None:
    store, clock = house
    ada = await store.create_user("ada", password_hash="hash", roles=["user", "admin"])
    await store.create_session(
        ada.user, session="ses_1", epoch=1, client="t", refresh_key=b"k", ttl_s=99, address="192.0.2.9"
    )
    await store.create_key(ada.user, key="key_1", secret_hash=b"h", label="laptop of ada")
    await store.create_link(ada.user, secret_hash=secret(1), ttl_s=99)
    clock.move(1)
    gone = await store.delete_user(ada.user, audit=did("user.delete"))
    assert (gone.name, gone.status, gone.epoch, gone.roles) == (ada.user, "deleted", 2, ())
    assert gone.valid_from == clock.now
    assert await store.delete_user(ada.user, audit=did("again")) == gone  # and writes nothing
    session, key = await reread(store, "ses_1"), await store.key("key_1")
    assert key is not None
    assert (session.revoked_at, key.revoked_at, session.address, key.label) == (clock.now, clock.now, "", "")
    assert await store.password_hash(ada.user) is None
    assert await store.consume_link(secret(1)) is None
    assert await store.list_sessions(ada.user) == []
    assert (await kinds(store))[-1] == "user_deleted"
    assert b"ada" not in msgspec.json.encode(await events(store)).replace(ada.user.encode(), b"")
    assert await noted(store) == [("user.delete", ada.user)]
    # Nothing makes it a user again, and the name is free.
    calls = [
        store.enable_user(ada.user),
        store.disable_user(ada.user),
        store.set_roles(ada.user, ["admin"]),
        store.set_password(ada.user, "new"),
        store.create_key(ada.user, key="key_2", secret_hash=b"h"),
        store.create_reset(ada.user, secret_hash=secret(2), ttl_s=9),
        store.sign_out_everywhere(ada.user, reason="test"),
    ]
    assert {await outcome(call) for call in calls} == {"NotFound"}
    assert (await store.create_user("ada")).user != ada.user
    assert [user.name for user in await store.list_users()] == ["ada"]
    assert gone in await store.list_users(with_deleted=True)
    # Nobody has the name that the next tombstone needs.
    assert await outcome(store.create_user("usr_00000000000000000000000000000000")) == "Conflict"


async def test_access_that_was_withdrawn_leaves_no_way_back_in(house: House) -> None:
    store, clock = house
    ada = await store.create_user("ada")
    await session_of(store, ada)
    await store.create_link(ada.user, secret_hash=secret(1), ttl_s=999)
    await store.create_reset(ada.user, secret_hash=secret(2), ttl_s=999)
    clock.move(1)
    disabled = await store.disable_user(ada.user)
    assert disabled.valid_from == clock.now
    await store.enable_user(ada.user)
    assert await store.consume_link(secret(1)) is None
    assert await store.reset_password(secret(2), "new") is None
    assert (await reread(store, "ses_1")).revoked_at == clock.now
    assert await store.list_sessions(ada.user) == []


async def test_the_last_administrator_stays_whoever_is_faster(house: House) -> None:
    store, _ = house
    admins = [await store.create_user(f"admin{n}", roles=["admin"]) for n in range(3)]
    calls = [
        store.disable_user(admins[0].user, keep_admin=True),
        store.delete_user(admins[1].user, keep_admin=True, audit=did("delete")),
        store.set_roles(admins[2].user, ["user"], keep_admin=True),
    ]
    assert sorted(await all_at_once([outcome(call) for call in calls])) == ["Conflict", "UserRow", "UserRow"]
    left = [row for row in await store.list_users() if row.status == "active" and "admin" in row.roles]
    assert len(left) == 1
    assert (await store.set_roles(left[0].user, ["admin", "user"], keep_admin=True)).roles == ("admin", "user")
    assert (await store.disable_user(left[0].user)).status == "disabled"  # on the machine itself


async def test_signing_out_everywhere_spares_what_it_is_told_to(house: House) -> None:
    store, clock = house
    ada = await store.create_user("ada")
    for name in ("ses_1", "ses_2"):
        await session_of(store, ada, name)
    clock.move(10)
    late = clock.now
    await session_of(store, ada, "ses_3")
    await store.create_key(ada.user, key="key_1", secret_hash=b"h")
    assert [row.session for row in await store.list_sessions(ada.user)] == ["ses_3", "ses_2", "ses_1"]
    head = (await store.events_after(0)).head
    for action, ended in (("one", 1), ("none", 0)):
        done = await store.sign_out_everywhere(
            ada.user, keep_session="ses_1", before=late, reason="test", audit=did(action)
        )
        assert done == ended
    assert [(e.kind, e.session, e.reason) for e in await events(store, head)] == [("session_revoked", "ses_2", "test")]
    # With keys the epoch moves, and who is spared moves along.
    assert await store.sign_out_everywhere(ada.user, keep_session="ses_3", with_keys=True, reason="test") == 1
    assert sorted(await kinds(store, head + 1)) == ["key_revoked", "session_revoked", "signed_out_everywhere"]
    moved = await store.user_by_id(ada.user)
    assert moved is not None
    assert (moved.epoch, moved.valid_from) == (2, clock.now)
    assert [row.session for row in await store.list_sessions(ada.user)] == ["ses_3"]
    assert await store.rotate_session("ses_3", counter=1)
    assert await noted(store) == [("one", ada.user)]


async def test_everybody_can_be_signed_out_who_signed_in_before_a_time(house: House) -> None:
    store, clock = house
    people = [await store.create_user(f"user{n}") for n in range(3)]
    for n, holder in enumerate(people):
        await session_of(store, holder, f"ses_{n}")
    clock.move(5)
    await session_of(store, people[0], "ses_new")
    head = (await store.events_after(0)).head
    assert await store.sign_out_before(clock.now, reason="breach", audit=did("all")) == 3
    assert await store.sign_out_before(clock.now, reason="breach", audit=did("none")) == 0
    assert {event.session for event in await events(store, head)} == {"ses_0", "ses_1", "ses_2"}
    assert [row.session for row in await store.list_sessions(people[0].user)] == ["ses_new"]
    assert await noted(store) == [("all", None)]


async def test_of_fifty_who_use_an_invitation_one_gets_in(house: House) -> None:
    store, clock = house
    made = await store.create_invite(
        secret_hash=secret(1), roles=["user", "operator"], ttl_s=60, created_by="usr_1", audit=did("invite")
    )
    assert await store.list_invites() == [made]
    assert (made.roles, made.ends_at) == (("operator", "user"), clock.now + 60_000)
    await store.create_user("taken")
    assert await outcome(store.create_user("taken", invite_hash=secret(1))) == "Conflict"
    came = await all_at_once([outcome(store.create_user(f"u{n}", invite_hash=secret(1))) for n in range(50)])
    assert sorted(came) == ["NotFound"] * 49 + ["UserRow"]
    (guest,) = [row for row in await store.list_users() if row.name != "taken"]
    assert guest.roles == ("operator", "user")
    back = await store.create_invite(secret_hash=secret(2), roles=["user"], ttl_s=60, created_by=None)
    await store.create_invite(secret_hash=secret(3), roles=["user"], ttl_s=60, created_by=None)
    assert await store.revoke_invite(back.invite, audit=did("back"))
    assert not await store.revoke_invite(back.invite, audit=did("again"))
    clock.move(60)
    assert await store.list_invites() == []
    assert [await outcome(store.create_user("x", invite_hash=secret(n))) for n in (2, 3, 4)] == ["NotFound"] * 3
    assert await noted(store) == [("invite", made.invite), ("back", back.invite)]
    assert back.created_by is None


async def test_a_reset_has_one_winner_and_ends_all_that_was(house: House) -> None:
    store, clock = house
    ada = await store.create_user("ada", password_hash="old")
    await session_of(store, ada)
    for n in (1, 2, 3):
        await store.create_reset(ada.user, secret_hash=secret(n), ttl_s=60)
    await store.create_link(ada.user, secret_hash=secret(4), ttl_s=60)
    tries = [store.reset_password(secret(1), f"new{n}", audit=did("reset")) for n in range(20)]
    won = [n for n, row in enumerate(await all_at_once(tries)) if row is not None]
    assert len(won) == 1
    assert await store.password_hash(ada.user) == f"new{won[0]}"
    assert await store.list_sessions(ada.user) == []
    assert (await kinds(store))[-2:] == ["session_revoked", "credential_changed"]
    assert await store.reset_password(secret(2), "thief") is None
    assert await store.consume_link(secret(4)) is None
    await store.create_reset(ada.user, secret_hash=secret(5), ttl_s=60)
    clock.move(60)
    assert await store.reset_password(secret(5), "late") is None
    assert await store.password_hash(ada.user) == f"new{won[0]}"
    assert await noted(store) == [("reset", ada.user)]


async def test_fifty_first_contacts_of_a_foreign_identity_make_one_user(house: House) -> None:
    store, clock = house
    await store.create_user("ada")
    calls = [
        store.link_external("https://idp.example", "42", name="ada", roles=["user"], audit=did("met"))
        for _ in range(50)
    ]
    rows = await all_at_once(calls)
    ada = rows[0]
    assert all(row == ada for row in rows)
    assert ada.name.startswith("ada-")
    assert await kinds(store) == ["user_created"] * 2
    assert await noted(store) == [("met", ada.user)]
    assert await store.external_of(ada.user) == ("https://idp.example", "42")
    assert await store.external_user("https://idp.example", "42") == ada
    assert await store.external_user("https://idp.example4", "2") is None
    other = await store.link_external("https://other.example", "42", name="bob", roles=["user"])
    assert (other.name, other.user == ada.user) == ("bob", False)
    # Its sessions have no rows: a sign-out everywhere moves the epoch, and one of them is remembered.
    clock.move(1)
    assert await store.sign_out_everywhere(ada.user, reason="test") == 0
    assert (await kinds(store))[-1] == "signed_out_everywhere"
    ended = await all_at_once(
        [store.revoke_external_session("ext_1", ada.user, reason="logout", audit=did("out")) for _ in range(5)]
    )
    assert sorted(ended) == [False] * 4 + [True]
    assert (await store.snapshot(revoked_within_s=60)).revoked_sessions == [("ext_1", clock.now)]
    # Deleted: nobody learns the subject any more, and it signs nobody up again.
    await store.delete_user(ada.user)
    assert await store.external_of(ada.user) is None
    again = await store.link_external("https://idp.example", "42", name="ada", roles=["admin"])
    assert (again.user, again.status) == (ada.user, "deleted")


async def test_signing_keys_come_one_after_the_other_and_can_be_revoked(house: House) -> None:
    store, clock = house
    await store.create_signing_key("k1", b"one")
    both = await store.add_signing_key("k2", b"two", activate_in_s=60, retire_others_in_s=300, audit=did("rotate"))
    assert [(key.kid, key.activates_at - clock.now, key.retires_at) for key in both] == [
        ("k1", 0, clock.now + 300_000),
        ("k2", 60_000, None),
    ]
    assert await outcome(store.add_signing_key("k2", b"x", activate_in_s=0, retire_others_in_s=None)) == "Conflict"
    assert await store.create_signing_key("k3", b"none") == both  # one signs
    clock.move(300)
    assert [key.kid for key in await store.signing_keys()] == ["k2"]
    assert [key.kid for key in await store.signing_keys(with_ended=True)] == ["k1", "k2"]
    assert await store.revoke_signing_key("k2", audit=did("revoke"))
    assert not await store.revoke_signing_key("k2", audit=did("again"))
    assert await store.signing_keys() == []
    assert [key.private_jwk for key in await store.signing_keys(with_ended=True)] == [b"one", b""]
    assert (await store.snapshot(revoked_within_s=1)).revoked_kids == ["k2"]
    assert [(event.kind, event.kid) for event in await events(store)][-1] == ("signing_key_revoked", "k2")
    assert [key.kid for key in await store.create_signing_key("k4", b"four")] == ["k4"]  # nobody signed
    assert await noted(store) == [("rotate", "k2"), ("revoke", "k2")]


async def test_an_api_key_says_its_scopes_and_about_when_it_was_used(house: House) -> None:
    store, clock = house
    ada = await store.create_user("ada")
    made = await store.create_key(ada.user, key="key_1", secret_hash=b"h", scopes=["b", "a"], audit=did("key"))
    assert (made.scopes, made.last_used_at) == (("a", "b"), None)
    head, first = (await store.events_after(0)).head, clock.now
    used = []
    for seconds in (0, 59, 1):
        clock.move(seconds)
        await store.touch_keys(["key_1", "key_none"])
        row = await store.key("key_1")
        assert row is not None
        used.append(row.last_used_at)
    assert used == [first, first, clock.now]
    assert (await store.events_after(0)).head == head
    assert await noted(store) == [("key", "key_1")]


async def test_the_audit_is_appended_with_the_change_or_not_at_all(house: House) -> None:
    store, clock = house
    ada = await store.create_user("ada", audit=did("create"))
    assert await outcome(store.create_user("ada", audit=did("refused"))) == "Conflict"
    await store.set_roles(ada.user, ["operator"], audit=did("roles"))
    await store.set_roles(ada.user, ["operator"], audit=did("unchanged"))
    assert await outcome(session_with(store, ada, epoch=9)) == "Conflict"
    await session_with(store, ada, epoch=1)
    await store.revoke_session("ses_1", reason="x", audit=did("out"))
    await store.revoke_session("ses_1", reason="x", audit=did("again"))
    assert await outcome(store.disable_user("usr_none", audit=did("unknown"))) == "NotFound"
    wild = AuditEntry(
        actor=None, actor_kind="system", action="a\0b", subject="\ud800", address="x" * 999, detail={"why": "l\nl"}
    )
    await store.record(wild)
    page = await store.audit_after(0)
    expected = [("create", ada.user), ("roles", ada.user), ("in", ada.user), ("out", "ses_1"), ("a\ufffdb", "?")]
    assert await noted(store) == expected
    assert ([row.seq for row in page.rows], page.head) == ([1, 2, 3, 4, 5], 5)
    assert page.rows[0].entry == msgspec.structs.replace(did("create"), subject=ada.user)
    assert page.rows[0].at == clock.now
    assert len(page.rows[-1].entry.address) == MAX_TEXT
    assert page.rows[-1].entry.detail == {"why": "l\ufffdl"}
    assert [row.seq for row in (await store.audit_after(2, limit=2)).rows] == [3, 4]
    assert (await store.audit_after(5)).rows == []


async def test_orders_to_breakers_are_found_among_all_else_that_was_done(house: House) -> None:
    store, _ = house

    def order(word: str) -> AuditEntry:
        return AuditEntry(actor="usr_1", actor_kind="user", action=f"breaker.{word}", subject="model/openai/gpt")

    ada = await store.create_user("ada", audit=did("create"))
    for word in ("force-open", "reset", "disable", "other"):
        await store.record(order(word))
        await store.set_roles(ada.user, [word], audit=did("roles"))
    page = await store.breaker_orders(0)
    assert [(row.seq, row.entry) for row in page.rows] == [
        (2, order("force-open")),
        (4, order("reset")),
        (6, order("disable")),
    ]
    assert page.head == 9
    assert [row.seq for row in (await store.breaker_orders(2, limit=1)).rows] == [4]
    beyond = await store.breaker_orders(6)
    assert (beyond.rows, beyond.head) == ([], 9)


async def session_with(store: AuthStore, holder: UserRow, *, epoch: int) -> Any:
    return await store.create_session(
        holder.user, session="ses_1", epoch=epoch, client="t", refresh_key=b"k", ttl_s=9, audit=did("in")
    )


async def test_who_is_erased_is_in_the_audit_no_more(house: House) -> None:
    store, _ = house
    for actor, subject in (("usr_ada", "usr_bob"), ("usr_bob", "usr_ada"), (None, "ada"), ("usr_bob", None)):
        await store.record(
            AuditEntry(
                actor=actor, actor_kind="user", action="x", subject=subject, address="::1", detail={"name": "ada"}
            )
        )
    assert await store.audit_pseudonymise("usr_ada", names=["ada"]) == 3
    assert await store.audit_pseudonymise("usr_ada", names=["ada"]) == 0
    rows = [row.entry for row in (await store.audit_after(0)).rows]
    assert [(row.actor, row.subject, row.address, row.detail["name"]) for row in rows] == [
        ("erased", "usr_bob", "erased", "erased"),
        ("usr_bob", "erased", "erased", "erased"),
        (None, "erased", "erased", "erased"),
        ("usr_bob", None, "::1", "ada"),
    ]


async def test_a_view_knows_of_all_that_was_withdrawn_by_snapshot_as_by_log(house: House) -> None:
    store, _ = house
    people = [await store.create_user(name) for name in ("deleted", "out", "signed", "fine")]
    await store.create_signing_key("k1", b"one")
    followed, loaded = AuthView(), AuthView()
    assert followed.load(await store.snapshot(revoked_within_s=60), began_s=0)
    assert all(followed.is_current(identity(row)) for row in people)
    await store.delete_user(people[0].user)
    await store.sign_out_everywhere(people[1].user, with_keys=True, reason="test")
    await store.revoke_signing_key("k1")
    assert followed.apply(await store.events_after(followed.cursor), began_s=1)
    loaded.load(await store.snapshot(revoked_within_s=60), began_s=1)
    for view in (followed, loaded):
        assert [view.is_current(identity(row)) for row in people] == [False, False, True, True]
        assert not view.is_current(identity(people[2], kid="k1"))
        assert view.is_current(identity(people[2], kid="k2"))
        assert view.is_kid_revoked("k1")


def identity(row: UserRow, *, kid: str | None = None) -> Identity:
    return Identity(
        user=row.user,
        name=row.name,
        roles=frozenset(),
        kind="session",
        session="ses_1",
        key=None,
        epoch=1,
        expires_at=None,
        kid=kid,
    )


async def test_a18_of_two_changes_that_commit_in_reverse_order_none_is_skipped(
    postgres_server: PostgresServer,
) -> None:
    """Case A18: one begins first and commits last; a reader in between must not step over it."""
    url = await postgres_server.lend()
    database = await PostgresDatabase.open(url, limit_s=10)
    store = PostgresAuthStore(database)
    try:
        async with database.alone(statement_timeout_s=10) as early, asyncio.TaskGroup() as tasks:
            await early.execute("BEGIN")
            audit = msgspec.json.encode(did("early")).decode()
            sql = "SELECT runwire_auth_create_user('usr_early', 'early', '[]', NULL, NULL, $1, NULL)"
            await early.fetch(sql, audit)
            late = tasks.create_task(store.create_user("late", audit=did("late")))
            async with asyncio.timeout(10):
                while not late.done() and not await database.fetchval(WAITING):  # each of these is a round trip
                    continue
            seen = await events(store)  # a reader comes by, and goes on from what it finds
            await early.execute("COMMIT")
        seen += await events(store, seen[-1].seq if seen else 0)
        assert [event.holder and event.holder.name for event in seen] == ["early", "late"]
        assert [action for action, _ in await noted(store)] == ["early", "late"]
    finally:
        await database.close()
        await postgres_server.take_back(url)


@pytest.mark.parametrize("commits", [False, True])
async def test_a_change_cut_off_before_its_commit_leaves_neither_audit_nor_event(
    postgres_server: PostgresServer, commits: bool
) -> None:
    url = await postgres_server.lend()
    database = await PostgresDatabase.open(url, limit_s=10)
    store = PostgresAuthStore(database)
    try:
        ada = await store.create_user("ada")
        await session_of(store, ada)
        async with database.alone(statement_timeout_s=10) as doomed:
            await doomed.execute("BEGIN")
            await doomed.fetch("SELECT * FROM runwire_auth_delete_user($1, false, $2, NULL)", ada.user, AUDIT_TEXT)
            if commits:
                await doomed.execute("COMMIT")
            else:
                doomed.terminate()  # as if its process were killed
        assert not await store.revoke_session("ses_none", reason="x")  # waits until the server has undone it
        holder = await store.user_by_id(ada.user)
        assert holder is not None
        is_there = (holder.status == "deleted", "user_deleted" in await kinds(store), await noted(store) != [])
        assert is_there == (commits, commits, commits)
        assert ((await reread(store, "ses_1")).revoked_at is not None) is commits
    finally:
        await database.close()
        await postgres_server.take_back(url)
