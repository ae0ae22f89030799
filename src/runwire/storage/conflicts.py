"""What the adapters of the auth tables refuse in the same words."""

from __future__ import annotations

from runwire.errors import Conflict

__all__ = ["changed_meanwhile", "too_many_signing_keys"]


def changed_meanwhile() -> Conflict:
    """Return the error of who was overtaken: by another change of the password, or by the end of their session."""
    return Conflict("Your password or your session was changed meanwhile; sign in again.")


def too_many_signing_keys(at_most: int) -> Conflict:
    """Return the error of one key more than may be in force."""
    return Conflict(f"There are {at_most} signing keys in force; wait until the older ones have left, or revoke one.")
