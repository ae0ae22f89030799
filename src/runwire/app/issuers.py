"""Whether the other issuers answer, and how soon what they withdraw is known here."""

from __future__ import annotations

from typing import Any, Final

from runwire.auth import clock
from runwire.auth.foreign import CACHE_S, Provider
from runwire.auth.issuers import Issuer
from runwire.auth.published import Discovered
from runwire.auth.tokens import LEEWAY_S, MAX_LIFETIME_S
from runwire.errors import RunwireError
from runwire.settings import Settings

__all__ = ["examine_issuers"]

_PUSHED: Final = "within a second of its back-channel logout, if it is told our address for that"
_LIFETIME: Final = f"when the token ends, {MAX_LIFETIME_S} s after it was issued at most"
_UNKNOWN: Final = "nobody knows how soon: it does not say"
_SESSION: Final = "not at all: sign people out here, or use an issuer with back-channel logout"


async def examine_issuers(settings: Settings) -> list[dict[str, Any]]:
    """Ask each issuer, one after the other: 3 s a question at most."""
    return [await _examine(issuer) for issuer in settings.issuers]


async def _examine(issuer: Issuer) -> dict[str, Any]:
    provider = Provider(issuer, wall_s=clock.wall_s, monotonic_s=clock.monotonic_s)
    found: dict[str, Any] = {
        "name": issuer.name,
        "issuer": issuer.issuer,
        "fault": None,
        "keys": None,
        "algorithms": list(issuer.algorithms),
        "skew_s": None,
        "withdrawn_within": {},
    }
    document: Discovered | None = None
    try:
        if issuer.jwks_url is None or issuer.client_id is not None:
            document = await provider.published.document()
        found["keys"] = len(await provider.published.keys())
        found["skew_s"] = await _skew_s(provider, document)
    except RunwireError as error:
        found["fault"] = error.message
    if found["skew_s"] is not None and abs(found["skew_s"]) > LEEWAY_S:
        found["fault"] = f"Its clock is {found['skew_s']:+.0f} s off this one's; set both by NTP."
    found["withdrawn_within"] = _bounds(issuer, document)
    return found


async def _skew_s(provider: Provider, document: Discovered | None) -> float | None:
    began_s = clock.wall_s()
    url = provider.issuer.jwks_url or (document.jwks_uri if document else "")
    answer = await provider.outbound.get(url)
    ended_s = clock.wall_s()
    if answer.date_s is None:
        return None
    # Its clock is told in whole seconds, and was looked at somewhere in between.
    if began_s - 1 <= answer.date_s <= ended_s:
        return 0.0
    return answer.date_s - (ended_s if answer.date_s > ended_s else began_s)


def _bounds(issuer: Issuer, document: Discovered | None) -> dict[str, str]:
    """Say for each way in how soon a withdrawal there is known here."""
    is_pushed = issuer.client_id is not None and document is not None and document.backchannel_logout_supported
    bounds: dict[str, str] = {}
    if issuer.client_id is not None:
        bounds["sign-in by the page"] = _PUSHED if is_pushed else _SESSION if document else _UNKNOWN
    if issuer.audience is not None:
        has_sessions = is_pushed and document is not None and document.backchannel_logout_session_supported
        bounds["its signed tokens"] = f"{_PUSHED}, and {_LIFETIME}" if has_sessions else _LIFETIME
    if issuer.introspection_url is not None:
        bounds["its opaque tokens"] = f"within {CACHE_S:.0f} s, by asking again; later with many in use"
    return bounds
