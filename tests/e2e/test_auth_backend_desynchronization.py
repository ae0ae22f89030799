"""Auth service and backend out of step, on real processes: PostgreSQL, Redis, auth service, three gateways, worker.

    PYTHONPATH=. python3 -m pytest tests/e2e/test_auth_backend_desynchronization.py -v

Each test brings the two sides apart in another way, by a kill, a frozen database or an old backup, and sees what people
are told meanwhile and that both sides agree again. `tests/identity` has the other cases, and the measurements.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import websockets
from tests.cluster.deployment import RoleProcess, free_port
from tests.identity.house import ROOT, House, Person
from tests.identity.sockets import RawSocket, opened
from tests.outside import Dismissed, Outside
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(120)

REVOKED, UNAVAILABLE = 4507, 4013
EXPIRED_S: Final = 4.0  # instead of 30 (DESIGN §7)
SHED_S: Final = 10.0  # within which those who cannot be checked any more are sent away
BUSY_S: Final = 10.0  # for what a quiet machine does within a second


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a PostgreSQL of our own, to be frozen and put back."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.fixture(scope="module")
def started(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    async def start(folder: Path) -> House:
        house = House.made(folder, await postgres.create_database(), access_ttl_s=900, log_level="info")
        (house.faults / "expired_s").write_text(str(EXPIRED_S), encoding="utf-8")
        await house.begin()
        return house

    house = asyncio.run(start(tmp_path_factory.mktemp("house")))
    yield house
    asyncio.run(house.end())


class Apart:
    """A gateway whose way to the database can be cut, in silence.

    Args:
        gateway: it.
        proxy: what carries its connections: `tests.fleet.proxy`, told what to do line by line.
    """

    def __init__(self, gateway: RoleProcess, proxy: subprocess.Popen[str]) -> None:
        self.gateway = gateway
        self._proxy = proxy

    def cut(self) -> None:
        """Let nothing through: connections stay, and nobody hears anything."""
        self._tell("deaf 0 1")

    def mend(self) -> None:
        """Let all through that comes from now on; what was open is reset."""
        self._tell("deaf 0 0")

    def _tell(self, line: str) -> None:
        assert self._proxy.stdin is not None
        self._proxy.stdin.write(f"{line}\n")
        self._proxy.stdin.flush()


@pytest.fixture(scope="module")
def apart(started: House, postgres: PostgresServer) -> Iterator[Apart]:
    port = free_port()
    command = [sys.executable, "-m", "tests.fleet.proxy", f"{port}:{postgres.port}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        assert proxy.stdout.readline() == "ready\n"
        url = started.cluster.url.replace(f":{postgres.port}/", f":{port}/")
        service = f"http://127.0.0.1:{started.auth.port}"
        gateway = started.cluster.add(("gateway",), database_url=url, auth_url=service, log_level="debug")
        started.harness(gateway)
        asyncio.run(gateway.start())
        yield Apart(gateway, proxy)
        asyncio.run(gateway.kill9())
        proxy.kill()


@pytest.fixture
async def house(started: House) -> AsyncIterator[House]:
    await started.mend()
    async with started:
        yield started


async def differences(house: House, *options: str) -> list[dict[str, Any]]:
    """Return what `runwire doctor auth-sync` finds, beside the running servers."""
    done = await house.cli("doctor", "auth-sync", "--json", *options)
    found: list[dict[str, Any]] = json.loads(done.stdout)["differences"]
    return found


async def everywhere(house: House, person: Person) -> list[RawSocket]:
    """Open a socket of somebody's newest session at each gateway."""
    session = person.sessions[-1]
    return [await opened(gateway.port, session.access_token, session.session) for gateway in house.gateways]


async def codes(sockets: list[RawSocket], *, within_s: float) -> set[int | None]:
    """Wait until the server has ended all of them; return what it said."""
    async with asyncio.timeout(within_s):
        for socket in sockets:
            await socket.over
    return {socket.code for socket in sockets}


async def golden(house: House, token: str, *, at: int) -> None:
    """See that somebody is served, from a message to its answer."""
    person = Outside(house.gateways[at].url, token)
    async with person.connected():
        sent = await person.send("whales", agent="golden")
        await person.until_end(sent["run"])


