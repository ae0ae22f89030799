"""The promises of `AuthStore`, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.postgres import PostgresServer

from runwire.errors import Conflict, NotFound
from runwire.storage.base import AuthEvent, AuthKind, AuthStore, SessionRow, TicketRow, UserRow
from runwire.storage.memory.auth import MemoryAuthStore
from runwire.storage.postgres.auth import PostgresAuthStore
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sqlite.auth import SqliteAuthStore
from runwire.storage.sqlite.database import SqliteDatabase

T = TypeVar("T")


class FakeClock:
    """A clock that moves when told, ms UTC."""

    def __init__(self) -> None:
        self.now = 1_790_000_000_000

    def __call__(self) -> int:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


Check = Callable[[AuthStore, FakeClock], Awaitable[None]]
Suite = Callable[[Check], None]


@asynccontextmanager
async def postgres(server: PostgresServer, clock: FakeClock) -> AsyncIterator[AuthStore]:
    url = await server.create_database()
    database = await PostgresDatabase.open(url, limit_s=10)
    try:
        yield PostgresAuthStore(database, clock=clock)
    finally:
        await database.close()
        await server.drop_database(url)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def on_store(request: pytest.FixtureRequest, tmp_path: Path) -> Suite:
    """Run a check against a fresh store of each kind."""
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None

    @asynccontextmanager
    async def opened(clock: FakeClock) -> AsyncIterator[AuthStore]:
        if request.param == "memory":
            yield MemoryAuthStore(clock=clock)
        elif server is not None:
            async with postgres(server, clock) as store:
                yield store
        else:
            database = await SqliteDatabase.open(tmp_path / "runwire.db")
            try:
                yield SqliteAuthStore(database, clock=clock)
            finally:
                await database.close()

    async def run(check: Check) -> None:
        clock = FakeClock()
        async with opened(clock) as store:
            await check(store, clock)

    return lambda check: asyncio.run(run(check))


async def all_at_once(calls: Sequence[Awaitable[T]]) -> list[T]:
    async def one(call: Awaitable[T]) -> T:
        return await call

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]


async def events(store: AuthStore, after: int = 0) -> list[AuthEvent]:
    return (await store.events_after(after)).events


async def kinds(store: AuthStore, after: int = 0) -> list[AuthKind]:
    return [event.kind for event in await events(store, after)]


async def session_of(store: AuthStore, holder: UserRow, name: str = "ses_1", ttl_s: int = 1000) -> SessionRow:
    return await store.create_session(
        holder.user, session=name, epoch=holder.epoch, client="test", refresh_key=b"k" * 32, ttl_s=ttl_s
    )


async def reread(store: AuthStore, session: str) -> SessionRow:
    row = await store.session(session)
    assert row is not None
    return row


def test_a_user_is_created_once_and_found_by_id_and_name(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        ada = await store.create_user("ada", roles=("user", "operator", "user"), password_hash="hash")
        assert (ada.name, ada.status, ada.epoch, ada.roles) == ("ada", "active", 1, ("operator", "user"))
        assert await store.user_by_id(ada.user) == await store.user_by_name("ada") == ada
        assert await store.password_hash(ada.user) == "hash"
        with pytest.raises(Conflict):
            await store.create_user("ada")
        assert await store.user_by_name("Ada") is None
        assert await store.user_by_id("usr_none") is None
        assert await store.password_hash("usr_none") is None
        assert await kinds(store) == ["user_created"]

    on_store(check)


def test_of_fifty_parallel_creations_of_one_name_one_wins(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        async def attempt() -> bool:
            try:
                await store.create_user("ada")
            except Conflict:
                return False
            return True

        assert sum(await all_at_once([attempt() for _ in range(50)])) == 1
        assert await kinds(store) == ["user_created"]

    on_store(check)


def test_users_are_listed_by_name_in_pages(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        for name in ("cleo", "ada", "bob"):
            await store.create_user(name)
        first = await store.list_users(limit=2)
        assert [user.name for user in first] == ["ada", "bob"]
        assert [user.name for user in await store.list_users(after="bob", limit=2)] == ["cleo"]

    on_store(check)


def test_disable_moves_the_epoch_and_enable_revives_nothing(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        ada = await store.create_user("ada")
        await session_of(store, ada)
        await store.create_key(ada.user, key="key_1", secret_hash=b"h" * 32)
        disabled = await store.disable_user(ada.user)
        assert (disabled.status, disabled.epoch) == ("disabled", 2)
        assert await store.disable_user(ada.user) == disabled
        assert not await store.rotate_session("ses_1", counter=1)
        enabled = await store.enable_user(ada.user)
        assert (enabled.status, enabled.epoch) == ("active", 2)
        assert await store.enable_user(ada.user) == enabled
        assert not await store.rotate_session("ses_1", counter=1)
        row, key = await reread(store, "ses_1"), await store.key("key_1")
        assert row.epoch == 1
        assert row.holder == enabled
        assert key is not None
        assert key.revoked_at is not None
        with pytest.raises(Conflict):
            await session_of(store, ada, "ses_2")
        assert await kinds(store) == [
            "user_created",
            "session_created",
            "key_created",
            "user_disabled",
            "user_enabled",
        ]
        assert [event.holder for event in (await events(store))[3:]] == [disabled, enabled]

    on_store(check)


def test_changing_an_unknown_user_is_not_found_and_writes_nothing(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.disable_user("usr_none"),
            lambda: store.enable_user("usr_none"),
            lambda: store.set_roles("usr_none", ["user"]),
            lambda: store.set_password("usr_none", "hash"),
            lambda: store.create_key("usr_none", key="key_1", secret_hash=b"h"),
            lambda: store.create_link("usr_none", secret_hash=b"h", ttl_s=1),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                await call()
        page = await store.events_after(0)
        assert (page.head, page.events) == (0, [])

    on_store(check)


def test_roles_change_without_moving_the_epoch_and_once(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        ada = await store.create_user("ada")
        changed = await store.set_roles(ada.user, ["operator", "user"])
        assert (changed.roles, changed.epoch) == (("operator", "user"), 1)
        assert await store.set_roles(ada.user, ["user", "operator"]) == changed
        assert await kinds(store, after=1) == ["roles_changed"]

    on_store(check)


def test_a_new_password_ends_every_other_session(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        ada, bob = await store.create_user("ada"), await store.create_user("bob")
        for name in ("ses_1", "ses_2", "ses_3"):
            await session_of(store, ada, name)
        await session_of(store, bob, "ses_bob")
        head = (await store.events_after(0)).head
        await store.set_password(ada.user, "new", keep_session="ses_2")
        assert await store.password_hash(ada.user) == "new"
        dead = [(await reread(store, name)).revoked_at is not None for name in ("ses_1", "ses_2", "ses_3", "ses_bob")]
        assert dead == [True, False, True, False]
        after = await events(store, head)
        assert sorted(event.session or "" for event in after[:-1]) == ["ses_1", "ses_3"]
        assert [event.kind for event in after] == ["session_revoked", "session_revoked", "credential_changed"]

    on_store(check)


def test_a_session_is_refused_when_access_moved_meanwhile(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        ada = await store.create_user("ada")
        await store.disable_user(ada.user)
        with pytest.raises(Conflict):
            await session_of(store, ada)
        enabled = await store.enable_user(ada.user)
        with pytest.raises(Conflict):
            await session_of(store, ada)
        assert (await session_of(store, enabled)).holder == enabled
        assert await store.session("ses_none") is None

    on_store(check)


def test_one_of_many_rotations_moves_the_counter(on_store: Suite) -> None:
    async def check(store: AuthStore, clock: FakeClock) -> None:
        await session_of(store, await store.create_user("ada"))
        for round_ in range(1, 6):
            clock.move(1)
            moved = await all_at_once([store.rotate_session("ses_1", counter=round_) for _ in range(20)])
            assert sum(moved) == 1
            row = await reread(store, "ses_1")
            assert (row.counter, row.rotated_at) == (round_ + 1, clock.now)
        assert not await store.rotate_session("ses_1", counter=1)
        assert not await store.rotate_session("ses_none", counter=1)

    on_store(check)


def test_a_session_over_its_time_or_revoked_does_not_rotate(on_store: Suite) -> None:
    async def check(store: AuthStore, clock: FakeClock) -> None:
        ada = await store.create_user("ada")
        await session_of(store, ada, "ses_1", ttl_s=10)
        await session_of(store, ada, "ses_2")
        assert await store.revoke_session("ses_2", reason="signed_out")
        assert not await store.revoke_session("ses_2", reason="again")
        assert not await store.revoke_session("ses_none", reason="again")
        assert not await store.rotate_session("ses_2", counter=1)
        clock.move(10)
        assert not await store.rotate_session("ses_1", counter=1)
        last = (await events(store))[-1]
        assert (last.kind, last.session, last.user, last.reason) == ("session_revoked", "ses_2", ada.user, "signed_out")

    on_store(check)


def test_an_api_key_lives_until_it_is_revoked(on_store: Suite) -> None:
    async def check(store: AuthStore, clock: FakeClock) -> None:
        ada = await store.create_user("ada")
        key = await store.create_key(ada.user, key="key_1", secret_hash=b"h" * 32, label="ci", ttl_s=60)
        assert (key.label, key.expires_at, key.holder) == ("ci", clock.now + 60_000, ada)
        await store.create_key(ada.user, key="key_2", secret_hash=b"i" * 32)
        assert [row.key for row in await store.list_keys(ada.user)] == ["key_2", "key_1"]
        assert await store.revoke_key("key_1", reason="leaked")
        assert not await store.revoke_key("key_1", reason="again")
        assert not await store.revoke_key("key_none", reason="again")
        row = await store.key("key_1")
        assert row is not None
        assert row.revoked_at == clock.now
        assert row.secret_hash == b"h" * 32
        assert await store.key("key_none") is None
        many = await store.keys(["key_none", "key_2", "key_1", "key_2"])
        assert many == {"key_1": row, "key_2": await store.key("key_2")}
        assert await store.keys([]) == {}
        await store.disable_user(ada.user)
        with pytest.raises(Conflict):
            await store.create_key(ada.user, key="key_3", secret_hash=b"j" * 32)

    on_store(check)


def test_all_processes_end_up_with_the_same_signing_key(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        made = await all_at_once([store.create_signing_key(f"kid{n}", b"jwk%d" % n) for n in range(10)])
        assert all(keys == made[0] for keys in made)
        assert len(made[0]) == 1
        assert await store.signing_keys() == made[0]
        assert [(event.kind, event.kid) for event in await events(store)] == [("signing_key_created", made[0][0].kid)]
        assert b"jwk" not in repr(made[0]).encode()

    on_store(check)


def test_a_link_is_consumed_once_and_in_time(on_store: Suite) -> None:
    async def check(store: AuthStore, clock: FakeClock) -> None:
        ada = await store.create_user("ada")
        await store.create_link(ada.user, secret_hash=b"one", ttl_s=60)
        won = await all_at_once([store.consume_link(b"one") for _ in range(20)])
        assert sorted(str(user) for user in won) == ["None"] * 19 + [ada.user]
        await store.create_link(ada.user, secret_hash=b"two", ttl_s=60)
        clock.move(60)
        assert await store.consume_link(b"two") is None
        clock.move(-60)
        assert await store.consume_link(b"two") is None

    on_store(check)


def test_a_ticket_is_consumed_once_and_in_time(on_store: Suite) -> None:
    async def check(store: AuthStore, clock: FakeClock) -> None:
        ticket = TicketRow(user="usr_1", session="ses_1", key=None, epoch=3, origin="https://a.example", ends_at=7)
        await store.create_ticket(ticket, secret_hash=b"one", ttl_s=30)
        won = await all_at_once([store.consume_ticket(b"one") for _ in range(20)])
        assert won.count(ticket) == 1
        assert won.count(None) == 19
        await store.create_ticket(ticket, secret_hash=b"two", ttl_s=30)
        await store.create_ticket(ticket, secret_hash=b"two more", ttl_s=30)
        clock.move(30)
        assert await store.consume_ticket(b"two") is None
        await store.create_ticket(ticket, secret_hash=b"three", ttl_s=30)
        assert await store.consume_ticket(b"two more") is None
        assert await store.consume_ticket(b"three") == ticket

    on_store(check)


def test_numbers_of_the_log_are_dense_under_concurrent_changes(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        users = await all_at_once([store.create_user(f"user{n}") for n in range(20)])
        await all_at_once([store.disable_user(user.user) for user in users])
        seen: list[AuthEvent] = []
        while len(page := (await store.events_after(len(seen), limit=7)).events) > 0:
            seen += page
        assert [event.seq for event in seen] == list(range(1, 41))
        assert (await store.events_after(99)).head == 40

    on_store(check)


def test_a_reader_in_step_with_the_log_never_misses_a_change(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        seen: list[int] = []

        async def follow() -> None:
            while len(seen) < 60:
                seen.extend([event.seq for event in await events(store, len(seen))])
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(follow())
            for n in range(60):
                group.create_task(store.create_user(f"user{n}"))
        assert seen == list(range(1, 61))

    on_store(check)


def test_a_snapshot_is_what_the_log_has_led_to(on_store: Suite) -> None:
    async def check(store: AuthStore, clock: FakeClock) -> None:
        ada, bob = await store.create_user("ada"), await store.create_user("bob")
        for name in ("ses_old", "ses_new", "ses_live"):
            await session_of(store, ada, name)
        await store.create_key(bob.user, key="key_1", secret_hash=b"h")
        await store.revoke_session("ses_old", reason="signed_out")
        clock.move(100)
        await store.revoke_session("ses_new", reason="signed_out")
        bob = await store.disable_user(bob.user)
        shot, page = await store.snapshot(revoked_within_s=60), await store.events_after(0)
        assert shot.users == [ada, bob]
        assert shot.revoked_sessions == [("ses_new", clock.now)]
        assert shot.revoked_keys == [("key_1", clock.now)]
        assert (shot.generation, shot.head, shot.read_at) == (page.generation, page.head, clock.now)

    on_store(check)


def test_a_refused_change_leaves_no_event(on_store: Suite) -> None:
    async def check(store: AuthStore, _: FakeClock) -> None:
        ada = await store.create_user("ada")
        stale = ada.epoch + 1
        with pytest.raises(Conflict):
            await store.create_session(ada.user, session="ses_1", epoch=stale, client="t", refresh_key=b"k", ttl_s=1)
        assert await store.session("ses_1") is None
        assert (await store.events_after(0)).head == 1

    on_store(check)


async def test_change_that_waited_sees_what_the_one_before_it_did(postgres_server: PostgresServer) -> None:
    clock = FakeClock()
    async with postgres(postgres_server, clock) as store:
        ada = await store.create_user("ada")
        other = store._database.alone(statement_timeout_s=10)  # type: ignore[attr-defined]  # another process
        async with other as connection, asyncio.TaskGroup() as tasks:
            await connection.execute("BEGIN")
            await connection.fetch(
                "SELECT runwire_auth_change_user('user_disabled', $1, NULL, false, NULL, NULL)", ada.user
            )
            refused = tasks.create_task(refusal(session_of(store, ada)))
            await asyncio.sleep(0.2)  # so that it waits; too short, it comes later and the test sees less
            await connection.execute("COMMIT")
        assert refused.result()
        assert await kinds(store) == ["user_created", "user_disabled"]


async def refusal(call: Awaitable[object]) -> bool:
    try:
        await call
    except Conflict:
        return True
    return False


def test_two_stores_have_different_generations(tmp_path: Path) -> None:
    async def check() -> None:
        first, second = MemoryAuthStore(), MemoryAuthStore()
        assert (await first.events_after(0)).generation != (await second.events_after(0)).generation

    asyncio.run(check())


def test_a_data_file_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    async def check() -> None:
        clock = FakeClock()
        database = await SqliteDatabase.open(tmp_path / "runwire.db")
        store = SqliteAuthStore(database, clock=clock)
        ada = await store.create_user("ada")
        row, before = await session_of(store, ada), await store.snapshot(revoked_within_s=60)
        await database.close()
        database = await SqliteDatabase.open(tmp_path / "runwire.db")
        try:
            again = SqliteAuthStore(database, clock=clock)
            assert await again.session("ses_1") == row
            assert await again.snapshot(revoked_within_s=60) == before
        finally:
            await database.close()

    asyncio.run(check())
