"""Who somebody is, once a credential has proved it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from runwire.errors import Forbidden

__all__ = ["ALL_SCOPE", "READ_SCOPE", "Identity"]

ALL_SCOPE: Final = "runwire"  # all that its user may
READ_SCOPE: Final = "runwire:read"  # to see what its user sees


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
    scopes: frozenset[str] = frozenset({ALL_SCOPE})  # what the credential may be used for; unknown ones give nothing

    @property
    def may_look(self) -> bool:
        """Return whether this credential may see what its user sees."""
        return ALL_SCOPE in self.scopes or READ_SCOPE in self.scopes

    def check_may_act(self) -> None:
        """Refuse to change or begin anything with a credential that may not. Raises Forbidden."""
        if ALL_SCOPE not in self.scopes:
            raise Forbidden(f"This credential may only look: to change anything, its scope must be {ALL_SCOPE}.")
