"""People who come and go: sign-ins, keys, revocations, threads made and deleted, sockets opened and dropped."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import httpx2
import msgspec
from tests.fleet.load import Load, Person, Sizes
from tests.fleet.wire import Wire

from runwire.auth.service import users
from runwire.errors import Unavailable
from runwire.storage.base import Storage

__all__ = ["PASSWORD_OF", "Churn", "SoakLoad", "Visit", "visit"]

_ANSWER_S: Final = 20.0
_KEPT: Final = 4000  # threads that wait to be deleted; beyond that they stay
_GONE_S: Final = 15.0  # a revocation reaches every gateway within a second; with room for a busy machine


def PASSWORD_OF(name: str) -> str:
    """Return the password of a person of the soak."""
    return f"correct horse of {name} battery"


class SoakLoad(Load):
    """The load of the fault campaign, half of whose threads are deleted when their runs have been judged."""

    def __init__(self, seed: int, sizes: Sizes, people: list[tuple[str, str]], ports: list[int]) -> None:
        super().__init__(seed, sizes, people, ports)
        self.keys = dict(people)
        self.unneeded: asyncio.Queue[tuple[Person, str]] = asyncio.Queue(_KEPT)

    def release(self, person: Person, thread: str) -> None:
        """Let go of a thread; every other one is deleted then."""
        super().release(person, thread)
        if thread not in person.open and person.rng.random() < 0.5:
            with suppress(asyncio.QueueFull):
                self.unneeded.put_nowait((person, thread))


class Visit:
    """A socket that is opened, welcomed, and told what comes."""

    def __init__(self) -> None:
        self.welcomed = asyncio.Event()
        self.ended = asyncio.Event()
        self.why = ""
        self.said: list[dict[str, Any]] = []
        self.wire: Wire

    def take(self, raw: bytes) -> None:
        frames = msgspec.json.decode(raw)
        for frame in frames if isinstance(frames, list) else [frames]:
            if frame["op"] == "ping":
                self.wire.send(b'{"op":"pong"}')
            elif frame["op"] == "welcome":
                self.welcomed.set()
            elif frame["op"] in ("reply", "bye", "subscribed"):
                self.said.append(frame)

    def end(self, why: str) -> None:
        self.why = why
        self.ended.set()


async def visit(port: int, token: str) -> Visit:
    """Open a socket and wait for its welcome.

    Raises:
        OSError: nobody listens, or no welcome came in time.
    """
    one = Visit()
    one.wire = Wire(token, message=one.take, closed=one.end)
    async with asyncio.timeout(_ANSWER_S):
        await asyncio.get_running_loop().create_connection(lambda: one.wire, "127.0.0.1", port)
        await one.welcomed.wait()
    return one


class Churn:
    """What goes on besides talking.

    Args:
        ports: of the gateways.
        storage: to make API keys as the command line does.
        names: of people with passwords.
        keys: API keys of people, and a thread of each.
        seed: decides who does what.
    """

    def __init__(
        self, ports: list[int], storage: Storage, names: list[str], keys: list[tuple[str, str]], seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._ports = ports
        self._storage = storage
        self._names = names
        self._keys = keys
        self._rng = random.Random(f"{seed}-churn")

    async def every(self, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        """Do something again and again, each at its time but never two at once of one kind, until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            due_s = max(due_s + seconds * self._rng.uniform(0.5, 1.5), loop.time())
            await asyncio.sleep(due_s - loop.time())
            try:
                await what()
            except (OSError, httpx2.HTTPError, Unavailable) as error:
                # A machine that is busy: counted, and no finding of a soak.
                self.counts[f"failed {getattr(what, '__name__', '?')} {type(error).__name__}"] += 1

    async def pass_by(self) -> None:
        """Open a socket, look at a thread, and leave: politely, or by a RST."""
        key, thread = self._rng.choice(self._keys)
        one = await visit(self._rng.choice(self._ports), key)
        if thread and self._rng.random() < 0.5:
            one.wire.send(msgspec.json.encode({"op": "subscribe", "id": "1", "thread": thread, "after": 0}))
        if self._rng.random() < 0.5:
            one.wire.reset()
        else:
            one.wire.abort("left")
        self.counts["passers-by"] += 1

    async def sign_in_and_out(self) -> None:
        """Sign in, refresh at a live socket, make a key, and withdraw one thing or another."""
        rng, name = self._rng, self._rng.choice(self._names)
        port, other = rng.choice(self._ports), rng.choice(self._ports)
        async with _http(port) as http:
            answer = await http.post("/auth/sessions", json={"user": name, "password": PASSWORD_OF(name)})
            if answer.status_code == 429:
                self.counts["sign-ins refused for a time"] += 1
                return
            granted = self._checked(answer, 201, "sign-in")
            one = await visit(other, granted["access_token"])
            form = {"grant_type": "refresh_token", "refresh_token": granted["refresh_token"]}
            fresh = self._checked(await http.post("/auth/token", data=form), 200, "refresh")
            one.wire.send(msgspec.json.encode({"op": "refresh", "id": "r", "token": fresh["access_token"]}))
            bearer = {"Authorization": f"Bearer {fresh['access_token']}"}
            self._checked(await http.get("/v1/me", headers=bearer), 200, "me")
            if rng.random() < 0.5:
                await http.delete("/auth/sessions/current", headers=bearer)
            else:
                await http.post("/auth/revoke", data={"token": fresh["refresh_token"]})
            await self._ends(one, f"a socket of {name}")
            await self._is_refused(http, bearer, name)
        self.counts["sign-ins"] += 1

    async def make_key(self) -> None:
        """Make an API key, use it, revoke it."""
        name = self._rng.choice(self._names)
        key = await users.create_api_key(self._storage.auth, name)
        one = await visit(self._rng.choice(self._ports), key)
        async with _http(self._rng.choice(self._ports)) as http:
            self._checked(await http.post("/auth/revoke", data={"token": key}), 200, "revoke")
        await self._ends(one, f"a socket of a key of {name}")
        self.counts["API keys"] += 1

    async def make_thread(self) -> None:
        """Make a thread that nobody uses, and delete it."""
        key, _ = self._rng.choice(self._keys)
        async with _http(self._rng.choice(self._ports)) as http:
            bearer = {"Authorization": f"Bearer {key}"}
            made = self._checked(await http.post("/v1/threads", json={}, headers=bearer), 201, "thread")
            if made:
                await http.delete(f"/v1/threads/{made['thread']}", headers=bearer)
        self.counts["threads made"] += 1

    async def delete(self, load: SoakLoad) -> None:
        """Delete what is not needed any more."""
        person, thread = await load.unneeded.get()
        bearer = {"Authorization": f"Bearer {load.keys[person.user]}"}
        async with _http(self._rng.choice(self._ports)) as http:
            answer = await http.delete(f"/v1/threads/{thread}", headers=bearer)
        if answer.status_code not in (200, 202, 204, 503):
            self.faults.append(f"deleting a thread: {answer.status_code} {answer.text[:200]}")
        self.counts["threads deleted"] += 1

    def cut(self, load: Load) -> None:
        """Have a screen lose its connection, every other time by a RST."""
        tab = self._rng.choice(self._rng.choice(load.people).tabs)
        tab.cut(resets=self._rng.random() < 0.5)
        self.counts["connections cut"] += 1

    async def _ends(self, one: Visit, who: str) -> None:
        try:
            async with asyncio.timeout(_GONE_S):
                await one.ended.wait()
        except TimeoutError:
            self.faults.append(f"{who} is still there after its end: {one.said[-2:]}")
            one.wire.abort("left")

    async def _is_refused(self, http: httpx2.AsyncClient, bearer: dict[str, str], name: str) -> None:
        """See that a gateway lets somebody in no more: each learns of it by itself."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _GONE_S
        while (await http.get("/v1/me", headers=bearer)).status_code != 401:
            if loop.time() > until_s:
                self.faults.append(f"{name} was signed out {_GONE_S:.0f} s ago and is let in")
                return
            await asyncio.sleep(0.1)

    def _checked(self, answer: httpx2.Response, status: int, what: str) -> dict[str, Any]:
        if answer.status_code == status:
            return dict(answer.json()) if answer.content else {}
        if answer.status_code in (429, 503):
            raise ConnectionError(f"{what}: {answer.status_code}")
        self.faults.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        raise ConnectionError(what)


def _http(port: int) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_ANSWER_S, trust_env=False)
