"""The port of tracing, as far as the gateway goes: a message comes, and the end of its run goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from runwire.protocol.events import StoredEvent
from runwire.storage.base import IncomingMessage, Sent

__all__ = ["UNTRACED", "Stored", "Tracing"]

Stored = Callable[[IncomingMessage, Sent], None]


class Tracing(Protocol):
    """Traces what passes a gateway. Nothing here waits or raises."""

    def sending(self, caller: str | None) -> Stored:
        """Return what is to be told when a message, that is about to be stored, is.

        Args:
            caller: `traceparent` of who sent it (W3C Trace Context); None: none came with it.
        """
        ...

    def delivered(self, connection: str, thread: str, events: Sequence[StoredEvent]) -> None:
        """Learn what a socket is given."""
        ...


class _Untraced:
    """Traces nothing."""

    def sending(self, caller: str | None) -> Stored:
        return _nothing

    def delivered(self, connection: str, thread: str, events: Sequence[StoredEvent]) -> None: ...


def _nothing(_message: IncomingMessage, _sent: Sent) -> None: ...


UNTRACED: Final = _Untraced()
