"""What proves who we are: a fixed text, or something that fetches a fresh one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

__all__ = ["Token", "text_of"]

Token = str | Callable[[], Awaitable[str]]
"""An access token or API key, or an async callable that returns a token which is valid now."""


async def text_of(token: Token) -> str:
    """Return the token to send now."""
    return token if isinstance(token, str) else await token()
