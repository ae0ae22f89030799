"""An auth service and its client on a real store, in one process, with clocks that are told the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2

from runwire.auth.client import AuthClient, AuthClientSettings
from runwire.auth.follower import Follower, FollowSettings
from runwire.auth.service.app import make_auth_app
from runwire.auth.service.settings import AuthSettings
from runwire.storage.base import AuthStore, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.auth import MemoryAuthStore
from runwire.storage.sqlite.auth import SqliteAuthStore
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = ["SECRET", "FakeClock", "House", "Kind", "all_at_once", "open_house", "opened_store", "withdrawn"]

SECRET = "backend-secret-" + "s" * 32
Kind = Literal["memory", "sqlite"]
T = TypeVar("T")


class FakeClock:
    """One time for the database, the tokens and the limits; it moves when told."""

    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    def ms(self) -> int:
        return int(self.now_s * 1000)

    def s(self) -> float:
        return self.now_s

    def move(self, seconds: float) -> None:
        self.now_s += seconds


class House:
    """Everything a test of identity needs."""

    def __init__(
        self,
        *,
        store: AuthStore,
        clock: FakeClock,
        http: httpx2.AsyncClient,
        bus: LocalBus,
        client: AuthClient,
        settings: AuthSettings,
    ) -> None:
        self.store = store
        self.clock = clock
        self.http = http
        self.bus = bus
        self.client = client
        self.settings = settings

    async def sign_in(self, name: str, password: str) -> dict[str, Any]:
        answer = await self.http.post("/auth/sessions", json={"user": name, "password": password})
        assert answer.status_code == 201, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    async def refresh(self, refresh_token: str) -> httpx2.Response:
        return await self.http.post("/auth/token", data={"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def introspect(self, token: str, secret: str = SECRET) -> httpx2.Response:
        headers = {"authorization": f"Bearer {secret}"}
        return await self.http.post("/auth/introspect", data={"token": token}, headers=headers)

    async def is_active(self, token: str) -> bool:
        return bool((await self.introspect(token)).json()["active"])


@asynccontextmanager
async def opened_store(kind: Kind, folder: Path, clock: FakeClock) -> AsyncIterator[AuthStore]:
    if kind == "memory":
        yield MemoryAuthStore(clock=clock.ms)
        return
    database = await SqliteDatabase.open(folder / "runwire.db")
    try:
        yield SqliteAuthStore(database, clock=clock.ms)
    finally:
        await database.close()


@asynccontextmanager
async def open_house(
    kind: Kind,
    folder: Path,
    *,
    wakes: bool = True,
    service: Mapping[str, Any] | None = None,
    backend: Mapping[str, Any] | None = None,
    wrap: Callable[[AuthStore], AuthStore] = lambda store: store,
    transport: Callable[[httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport] = lambda inner: inner,
    follows: bool = True,
    secrets: tuple[str, ...] = (SECRET,),
    checks: bool = True,
) -> AsyncIterator[House]:
    """Open a house.

    Args:
        kind: the store's adapter.
        folder: for its file.
        wakes: whether changes are announced on the bus.
        service: settings of the service that differ.
        backend: settings of the client that differ.
        wrap: put around the store as the client sees it.
        transport: put around the client's way to the service.
        follows: whether the client runs.
        secrets: that the service takes.
        checks: whether everything is proved to be right first.
    """
    clock = FakeClock()
    settings = AuthSettings(
        service_secrets=secrets,
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        **(service or {}),
    )
    bus = LocalBus()
    async with opened_store(kind, folder, clock) as store:
        app = make_auth_app(
            store,
            settings,
            changed=(lambda: bus.publish(Wake(topic="auth"))) if wakes else (lambda: None),
            wall_s=clock.s,
            monotonic_s=clock.s,
        )
        inner = httpx2.ASGITransport(app=app)
        async with (
            httpx2.AsyncClient(transport=inner, base_url="http://auth") as http,
            httpx2.AsyncClient(transport=transport(inner), base_url="http://auth") as way,
            # What asyncio itself waits on is real time; what is decided by time is the fake clock.
        ):
            seen = wrap(store)
            others = dict(backend or {})
            follows_so = {name: others.pop(name) for name in FollowSettings.__slots__ if name in others}
            follower = Follower(store=seen, bus=bus, settings=FollowSettings(**follows_so), monotonic_s=clock.s)
            client = AuthClient(
                http=way,
                store=seen,
                follower=follower,
                settings=AuthClientSettings(service_secret=SECRET, **others),
                wall_s=clock.s,
                monotonic_s=clock.s,
            )
            house = House(store=store, clock=clock, http=http, bus=bus, client=client, settings=settings)
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(each.run()) for each in (follower, client)] if follows else []
                if follows and checks:
                    await client.check()
                yield house
                for task in running:
                    task.cancel()
        await bus.close()


async def withdrawn(house: House, is_so: Callable[[], bool], *, within_s: float) -> None:
    """Wait until the client's view has moved so that something is so; fails after that time."""
    moved = asyncio.Event()
    stop = house.client.on_change(moved.set)
    try:
        async with asyncio.timeout(within_s):
            while not is_so():
                await moved.wait()
                moved.clear()
    finally:
        stop()


async def all_at_once(calls: list[Coroutine[Any, Any, T]] | list[Awaitable[T]]) -> list[T]:
    async def one(call: Awaitable[T]) -> T:
        return await call

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]
