"""Which agents may be asked: those of this process, and those that workers elsewhere have announced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from runwire.errors import ProtocolError, Unavailable
from runwire.storage.base import Bus, BusMessage, Members, Offered, Wake

__all__ = ["OfferedAgents"]

_EVERY_S: Final = 5.0  # when no hint comes
_REST_S: Final = 0.25  # between two reads, however many ask for an agent that nobody knows
_LOOK_S: Final = 0.5  # that a request waits for a read
_READ_S: Final = 2.0  # for the database to answer
_NAMED: Final = 20  # in a refusal

_log: Final = structlog.get_logger(__name__)


class OfferedAgents:
    """The agents of one database's users. `run` keeps it current; all else answers from memory. In the gateway's loop.

    While the database is away the last list stands. An agent that is not in it is looked for once more before it is
    refused: its worker may have come a moment ago.

    Args:
        members: who serves the database.
        bus: says when to look.
        own: agents of this process, which need not be announced to be known here; pure and quick.
    """

    def __init__(self, members: Members, bus: Bus, *, own: Callable[[], Offered] = Offered) -> None:
        self._members = members
        self._bus = bus
        self._own = own
        self._said: Offered | None = None  # as it was last read
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []  # one per request that waits, for `_LOOK_S` at most
        self._is_running = False
        self._is_away = False

    def offered(self) -> Offered:
        """Return who may be asked, as far as it is known."""
        own, said = self._own(), self._said or Offered()
        # What all gateways read goes before what only this process knows.
        return Offered(names=tuple(sorted({*own.names, *said.names})), chosen=said.chosen or own.chosen)

    async def choose(self, name: str | None) -> str:
        """Return the agent that a message is for.

        Args:
            name: as the person named it; None: the default.

        Raises:
            ProtocolError: there is none of this name, or no default; it lists the names.
            Unavailable: nobody knows yet which there are.
        """
        chosen = self._known(name)
        if chosen is None and self._is_running:
            await self._look()
            chosen = self._known(name)
        if chosen is not None:
            return chosen
        names = self.offered().names
        if self._said is None and not names:
            raise Unavailable("Which agents there are is not known yet; try again.", retry_after_s=1.0)
        what = f"There is no agent {name!r}"[:120] if name is not None else "Say which agent"
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise ProtocolError(f"{what}; served here: {', '.join(names[:_NAMED]) or 'none'}{more}.", field="agent")

    async def run(self) -> None:
        """Read at once, whenever a hint comes, and now and then, until cancelled."""
        stop = self._bus.listen(self._hear)
        self._is_running = True
        try:
            while True:
                self._wake.clear()  # armed before looking
                await self._read()
                await asyncio.sleep(_REST_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY_S):
                        await self._wake.wait()
        finally:
            self._is_running = False
            stop()

    def _known(self, name: str | None) -> str | None:
        offered = self.offered()
        chosen = offered.default if name is None else name
        return chosen if chosen in offered.names else None

    async def _look(self) -> None:
        """Wait for a read that begins from now on, but not long."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await waiter

    async def _read(self) -> None:
        waiters, self._waiters = self._waiters, []
        try:
            async with asyncio.timeout(_READ_S):
                self._said = await self._members.offered()
            self._is_away = False
        except (Unavailable, TimeoutError) as error:
            if not self._is_away:  # once for each time that it is away
                _log.warning("agents_not_read", reason=str(error) or "no answer in time")
            self._is_away = True
        finally:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _hear(self, message: BusMessage) -> None:
        if isinstance(message, Wake) and message.topic == "members":
            self._wake.set()
