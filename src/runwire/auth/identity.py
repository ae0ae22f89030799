"""Who somebody is, once a credential has proved it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user as one credential presented them. Ask `AuthView.is_current` before every use."""

    user: str  # "usr_…"
    name: str  # when it was proved; `AuthView.user` has today's
    roles: frozenset[str]  # from the view, never from a token; when it was proved
    kind: Literal["session", "key"]  # what the credential stands for
    session: str | None  # set iff kind is "session"
    key: str | None  # set iff kind is "key"
    epoch: int  # of the user, when the credential was made (session) or proved (key)
    expires_at: int | None  # when the credential ends, ms UTC; None: a key without end
    kid: str | None = None  # the signing key of its token; None: an API key, or not known
    scopes: frozenset[str] = frozenset({"runwire"})  # what the credential may be used for; all of ours say "runwire"
