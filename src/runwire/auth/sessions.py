"""What may become of a presented refresh token: a pure decision.

Counter-style tokens: a session's row knows one number. The token of that number rotates; the one before
it gets the *same* successor for a short while (its reply was lost, or another tab was first); any older
one is a copy in wrong hands, or ours after the thief's: the whole session ends.
"""

from __future__ import annotations

from enum import StrEnum

from runwire.storage.base import KeyRow, SessionRow

__all__ = ["Turn", "is_key_live", "is_session_live", "turn"]


class Turn(StrEnum):
    """What to do with a genuine refresh token."""

    ROTATE = "rotate"  # move the counter by compare-and-set, then answer with the next token
    REPEAT = "repeat"  # answer with the session's present token once more
    REUSED = "reused"  # revoke the session
    REFUSED = "refused"  # answer no


def turn(row: SessionRow, counter: int, *, idle_ttl_s: int, window_s: int) -> Turn:
    """Decide about a genuine refresh token of that number.

    Args:
        row: the session as just read; its own `read_at` is the clock.
        counter: the number of the presented token.
        idle_ttl_s: how long a session lives without being refreshed.
        window_s: how long after a rotation the token before it gets the same successor.
    """
    if not is_session_live(row) or row.read_at >= row.rotated_at + idle_ttl_s * 1000:
        return Turn.REFUSED
    if counter == row.counter:
        return Turn.ROTATE
    if counter > row.counter:
        # Never given out by this history: the database was set back. Not proof of theft.
        return Turn.REFUSED
    # That the successor was not used yet needs no flag: using it moves the counter.
    is_one_behind = counter == row.counter - 1
    return Turn.REPEAT if is_one_behind and row.read_at < row.rotated_at + window_s * 1000 else Turn.REUSED


def is_session_live(row: SessionRow) -> bool:
    """Return whether a session is neither revoked, nor over, nor of an epoch that was withdrawn."""
    return (
        row.revoked_at is None
        and row.read_at < row.expires_at
        and row.holder.status == "active"
        and row.holder.epoch == row.epoch
    )


def is_key_live(row: KeyRow) -> bool:
    """Return whether an API key is neither revoked nor over, and its holder active."""
    is_over = row.expires_at is not None and row.read_at >= row.expires_at
    return row.revoked_at is None and not is_over and row.holder.status == "active"
