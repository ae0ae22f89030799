"""Whether this node takes on more: who is here goes on, who comes new is told when to come back."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Literal

from runwire.errors import Unavailable
from runwire.gateway.live import back_after_s
from runwire.resilience.gate import Gate

__all__ = ["Admission", "NotAdmitted"]

_EVERY_S: Final = 0.1
_IN_A_ROW: Final = 3  # lags of which the least counts: a stall that is over is no overload


class NotAdmitted(Unavailable):
    """Refuse what is new, with a time to come back; `reason` is for figures."""

    def __init__(
        self, message: str, *, reason: Literal["loop_lag", "queue_length", "queue_age"], after_s: float
    ) -> None:
        super().__init__(message, retry_after_s=after_s)
        self.reason = reason


class Admission:
    """Refuse new sockets and new messages while the event loop lags. `run` measures; all else answers from memory.

    Readiness says nothing of it: a balancer that took a full node away would send all its clients to the others at
    once, and fill those. A new socket is sent elsewhere by its own client.

    Args:
        max_loop_lag_s: lag of the event loop over which nobody new is let in; None: everybody is.
    """

    def __init__(self, *, max_loop_lag_s: float | None) -> None:
        self.gate = Gate(max_loop_lag_s)
        self._lags: deque[float] = deque([0.0] * _IN_A_ROW, maxlen=_IN_A_ROW)
        self.loop_lag_s = 0.0

    @property
    def is_full(self) -> bool:
        """Return whether nobody new is let in."""
        return self.gate.is_closed

    def check(self) -> None:
        """Let one more in.

        Raises:
            NotAdmitted: with a time to come back, another one for each.
        """
        if self.is_full:
            sentence = "This server has too much to do; try again."
            raise NotAdmitted(sentence, reason="loop_lag", after_s=back_after_s())

    def lagged(self, lag_s: float) -> None:
        """Take a measured lag in."""
        self._lags.append(lag_s)
        self.loop_lag_s = min(self._lags)
        self.gate.look(self.loop_lag_s)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self.lagged(max(0.0, loop.time() - due_s))
