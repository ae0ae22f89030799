"""Where a verb finds its server, and who it is there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from runwire import app
from runwire.client import Client, Token, connect, sign_in
from runwire.errors import ProtocolError, Unavailable
from runwire.settings import client_defaults, load

__all__ = ["TokenOption", "UrlOption", "connected", "found"]

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The server (RUNWIRE_URL); default: that of the data folder.")
]
TokenOption = Annotated[str | None, typer.Option("--token", help="API key or access token (RUNWIRE_TOKEN).")]

_CONNECT_S: Final = 5.0  # a person waits: whoever wants to wait longer asks again


@asynccontextmanager
async def found(
    url: str | None, token: str | None, data_dir: Path | None, *, targets: tuple[str, ...] | None = None
) -> AsyncIterator[tuple[str, Token]]:
    """Give URL and credential: of the named server, else the data folder's, else (with `targets`) one of our own.

    Raises:
        ProtocolError: no credential, or a URL that is none.
        Unavailable: no server runs there.
    """
    defaults = client_defaults()
    url, token, link = url or defaults.url, token or defaults.token, None
    async with contextlib.AsyncExitStack() as stack:
        if url is None:
            url, link = await _local(stack, data_dir, targets)
        if token is None and link is None:
            sentence = "Say who you are: --token KEY or RUNWIRE_TOKEN; `runwire token create --user NAME` makes a key."
            raise ProtocolError(sentence, field="--token")
        yield _checked(url), token or await sign_in(url, link=link)


@asynccontextmanager
async def connected(
    url: str | None, token: str | None, data_dir: Path | None, *, targets: tuple[str, ...] | None = None
) -> AsyncIterator[Client]:
    """Give a client of the server that `found` finds."""
    async with (
        found(url, token, data_dir, targets=targets) as (place, credential),
        connect(place, credential, timeout_s=_CONNECT_S) as client,
    ):
        yield client


async def _local(
    stack: contextlib.AsyncExitStack, data_dir: Path | None, targets: tuple[str, ...] | None
) -> tuple[str, str | None]:
    settings = load({"data_dir": data_dir}, serves=False).settings
    place = await app.where(settings)
    if place is not None:
        return place
    if targets is None:
        if settings.is_shared:
            sentence = f"Any number of servers may run on {settings.shown_url}; name one with --url or RUNWIRE_URL."
        else:
            sentence = f"No server runs on {settings.data_dir}; start `runwire dev`, or name one with --url."
        raise Unavailable(sentence)
    flags = {"environment": "development", "data_dir": data_dir, "port": 0, "agents": targets or None}
    return await stack.enter_async_context(app.running(load(flags | {"log_level": "warning"})))


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise typer.BadParameter(f"{url}: write it with its scheme, e.g. http://127.0.0.1:8000", param_hint="URL")
    return url
