"""People of external issuers: how they are found again, and what they are called here. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

__all__ = ["is_reserved", "names_for", "subject_hash"]

_NAME: Final = 128  # characters of a user's name


def subject_hash(issuer: str, subject: str) -> bytes:
    """Return what finds an external identity, also when the subject itself was erased. Stored data rely on it."""
    # The length keeps "a" + "bc" and "ab" + "c" apart.
    return hashlib.sha256(f"{len(issuer)} {issuer}{subject}".encode("utf-8", "surrogatepass")).digest()


def is_reserved(name: str) -> bool:
    """Return whether a name looks like a user's id: a tombstone has its own as name, so nobody may take it before."""
    return name.startswith("usr_")


def names_for(name: str, user: str) -> Iterator[str]:
    """Yield names for a new user in the order of preference, for others may have them: "ada", "ada-3f9a2c", the id."""
    part = user[-6:]
    if not is_reserved(name):
        yield name[:_NAME]
        yield f"{name[: _NAME - 1 - len(part)]}-{part}"
    yield user
