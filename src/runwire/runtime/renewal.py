"""A worker and its database: calls with a deadline below the lease, renewed leases, and blindness noticed."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter

from runwire.errors import Unavailable
from runwire.runtime.clock import lease_now_s
from runwire.runtime.lease import Contact
from runwire.runtime.run import Run
from runwire.storage import base
from runwire.storage.base import Storage

__all__ = ["Renewal"]

T = TypeVar("T")

_RENEWALS: Final = 3  # in the time of a lease; a call may take as long as there is between two
_AFTER_ERROR: Final = 1 / 12  # of a lease: when a renewal is tried again, so that one may still come in time

_log: Final = structlog.get_logger(__name__)


class Renewal:
    """Keeps the leases of a worker's runs. Control loop.

    Args:
        storage: the database; without leases (`lease_s` infinite) there is nothing to renew and no deadline.
        name: of the worker.
        held: its runs.
        blind_s: without an answer for so long, its runs are given up.
        registry: gets the figures; None: nobody asks for them.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        *,
        held: Callable[[], Collection[Run]],
        blind_s: float,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._storage = storage
        self._name = name
        self._held = held
        self._blind_s = blind_s
        self._every_s = storage.lease_s / _RENEWALS
        self._contact = Contact(storage.lease_s)
        self._wake = asyncio.Event()
        self._lost = Counter("runtime_leases_lost", "Runs given up because they were another's.", registry=registry)

    def may_take_lost(self) -> bool:
        """Return whether this worker may take over runs whose lease has run out; see `Contact`."""
        return self._contact.may_take_lost(lease_now_s())

    def renew_now(self) -> None:
        """Renew at once: a run has no valid lease."""
        self._wake.set()

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the database.

        Raises:
            Unavailable: no answer, or none in time: what was asked for may have been done.
        """
        sent_s = lease_now_s()
        try:
            async with asyncio.timeout(None if self._every_s == math.inf else self._every_s):
                answer = await call()
        except TimeoutError as error:
            self._contact.failed(now_s=lease_now_s())
            raise Unavailable("The database did not answer in time.", retry_after_s=1.0) from error
        except Unavailable:
            self._contact.failed(now_s=lease_now_s())
            raise
        self._contact.succeeded(sent_s=sent_s, now_s=lease_now_s())
        return answer

    async def run(self) -> None:
        """Renew until cancelled."""
        if self._every_s == math.inf:
            await asyncio.get_running_loop().create_future()
        while True:
            self._wake.clear()
            pause_s = self._every_s
            try:
                await self._renew()
            except Unavailable as error:
                _log.warning("lease_not_renewed", runs=len(self._held()), reason=error.message)
                self._give_up_if_blind()
                pause_s = self._storage.lease_s * _AFTER_ERROR
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _renew(self) -> None:
        runs = [run for run in self._held() if not run.is_lost]
        if not runs:
            return
        sent_s = lease_now_s()
        await self.call(lambda: self._storage.runs.renew(self._name, _attempts(runs)))
        # What others took meanwhile is passed over by a renewal, without a word; before its lease has run out nothing
        # can have been taken.
        lapsed = [run for run in runs if not run.lease.is_valid]
        lost: set[str] = set()
        if lapsed:
            signals = await self.call(lambda: self._storage.runs.signals(self._name, _attempts(lapsed)))
            lost = {signal.run for signal in signals if signal.is_lost}
        for run in runs:
            if run.claim.run not in lost:
                run.renew(sent_s)
            else:  # also one that is leaving: without a lease nothing is sent, so no last call of its own would tell
                self.lose(run)

    def lose(self, run: Run) -> None:
        """Stop a run that is another attempt's now."""
        _log.warning("lease_lost", run=run.claim.run, attempt=run.claim.attempt)
        self._lost.inc()
        run.lose(base.Fenced())

    def _give_up_if_blind(self) -> None:
        """Stop what nobody can tell us of any more; whoever takes the runs goes on with them."""
        blind_s = self._contact.blind_s(lease_now_s())
        if blind_s < self._blind_s:
            return
        for run in [run for run in self._held() if not run.is_lost]:
            _log.warning("run_given_up", run=run.claim.run, attempt=run.claim.attempt, blind_s=round(blind_s))
            run.lose(base.Fenced())


def _attempts(runs: Iterable[Run]) -> dict[str, int]:
    return {run.claim.run: run.claim.attempt for run in runs}
