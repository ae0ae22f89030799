"""What a process knows of everybody's standing: pure state, fed from the log of auth changes.

Fed by one reader: `load` with a snapshot, then `apply` with every page after `cursor`. It may be asked
by anybody in the same event loop, at any time, without waiting.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from runwire.auth.identity import Identity
from runwire.auth.tokens import LEEWAY_S, MAX_LIFETIME_S
from runwire.storage.base import AuthEvent, AuthKind, AuthPage, AuthSnapshot, UserRow

__all__ = ["RETAIN_S", "AuthView", "Freshness"]

# How long a revocation is remembered. A longer-lived access token is refused by the verifier, and a holder
# of an identity asks the view after every change, so nothing current can stand on a forgotten revocation.
RETAIN_S: Final = MAX_LIFETIME_S + 2 * LEEWAY_S + 600

Freshness = Literal["fresh", "stale", "expired"]

_TIMED_S: Final = 60.0  # how long it is known when a user's access last changed: to measure who was told when

_ENDING: Final = frozenset({AuthKind.USER_DISABLED, AuthKind.USER_DELETED})

# Kinds that withdraw or re-scope; the others make something new, which nobody can be using yet.
_WITHDRAWING: Final = frozenset(
    {
        AuthKind.USER_DISABLED,
        AuthKind.USER_DELETED,
        AuthKind.SIGNED_OUT_EVERYWHERE,
        AuthKind.ROLES_CHANGED,
        AuthKind.SESSION_REVOKED,
        AuthKind.KEY_REVOKED,
        AuthKind.SIGNING_KEY_REVOKED,
    }
)


class AuthView:
    """Users, their epochs and roles, and what was revoked lately.

    Args:
        fresh_s: how long after a confirmed read the view counts as fresh.
        expired_s: how long after it sockets may not go on any more.
    """

    def __init__(self, *, fresh_s: float = 1.0, expired_s: float = 30.0) -> None:
        self._fresh_s = fresh_s
        self._expired_s = expired_s
        self._users: dict[str, UserRow] = {}
        self._sessions: dict[str, int] = {}  # revoked: session -> when, oldest first; bounded by RETAIN_S
        self._keys: dict[str, int] = {}  # revoked: key -> when, likewise
        self._kids: set[str] = set()  # revoked signing keys, all that ever were: a person revokes them one by one
        self._left: dict[str, None] = {}  # users whose access was withdrawn altogether and nobody has taken yet
        self._changed: dict[str, float] = {}  # user -> monotonic time of the last change, oldest first; _TIMED_S long
        self._generation: str | None = None
        self._cursor = 0
        self._confirmed_s = -math.inf

    @property
    def cursor(self) -> int:
        """The last event that is in this view."""
        return self._cursor

    @property
    def confirmed_s(self) -> float:
        """Monotonic time at which the last read that found everything *began*; -inf: never."""
        return self._confirmed_s

    @property
    def is_loaded(self) -> bool:
        """Whether there was a snapshot yet."""
        return self._generation is not None

    def freshness(self, now_s: float) -> Freshness:
        """Return how far this view may be behind (DESIGN §7); `now_s` is monotonic."""
        age_s = now_s - self._confirmed_s
        if age_s <= self._fresh_s:
            return "fresh"
        return "stale" if age_s <= self._expired_s else "expired"

    def user(self, user: str) -> UserRow | None:
        """Return a user as of now: name, status, epoch, roles."""
        return self._users.get(user)

    def changed_s(self, user: str) -> float | None:
        """Return when a user's access was last withdrawn or re-scoped; None: not in the last minute, or not known.

        On this process's monotonic clock, a little early rather than late: the database's clock says how old the
        change was when it was read, so no two clocks are compared.
        """
        return self._changed.get(user)

    def take_left(self) -> list[str]:
        """Return, once, the users whose access was withdrawn altogether, of longest ago first.

        After `load` all there are; after `apply` those of the page, also if they were let in again since.
        """
        left, self._left = list(self._left), {}
        return left

    def is_current(self, identity: Identity) -> bool:
        """Return whether nothing has withdrawn this identity; its `expires_at` is the caller's to watch.

        Doubt means no: an unknown user, or an epoch that this view has not reached, is not current.
        """
        holder = self._users.get(identity.user)
        return (
            holder is not None
            and holder.status == "active"
            and holder.epoch == identity.epoch
            and (identity.session is None or identity.session not in self._sessions)
            and (identity.key is None or identity.key not in self._keys)
            and (identity.kid is None or identity.kid not in self._kids)
        )

    @property
    def revoked_kids(self) -> int:
        """Return how many signing keys were ever revoked."""
        return len(self._kids)

    def is_kid_revoked(self, kid: str) -> bool:
        """Return whether all that a signing key has signed is dead."""
        return kid in self._kids

    def is_behind(self, identity: Identity) -> bool:
        """Return whether a fresh read may show an identity as current that this view does not know yet."""
        holder = self._users.get(identity.user)
        return holder is None or holder.epoch < identity.epoch or holder.status != "active"

    def load(self, snapshot: AuthSnapshot, *, began_s: float) -> bool:
        """Start over from a snapshot.

        Args:
            snapshot: the whole state.
            began_s: monotonic time at which reading it began.

        Returns:
            True: anything may have been withdrawn; ask again about every identity.
        """
        self._users = {row.user: row for row in snapshot.users}
        gone = (row for row in snapshot.users if row.status != "active")
        self._left = dict.fromkeys(row.user for row in sorted(gone, key=lambda row: row.valid_from))
        self._sessions = dict(snapshot.revoked_sessions)
        self._keys = dict(snapshot.revoked_keys)
        # And those known before: a backup in the place of the tables knows of no revocation since. No kid comes twice.
        self._kids.update(snapshot.revoked_kids)
        self._generation = snapshot.generation
        self._cursor = snapshot.head
        self._confirmed_s = began_s
        return True

    def continues(self, page: AuthPage) -> bool:
        """Return whether a page continues this view; if not, take a snapshot.

        It does not when the tables are others (restored from a backup) or the log is behind the cursor.
        """
        return page.generation == self._generation and page.head >= self._cursor

    def apply(self, page: AuthPage, *, began_s: float) -> bool:
        """Apply a page that `continues` this view; read on while `cursor` is below its head.

        Returns:
            Whether something was withdrawn or re-scoped; ask again about every identity.
        """
        withdraws = False
        for event in page.events:
            if event.seq > self._cursor:
                self._apply(event)
                if event.kind in _WITHDRAWING:
                    withdraws = True
                    self._time(event, at_s=began_s - max(0, page.read_at - event.at) / 1000)
        if self._cursor == page.head:
            self._confirmed_s = max(self._confirmed_s, began_s)
            self._forget(page.read_at - RETAIN_S * 1000)
            while self._changed and self._changed[oldest := next(iter(self._changed))] < began_s - _TIMED_S:
                del self._changed[oldest]
        return withdraws

    def _apply(self, event: AuthEvent) -> None:
        self._cursor = event.seq
        if event.holder is not None:
            self._users[event.holder.user] = event.holder
            if event.kind in _ENDING:
                self._left[event.holder.user] = None
        if event.kind is AuthKind.SESSION_REVOKED and event.session is not None:
            self._sessions[event.session] = event.at
        elif event.kind is AuthKind.KEY_REVOKED and event.key is not None:
            self._keys[event.key] = event.at
        elif event.kind is AuthKind.SIGNING_KEY_REVOKED and event.kid is not None:
            self._kids.add(event.kid)

    def _time(self, event: AuthEvent, *, at_s: float) -> None:
        if event.user is not None:
            self._changed.pop(event.user, None)  # to the end, for the oldest are forgotten first
            self._changed[event.user] = at_s

    def _forget(self, before: int) -> None:
        for revoked in (self._sessions, self._keys):
            # Oldest first, so this stops at the first one to keep.
            while revoked and revoked[oldest := next(iter(revoked))] < before:
                del revoked[oldest]
