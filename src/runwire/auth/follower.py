"""Keeping a view in step with the log of auth changes. The bus wakes; the poll makes it sure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from runwire.auth.background import Background, Shared
from runwire.auth.view import RETAIN_S, AuthView, Freshness
from runwire.errors import Unavailable
from runwire.storage.base import AuthStore, Bus, BusMessage, Wake

__all__ = ["Follower"]

_LOAD_DEADLINE_S: Final = 10.0  # of the first read, which has to read all users

_log = structlog.get_logger("runwire.auth")


class Follower:
    """Read the log into a view.

    Args:
        view: what is fed; nobody else feeds it.
        store: the log. It is read directly, so a dead auth service makes nobody stale (DESIGN §7).
        bus: its `Wake(topic="auth")` saves the wait for the next poll.
        background: where reads run.
        poll_s: time between reads without a wake-up.
        read_deadline_s: how long a read, and a caller who needs one, may take.
        fresh_s: age of a read that is as good as a new one.
        monotonic_s: clock of freshness.
    """

    def __init__(
        self,
        view: AuthView,
        *,
        store: AuthStore,
        bus: Bus,
        background: Background,
        poll_s: float,
        read_deadline_s: float,
        fresh_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._view = view
        self._store = store
        self._bus = bus
        self._poll_s = poll_s
        self._read_deadline_s = read_deadline_s
        self._fresh_s = fresh_s
        self._monotonic_s = monotonic_s
        self._reading = Shared(background, self._read)
        self._wake = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._reported: Freshness = "expired"

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after something was withdrawn or re-scoped; returns the way to stop."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def run(self) -> None:
        """Follow until cancelled."""
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

    def _report(self) -> None:
        freshness = self._view.freshness(self._monotonic_s())
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
