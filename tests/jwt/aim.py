"""Send the corpus to a server that runs: each token as a bearer, and what the server makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx2

__all__ = ["Answer", "aimed"]

_AT_ONCE: Final = 8
_DEADLINE_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said to a token."""

    status: int | None  # None: no HTTP header can carry this token, so it was not sent
    body: bytes = b""
    challenge: str = ""  # the WWW-Authenticate header

    @property
    def is_refused(self) -> bool:
        """Return whether the token proved nothing: 401 (RFC 6750 §3.1), or its header was too large for the server."""
        return self.status in (None, 400, 401, 413, 431)


async def aimed(http: httpx2.AsyncClient, path: str, tokens: Mapping[str, str], *, method: str) -> dict[str, Answer]:
    """Send each token to a path, a few at a time; give the answers by the tokens' names."""
    answers: dict[str, Answer] = {}
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str, token: str) -> None:
        async with turns:
            answers[name] = await _sent(http, method, path, token)

    async with asyncio.TaskGroup() as tasks:
        for name, token in tokens.items():
            tasks.create_task(one(name, token))
    return answers


async def _sent(http: httpx2.AsyncClient, method: str, path: str, token: str) -> Answer:
    if token != token.strip():
        return Answer(status=None)  # a space around a header's value is none of it (RFC 9110 §5.5)
    try:
        credential = b"Bearer " + token.encode("latin-1")
        async with asyncio.timeout(_DEADLINE_S):
            response = await http.request(method, path, headers=[(b"authorization", credential)])
    except (UnicodeEncodeError, httpx2.LocalProtocolError):
        return Answer(status=None)
    except (httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError):
        return Answer(status=431)  # it hung up in the middle of a header of a megabyte
    return Answer(
        status=response.status_code,
        body=response.content,
        challenge=response.headers.get("www-authenticate", ""),
    )
