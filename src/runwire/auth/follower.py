"""Keeping a view in step with the log of auth changes. The bus wakes; the poll makes it sure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from runwire.auth import clock
from runwire.auth.background import Background, Shared
from runwire.auth.view import RETAIN_S, AuthView, Freshness
from runwire.errors import Unavailable
from runwire.storage.base import AuthStore, Bus, BusMessage, Wake

__all__ = ["FollowSettings", "Follower"]

_LOAD_DEADLINE_S: Final = 10.0  # of the first read, which has to read all users

_log = structlog.get_logger("runwire.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """How closely the log of auth changes is followed."""

    # time between reads of the log without a wake-up, seconds
    poll_s: float = 0.25
    # how long a read of the log may take, and how long a decision waits for one, seconds
    read_deadline_s: float = 3.0
    # age of a read up to which the view is fresh, seconds
    fresh_s: float = 1.0
    # age after which sockets must not go on, seconds
    expired_s: float = 30.0


class Follower:
    """Read the log into a view. One per process, whoever in it needs to know: it asks the database and nobody else.

    So a dead auth service makes nobody stale (DESIGN §7), and a worker does not even know where that is.

    Args:
        store: the log.
        bus: its `Wake(topic="auth")` saves the wait for the next poll.
        settings: how closely.
        monotonic_s: clock of freshness.
    """

    def __init__(
        self,
        *,
        store: AuthStore,
        bus: Bus,
        settings: FollowSettings | None = None,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        settings = settings or FollowSettings()
        self._view = AuthView(fresh_s=settings.fresh_s, expired_s=settings.expired_s)
        self._store = store
        self._bus = bus
        self._poll_s = settings.poll_s
        self._read_deadline_s = settings.read_deadline_s
        self._fresh_s = settings.fresh_s
        self._monotonic_s = monotonic_s
        self._background = Background()
        self._reading = Shared(self._background, self._read)
        self._wake = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._left_callbacks: list[Callable[[Sequence[str]], None]] = []
        self._reported: Freshness = "expired"

    @property
    def view(self) -> AuthView:
        """Everybody's standing as this process knows it; fed by nobody else."""
        return self._view

    def freshness(self) -> Freshness:
        """Return how far the view may be behind; `expired`: sockets must not go on (4013)."""
        return self._view.freshness(self._monotonic_s())

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after something was withdrawn or re-scoped; returns the way to stop."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def on_left(self, callback: Callable[[Sequence[str]], None]) -> None:
        """Call back with those whose access was withdrawn altogether; after a snapshot with all such, once more."""
        self._left_callbacks.append(callback)

    async def run(self) -> None:
        """Follow until cancelled. Everything else needs this to run."""
        await self._background.run(self._follow())

    async def _follow(self) -> None:
        stop = self._bus.listen(self._hear)
        try:
            while True:
                self._wake.clear()  # before the read: a wake-up during it must lead to another one
                with contextlib.suppress(Unavailable):
                    # If it fails the view ages; `freshness` says so, and whoever needs it fresh is refused.
                    await self._reading.outcome()
                self._report()
                await self._pause()
        finally:
            stop()

    async def be_fresh(self) -> None:
        """Return at once while the view is fresh, else after one shared read.

        Raises:
            Unavailable: no read succeeded in `read_deadline_s`.
        """
        since_s = self._monotonic_s() - self._fresh_s
        if self._view.confirmed_s < since_s:
            async with _deadline(self._read_deadline_s):
                # Twice at most: the read that runs may have begun too early, the next one cannot.
                while self._view.confirmed_s < since_s:
                    await self._reading.outcome()

    async def confirm(self) -> None:
        """Return once the view holds everything that was committed before this call.

        Raises:
            Unavailable: no read succeeded in `read_deadline_s` (the first one has longer).
        """
        async with _deadline(self._read_deadline_s if self._view.is_loaded else _LOAD_DEADLINE_S):
            await self._reading.next_outcome()

    async def check(self) -> None:
        """Prove at the start that the log can be read.

        Raises:
            Unavailable: it cannot.
        """
        await self._background.until_running()
        await self.confirm()

    def _hear(self, message: BusMessage) -> None:
        if isinstance(message, Wake) and message.topic == "auth":
            self._wake.set()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _read(self) -> None:
        began_s = self._monotonic_s()
        if self._view.is_loaded:
            async with _deadline(self._read_deadline_s):
                is_in_step = await self._read_on(began_s)
            if is_in_step:
                return
        async with _deadline(_LOAD_DEADLINE_S):
            snapshot = await self._store.snapshot(revoked_within_s=RETAIN_S)
        _log.debug("auth_view_loaded", seq=snapshot.head, users=len(snapshot.users))
        self._after(withdraws=self._view.load(snapshot, began_s=began_s))

    async def _read_on(self, began_s: float) -> bool:
        """Apply everything after the cursor; False: the log is another one, take a snapshot."""
        while True:
            page = await self._store.events_after(self._view.cursor)
            if not self._view.continues(page):
                return False
            self._after(withdraws=self._view.apply(page, began_s=began_s))
            if self._view.cursor == page.head:
                return True

    def _after(self, *, withdraws: bool) -> None:
        if withdraws:
            for callback in list(self._callbacks):
                callback()
        if left := self._view.take_left():
            for tell in self._left_callbacks:
                tell(left)

    def _report(self) -> None:
        freshness = self.freshness()
        if freshness != self._reported:
            self._reported = freshness
            _log.log(10 if freshness == "fresh" else 30, "auth_view_freshness_changed", freshness=freshness)


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable("Nobody's standing can be confirmed at the moment; try again.", retry_after_s=1.0) from None
