"""What is left of people whose access was withdrawn: runs that no worker holds, queued or put aside.

What a worker holds it ends itself. The others would stay: a run that waits for an answer of somebody who cannot give
one is claimed by nobody. Whoever withdrew the access need not know where the runs are, or live long enough to end them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from runwire.errors import Unavailable
from runwire.storage.base import Bus, CancelRequest, Runs, Wake

__all__ = ["REVOKED", "Withdrawals"]

REVOKED: Final = CancelRequest(by="revoked", reason="access was withdrawn")

_REST: Final = 4.0  # times as long as a call took: at the start everybody who ever left is looked at once more
_AFTER_ERROR_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Withdrawals:
    """Ends the runs of those whose access was withdrawn. One event loop.

    Every worker process does that for itself; it is done once however many do. What waits here is at most the number
    of accounts without access, each once.

    Args:
        runs: of the database.
        bus: told of what ended.
        is_allowed: whether somebody has access, as far as is known here; any loop.
    """

    def __init__(self, runs: Runs, bus: Bus, *, is_allowed: Callable[[str], bool]) -> None:
        self._runs = runs
        self._bus = bus
        self._is_allowed = is_allowed
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()

    def note(self, users: Iterable[str]) -> None:
        """Take note of people, of longest ago first; call it on the control loop. The last ones come first."""
        for user in users:
            self._waiting.pop(user, None)
            self._waiting[user] = None
        if self._waiting:
            self._wake.set()

    async def run(self) -> None:
        """End runs until cancelled."""
        while True:
            self._wake.clear()  # armed before looking
            while self._waiting:
                user, _ = self._waiting.popitem()
                # Let in again while this waited for its turn, or for the database: their new runs are not to end.
                if not self._is_allowed(user):
                    await self._end(user)
            await self._wake.wait()

    async def _end(self, user: str) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        pause_s = _AFTER_ERROR_S
        try:
            cancelled = await self._runs.cancel_user(user, REVOKED)
        except Exception as error:  # top of a worker loop; those of whom it was not done stay noted
            self._waiting.setdefault(user)
            if isinstance(error, Unavailable):
                _log.warning("database_unavailable", loop="withdrawals", reason=error.message)
            else:
                _log.exception("worker_loop_failed", loop="withdrawals")
        else:
            for one in cancelled:
                for committed in one.committed:
                    self._bus.publish(committed)
            if cancelled:
                self._bus.publish(Wake(topic="signals"))
                _log.info("runs_of_user_ended", user=user, runs=len(cancelled))
            pause_s = (loop.time() - began_s) * _REST
        await asyncio.sleep(pause_s)
