"""How many runs of one database wait for a worker: over a limit, a message that would begin another one is refused.

Only such messages: whoever is here goes on watching, answering and calling off, which makes a full queue shorter.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from runwire.errors import Unavailable
from runwire.gateway.admission import NotAdmitted
from runwire.gateway.live import back_after_s
from runwire.resilience.gate import Gate
from runwire.storage.base import Runs

__all__ = ["Queue"]

_EVERY_S: Final = 1.0
_SHARE: Final = 20  # a look that takes long is not repeated before so many times as long: a twentieth of a connection
_MOST_S: Final = 10.0  # between two looks
_READ_S: Final = 2.0  # for the database to answer
_GOOD_S: Final = 15.0  # so long a look counts; over that the queue is not known, and nobody is refused because of it

_log: Final = structlog.get_logger(__name__)


class Queue:
    """The queue of one database's users. `run` looks at it; all else answers from memory. In the gateway's loop.

    It may be over its limits by what all gateways accept between two looks. Where it cannot be looked at, everybody is
    let in: the write that stores the message then decides.

    Args:
        runs: those of the database.
        max_runs: that wait for a worker; one more, and nobody new is let in until they are a fifth less.
        max_age_s: how long the oldest run of an agent may wait; over it no new message to that agent is let in. Others
            have other workers.
        user_limit: how many runs of a user may be active: what is over that waits for no worker.
    """

    def __init__(self, runs: Runs, *, max_runs: int, max_age_s: float, user_limit: int) -> None:
        self._runs = runs
        self._limit = max_runs + 1
        self._max_age_s = max_age_s
        self._user_limit = user_limit
        self._length = Gate(max_runs)
        self._ages: dict[str, Gate] = {}  # of the agents that have runs in the queue
        self._counts_until_s = 0.0
        self._is_away = False
        self.waiting = 0  # runs, one over the limit at most
        self.oldest_s = 0.0  # of all agents

    def check(self, agent: str) -> None:
        """Let one more run of this agent in.

        Raises:
            NotAdmitted: with a time to come back, another one for each.
        """
        if asyncio.get_running_loop().time() >= self._counts_until_s:
            return
        if self._length.is_closed:
            raise NotAdmitted("Too many runs wait for a worker; try again.", reason="queue_length", after_s=_after_s())
        if agent in self._ages and self._ages[agent].is_closed:
            sentence = "The runs of this agent wait too long for a worker; try again."
            raise NotAdmitted(sentence, reason="queue_age", after_s=_after_s())

    async def run(self) -> None:
        """Look at it until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            await self._look()
            await asyncio.sleep(min(_MOST_S, max(_EVERY_S, _SHARE * (loop.time() - began_s))))

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_READ_S):
                found = await self._runs.waiting(limit=self._limit, user_limit=self._user_limit)
        except (Unavailable, TimeoutError) as error:
            if not self._is_away:  # once for each time that it is away
                _log.warning("queue_not_read", reason=str(error) or "no answer in time")
            self._is_away = True
            return
        self._is_away = False
        self._counts_until_s = asyncio.get_running_loop().time() + _GOOD_S
        self.waiting, self.oldest_s = found.runs, max(found.oldest_s.values(), default=0.0)
        self._length.look(found.runs)
        self._ages = {agent: self._ages.get(agent) or Gate(self._max_age_s) for agent in found.oldest_s}
        for agent, age_s in found.oldest_s.items():
            self._ages[agent].look(age_s)


def _after_s() -> float:
    # Twice as long as where a loop lags: a queue does not get shorter within a second.
    return 2 * back_after_s()
