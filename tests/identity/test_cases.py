"""Cases A1-A20 of identity out of step, each on real processes: three gateways, a worker, an auth service."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg
import httpx2
import pytest
from tests.identity.house import House, Person, Session
from tests.identity.sockets import RawSocket, opened
from tests.outside import TERMINAL, Dismissed, Outside

from runwire.auth import tokens
from runwire.errors import NotFound
from runwire.protocol.events import StoredEvent
from runwire.storage.base import AuthKind

pytestmark = pytest.mark.timeout(90)

WITHDRAWN_S: Final = 5.0  # promised is 1 s (DESIGN §7), kept by the campaign; here the machine may be busy
POLLED_S: Final = 5.0  # the poll comes each 250 ms
CROWD: Final = 12  # people who want to come back
REVOKED: Final = 4507


async def everywhere(house: House, token: str, credential: str) -> list[RawSocket]:
    """Open a socket at each gateway."""
    return [await opened(gateway.port, token, credential) for gateway in house.gateways]


async def cut_off(sockets: list[RawSocket], *, at_s: float, within_s: float = WITHDRAWN_S) -> None:
    """See that sockets end in time, as revoked, and hear nothing after that."""
    async with asyncio.timeout(within_s + 5):
        for socket in sockets:
            await socket.over
    assert {socket.code for socket in sockets} == {REVOKED}
    assert max(socket.ended_at_s for socket in sockets) - at_s < within_s
    assert sum(socket.said_after for socket in sockets) == 0


async def refused(house: House, token: str) -> None:
    """See that no gateway takes a token any more."""
    for at in range(len(house.gateways)):
        assert (await house.get("/v1/me", token, at=at)).status_code == 401


async def walking(house: House, person: Person) -> tuple[Outside, dict[str, Any]]:
    """Start a run that goes on, step by step, until it is stopped; return who listens to it."""
    listener = Outside(house.gateways[0].url, person.key or person.sessions[0].access_token)
    async with listener.connected():
        sent = await listener.send("go on", agent="walk")
        await listener.until(lambda event: event["type"] == "tool_completed")
    return listener, sent


async def terminal(house: House, sent: dict[str, Any]) -> tuple[list[StoredEvent], dict[str, Any]]:
    """Wait for a run's end; return all its events, as they stand in the log, and what the last one says."""
    async with asyncio.timeout(20):
        while True:
            events = await house.storage.events.read_run(sent["run"])
            if events and events[-1].type in TERMINAL:
                data: dict[str, Any] = json.loads(bytes(events[-1].data))
                return events, data


async def test_a01_disabled_user_loses_sockets_on_three_nodes_and_runs(house: House) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await house.give_key(ada)
    session, other = await house.sign_in(ada), await house.sign_in(bob)
    sockets = await everywhere(house, session.access_token, session.session)
    sockets += await everywhere(house, ada.key, ada.key_id)
    bystanders = await everywhere(house, other.access_token, other.session)
    _, sent = await walking(house, ada)
    async with house.changing(ada) as change:
        await house.storage.auth.disable_user(ada.user)
    await cut_off(sockets, at_s=change.at_s)
    assert (await terminal(house, sent))[1]["by"] == "revoked"
    for token in (session.access_token, ada.key):
        await refused(house, token)
    assert all(socket.is_alive for socket in bystanders), "nobody else was cut off"
    for socket in bystanders:
        socket.drop()


async def test_a02_deleted_user_runs_nothing_more_and_the_id_is_never_used_again(house: House) -> None:
    ada = await house.person("ada")
    await house.give_key(ada)
    _, sent = await walking(house, ada)
    async with house.changing(ada) as change:
        await house.storage.auth.delete_user(ada.user)
    events, end = await terminal(house, sent)
    assert end["by"] == "revoked"
    begun_at = [event.ts / 1000 for event in events if event.type == "tool_executing"]
    assert max(begun_at) - change.at_s < WITHDRAWN_S, "no tool was called after that"
    tombstone = await house.storage.auth.user_by_id(ada.user)
    assert tombstone is not None
    assert (tombstone.status, tombstone.name, tombstone.roles) == ("deleted", ada.user, ())
    again = await house.storage.auth.create_user(ada.name)
    assert again.user != ada.user, "the name is free, the id is not"
    with pytest.raises(NotFound):
        await house.storage.auth.enable_user(ada.user)


