"""A deployment with an auth service that takes orders to fail, the people of it, and what is done to them over HTTP.

::

    house = await House.start(tmp_path, postgres_server)      # PostgreSQL, Redis, 1 auth service, 3 gateways, 1 worker
    ada = await house.person("ada")
    session = await house.sign_in(ada)                        # by link: no password is hashed for it
    async with house.changing(ada) as change:                 # what the log of changes says of it
        await house.admin("POST", f"/auth/users/{ada.user}/disable")
    change.at_s                                               # by the database's clock, which is this machine's
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import httpx2
from tests.cluster.deployment import ROLE_AGENTS, Cluster, RoleProcess
from tests.identity.server import FOLDER
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

from runwire.auth.service import users
from runwire.auth.service.passwords import Passwords
from runwire.auth.service.settings import AuthSettings
from runwire.storage.base import AuthEvent
from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["ROOT", "Change", "House", "Person", "Session"]

ROOT: Final = Path(__file__).resolve().parents[2]
_COMMITTED_S: Final = 5.0
_ADMIN_S: Final = 60.0
_DEATH_S: Final = 20.0


@dataclass(slots=True, kw_only=True)
class Session:
    """A sign-in."""

    session: str
    access_token: str
    refresh_token: str


@dataclass(slots=True, kw_only=True)
class Person:
    """Somebody with an account."""

    user: str
    name: str
    password: str | None = None
    roles: tuple[str, ...] = ("user",)
    sessions: list[Session] = field(default_factory=list)
    key: str = ""  # an API key's text
    key_id: str = ""


@dataclass(slots=True, kw_only=True)
class Change:
    """What the log of changes says of one thing that was done; known when the block of `changing` has ended."""

    events: list[AuthEvent] = field(default_factory=list)

    @property
    def at_s(self) -> float:
        """Return when it was done, by the database's clock."""
        return min(event.at for event in self.events) / 1000


