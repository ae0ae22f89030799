"""The backend's side of identity, against a real service and real stores."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from joserfc.jwk import ECKey
from tests.jwt.corpus import Mint, corpus, signed
from tests.unit.auth.house import SECRET, House, Kind, all_at_once, open_house, withdrawn

from runwire.auth import tokens
from runwire.auth.client import AuthClient, AuthClientSettings
from runwire.auth.follower import Follower
from runwire.auth.identity import Identity
from runwire.auth.service import users
from runwire.errors import ConfigurationError, RunwireError, Unauthenticated, Unavailable
from runwire.protocol.codes import ErrorCode
from runwire.storage.base import AuthPage, AuthStore
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.auth import MemoryAuthStore

PASSWORD = "correct horse battery"
POLL_S = 0.25
ORIGIN = "https://app.example.org"
GOOD_JWK = tokens.public_jwk("k", tokens.read_signing_key(tokens.new_signing_key("k")))

Check = Callable[[House], Awaitable[None]]
Suite = Callable[..., None]

MEMORY = pytest.mark.parametrize("in_house", ["memory"], indirect=True)  # nothing here depends on the store


@pytest.fixture(params=["memory", "sqlite"])
def in_house(request: pytest.FixtureRequest, tmp_path: Path) -> Suite:
    kind: Kind = request.param
    numbers = itertools.count()

    def run(check: Check, **options: Any) -> None:
        async def main() -> None:
            folder = tmp_path / str(next(numbers))
            async with open_house(kind, folder, **options) as house:
                await users.add_user(house.store, "ada", password=PASSWORD, settings=house.settings)
                await check(house)

        asyncio.run(main())

    return run


class Way(httpx2.AsyncBaseTransport):
    """A way to the service that counts, and can be made to fail, hang or lie."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self.inner = inner
        self.paths: list[str] = []
        self.answer: Callable[[], httpx2.Response] | None = None  # instead of the service's
        self.answers_late = False  # wait with the answer instead of with the request
        self.is_open = asyncio.Event()  # requests wait for it
        self.is_open.set()
        self.arrived = asyncio.Event()
        self.done = 0
        self.unknown = ""  # a path that this service does not have

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.paths.append(request.url.path)
        if not self.answers_late:
            await self._pass()
        if request.url.path == self.unknown:
            response = httpx2.Response(404)
        else:
            response = await self.inner.handle_async_request(request) if self.answer is None else self.answer()
        if self.answers_late:
            await self._pass()
        self.done += 1
        return response

    async def _pass(self) -> None:
        self.arrived.set()
        await self.is_open.wait()

    def count(self, path: str) -> int:
        return self.paths.count(path)


class Line:
    """The store as the client sees it; the line to it can be cut, and it can be another database."""

    def __init__(self, store: AuthStore) -> None:
        self.store = store
        self.is_cut = False
        self.hangs = False
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        self.reads += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_cut:
            raise Unavailable("The database refused the work; try again.")
        return await self.store.events_after(cursor, limit=limit)


