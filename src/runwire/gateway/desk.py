"""What serves the users of one database on this node: all that a proven user's requests go through.

The gateway does everything within one user (DESIGN §1, law 6), so it picks the user's desk first and knows no other.
"""

from __future__ import annotations

from dataclasses import dataclass

from runwire.errors import Unavailable
from runwire.gateway.commands import Commands
from runwire.gateway.offered import OfferedAgents
from runwire.gateway.queue import Queue
from runwire.gateway.subscription import Subscriptions
from runwire.gateway.tail import Tail
from runwire.storage.base import Storage

__all__ = ["Desk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One database, and what this node has for its users."""

    number: int  # of the database, from 1
    storage: Storage
    tail: Tail
    agents: OfferedAgents
    queue: Queue
    commands: Commands
    subscriptions: Subscriptions

    @property
    def log(self) -> str:
        """Return the identity of the database's history.

        Raises:
            Unavailable: it has not answered since this process started.
        """
        if not self.storage.log:
            raise Unavailable("Your database does not answer; come back.", retry_after_s=1.0)
        return self.storage.log