class House:
    """See above.

    Args:
        cluster: its processes, not started yet.
        redis: its bus.
    """

    def __init__(self, cluster: Cluster, redis: RedisServer, faults: Path) -> None:
        self.cluster = cluster
        self.redis = redis
        self.faults = faults
        self._numbers = itertools.count(1)
        self._storage: PostgresStorage | None = None
        self._http: httpx2.AsyncClient | None = None
        self._admin: tuple[float, Session | None] = (0.0, None)
        self._hashes: dict[str, str] = {}

    @classmethod
    def made(
        cls, folder: Path, url: str, *, gateways: int = 3, workers: int = 1, agents: Path = ROLE_AGENTS, **settings: Any
    ) -> House:
        """Make one on a migrated database; every process of it can be ordered to fail."""
        faults = folder / "faults"
        faults.mkdir(parents=True)
        redis = RedisServer.start(folder / "redis")
        cluster = Cluster(
            folder, url, redis_url=redis.url, gateways=gateways, workers=workers, agents=agents, **settings
        )
        house = cls(cluster, redis, faults)
        for process in cluster.processes:
            house.harness(process)
        return house

    def harness(self, process: RoleProcess) -> None:
        """Make a process, before its start, one that takes orders to fail."""
        process.module = "tests.identity.server"
        process.within = ("env", f"{FOLDER}={self.faults}", f"PYTHONPATH={ROOT}:{ROOT / 'src'}")

    @classmethod
    async def start(cls, folder: Path, postgres: PostgresServer, **options: Any) -> House:
        """Make one on a database of its own, and start it."""
        house = cls.made(folder, await postgres.create_database(), **options)
        await house.begin()
        return house

    async def begin(self) -> None:
        """Start all processes; whoever is not there in time takes the others with him."""
        try:
            await self.cluster.start()
        except BaseException:
            self.redis.remove()
            raise

    async def end(self) -> None:
        """Kill everything, and see that nobody has logged what he should not."""
        self.redis.remove()
        await self.cluster.end()
        shutil.rmtree(self.faults, ignore_errors=True)

    async def __aenter__(self) -> Self:
        """Open what belongs to one event loop: the way to the database, and that to the processes."""
        self._storage = await PostgresStorage.open(self.cluster.url)
        self._http = httpx2.AsyncClient(timeout=30.0, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.http.aclose()
        await self.storage.close()

    @property
    def storage(self) -> PostgresStorage:
        assert self._storage, "inside `async with` only"
        return self._storage

    @property
    def http(self) -> httpx2.AsyncClient:
        assert self._http, "inside `async with` only"
        return self._http

    @property
    def gateways(self) -> list[RoleProcess]:
        return self.cluster.gateways

    @property
    def auth(self) -> RoleProcess:
        return self.cluster.auths[0]

    # ── faults ──────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def ordered(
        self, what: Literal["publish", "meet", "register"], how: Literal["lost", "kill"]
    ) -> AsyncIterator[None]:
        """Have something fail as long as the block lasts; see `tests.identity.server`."""
        path = self.faults / what
        part = path.with_suffix(".part")
        part.write_text(how, encoding="utf-8")
        os.replace(part, path)
        try:
            yield
        finally:
            path.unlink()

    async def until_dead(self, process: RoleProcess) -> None:
        """Wait until a process that was ordered to die has: its sockets end a moment before it does."""
        async with asyncio.timeout(_DEATH_S):
            while process.is_running:  # noqa: ASYNC110 - the system tells nobody
                await asyncio.sleep(0.01)

    async def mend(self) -> None:
        """Start whoever is dead."""
        if not self.redis.is_running:
            await asyncio.to_thread(self.redis.restart)
        dead = [process for process in self.cluster.processes if not process.is_running]
        for process in dead:
            await process.kill9()  # what it left behind
        await self.start_again(dead)

    async def start_again(self, processes: Iterable[RoleProcess]) -> None:
        """Start processes that were killed, all at once."""
        async with asyncio.TaskGroup() as tasks:
            for process in processes:
                tasks.create_task(process.start())

    async def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line on the database, whatever its status."""
        command = [sys.executable, "-m", "runwire", *words]
        return await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=self.cluster.marks,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    # ── people ──────────────────────────────────────────────────────────────────────────────────────────

    async def person(self, prefix: str, *, roles: tuple[str, ...] = ("user",), password: str | None = None) -> Person:
        """Make somebody, under a name that nobody has."""
        name = f"{prefix}-{next(self._numbers)}-{os.urandom(3).hex()}"
        if password is not None and password not in self._hashes:
            with closing(Passwords(AuthSettings())) as passwords:
                self._hashes[password] = await passwords.hash(password)  # once: it is slow on purpose
        hashed = None if password is None else self._hashes[password]
        row = await self.storage.auth.create_user(name, roles=roles, password_hash=hashed)
        return Person(user=row.user, name=name, password=password, roles=roles)

    async def sign_in(self, person: Person, *, at: int = 0) -> Session:
        """Sign somebody in at a gateway, by a link."""
        link = await users.create_sign_in_link(self.storage.auth, person.name)
        answer = await self.http.post(f"{self.gateways[at].url}/auth/sessions", json={"link": link})
        assert answer.status_code == 201, answer.text
        said = answer.json()
        me = await self.get("/v1/me", said["access_token"], at=at)
        session = Session(
            session=me.json()["session"], access_token=said["access_token"], refresh_token=said["refresh_token"]
        )
        person.sessions.append(session)
        return session

    async def sign_in_refused(self, *, at: int = 0) -> Any:
        """Try to sign in as nobody, to see what people are told."""
        return await self.ask("POST", "/auth/sessions", at=at, user="nobody", password="no password")

    async def give_key(self, person: Person) -> str:
        """Make an API key of somebody."""
        person.key = await users.create_api_key(self.storage.auth, person.name)
        person.key_id = (await self.storage.auth.list_keys(person.user))[0].key
        return person.key

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, method: str, path: str, token: str | None = None, *, at: int = 0, **fields: Any) -> Any:
        """Make a request at a gateway; `fields` are its JSON body, or `data` that of a form."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body: dict[str, Any] = {"data": fields["data"]} if "data" in fields else {"json": fields} if fields else {}
        return await self.http.request(method, self.gateways[at].url + path, headers=headers, **body)

    async def get(self, path: str, token: str, *, at: int = 0) -> Any:
        """Read something as somebody."""
        return await self.ask("GET", path, token, at=at)

    async def administrator(self) -> Session:
        """Return the session of an administrator, a new one from time to time."""
        since_s, session = self._admin
        if session is None or time.monotonic() > since_s + _ADMIN_S:
            session = await self.sign_in(await self.person("root", roles=("admin",)))
            self._admin = (time.monotonic(), session)
        return session

    async def admin(self, method: str, path: str, *, at: int = 0, **fields: Any) -> Any:
        """Make a request as an administrator."""
        return await self.ask(method, path, (await self.administrator()).access_token, at=at, **fields)

    async def refresh(self, session: Session, *, at: int = 0) -> Any:
        """Use a refresh token, without keeping what comes of it."""
        form = {"grant_type": "refresh_token", "refresh_token": session.refresh_token}
        return await self.ask("POST", "/auth/token", at=at, data=form)

    @asynccontextmanager
    async def changing(self, person: Person) -> AsyncIterator[Change]:
        """Note what the log of changes says of somebody; the request in the block may fail, for its server may die."""
        change = Change()
        cursor = (await self.storage.auth.events_after(1 << 60)).head
        with suppress(httpx2.TransportError):
            yield change
        async with asyncio.timeout(_COMMITTED_S):
            while not change.events:
                page = await self.storage.auth.events_after(cursor)
                change.events = [event for event in page.events if event.user == person.user]
