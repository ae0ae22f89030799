"""A process among those that serve a database: it says that it is there, with which agents, until it says goodbye.

What others conclude from it is theirs: gateways learn which agents may be asked, and workers leave alone the runs of
agents that somebody has. Control loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Collection
from typing import Final

import structlog

from runwire.agents.load import Agents
from runwire.errors import Unavailable
from runwire.runtime.clock import lease_now_s
from runwire.storage.base import GOOD_S, RESERVED, Bus, Member, Storage, Wake

__all__ = ["Membership"]

_EVERY_S: Final = 10.0  # at most; five times in a row may fail before anybody takes it for gone
_TIMES: Final = 6  # in which its word is good
_AFTER_ERROR_S: Final = 1.0
_CALL_S: Final = 5.0  # for the database to answer
_GOODBYE_S: Final = 2.0  # for all of a goodbye; who says none is gone a minute later

_log: Final = structlog.get_logger(__name__)


class Membership:
    """Announces a process to the others of its database.

    Args:
        storage: the database.
        bus: told when others must look.
        node: name of the process; a worker claims under the same one.
        roles: of the process.
        version: release of Runwire.
        good_s: for how long its word is good; and how long it must have been there before it ends what nobody can run.
    """

    def __init__(
        self,
        storage: Storage,
        bus: Bus,
        *,
        node: str,
        roles: Collection[str],
        version: str = "",
        good_s: float = GOOD_S,
    ) -> None:
        self._members = storage.members
        self._bus = bus
        self._member = Member(node=node, roles=tuple(roles), version=version)
        self._good_s = good_s
        self._is_owner = storage.lease_s == math.inf  # of all there is: nobody else can have an agent
        self._since_s = math.inf  # there without a gap since then
        self._said_s = -math.inf  # when it was last said
        self._wake = asyncio.Event()
        self._said = asyncio.Event()
        self._left = asyncio.Event()
        self._is_running = self._is_leaving = False

    @property
    def node(self) -> str:
        """Return the name of the process."""
        return self._member.node

    def use(self, agents: Agents) -> None:
        """Say from now on that it has these agents."""
        self._member = Member(
            node=self._member.node,
            roles=self._member.roles,
            version=self._member.version,
            agents=agents.names,
            default_agent=agents.default if agents.is_default_chosen else None,
            code=agents.version,
        )
        self._wake.set()

    async def until_said(self) -> None:
        """Wait until it was said once."""
        await self._said.wait()

    def may_take_orphans(self) -> bool:
        """Return whether runs whose agent nobody has may be ended here: only by who was there for long enough.

        After an outage everybody looks as if they were gone, and must have had the time to say otherwise.
        """
        if self._is_owner:
            return self._said.is_set()
        now_s = lease_now_s()
        return now_s - self._said_s <= self._good_s / 2 and now_s - self._since_s >= self._good_s

    async def run(self) -> None:
        """Say it again and again until cancelled; without the database, try again each second."""
        self._is_running = True
        while not self._is_leaving:
            self._wake.clear()
            pause_s = min(_EVERY_S, self._good_s / _TIMES)
            try:
                await self._announce()
            except (Unavailable, TimeoutError) as error:
                _log.warning("member_not_announced", node=self._member.node, reason=str(error) or "no answer in time")
                pause_s = min(_AFTER_ERROR_S, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
        if not self._left.is_set():
            await self._say_goodbye()
        await asyncio.get_running_loop().create_future()  # whoever runs it would begin again

    async def leave(self) -> None:
        """Say goodbye, when all runs are given back: for a while yet its agents count as there. Call it at the end."""
        self._is_leaving = True
        self._wake.set()
        if self._is_running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await self._left.wait()

    async def _announce(self) -> None:
        said_s = lease_now_s()
        async with asyncio.timeout(_CALL_S):
            is_news = await self._members.announce(self._member, good_s=self._good_s)
        if said_s - self._said_s > self._good_s / 2:
            # From the answer on, as the database counts: when the request arrived is not known.
            self._since_s = lease_now_s()
        self._said_s = said_s
        if is_news:
            shown = tuple(name for name in self._member.agents if not name.startswith(RESERVED))
            _log.info("member_announced", node=self._member.node, agents=shown)
            self._bus.publish(Wake(topic="members"))
        self._said.set()

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._members.leave(self._member.node)
        except (Unavailable, TimeoutError) as error:
            _log.warning("goodbye_not_said", node=self._member.node, reason=str(error) or "no answer in time")
        else:
            self._bus.publish(Wake(topic="members"))
        self._left.set()