async def test_sign_up_whose_process_is_killed_between_the_writes_is_whole_at_the_first_contact(house: House) -> None:
    ada = await house.person("ada")  # the account is committed; the backend knows nothing yet
    assert await differences(house) == [], "an account that was never used is no difference"
    session = await house.sign_in(ada)
    async with house.ordered("meet", "kill"):
        with pytest.raises(httpx2.TransportError):
            await house.ask("POST", "/v1/threads", session.access_token, title="first")
    await house.until_dead(house.gateways[0])  # after it has committed the person and before the thread
    assert await house.storage.people.get(ada.user) is not None
    assert await house.storage.threads.list(ada.user) == []
    assert await differences(house) == []
    await golden(house, session.access_token, at=1)
    assert len(await house.storage.threads.list(ada.user)) == 1
    assert await differences(house) == []


async def test_person_without_an_account_is_set_aside_and_comes_back_with_it(house: House) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    await golden(house, session.access_token, at=0)
    ghost = "usr_of_a_database_that_was_lost"
    await house.storage.people.meet(ghost, "builtin", ghost)
    kept = await house.storage.threads.create(ghost, title="still here")
    assert [(one["kind"], one["user"]) for one in await differences(house)] == [("no_account", ghost)]
    assert [one["is_repaired"] for one in await differences(house, "--repair")] == [True]
    assert await differences(house) == []
    assert (await house.storage.threads.get(ghost, kept.thread)).title == "still here", "no repair deletes data"
    # The account turns up again, as after the restore of a newer backup.
    await house.storage.people.quarantine(ada.user)
    assert [(one["kind"], one["user"]) for one in await differences(house)] == [("account_is_back", ada.user)]
    await house.gateways[2].restart(kill=True)  # so that it has not met her yet
    answer = await house.ask("POST", "/v1/threads", session.access_token, at=2, title="no")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    await differences(house, "--repair")
    await golden(house, session.access_token, at=2)
    assert await differences(house) == []


async def test_revocation_reaches_every_instance_though_nobody_is_told(house: House, postgres: PostgresServer) -> None:
    """A19: the auth service dies between the change and the wake-up; its restart and the database's revive nothing."""
    ada, bob = await house.person("ada"), await house.person("bob")
    session, bobs = await house.sign_in(ada), await house.sign_in(bob)
    sockets, others = await everywhere(house, ada), await everywhere(house, bob)
    async with house.ordered("publish", "kill"), house.changing(ada) as change:
        await house.ask("DELETE", "/auth/sessions/current", session.access_token)
    await house.until_dead(house.auth)  # after the commit and before anybody heard of it
    assert await codes(sockets, within_s=BUSY_S) == {REVOKED}
    assert max(socket.ended_at_s for socket in sockets) - change.at_s < BUSY_S
    for at in range(3):
        assert (await house.get("/v1/me", session.access_token, at=at)).status_code == 401
    assert (await house.sign_in_refused()).status_code == 503
    assert all(socket.is_alive for socket in others), "a dead auth service makes nobody stale"
    await house.mend()
    assert (await house.refresh(session)).status_code == 400
    for socket in others:
        socket.drop()
    await asyncio.to_thread(postgres.restart)
    async with asyncio.timeout(3 * BUSY_S):
        while not await is_served(house, bobs.access_token):
            pass  # the database is away for a moment
    await until_refused(house, session.access_token)
    assert (await house.refresh(session)).status_code == 400, "nor after that"


async def test_view_that_cannot_be_confirmed_refuses_first_and_lets_go_then(
    house: House, postgres: PostgresServer
) -> None:
    ada = await house.person("ada")
    session = await house.sign_in(ada)
    sockets = await everywhere(house, ada)
    postgres.pause()
    try:
        frozen_s = time.monotonic()
        async with asyncio.timeout(BUSY_S):
            # For a second what was read last is good enough; then each decision wants a fresh look, which fails.
            while await is_served(house, session.access_token):
                pass
        assert time.monotonic() - frozen_s > 0.5
        assert await codes(sockets, within_s=EXPIRED_S + SHED_S + BUSY_S) == {UNAVAILABLE}
        assert time.monotonic() - frozen_s > EXPIRED_S, "not before they had to"
        ready = await house.http.get(f"{house.gateways[1].url}/health/ready")
        assert ready.status_code == 503
    finally:
        postgres.resume()
    async with asyncio.timeout(3 * BUSY_S):
        while not await is_served(house, session.access_token):
            pass  # nothing was withdrawn: soon the same token is as good as before


