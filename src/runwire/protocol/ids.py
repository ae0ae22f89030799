"""Ids: a prefix that says what, and a UUIDv7 (RFC 9562 §5.7), so that ids sort by time."""

from __future__ import annotations

import re
from typing import Final

import uuid_utils

__all__ = ["ID_PATTERN", "is_own_id", "new_id"]

ID_PATTERN: Final = r"^[A-Za-z0-9_]{1,64}$"


def new_id(prefix: str) -> str:
    """Return a fresh id such as `run_0199a6c2…`; 128 bits, safe to show, no secret."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def is_own_id(text: str, prefix: str) -> bool:
    """Return whether `new_id(prefix)` may have made this text; for everybody else ids are opaque."""
    return re.fullmatch(rf"{prefix}_[0-9a-f]{{32}}", text) is not None