class Wires:
    """What a test put between client, service and store."""

    way: Way
    line: Line

    def options(self) -> dict[str, Any]:
        def through(inner: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
            self.way = Way(inner)
            return self.way

        def over(store: AuthStore) -> AuthStore:
            self.line = Line(store)
            return cast("AuthStore", self.line)

        return {"transport": through, "wrap": over}


async def identity_of(house: House) -> Identity:
    return await house.client.authenticate((await house.sign_in("ada", PASSWORD))["access_token"])


async def refusal_of(call: Awaitable[object]) -> RunwireError:
    with pytest.raises(RunwireError) as refusal:
        await call
    return refusal.value


def assert_withdrawn(refusal: RunwireError) -> None:
    assert isinstance(refusal, Unauthenticated)
    assert refusal.message == "This access was withdrawn; sign in again."
    assert ErrorCode(refusal.code).http_status == 401, "every code that a person may see is one of the wire's"


def test_an_access_token_proves_who_with_roles_from_the_view(in_house: Suite) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        who = await house.client.authenticate(granted["access_token"])
        assert (who.user, who.name, who.roles) == (granted["user"], "ada", frozenset({"user"}))
        assert (who.kind, who.key, who.epoch) == ("session", None, 1)
        assert who.session is not None
        assert who.expires_at == house.clock.ms() + 300_000
        assert house.client.view.is_current(who)
        await house.store.set_roles(who.user, ["operator", "user"])
        house.clock.move(2)
        again = await house.client.authenticate(granted["access_token"])
        assert again.roles == {"operator", "user"}

    in_house(check)


def test_an_api_key_proves_who_until_its_end(in_house: Suite) -> None:
    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada", ttl_s=60)
        who = await house.client.authenticate(key)
        assert (who.name, who.kind, who.session, who.epoch) == ("ada", "key", None, 1)
        assert who.key is not None
        assert who.expires_at == (house.clock.ms() // 1000 + 60) * 1000
        house.clock.move(60)
        assert (await refusal_of(house.client.authenticate(key))).code == "unauthenticated"

    in_house(check)


@MEMORY
def test_the_corpus_is_refused_through_the_client_with_one_answer(in_house: Suite) -> None:
    async def check(house: House) -> None:
        (row,) = await house.store.signing_keys()
        attacks = corpus(Mint(key=tokens.read_signing_key(row.private_jwk)))
        answers = [await refusal_of(house.client.authenticate(token)) for token in attacks.values()]
        assert {(isinstance(a, Unauthenticated), a.code, a.message) for a in answers} == {
            (True, "unauthenticated", "This credential is not valid; sign in again.")
        }

    in_house(check)


@MEMORY
@pytest.mark.parametrize("credential", ["", "x", "rw_x", "rw_" + "x" * 9000, "a" * 1_000_000, "é", "\ud800"])
def test_what_is_no_credential_is_refused_without_a_request(in_house: Suite, credential: str) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        before = len(wires.way.paths)
        assert isinstance(await refusal_of(house.client.authenticate(credential)), Unauthenticated)
        assert len(wires.way.paths) == before

    in_house(check, **wires.options())


def test_disabling_reaches_the_view_by_the_poll_when_no_wake_up_comes(in_house: Suite) -> None:
    async def check(house: House) -> None:
        who = await identity_of(house)
        called: list[bool] = []
        house.client.on_change(lambda: called.append(house.client.view.is_current(who)))
        await users.disable_user(house.store, "ada")
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=POLL_S + 0.4)
        assert called == [False], "whoever asks when called back gets the new answer"
        shown = house.client.view.user(who.user)
        assert shown is not None
        assert (shown.status, shown.epoch) == ("disabled", 2)

    in_house(check, wakes=False)


def test_a_wake_up_makes_it_at_once(in_house: Suite) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        who = await house.client.authenticate(granted["access_token"])
        headers = {"authorization": f"Bearer {granted['access_token']}"}
        assert (await house.http.delete("/auth/sessions/current", headers=headers)).status_code == 204
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=1.0)
        assert_withdrawn(await refusal_of(house.client.authenticate(granted["access_token"])))

    in_house(check, backend={"poll_s": 3600.0})


def test_reuse_of_a_refresh_token_ends_what_stands_on_the_session(in_house: Suite) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        who = await house.client.authenticate(granted["access_token"])
        second = (await house.refresh(granted["refresh_token"])).json()
        await house.refresh(second["refresh_token"])
        await house.refresh(granted["refresh_token"])
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=1.0)

    in_house(check, backend={"poll_s": 3600.0})


def test_old_tokens_of_a_reenabled_user_stay_dead_and_new_ones_work_at_once(in_house: Suite) -> None:
    async def check(house: House) -> None:
        granted = await house.sign_in("ada", PASSWORD)
        key = await users.create_api_key(house.store, "ada")
        await house.client.authenticate(key)
        who = await house.client.authenticate(granted["access_token"])
        await users.disable_user(house.store, "ada")
        await users.enable_user(house.store, "ada")
        # No wake-up, no poll: the new epoch itself makes the client look.
        new = await identity_of(house)
        assert new.epoch == 2
        for old in (granted["access_token"], key):
            assert isinstance(await refusal_of(house.client.authenticate(old)), Unauthenticated)
        assert not house.client.view.is_current(who)
        assert (await house.client.authenticate(await users.create_api_key(house.store, "ada"))).epoch == 2

    in_house(check, wakes=False, backend={"poll_s": 3600.0})


