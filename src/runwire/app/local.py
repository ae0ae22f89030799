"""What only people at the machine of a server have: its control socket, and the developer's sign-in link."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from runwire.app.administration import Verbs
from runwire.auth.service import users
from runwire.errors import Conflict
from runwire.storage.base import AuthStore
from runwire.storage.placed import Place, Placed
from runwire.storage.sqlite.control import ControlSocket
from runwire.storage.sqlite.storage import SqliteStorage

__all__ = ["control_sockets", "sign_in_link"]

_DEVELOPER: Final = "developer"  # who the sign-in link of `runwire dev` signs in


async def sign_in_link(store: AuthStore, url: str) -> str | None:
    """Make a link that signs the developer in at `url`; None: its owner has disabled that user."""
    # A restart finds the developer of the start before.
    with contextlib.suppress(Conflict):
        await users.add_user(store, _DEVELOPER, roles=("user", "operator"))
    try:
        secret = await users.create_sign_in_link(store, _DEVELOPER)
    except Conflict:
        return None  # there are other ways to sign in
    return f"{url}/?link={secret}"


def control_sockets(
    places: Placed[Place], url: str, sign_in: Callable[[], Awaitable[str | None]]
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Return what serves the socket through which commands reach the owner of a data folder, if there is one."""
    storage, bus = places.first.storage, places.first.bus
    if not isinstance(storage, SqliteStorage):
        return []  # a shared database has no owner
    database = storage.database

    async def where(_arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"url": url, "link": await sign_in()}

    async def run() -> None:
        control = ControlSocket(database, Verbs(Placed([storage]), bus).table() | {"where": where})
        control.open()
        await control.run()

    return [run]
