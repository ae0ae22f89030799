"""What the sockets of a node have in common."""

from __future__ import annotations

from dataclasses import dataclass

from runwire.gateway.admission import Admission
from runwire.gateway.desk import Desk
from runwire.gateway.identities import Identities
from runwire.gateway.limits import Traffic
from runwire.gateway.live import Live
from runwire.gateway.metrics import Metrics
from runwire.gateway.tracing import UNTRACED, Tracing
from runwire.storage.placed import Placed

__all__ = ["SocketServices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketServices:
    """What all sockets of a node share."""

    identities: Identities  # who somebody is
    desks: Placed[Desk]  # what may be asked for and listened to, by user
    live: Live  # who is connected
    admission: Admission  # whether one more is let in
    metrics: Metrics  # figures
    abort_s: float  # after a close, the peer has so long to answer
    traffic: Traffic | None = None  # counts what people send; None: nobody does
    tracing: Tracing = UNTRACED  # learns what sockets are given
