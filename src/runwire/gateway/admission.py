"""Whether this node takes on more: who is here goes on, who comes new is told when to come back."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from runwire.errors import Unavailable
from runwire.gateway.live import back_after_s
from runwire.resilience.gate import Gate
from runwire.resilience.memory import resident_bytes

__all__ = ["Admission", "NotAdmitted"]

_EVERY_S: Final = 0.1
_IN_A_ROW: Final = 3  # lags of which the least counts: a stall that is over is no overload
_MEMORY_TURNS: Final = 5  # of these, until memory is looked at again: in half a second a node is given 100 MB at most
_MEMORY_OPENS: Final = 0.95  # share of the limit; what a burst has taken comes back in part only


class NotAdmitted(Unavailable):
    """Refuse what is new, with a time to come back; `reason` is for figures."""

    def __init__(
        self, message: str, *, reason: Literal["loop_lag", "memory", "queue_length", "queue_age"], after_s: float
    ) -> None:
        super().__init__(message, retry_after_s=after_s)
        self.reason = reason


class Admission:
    """Refuse new sockets and new messages while the event loop lags, or memory is short. `run` measures both.

    Readiness says nothing of it: a balancer that took a full node away would send all its clients to the others at
    once, and fill those. A new socket is sent elsewhere by its own client.

    Args:
        max_loop_lag_s: lag of the event loop over which nobody new is let in; None: everybody is.
        max_memory_bytes: resident memory of this process over which nobody is; None: everybody is.
        resident: measures that; None where it cannot be.
    """

    def __init__(
        self,
        *,
        max_loop_lag_s: float | None,
        max_memory_bytes: int | None = None,
        resident: Callable[[], int | None] = resident_bytes,
    ) -> None:
        self.gate = Gate(max_loop_lag_s)
        self.memory = Gate(max_memory_bytes, opens_at=_MEMORY_OPENS)
        self._is_memory_limited = max_memory_bytes is not None
        self._resident = resident
        self._lags: deque[float] = deque([0.0] * _IN_A_ROW, maxlen=_IN_A_ROW)
        self.loop_lag_s = 0.0

    @property
    def is_full(self) -> bool:
        """Return whether nobody new is let in."""
        return self.gate.is_closed or self.memory.is_closed

    def check(self) -> None:
        """Let one more in.

        Raises:
            NotAdmitted: with a time to come back, another one for each.
        """
        if self.is_full:
            sentence = "This server has too much to do; try again."
            reason: Literal["loop_lag", "memory"] = "loop_lag" if self.gate.is_closed else "memory"
            raise NotAdmitted(sentence, reason=reason, after_s=back_after_s())

    def lagged(self, lag_s: float) -> None:
        """Take a measured lag in."""
        self._lags.append(lag_s)
        self.loop_lag_s = min(self._lags)
        self.gate.look(self.loop_lag_s)

    def weigh(self) -> None:
        """Look at the memory."""
        size_bytes = self._resident() if self._is_memory_limited else None
        if size_bytes is not None:
            self.memory.look(size_bytes)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        for turn in itertools.count():
            if turn % _MEMORY_TURNS == 0:
                self.weigh()
            due_s = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self.lagged(max(0.0, loop.time() - due_s))
