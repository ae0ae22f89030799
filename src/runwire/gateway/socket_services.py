"""What the sockets of a node have in common."""

from __future__ import annotations

from dataclasses import dataclass

from runwire.gateway.commands import Commands
from runwire.gateway.identities import Identities
from runwire.gateway.live import Live
from runwire.gateway.metrics import Metrics
from runwire.gateway.subscription import Subscriptions

__all__ = ["SocketServices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketServices:
    """What all sockets of a node share."""

    identities: Identities  # who somebody is
    commands: Commands  # what may be asked for
    subscriptions: Subscriptions  # what is listened to
    live: Live  # who is connected
    metrics: Metrics  # figures
    abort_s: float  # after a close, the peer has so long to answer
