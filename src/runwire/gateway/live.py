"""Who is connected to this node: the local index of sockets and streams."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

from runwire.auth.identity import Identity
from runwire.errors import Unavailable
from runwire.gateway.clock import monotonic_s
from runwire.gateway.identities import Standing
from runwire.protocol.codes import CloseCode
from runwire.resilience.limits import network_of

__all__ = ["READ_S", "Listener", "Live", "Patience", "back_after_s"]

T = TypeVar("T")

_BACK_S: Final = (1.0, 5.0)  # a hello is waited for 5 s: by then those who never say it have made room
_PROVING: Final = 32
_TURN_S: Final = 0.25  # a proof takes milliseconds; of an API key, without the auth service, seconds
_GONE_S: Final = 5.0  # a drain waits so long for the sockets to close
READ_S: Final = 2.0  # for one read; a page takes milliseconds. Pings and a listener's own deadlines wait no longer


class Listener(Protocol):
    """A socket, or a stream over HTTP."""

    @property
    def identity(self) -> Identity:
        """Whose it is."""
        ...

    def announce_drain(self) -> None:
        """Say that the server is about to go away."""
        ...

    def end(self, code: CloseCode, reason: str, *, after_s: float | None = None) -> None:
        """Say bye and close."""
        ...


class Live:
    """Sockets and streams of this node.

    Args:
        standing: asked about everybody after each change.
        per_user: how many listeners one user may have here; the next one is refused.
        greetings: how many sockets may wait for their hello at a time; the next one is refused.
        greetings_per_address: how many of them may come from one address.
        measure: told how many seconds after a withdrawal a listener was cut off.
    """

    def __init__(
        self,
        standing: Standing,
        *,
        per_user: int,
        greetings: int = 1_000,
        greetings_per_address: int = 250,
        measure: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._standing = standing
        self._measure = measure
        self._per_user = per_user
        self._greetings = greetings
        self._greetings_per_address = greetings_per_address
        self._waiting: dict[object, str] = {}  # -> the address it comes from
        self._waiting_from: Counter[str] = Counter()
        self._listeners: set[Listener] = set()
        self._of_user: Counter[str] = Counter()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        # So many identities are proven at a time, the others wait for their turn. When a node dies, thousands come to
        # another one at once: were all of them served in one turn of the loop, what they wait for would come too late
        # for their deadlines, all would be sent away, and come again.
        self._turns = asyncio.Semaphore(_PROVING)
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._listeners)

    @property
    def waiting(self) -> int:
        """Return how many sockets wait for their hello."""
        return len(self._waiting)

    def greet(self, socket: object, *, address: str = "") -> None:
        """Count a socket that waits for its hello; `greeted` ends that. Nobody's limit counts those: nobody is known.

        Args:
            socket: which.
            address: where it comes from; "": not known. One that opens many leaves room for the others.

        Raises:
            Unavailable: with `rate_limited` and a time to come back; too many wait.
        """
        party = network_of(address)
        is_one_too_many = bool(party) and self._waiting_from[party] >= self._greetings_per_address
        if len(self._waiting) >= self._greetings or is_one_too_many:
            # Each its own time: whoever opens so many would else open them all at once again.
            after_s = back_after_s()
            raise Unavailable("Too many wait to sign in; come back.", code="rate_limited", retry_after_s=after_s)
        self._waiting[socket] = party
        self._waiting_from[party] += 1

    def greeted(self, socket: object) -> None:
        """Count a socket no more: it has said hello, or is gone. Idempotent."""
        party = self._waiting.pop(socket, None)
        if party is not None:
            self._waiting_from[party] -= 1
            if not self._waiting_from[party]:
                del self._waiting_from[party]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn to prove an identity; who takes long goes on without it: nobody waits behind an outage.

        Those who wait are sockets, so they are no more than a server accepts.
        """
        await self._turns.acquire()
        has_ended = False

        def end() -> None:
            nonlocal has_ended
            if not has_ended:
                has_ended = True
                self._turns.release()

        limit = asyncio.get_running_loop().call_later(_TURN_S, end)
        try:
            yield
        finally:
            limit.cancel()
            end()

    def add(self, listener: Listener) -> None:
        """Take a listener in. Check its identity only afterwards: a revocation in between then finds it.

        Raises:
            Unavailable: with `rate_limited`; the user has too many.
        """
        user = listener.identity.user
        if self._of_user[user] >= self._per_user:
            sentence = f"You have {self._per_user} connections here; close one."
            raise Unavailable(sentence, code="rate_limited", retry_after_s=back_after_s())
        self._listeners.add(listener)
        self._of_user[user] += 1
        self._is_empty.clear()

    def discard(self, listener: Listener) -> None:
        """Forget a listener. Idempotent."""
        if listener not in self._listeners:
            return
        self._listeners.discard(listener)
        user = listener.identity.user
        self._of_user[user] -= 1
        if not self._of_user[user]:
            del self._of_user[user]
        if not self._listeners:
            self._is_empty.set()

    def recheck(self) -> None:
        """End everybody whose access was withdrawn. Called after each change of anybody's standing."""
        for listener in tuple(self._listeners):
            if not self._standing.is_current(listener.identity):
                listener.end(CloseCode.REVOKED, "Your access was withdrawn.")

    def cut_off(self, identity: Identity) -> None:
        """Measure how long a withdrawal took, now that a listener of this identity gets nothing more."""
        changed_s = self._standing.changed_s(identity.user)
        if changed_s is not None:
            self._measure(max(0.0, monotonic_s() - changed_s))

    def shed(self, count: int) -> None:
        """End some listeners because nobody's standing is known any more."""
        for listener in tuple(self._listeners)[:count]:
            listener.end(CloseCode.UNAVAILABLE, "Nobody's access can be checked now; come back.")
            # At once, for the next turn is for others: who cannot leave yet has been told all the same.
            self.discard(listener)

    async def drain(self, *, spread_s: float) -> None:
        """Send everybody away, to come back elsewhere within `spread_s`; ends when they are gone, or soon."""
        self.is_draining = True
        for listener in tuple(self._listeners):
            listener.announce_drain()
        chance = random.SystemRandom()
        for listener in tuple(self._listeners):
            # Each its own delay: all at once would be a herd at the door of the next server.
            listener.end(CloseCode.DRAINING, "The server is restarting.", after_s=round(chance.uniform(0, spread_s), 2))
        try:
            async with asyncio.timeout(_GONE_S):
                await self._is_empty.wait()
        except TimeoutError:
            pass  # whoever is left is closed by the server itself


class Patience:
    """Bound a listener's waits for the database: one that hangs keeps nobody from leaving.

    For one read at a time.
    """

    def __init__(self) -> None:
        self._limit: asyncio.Timeout | None = None

    async def read(self, reading: Awaitable[T]) -> T:
        """Wait for a read, but not for long.

        Raises:
            Unavailable: it did not answer in time, or `cut` was called.
        """
        try:
            async with asyncio.timeout(READ_S) as self._limit:
                return await reading
        except TimeoutError as error:
            raise Unavailable("The database does not answer.") from error
        finally:
            self._limit = None

    def cut(self) -> None:
        """End the wait that goes on, if one does."""
        if self._limit and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


def back_after_s() -> float:
    """Return when somebody who cannot be served may come back: each at another time, lest all come at once again."""
    return round(random.SystemRandom().uniform(*_BACK_S), 2)
