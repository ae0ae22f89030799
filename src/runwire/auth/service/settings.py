"""What the auth service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from runwire.auth.issuers import Issuer

__all__ = ["ROLES", "AuthSettings"]

ROLES: Final = ("user", "operator", "admin", "service")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Settings of the auth service, checked by `runwire.settings`."""

    # `iss` of access tokens and base of the URLs in the metadata document
    issuer: str = "http://127.0.0.1:8000"
    # `aud` of access tokens
    audience: str = "runwire"
    # of Runwire, for backends: a pair too far apart is refused
    version: str = ""
    # where people find the page, for the way back from other issuers; None: at the issuer's address
    page_url: str | None = None
    # others whose word is taken for who somebody is
    issuers: tuple[Issuer, ...] = ()
    # who may register: nobody, whoever has an invitation, everybody
    registration: Literal["off", "invite", "open"] = "off"
    # one or two secrets of backends that may introspect (two: during a rotation); none: nobody may
    service_secrets: tuple[str, ...] = field(default=(), repr=False)
    # life of an access token, seconds; at most `tokens.MAX_LIFETIME_S`
    access_ttl_s: int = 300
    # life of a session without being refreshed, seconds
    refresh_ttl_s: int = 30 * 86_400
    # absolute life of a session, seconds (ASVS 10.4.8)
    session_ttl_s: int = 180 * 86_400
    # how long after a rotation the refresh token before it gets the same successor, seconds
    refresh_window_s: int = 10
    # argon2id: memory of one hash, KiB; RFC 9106 §4, the second recommended set
    argon2_memory_kib: int = 65_536
    # passes over that memory
    argon2_passes: int = 3
    # lanes that fill it, in parallel where there are cores
    argon2_lanes: int = 4
    # hashes computed at a time; times `argon2_memory_kib` is the memory that sign-ins may take
    argon2_threads: int = 2
    # hashes that may wait; one more is answered 503
    argon2_waiting: int = 64
    # how long a sign-in may wait for its hash, seconds
    argon2_deadline_s: float = 10.0
    # failed sign-ins at once and the seconds until one more is allowed, per account
    account_burst: int = 10
    account_refill_s: float = 6.0
    # the same per address
    address_burst: int = 30
    address_refill_s: float = 1.0