async def test_a12_node_that_is_cut_off_from_the_database_lets_go_alone_and_heals_by_its_cursor(
    house: House, apart: Apart
) -> None:
    """A12: stale after a second it refuses, then it lets go; back again it reads on, and not everything anew."""
    ada, bob = await house.person("ada"), await house.person("bob")
    session, bobs = await house.sign_in(ada), await house.sign_in(bob)
    here = [await opened(apart.gateway.port, one.access_token, one.session) for one in (session, bobs)]
    elsewhere = await everywhere(house, ada)
    loads = apart.gateway.logs(lines=100_000).count("auth_view_loaded")
    assert loads == 1
    apart.cut()
    try:
        cut_s = time.monotonic()
        async with asyncio.timeout(BUSY_S):
            while await is_served(house, session.access_token, of=apart.gateway):
                pass
        # What it cannot hear of: it must not serve bob, not even when it is back.
        await house.storage.auth.disable_user(bob.user)
        assert await codes(here, within_s=EXPIRED_S + SHED_S + BUSY_S) == {UNAVAILABLE}
        assert time.monotonic() - cut_s > EXPIRED_S, "not before it had to"
        assert (await house.http.get(f"{apart.gateway.url}/health/ready")).status_code == 503
        assert all(socket.is_alive for socket in elsewhere), "the others see the database"
        assert await is_served(house, session.access_token)
    finally:
        apart.mend()
    async with asyncio.timeout(3 * BUSY_S):
        while not await is_served(house, session.access_token, of=apart.gateway):
            pass
    assert not await is_served(house, bobs.access_token, of=apart.gateway)
    assert apart.gateway.logs(lines=100_000).count("auth_view_loaded") == loads, "healed by the cursor"
    for socket in elsewhere:
        socket.drop()


async def is_served(house: House, token: str, *, of: RoleProcess | None = None) -> bool:
    """Try to connect, at the first gateway or another one; it takes a moment either way."""
    try:
        async with Outside((of or house.gateways[0]).url, token).connected():
            await asyncio.sleep(0.1)
    except (Dismissed, TimeoutError, OSError, websockets.WebSocketException):
        await asyncio.sleep(0.1)
        return False
    return True


async def test_older_backup_of_the_auth_database_revives_nobody(house: House, postgres: PostgresServer) -> None:
    ada, eve = await house.person("ada"), await house.person("eve")
    before, stolen = await house.sign_in(ada), await house.sign_in(eve)
    copy = postgres.folder / "copy"
    await asyncio.to_thread(postgres.base_backup, copy)
    await house.storage.auth.disable_user(eve.user)  # the backup does not know
    since = await house.sign_in(ada)
    sockets = await everywhere(house, ada)
    await asyncio.to_thread(postgres.put_back, copy)
    # On a busy machine the database is away for so long meanwhile that nobody's standing is known any more.
    assert await codes(sockets, within_s=6 * BUSY_S) <= {REVOKED, UNAVAILABLE}
    for session in (before, stolen, since):
        await until_refused(house, session.access_token)
        assert (await house.refresh(session)).status_code == 400, "everybody signs in again"
    await until_it_signs(house)
    fresh = await house.sign_in(ada)
    await golden(house, fresh.access_token, at=1)
    assert await differences(house) == []


async def until_it_signs(house: House) -> None:
    """Wait until the signing keys of the database that was put back are read: until then a sign-in says 503."""
    async with asyncio.timeout(3 * BUSY_S):
        while (await house.http.get(f"{house.gateways[0].url}/.well-known/jwks.json")).status_code == 503:
            pass  # an answer takes a while


async def until_refused(house: House, token: str) -> None:
    async with asyncio.timeout(3 * BUSY_S):
        for at in range(3):
            while (await house.get("/v1/me", token, at=at)).status_code != 401:
                pass  # 503 while it does not know