def test_a_user_added_a_moment_ago_is_known(in_house: Suite) -> None:
    async def check(house: House) -> None:
        assert (await identity_of(house)).name == "ada"
        await users.add_user(house.store, "bob")
        assert (await house.client.authenticate(await users.create_api_key(house.store, "bob"))).name == "bob"

    in_house(check, wakes=False, backend={"poll_s": 3600.0})


def test_an_api_key_is_asked_for_once_by_many_and_then_remembered(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada")
        before = wires.way.count("/auth/introspect")
        found = await all_at_once([house.client.authenticate(key) for _ in range(50)])
        assert len(set(found)) == 1
        await house.client.authenticate(key)
        assert wires.way.count("/auth/introspect") == before + 1
        house.clock.move(61)
        await house.client.authenticate(key)
        assert wires.way.count("/auth/introspect") == before + 2

    in_house(check, **wires.options())


def test_a_crowd_with_a_key_each_is_asked_for_a_few_at_a_time_and_nobody_is_sent_away(in_house: Suite) -> None:
    """As after the death of a gateway: 300 clients come to one that has none of their keys in mind."""
    wires = Wires()

    async def check(house: House) -> None:
        keys = [await users.create_api_key(house.store, "ada") for _ in range(300)]
        wires.way.paths.clear()
        wires.way.is_open.clear()
        async with asyncio.TaskGroup() as group:
            coming = [group.create_task(house.client.authenticate(key)) for key in keys]
            await wires.way.arrived.wait()
            for _ in range(50):
                await asyncio.sleep(0)
            assert wires.way.count("/internal/introspect") + wires.way.count("/auth/introspect") <= 2
            wires.way.is_open.set()
        assert len({task.result().key for task in coming}) == 300
        await all_at_once([house.client.authenticate(key) for key in keys])
        assert len(wires.way.paths) <= 6

    in_house(check, **wires.options())


def test_of_keys_that_are_asked_for_together_each_gets_its_own_answer(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        await users.add_user(house.store, "bob")
        hers, his = await users.create_api_key(house.store, "ada"), await users.create_api_key(house.store, "bob")
        lost, forged = (
            await users.create_api_key(house.store, "ada"),
            tokens.mint_api_key("key_" + 32 * "0", entropy=bytes(32))[0],
        )
        await house.store.revoke_key(tokens.read_api_key(lost).key, reason="lost")
        wires.way.paths.clear()

        async def key_of(text: str) -> str | None:
            try:
                return (await house.client.authenticate(text)).key
            except Unauthenticated:
                return None

        found = await all_at_once([key_of(key) for key in (hers, forged, his, lost, hers)])
        right = [tokens.read_api_key(key).key for key in (hers, his)]
        assert found == [right[0], None, right[1], None, right[0]]
        assert wires.way.count("/internal/introspect") >= 1

    in_house(check, **wires.options())


def test_questions_about_many_keys_need_the_service_secret(in_house: Suite) -> None:
    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada")
        for secret, status in (("wrong", 401), (SECRET, 200)):
            headers = {"authorization": f"Bearer {secret}"}
            answer = await house.http.post("/internal/introspect", json={"keys": [key]}, headers=headers)
            assert answer.status_code == status
            assert ("items" in answer.json()) is (status == 200)
        answer = await house.http.post("/internal/introspect", json={"keys": "x"}, headers=headers)
        assert answer.status_code == 400

    in_house(check)


def test_a_service_that_answers_one_at_a_time_is_asked_so(in_house: Suite) -> None:
    """In a deploy gateways may be newer than the auth service."""
    wires = Wires()

    async def check(house: House) -> None:
        wires.way.unknown = "/internal/introspect"
        keys = [await users.create_api_key(house.store, "ada") for _ in range(20)]
        wires.way.paths.clear()
        assert len({one.key for one in await all_at_once([house.client.authenticate(key) for key in keys])}) == 20
        assert wires.way.count("/internal/introspect") == 1
        assert wires.way.count("/auth/introspect") == 20

    in_house(check, **wires.options())


def test_a_remembered_api_key_is_void_when_it_is_revoked(in_house: Suite) -> None:
    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada")
        who = await house.client.authenticate(key)
        assert who.key is not None
        await house.store.revoke_key(who.key, reason="leaked")
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=POLL_S + 0.4)
        assert isinstance(await refusal_of(house.client.authenticate(key)), Unauthenticated)

    in_house(check, wakes=False)


def test_an_answer_from_before_a_revocation_is_not_believed(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada")
        who = await house.client.authenticate(key)
        assert who.key is not None
        house.clock.move(61)  # it will be asked for again
        wires.way.answers_late = True
        wires.way.is_open.clear()
        wires.way.arrived.clear()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(refusal_of(house.client.authenticate(key)))
            await wires.way.arrived.wait()  # the service has said "active"; its answer is under way
            await house.store.revoke_key(who.key, reason="leaked")
            await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=POLL_S + 0.4)
            wires.way.is_open.set()
        assert_withdrawn(asked.result())

    in_house(check, wakes=False, **wires.options())


def test_the_memory_of_api_keys_is_bounded(in_house: Suite) -> None:
    async def check(house: House) -> None:
        for _ in range(8):
            await house.client.authenticate(await users.create_api_key(house.store, "ada"))
        assert len(house.client._asked) == 5

    in_house(check, backend={"key_cache_size": 5})


@MEMORY
def test_an_unknown_kid_leads_to_one_fetch_in_ten_seconds(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        await identity_of(house)
        before = wires.way.count("/.well-known/jwks.json")
        forged = [signed(ECKey.generate_key("P-256"), kid=f"k{n}") for n in range(200)]
        for _ in range(3):
            answers = await all_at_once([refusal_of(house.client.authenticate(token)) for token in forged])
            assert {answer.code for answer in answers} == {"unauthenticated"}
        assert wires.way.count("/.well-known/jwks.json") == before + 1
        house.clock.move(10)
        await refusal_of(house.client.authenticate(forged[0]))
        assert wires.way.count("/.well-known/jwks.json") == before + 2

    in_house(check, **wires.options())


@MEMORY
@pytest.mark.parametrize("fault", ["500", "empty", "not json", "no keys", "too large", "refused", "redirect"])
def test_a_broken_key_document_leaves_the_last_good_keys_in_force(in_house: Suite, fault: str) -> None:
    wires = Wires()

    def broken() -> httpx2.Response:
        if fault == "refused":
            raise httpx2.ConnectError("connection refused")
        return {
            "500": httpx2.Response(500),
            "empty": httpx2.Response(200),
            "not json": httpx2.Response(200, text="<html>"),
            "no keys": httpx2.Response(200, json={"keys": []}),
            "too large": httpx2.Response(200, content=json.dumps({"keys": [GOOD_JWK]}).encode() + b" " * 2_000_000),
            "redirect": httpx2.Response(302, headers={"location": "http://evil.example/"}),
        }[fault]

    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        await house.client.authenticate(token)
        wires.way.answer = broken
        for _ in range(3):
            unknown = signed(ECKey.generate_key("P-256"), kid="new")
            assert isinstance(await refusal_of(house.client.authenticate(unknown)), Unavailable)
            await house.client.authenticate(token)
        assert wires.way.count("/.well-known/jwks.json") == 2

    in_house(check, **wires.options())


@MEMORY
def test_keys_are_read_again_beside_the_traffic(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        await identity_of(house)
        house.clock.move(301)
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        wires.way.is_open.clear()
        wires.way.arrived.clear()
        await house.client.authenticate(token)
        await wires.way.arrived.wait()
        await house.client.authenticate(token)
        assert wires.way.count("/.well-known/jwks.json") == 2
        wires.way.is_open.set()

    in_house(check, **wires.options())


def test_a_service_that_hangs_costs_a_deadline_and_not_the_callers_time(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada")
        wires.way.is_open.clear()
        async with asyncio.timeout(1.0):
            answer = await refusal_of(house.client.authenticate(key))
        assert isinstance(answer, Unavailable)
        wires.way.is_open.set()
        assert (await house.client.authenticate(key)).name == "ada"

    in_house(check, backend={"request_deadline_s": 0.1}, **wires.options())


def test_a_cancelled_caller_cancels_nothing_in_the_service(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        key = await users.create_api_key(house.store, "ada")
        wires.way.is_open.clear()
        wires.way.arrived.clear()
        before, asked = wires.way.done, wires.way.count("/auth/introspect")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await house.client.authenticate(key)
        await wires.way.arrived.wait()
        assert wires.way.done == before
        wires.way.is_open.set()
        other = await house.client.authenticate(key)
        assert other.name == "ada"
        assert (wires.way.done, wires.way.count("/auth/introspect")) == (before + 1, asked + 1)

    in_house(check, **wires.options())


def test_a_dead_service_stops_neither_tokens_nor_revocation(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        who = await house.client.authenticate(token)
        wires.way.answer = lambda: httpx2.Response(503)
        house.clock.move(200)
        assert (await house.client.authenticate(token)).user == who.user
        assert house.client.freshness() == "fresh"
        await house.store.disable_user(who.user)
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=POLL_S + 0.4)

    in_house(check, **wires.options())


@pytest.mark.parametrize("how", ["is_cut", "hangs"])
def test_a_view_that_cannot_be_confirmed_goes_stale_then_expires_and_heals(in_house: Suite, how: str) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        await house.client.authenticate(token)
        setattr(wires.line, how, True)
        assert (await house.client.authenticate(token)).name == "ada", "a fresh view decides without reading"
        house.clock.move(1.5)
        assert house.client.freshness() == "stale"
        async with asyncio.timeout(2.0):
            assert isinstance(await refusal_of(house.client.authenticate(token)), Unavailable)
        house.clock.move(30)
        assert house.client.freshness() == "expired"
        setattr(wires.line, how, False)
        head = house.client.view.cursor
        async with asyncio.timeout(2.0):
            while house.client.freshness() != "fresh":  # a read that hangs still has its deadline to wait for
                try:
                    await house.client.authenticate(token)
                except Unavailable:
                    continue
        assert house.client.view.cursor == head, "healed by the cursor, not by a reload"

    in_house(check, backend={"read_deadline_s": 0.1}, **wires.options())


def test_callers_who_need_a_fresh_view_share_one_read(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        token = (await house.sign_in("ada", PASSWORD))["access_token"]
        await house.client.authenticate(token)
        house.clock.move(5)
        before = wires.line.reads
        await all_at_once([house.client.authenticate(token) for _ in range(100)])
        assert wires.line.reads <= before + 2

    in_house(check, backend={"poll_s": 3600.0}, wakes=False, **wires.options())


def test_another_database_behind_the_same_name_is_read_from_the_start(in_house: Suite) -> None:
    wires = Wires()

    async def check(house: House) -> None:
        who = await identity_of(house)
        called: list[None] = []
        house.client.on_change(lambda: called.append(None))
        restored = MemoryAuthStore(clock=house.clock.ms)
        for n in range(50):
            await restored.create_user(f"other{n}")
        wires.line.store = restored
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=POLL_S + 0.4)
        assert house.client.view.cursor == 50
        assert called

    in_house(check, **wires.options())


def test_a_ticket_is_redeemed_once_by_its_origin_in_thirty_seconds(in_house: Suite) -> None:
    async def check(house: House) -> None:
        who, client = await identity_of(house), house.client
        ticket = await client.issue_ticket(who, ORIGIN)

        async def redeem() -> Identity | None:
            try:
                return await client.redeem_ticket(ticket, ORIGIN)
            except Unauthenticated:
                return None

        won = await all_at_once([redeem() for _ in range(20)])
        assert [identity for identity in won if identity is not None] == [who]
        for origin in ("https://evil.example", None, ORIGIN + "/"):
            stolen = await client.issue_ticket(who, ORIGIN)
            assert isinstance(await refusal_of(client.redeem_ticket(stolen, origin)), Unauthenticated)
            assert isinstance(await refusal_of(client.redeem_ticket(stolen, ORIGIN)), Unauthenticated)
        late = await client.issue_ticket(who, ORIGIN)
        house.clock.move(30)
        assert isinstance(await refusal_of(client.redeem_ticket(late, ORIGIN)), Unauthenticated)
        program = await client.issue_ticket(who, None)
        assert (await client.redeem_ticket(program, None)) == who
        assert isinstance(await refusal_of(client.redeem_ticket("nonsense\ud800", None)), Unauthenticated)

    in_house(check)


def test_a_ticket_is_worth_no_more_than_the_identity_it_stands_for(in_house: Suite) -> None:
    async def check(house: House) -> None:
        who, client = await identity_of(house), house.client
        assert who.session is not None
        ticket = await client.issue_ticket(who, ORIGIN)
        await house.store.revoke_session(who.session, reason="signed_out")
        await withdrawn(house, lambda: not client.view.is_current(who), within_s=POLL_S + 0.4)
        assert_withdrawn(await refusal_of(client.redeem_ticket(ticket, ORIGIN)))
        assert_withdrawn(await refusal_of(client.issue_ticket(who, ORIGIN)))
        key = await users.create_api_key(house.store, "ada", ttl_s=10)
        ending = await client.issue_ticket(await client.authenticate(key), ORIGIN)
        house.clock.move(10)
        assert isinstance(await refusal_of(client.redeem_ticket(ending, ORIGIN)), Unauthenticated)

    in_house(check)


def test_a_wrong_service_secret_is_named_at_the_check_and_not_shown(in_house: Suite) -> None:
    async def check(house: House) -> None:
        answer = await refusal_of(house.client.check())
        assert isinstance(answer, Unavailable)
        assert "service secret" in answer.message
        key = await users.create_api_key(house.store, "ada")
        assert isinstance(await refusal_of(house.client.authenticate(key)), Unavailable)
        assert (await identity_of(house)).name == "ada", "tokens need no service"

    in_house(check, secrets=("another" * 10,), checks=False)


def test_a_service_that_is_somebody_else_is_named_at_the_check(in_house: Suite) -> None:
    async def check(house: House) -> None:
        answer = await refusal_of(house.client.check())
        assert isinstance(answer, ConfigurationError)
        assert answer.faults == [
            "public_url: the auth service signs people in as https://other.example, here they are"
            " http://127.0.0.1:8000's; set the same for both."
        ]

    in_house(check, service={"issuer": "https://other.example"}, checks=False)


def test_a_client_that_does_not_run_decides_nothing() -> None:
    async def check() -> None:
        async with httpx2.AsyncClient(base_url="http://auth") as http:
            store = MemoryAuthStore()
            follower = Follower(store=store, bus=LocalBus())
            settings = AuthClientSettings(service_secret=SECRET)
            client = AuthClient(http=http, store=store, follower=follower, settings=settings)
            for credential in (
                signed(ECKey.generate_key("P-256")),
                tokens.mint_api_key("key_" + "0" * 32, entropy=b"0" * 32)[0],
            ):
                assert isinstance(await refusal_of(client.authenticate(credential)), Unavailable)

    asyncio.run(check())


def test_a_stopping_client_refuses_its_callers_and_does_not_cancel_them(tmp_path: Path) -> None:
    wires = Wires()

    async def check() -> None:
        async with asyncio.TaskGroup() as callers, open_house("memory", tmp_path, **wires.options()) as house:
            await users.add_user(house.store, "ada")
            key = await users.create_api_key(house.store, "ada")
            wires.way.is_open.clear()
            wires.way.arrived.clear()
            call = callers.create_task(refusal_of(house.client.authenticate(key)))
            await wires.way.arrived.wait()
        assert isinstance(call.result(), Unavailable)

    asyncio.run(check())


def test_a_callback_that_was_stopped_is_called_no_more(in_house: Suite) -> None:
    async def check(house: House) -> None:
        who = await identity_of(house)
        called: list[str] = []
        stop = house.client.on_change(lambda: called.append("stopped"))
        house.client.on_change(lambda: called.append("kept"))
        stop()
        await users.disable_user(house.store, "ada")
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=POLL_S + 0.4)
        assert called == ["kept"]

    in_house(check)
