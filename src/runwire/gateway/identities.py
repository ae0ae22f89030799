"""What the gateway asks about people; `auth.client.AuthClient` answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from runwire.auth.identity import Identity

__all__ = ["Identities", "Standing"]


class Standing(Protocol):
    """What is known of everybody's standing: `auth.view.AuthView`."""

    def is_current(self, identity: Identity) -> bool:
        """Return whether nothing has withdrawn this identity. Pure and cheap: asked before every use."""
        ...

    def changed_s(self, user: str) -> float | None:
        """Return when a user's access was last withdrawn, on the monotonic clock; None: not lately."""
        ...


class Identities(Protocol):
    """Who somebody is."""

    @property
    def view(self) -> Standing:
        """The view that every decision is checked against."""
        ...

    def freshness(self) -> Literal["fresh", "stale", "expired"]:
        """Return how far the view may be behind; `expired`: sockets must not go on."""
        ...

    async def authenticate(self, credential: str) -> Identity:
        """Prove an access token or an API key.

        Raises:
            Unauthenticated: it proves nothing.
            Forbidden: its user may not.
            Unavailable: it cannot be decided now.
        """
        ...

    async def redeem_ticket(self, ticket: str, origin: str | None) -> Identity:
        """Use up a ticket. Raises like `authenticate`."""
        ...

    async def issue_ticket(self, identity: Identity, origin: str | None) -> str:
        """Make a ticket for one socket: single use, 30 s, bound to the user and the Origin."""
        ...

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in this event loop after somebody's standing changed; returns the way to stop."""
        ...
