"""What backend and auth service must agree on before there is traffic between them. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

__all__ = ["SKEW_ALARM_S", "About", "disagreements", "issuer_disagreement"]

SKEW_ALARM_S: Final = 10.0  # between two clocks that both are kept by NTP there are milliseconds

_VERSION: Final = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\D.*)?", re.ASCII)


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an auth service says of itself to who knows its secret: `GET /internal/about`."""

    version: str  # of Runwire
    issuer: str  # as whom it signs people in
    audience: str  # for whom
    now_ms: int  # its clock, ms UTC


def disagreements(there: About, *, version: str, issuer: str, audience: str) -> list[str]:
    """Return what has to be set otherwise, each a sentence; nothing: both agree. Clocks are looked at apart.

    Args:
        there: what the service says.
        version: of this backend; one minor version more or less is what a rolling deploy needs.
        issuer: the only one that this backend takes tokens of.
        audience: the only one that it takes tokens for.
    """
    faults = issuer_disagreement(there.issuer, issuer)
    if there.audience != audience:
        faults.append(f"the auth service signs for the audience {there.audience[:200]}, here {audience} is expected.")
    if not _go_together(there.version, version):
        sentence = "at most one minor version may lie between them; upgrade step by step."
        faults.append(f"the auth service runs Runwire {there.version[:40]} and this is {version}: {sentence}")
    return faults


def issuer_disagreement(there: str, here: str) -> list[str]:
    """Return the fault if two issuers differ."""
    if there == here:
        return []
    sentence = f"the auth service signs people in as {there[:200]}, here they are {here}'s; set the same for both."
    return [f"public_url: {sentence}"]


def _go_together(one: str, other: str) -> bool:
    if one == other:
        return True
    parts = [_VERSION.fullmatch(text) for text in (one, other)]
    if None in parts:
        return False
    (major, minor), (other_major, other_minor) = [(int(found[1]), int(found[2])) for found in parts if found]
    return major == other_major and abs(minor - other_minor) <= 1
