"""A worker's right to run what it claimed, counted on its own clock: good for a time, renewed, and lost by silence.

The database's clock decides who owns a run. A worker cannot see that clock, so it counts from when it *sent* what the
database then answered, and stops a margin early: whatever the way took, the database counts from later.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable
from typing import Final

from runwire.runtime.clock import lease_now_s

__all__ = ["Contact", "Lease"]

_MARGIN: Final = 1 / 3  # of its length: 2 s of 6, in which what was begun under it comes to its end
# Longer without an answer, and others may have lost their leases by the same cause without having lost their worker.
# Each renews every third of the length and so has at least a sixth of it left to do so when the database is back.
_LONGEST_GAP: Final = 1 / 2


class Lease:
    """The right of one attempt to begin steps and to store what it says.

    Made and renewed on the control loop; `is_valid` and `wait_valid` are for any thread and any loop.

    Args:
        length_s: of a claim or renewal, by the database's clock; infinite: it is never lost (`Storage.lease_s`).
        sent_s: when the claim was sent, on the lease clock.
        margin_s: how long before its end it counts as over; None: a third of its length.
        now_s: the lease clock.
    """

    __slots__ = ("_length_s", "_lock", "_now_s", "_until_s", "_waiters")

    def __init__(
        self,
        length_s: float,
        *,
        sent_s: float,
        margin_s: float | None = None,
        now_s: Callable[[], float] = lease_now_s,
    ) -> None:
        # Of an infinite length a third is infinite too, and the difference no number.
        self._length_s = (
            length_s if length_s == math.inf else length_s - (length_s * _MARGIN if margin_s is None else margin_s)
        )
        self._until_s = sent_s + self._length_s
        self._now_s = now_s
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []  # one per branch that waits

    @property
    def is_valid(self) -> bool:
        """Return whether the run is this attempt's for certain. Any thread may ask."""
        return self._now_s() < self._until_s

    def renew(self, sent_s: float) -> None:
        """Learn that the database has renewed it, by a call that was sent then."""
        with self._lock:
            self._until_s = max(self._until_s, sent_s + self._length_s)
            if not self.is_valid:  # the reply took too long
                return
            waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            with contextlib.suppress(RuntimeError):  # that loop was replaced: nobody waits there
                loop.call_soon_threadsafe(_resolve, future)

    async def wait_valid(self) -> None:
        """Wait until it is valid: as long as the database is away. Whoever loses the run cancels who waits here."""
        loop = asyncio.get_running_loop()
        while not self.is_valid:
            waiter = loop, loop.create_future()
            with self._lock:
                if self._now_s() < self._until_s:  # renewed between the two looks
                    return
                self._waiters.append(waiter)
            try:
                await waiter[1]
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)


class Contact:
    """How a worker stands with its database. Pure: the loops of the worker tell it of each call that ended.

    Args:
        lease_s: length of a lease; infinite: nobody is ever cut off.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._sent_s = -math.inf  # when the last call that succeeded was sent
        self._since_s = math.inf  # connected without a gap since then
        self._failing_since_s: float | None = None

    def succeeded(self, *, sent_s: float, now_s: float) -> None:
        """Learn of a call that the database answered."""
        if now_s - self._sent_s >= self._lease_s * _LONGEST_GAP:
            # From the reply on: that the request arrived earlier is not known.
            self._since_s = now_s
        self._sent_s = max(self._sent_s, sent_s)
        self._failing_since_s = None

    def failed(self, *, now_s: float) -> None:
        """Learn of a call that was not answered in time, or only by an error of the connection."""
        if self._failing_since_s is None:
            self._failing_since_s = now_s

    def may_take_lost(self, now_s: float) -> bool:
        """Return whether leases that have run out may be taken over.

        Only by a worker that has been connected for a whole lease. After an outage all leases have run out, also of
        workers that are well: they need that time to renew theirs.
        """
        if self._lease_s == math.inf:
            return True
        is_connected = now_s - self._sent_s < self._lease_s * _LONGEST_GAP
        return is_connected and now_s - self._since_s >= self._lease_s

    def blind_s(self, now_s: float) -> float:
        """Return for how long calls have failed without one that succeeded; 0: the last one did.

        Counted from the first that failed, not from the last that succeeded: a machine that slept was not blind.
        """
        return 0.0 if self._failing_since_s is None else now_s - self._failing_since_s


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