async def test_a03_enabled_again_revives_nothing(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    await house.give_key(ada)
    sockets = await everywhere(house, session.access_token, session.session)
    async with house.changing(ada) as change:
        await house.storage.auth.disable_user(ada.user)
        await house.storage.auth.enable_user(ada.user)  # before a view may have seen the first
    await cut_off(sockets, at_s=change.at_s)
    for token in (session.access_token, ada.key):
        await refused(house, token)
    assert (await house.refresh(session)).status_code == 400
    fresh = await house.sign_in(ada, at=1)
    for at in range(3):
        assert (await house.get("/v1/me", fresh.access_token, at=at)).status_code == 200


async def test_a04_logout_of_one_session_leaves_the_others_their_order_and_place(house: House) -> None:
    ada = await house.person("ada")
    first, second, third = [await house.sign_in(ada, at=at) for at in range(3)]
    gone = await everywhere(house, first.access_token, first.session)
    listeners = [Outside(gateway.url, second.access_token) for gateway in house.gateways]
    quiet = await everywhere(house, third.access_token, third.session)
    async with AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(listener.connected())
        sent = await listeners[0].send("go on", agent="walk")
        for listener in listeners:
            await listener.subscribe(sent["thread"])
            await listener.until(lambda event: event["type"] == "tool_completed")
        async with house.changing(ada) as change:
            status = (await house.ask("DELETE", "/auth/sessions/current", first.access_token, at=2)).status_code
            assert status == 204
        await cut_off(gone, at_s=change.at_s)
        for listener in listeners:  # strict: a gap, a repetition or a goodbye fails
            await listener.until(lambda event: event["ts"] > change.at_s * 1000 and event["type"] == "tool_completed")
        await listeners[0].command("cancel", run=sent["run"])
        for listener in listeners:
            await listener.until_end(sent["run"])
    assert all(socket.is_alive for socket in quiet)
    for socket in quiet:
        socket.drop()


@pytest.mark.parametrize("with_keys", [False, True])
async def test_a05_log_out_everywhere_ends_sessions_and_keys_if_wanted(house: House, with_keys: bool) -> None:
    ada = await house.person("ada")
    sessions = [await house.sign_in(ada, at=at) for at in range(2)]
    await house.give_key(ada)
    gone = [socket for one in sessions for socket in await everywhere(house, one.access_token, one.session)]
    by_key = await everywhere(house, ada.key, ada.key_id)
    async with house.changing(ada) as change:
        await house.storage.auth.sign_out_everywhere(ada.user, with_keys=with_keys, reason="signed_out")
    await cut_off(gone + (by_key if with_keys else []), at_s=change.at_s)
    for one in sessions:
        await refused(house, one.access_token)
        assert (await house.refresh(one)).status_code == 400
    assert all(socket.is_alive is not with_keys for socket in by_key)
    assert (await house.get("/v1/me", ada.key)).status_code == (401 if with_keys else 200)
    for socket in by_key:
        socket.drop()


async def test_a06_role_removed_stops_the_next_privileged_command_without_a_reconnect(house: House) -> None:
    ada = await house.person("ada", roles=("operator", "user"))
    session = await house.sign_in(ada)
    sockets = await everywhere(house, session.access_token, session.session)
    assert (await house.get("/admin/v1/anything", session.access_token, at=1)).status_code != 403
    async with house.changing(ada) as change:
        await house.storage.auth.set_roles(ada.user, ["user"])
    assert change.events[0].kind is AuthKind.ROLES_CHANGED
    await until_roles(house, session.access_token, ["user"])
    for at in range(3):
        assert (await house.get("/admin/v1/anything", session.access_token, at=at)).status_code == 403
    assert all(socket.is_alive for socket in sockets), "a role is no reason to cut anybody off"
    for socket in sockets:
        socket.drop()


async def test_a07_role_granted_shows_without_a_new_sign_in(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    assert (await house.get("/admin/v1/anything", session.access_token, at=2)).status_code == 403
    await house.storage.auth.set_roles(ada.user, ["operator", "user"])
    await until_roles(house, session.access_token, ["operator", "user"])
    assert (await house.get("/admin/v1/anything", session.access_token, at=2)).status_code != 403


async def until_roles(house: House, token: str, roles: list[str]) -> None:
    async with asyncio.timeout(WITHDRAWN_S):
        for at in range(3):
            while (await house.get("/v1/me", token, at=at)).json()["roles"] != roles:
                pass


async def test_a08_changed_password_ends_the_other_sessions_and_no_more(house: House) -> None:
    ada = await house.person("ada", password="the first password")
    kept, gone = [await house.sign_in(ada) for _ in range(2)]
    sockets = await everywhere(house, gone.access_token, gone.session)
    staying = await everywhere(house, kept.access_token, kept.session)
    async with house.changing(ada) as change:
        await house.storage.auth.set_password(ada.user, "$argon2id$other", keep_session=kept.session)
    await cut_off(sockets, at_s=change.at_s)
    await refused(house, gone.access_token)
    assert (await house.refresh(gone)).status_code == 400
    assert (await house.get("/v1/me", kept.access_token, at=2)).status_code == 200
    assert all(socket.is_alive for socket in staying)
    for socket in staying:
        socket.drop()


async def test_a09_revocation_during_a_connect_finds_the_socket(house: House) -> None:
    """The gap between the check of a token and the index; `tests/unit/auth/test_gap.py` tries it ten thousand times."""
    ada = await house.person("ada")
    for n in range(10):
        session = await house.sign_in(ada, at=n % 3)
        async with asyncio.TaskGroup() as tasks:
            connecting = [tasks.create_task(attempt(house, session.access_token, at)) for at in range(3)]
            await asyncio.sleep(n * 0.0025)  # another place of the gap each time
            tasks.create_task(house.storage.auth.revoke_session(session.session, reason="signed_out"))
        async with asyncio.timeout(WITHDRAWN_S):
            for task in connecting:
                if (socket := task.result()) is not None:
                    await socket.over


async def attempt(house: House, token: str, at: int) -> RawSocket | None:
    try:
        return await opened(house.gateways[at].port, token, "")
    except Exception:  # refused in one of many ways: never connected, or cut off before the welcome
        return None


async def test_a10_lost_wake_up_is_made_good_by_the_poll(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    sockets = await everywhere(house, session.access_token, session.session)
    async with house.ordered("publish", "lost"), house.changing(ada) as change:
        await house.ask("DELETE", "/auth/sessions/current", session.access_token)
    await cut_off(sockets, at_s=change.at_s, within_s=POLLED_S)


async def test_a11_redis_killed_during_a_revocation_delays_neither_answer_nor_effect(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    sockets = await everywhere(house, session.access_token, session.session)
    clock = asyncio.get_running_loop().time
    await asyncio.to_thread(house.redis.kill)
    async with house.changing(ada) as change:
        began_s = clock()
        answer = await house.ask("DELETE", "/auth/sessions/current", session.access_token)
        assert answer.status_code == 204
        assert clock() - began_s < 3.0, "nobody waits for a bus"
    await cut_off(sockets, at_s=change.at_s, within_s=POLLED_S)


@pytest.mark.parametrize("away_s", [3, pytest.param(60, marks=[pytest.mark.campaign, pytest.mark.timeout(240)])])
async def test_a13_auth_service_away_stops_no_live_work_and_its_return_brings_no_herd(
    house: House, away_s: int
) -> None:
    """A13: both services are away; sockets and runs go on, everybody else is told when to come, and all get in then.

    Ten minutes of it, in simulated time: `tests/unit/auth/test_away.py`.
    """
    ada = await house.person("ada")
    listener = Outside(house.gateways[0].url, await house.give_key(ada))
    crowd = [await house.sign_in(await house.person("bob"), at=n % 3) for n in range(CROWD)]
    quiet = [await opened(house.gateways[n % 3].port, one.access_token, one.session) for n, one in enumerate(crowd)]
    async with listener.connected(), asyncio.TaskGroup() as tasks:
        sent = await listener.send("go on", agent="walk")
        for service in house.cluster.auths:
            await service.kill9()
        back_ms = time.time_ns() // 1_000_000 + away_s * 1000
        answer = await house.sign_in_refused()
        assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (503, True)
        waiting = [tasks.create_task(until_refreshed(house, one, at=n % 3)) for n, one in enumerate(crowd)]
        await listener.until(
            lambda event: event["ts"] > back_ms and event["type"] == "tool_completed", timeout_s=away_s + 30
        )
        reading = tasks.create_task(listener.until(lambda event: event["type"] in TERMINAL, timeout_s=60))
        for at in range(3):
            assert (await house.sign_in_refused(at=at)).status_code == 503, "they were away all the time"
        assert all(socket.is_alive for socket in quiet), "a token needs no service to be good"
        await house.mend()
        async with asyncio.timeout(3 * WITHDRAWN_S):
            told = [await task for task in waiting]
        assert min(told) >= 1, "each was told, and got in at once when it was there"
        assert (await house.sign_in_refused()).status_code == 401
        assert (await house.ask("POST", f"/v1/runs/{sent['run']}/cancel", ada.key, at=1)).status_code < 300
        await reading
    for socket in quiet:
        socket.drop()


async def until_refreshed(house: House, session: Session, *, at: int) -> int:
    """Refresh as people do who are told when to come back; return how often they were."""
    for told in itertools.count():
        answer = await house.refresh(session, at=at)
        if answer.status_code == 200:
            return told
        assert answer.status_code == 503, answer.text
        await asyncio.sleep(int(answer.headers["retry-after"]))
    raise AssertionError("unreachable")


async def test_a15_registration_cut_off_between_its_writes_is_made_good_by_the_next_try(house: House) -> None:
    """A15: the account is committed and the process killed; the same request elsewhere gets in, as the same person."""
    secret = tokens.mint_secret(os.urandom(32))
    await house.storage.auth.create_invite(
        secret_hash=tokens.secret_hash(secret), roles=["user", "operator"], ttl_s=60, created_by=None
    )
    body = {"user": f"eve-{os.urandom(4).hex()}", "password": "the password of eve", "invite": secret}
    async with house.ordered("register", "kill"):
        assert (await house.ask("POST", "/auth/register", at=0, **body)).status_code == 503
        await house.until_dead(house.auth)
    row = await house.storage.auth.user_by_name(body["user"])
    assert row is not None, "the first write is there"
    assert await house.storage.auth.list_sessions(row.user) == [], "the second is not"
    answer = await house.ask("POST", "/auth/register", at=1, **body)
    assert (answer.status_code, answer.json()["user"]) == (201, row.user)
    assert row.roles == ("operator", "user")
    again = await house.ask("POST", "/auth/register", at=1, **{**body, "password": "of somebody else"})
    assert (again.status_code, again.json()["field"]) == (403, "invite"), "it was good once"
    token = answer.json()["access_token"]
    assert (await house.ask("POST", "/v1/threads", token, at=2, title="first")).status_code == 201
    assert await differences(house, of=Person(user=row.user, name=row.name)) == []


async def test_a15_first_contact_cut_off_between_its_writes_is_made_good_by_the_next(house: House) -> None:
    ada = await house.person("ada")
    token = await house.give_key(ada)
    async with house.ordered("meet", "kill"):
        with pytest.raises(httpx2.TransportError):
            await house.ask("POST", "/v1/threads", token, at=0, title="first")
    met = await house.storage.people.get(ada.user)
    assert met is not None, "the first write is there"
    assert await house.storage.threads.list(ada.user) == [], "the second is not"
    assert await differences(house, of=ada) == []
    person = Outside(house.gateways[1].url, token)
    async with person.connected():
        sent = await person.send("hello", agent="golden")
        await person.until_end(sent["run"])
    assert await house.storage.people.get(ada.user) == met
    assert await differences(house, of=ada) == []


async def test_a16_fifty_first_messages_at_once_make_one_person(house: House) -> None:
    ada = await house.person("ada")
    token = await house.give_key(ada)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(house.ask("POST", "/v1/threads", token, at=n % 3, title=f"{n}")) for n in range(50)]
    assert {task.result().status_code for task in asked} == {201}
    rows = await house.storage.database.fetch('SELECT iss, sub FROM "user" WHERE id = $1', ada.user)
    assert [tuple(row) for row in rows] == [("builtin", ada.user)]
    assert len(await house.storage.threads.list(ada.user, limit=100)) == 50


async def test_a17_person_without_an_account_has_no_access_and_loses_no_data(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    thread = (await house.ask("POST", "/v1/threads", session.access_token, title="kept")).json()["thread"]
    ghost = f"{ada.user}ghost"
    await house.storage.people.meet(ghost, "builtin", ghost)
    await house.storage.threads.create(ghost, title="of nobody")
    assert [(one["kind"], one["user"]) for one in await differences(house, of=ada)] == [("no_account", ghost)]
    (repaired,) = await differences(house, "--repair", of=ada)
    assert repaired["is_repaired"] is True
    row = await house.storage.people.get(ghost)
    assert row is not None
    assert row.quarantined_at is not None
    assert [one.title for one in await house.storage.threads.list(ghost)] == ["of nobody"], "nothing was deleted"
    assert await differences(house, of=ada) == []
    assert [one.thread for one in await house.storage.threads.list(ada.user)] == [thread]
    await house.storage.erasure.erase(ghost)
    await house.storage.people.forget(ghost)


async def differences(house: House, *options: str, of: Person) -> list[dict[str, Any]]:
    """Run the reconciler beside the running servers; return what it says of a person, for others are there, too."""
    done = await house.cli("doctor", "auth-sync", "--json", *options)
    found: list[dict[str, Any]] = json.loads(done.stdout)["differences"]
    assert done.returncode == (0 if all(one["is_repaired"] for one in found) else 1), done.stderr
    return [one for one in found if one["user"].startswith(of.user)]


async def test_a18_changes_that_commit_in_another_order_are_all_seen(house: House) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    first, second = await house.sign_in(ada), await house.sign_in(bob)
    sockets = await everywhere(house, first.access_token, first.session)
    sockets += await everywhere(house, second.access_token, second.session)
    early = await asyncpg.connect(house.cluster.url.replace("postgresql+asyncpg", "postgresql"))
    try:
        held = early.transaction()
        await held.start()
        # The first change has its number and is not committed; the second must not get past it.
        await early.execute("UPDATE auth_counter SET seq = seq")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(house.storage.auth.revoke_session(second.session, reason="signed_out"))
            tasks.create_task(house.storage.auth.revoke_session(first.session, reason="signed_out"))
            await asyncio.sleep(0.3)  # a poll and more: every view has looked meanwhile
            assert all(socket.is_alive for socket in sockets)
            await held.commit()
    finally:
        await early.close()
    async with asyncio.timeout(WITHDRAWN_S):
        for socket in sockets:
            await socket.over
    page = await house.storage.auth.events_after(0, limit=10_000)
    assert [event.seq for event in page.events] == list(range(1, page.head + 1)), "dense: no reader can skip one"


async def test_a19_auth_service_killed_before_it_tells_takes_nothing_back(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    sockets = await everywhere(house, session.access_token, session.session)
    async with house.ordered("publish", "kill"), house.changing(ada) as change:
        await house.ask("DELETE", "/auth/sessions/current", session.access_token)
    await house.until_dead(house.auth)
    await cut_off(sockets, at_s=change.at_s, within_s=POLLED_S)
    await refused(house, session.access_token)
    await house.mend()
    assert (await house.refresh(session)).status_code == 400, "nor after its restart"


async def test_a20_identity_is_issuer_and_subject_and_never_an_address(house: House) -> None:
    auth = house.storage.auth
    name, issuer = f"ada-{id(house)}@example.org", "https://issuer.example"
    ada = await auth.link_external(issuer, f"sub-{name}", name=name, roles=["user"])
    moved = await auth.link_external(issuer, f"sub-{name}", name=f"new-{name}", roles=["user"])
    assert moved.user == ada.user, "another address is no other person"
    taker = await auth.link_external(issuer, f"other-{name}", name=name, roles=["user"])
    assert taker.user != ada.user, "the same address is no proof"
    elsewhere = await auth.link_external("https://other.example", f"sub-{name}", name=name, roles=["user"])
    assert len({ada.user, taker.user, elsewhere.user}) == 3
    assert await auth.external_of(ada.user) == (issuer, f"sub-{name}")


async def test_dead_tokens_stay_dead_at_every_instance_after_a_restart_of_any_process(house: House) -> None:
    """Both tokens, however they died, at three gateways and two auth services; PostgreSQL: tests/e2e."""
    auth = house.storage.auth
    people = {how: await house.person(how) for how in ("logout", "disable", "password", "everywhere", "nobody")}
    sessions = {how: await house.sign_in(person) for how, person in people.items()}
    assert (await house.ask("DELETE", "/auth/sessions/current", sessions["logout"].access_token)).status_code == 204
    await auth.disable_user(people["disable"].user)
    await auth.enable_user(people["disable"].user)
    await auth.set_password(people["password"].user, "$argon2id$other")
    await auth.sign_out_everywhere(people["everywhere"].user, with_keys=True, reason="signed_out")
    dead = [session for how, session in sessions.items() if how != "nobody"]
    async with asyncio.timeout(WITHDRAWN_S):
        for at in range(3):
            while (await house.get("/v1/me", dead[-1].access_token, at=at)).status_code == 200:
                pass  # the last of the changes is not known there yet
    await all_dead(house, dead)
    for processes in (house.gateways, [*house.cluster.auths, *house.cluster.workers]):
        for process in processes:
            await process.kill9()
        await house.start_again(processes)
        await all_dead(house, dead)
    await asyncio.to_thread(house.redis.restart)
    await all_dead(house, dead)
    for at in range(3):
        assert (await house.get("/v1/me", sessions["nobody"].access_token, at=at)).status_code == 200, (
            "who stayed stays"
        )


async def all_dead(house: House, sessions: list[Session]) -> None:
    """See that nobody gets in anywhere by either token of these sessions."""
    for session in sessions:
        await refused(house, session.access_token)
        for at in range(2):  # the first two gateways ask an auth service each
            assert (await house.refresh(session, at=at)).status_code == 400
    for at in range(3):
        with pytest.raises(Dismissed):
            async with Outside(house.gateways[at].url, sessions[at].access_token).connected():
                pass
