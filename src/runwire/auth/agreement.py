"""Asking an auth service whether it is the one of this backend, and how far its clock is off."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from runwire.auth import clock, contract
from runwire.auth.remote import Remote

__all__ = ["Compared", "compare"]


class Compared(NamedTuple):
    """What came of it."""

    faults: list[str]  # what has to be set otherwise, each a sentence; none: both agree
    skew_s: float  # its clock less ours; what may have been the time of the request is left out
    version: str | None  # of Runwire there; None: an older one, which does not say


async def compare(
    remote: Remote,
    *,
    version: str,
    issuer: str,
    audience: str,
    wall_s: Callable[[], float] = clock.wall_s,
    monotonic_s: Callable[[], float] = clock.monotonic_s,
) -> Compared:
    """Compare what the service says of itself with what is expected here; see `contract.disagreements`.

    Raises:
        SecretRefused: our secret is not one that it knows.
        Unavailable: it does not answer.
    """
    began_s, began_ms = monotonic_s(), wall_s() * 1000
    there = await remote.about()
    took_ms = (monotonic_s() - began_s) * 1000
    if there is None:  # an older one: what it is not asked for, its tokens show
        await remote.introspect("-")
        return Compared(contract.issuer_disagreement(await remote.issuer(), issuer), 0.0, None)
    # It looked at its clock at some moment in between: what could be the request's own time is no skew.
    skew_ms = there.now_ms - began_ms
    skew_ms = max(0.0, skew_ms - took_ms) if skew_ms > 0 else skew_ms
    faults = contract.disagreements(there, version=version, issuer=issuer, audience=audience)
    return Compared(faults, skew_ms / 1000, there.version)
