"""What a process needs to know because of its roles: without it, it could not work at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from runwire.settings.model import Settings
from runwire.settings.values import ROLES

__all__ = ["unmet"]

_NEEDS: Final = {
    "database_url": "share a database: set postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    "auth_url": "must know where the auth service listens: set it, e.g. https://auth.internal:8443",
    "service_secret": "prove gateway and auth service to each other: set the same for both, 32 characters or more",
    "public_url": "must agree who signs people in: set the same for all, e.g. https://agents.example.org",
}


def unmet(settings: Settings, sources: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """Say what is missing: (the settings that it is about, the fault)."""
    roles = settings.active_roles
    if len(roles) == len(ROLES):
        return []
    named = f"roles {', '.join(settings.roles)} (from {sources['roles']})"
    needed = {"database_url": settings.is_shared, "auth_url": True, "service_secret": True, "public_url": True}
    if {"gateway", "auth"} & roles and not {"gateway", "auth"} <= roles:
        # They are two processes then, which have to agree on who signs in where and by which proof.
        needed |= {"service_secret": settings.service_secret is not None, "public_url": settings.public_url is not None}
        needed["auth_url"] = settings.auth_url is not None or "auth" in roles
    elif "gateway" in roles and settings.environment not in ("development", "test"):
        needed["public_url"] = settings.public_url is not None
    return [((name, "roles"), f"{name}: {named} {_NEEDS[name]}.") for name, is_there in needed.items() if not is_there]
