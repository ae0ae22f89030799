"""What systemd is told (sd_notify): ready, stopping, and a sign of life for as long as the main loop turns.

The protocol is datagrams of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names; one that begins with `@` is in
Linux's abstract namespace. https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import structlog

from runwire.settings import Supervision

__all__ = ["Supervisor"]

_TIMES: Final = 3  # signs of life in the time after which there must have been one

_log: Final = structlog.get_logger(__name__)


class Supervisor:
    """Whoever started this process and wants to hear of it; nobody does, unless `NOTIFY_SOCKET` is set.

    A datagram that cannot be sent is lost: nothing waits, and the process goes on.

    Args:
        supervision: where to tell, and within which time a sign of life is due.
    """

    def __init__(self, supervision: Supervision) -> None:
        address = supervision.notify_socket
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._watchdog_s = supervision.watchdog_s
        self._has_warned = False

    def say(self, *lines: str) -> None:
        """Tell one or more things at once, such as `READY=1`. Never waits."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.setblocking(False)
                to.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("supervisor_not_told", error=type(error).__name__, said=lines[0])

    async def live(self) -> None:
        """Give signs of life until cancelled, from the loop that serves: one that is blocked gives none."""
        while self._address and self._watchdog_s:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / _TIMES)
