"""The port of the audit: who did what to whom from where, for people who have to answer for it.

Rows are appended and never taken back; only who they were about can be made unreadable, when a person is erased. An
entry of a change is written with the change or not at all. No secret, token or password is ever in one: callers give
ids, names and stable words, and what an adapter stores is cut and cleaned by `storable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

__all__ = ["ERASED", "MAX_DETAILS", "MAX_TEXT", "ActorKind", "Audit", "AuditEntry", "AuditPage", "AuditRow", "storable"]

MAX_TEXT: Final = 256  # characters of any text of an entry; the rest is cut
MAX_DETAILS: Final = 16  # members of `detail`; the others are left out
ERASED: Final = "erased"  # what stands where somebody stood who was erased

ActorKind = Literal["user", "key", "service", "operator", "system"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody did, e.g. actor "usr_1", actor_kind "user", action "user.disable", subject "usr_2"."""

    actor: str | None  # a user's or key's id; None: not known (a failed sign-in), or the machine's operator
    actor_kind: ActorKind  # "operator": on the machine itself; "system": nobody, a rule
    action: str  # a stable word, "user.disable"
    subject: str | None = None  # a user's id, or what it was done to; None in a change: whom or what it changed
    address: str = ""  # where the actor was; "": not known
    detail: dict[str, str] = {}  # short words, e.g. {"reason": "signed_out"}; never a secret


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it is kept."""

    seq: int  # rising in the order of commits, so who follows with a cursor skips none
    at: int  # ms UTC, the database's clock
    entry: AuditEntry


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the audit."""

    head: int  # seq of the last row there is; below the reader's cursor: the database was restored, begin again
    rows: list[AuditRow]  # seq ascending, first one > cursor


class Audit(Protocol):
    """The audit as part of `AuthStore`, whose changes append to it in their own write."""

    async def record(self, entry: AuditEntry) -> None:
        """Append an entry of what changes nothing: a failed sign-in, a token used twice, an export."""
        ...

    async def audit_after(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read rows with seq > cursor, oldest first; at most `limit` (1..1,000)."""
        ...

    async def breaker_orders(self, cursor: int, *, limit: int = 500) -> AuditPage:
        """Read the orders to circuit breakers with seq > cursor, oldest first; else as `audit_after`.

        They are the rows whose action is "breaker.reset", "breaker.force-open" or "breaker.disable", of the subject
        "<kind>/<name>". Cheap however many other rows there are.
        """
        ...

    async def audit_pseudonymise(self, user: str, *, names: Sequence[str] = ()) -> int:
        """Make rows about a user say nothing about them, for good.

        Args:
            user: the id.
            names: other words that meant them, e.g. the name of an account that failed to sign in. Up to 16.

        Returns:
            How many rows: of each where actor or subject is one of these words, that word becomes "erased"; so do the
            values of its detail, and its address. What was done and when stays.
        """
        ...


def storable(entry: AuditEntry, *, subject: str | None = None) -> AuditEntry:
    """Return an entry that every database takes, within its bounds; `subject` stands in where it names none."""
    detail = {_clean(name): _clean(value) for name, value in list(entry.detail.items())[:MAX_DETAILS]}
    return AuditEntry(
        actor=None if entry.actor is None else _clean(entry.actor),
        actor_kind=entry.actor_kind,
        action=_clean(entry.action),
        subject=subject if entry.subject is None else _clean(entry.subject),
        address=_clean(entry.address),
        detail=detail,
    )


def _clean(text: str) -> str:
    # A NUL is no text to PostgreSQL, half a surrogate pair to nobody, and a control character moves a reader's cursor.
    cut = text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
