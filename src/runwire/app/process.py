"""One process: the order in which its parts start and stop. Which parts those are says `parts.py`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final

from prometheus_client import CollectorRegistry

from runwire.app.local import sign_in_link
from runwire.app.logs import logging_as
from runwire.app.memory import give_back_early, spare_collector
from runwire.app.parts import Announce, Ground, Part, assemble
from runwire.app.prepare import Prepared, prepare, raise_file_limit
from runwire.app.rooms import server_settings
from runwire.app.stopping import stopped_when_told
from runwire.app.supervisor import Supervisor
from runwire.app.together import together
from runwire.errors import Unavailable
from runwire.gateway.server import Server, make_server
from runwire.settings import Loaded, Supervision, supervision
from runwire.storage.placed import Place

__all__ = ["running", "serve"]

_MACHINES_S: Final = 1.0  # for an answer under way to a machine, when all people are gone
_SELF_CHECK_END_S: Final = 6.0  # to delete what it has stored
_SELF_CHECK_TRY_S: Final = 60.0  # longer than a try and the pause after it
Ready = Callable[[str, str | None], None]

_NO_PUBLIC_URL: Final = (
    "public_url is not set: who signs in here is unknown to every other server on this database, and after a restart on"
    " another port. Give all of them the same public_url."
)


async def serve(loaded: Loaded, *, ready: Ready, announce: Announce, takes_signals: bool = True) -> None:
    """Run one process, with the roles that its settings name, until it is told to stop (SIGTERM, SIGINT).

    Args:
        loaded: the settings and where they came from.
        ready: called once with the URL and, in development, a sign-in link.
        announce: called with (part, detail) each time a part has answered.
        takes_signals: whether SIGTERM and SIGINT stop it; else it runs until it is cancelled.

    Raises:
        ConfigurationError: something set cannot work; nothing was started.
        Unavailable: a part does not answer.
    """
    with stopped_when_told() if takes_signals else contextlib.nullcontext():
        await _serve(loaded, ready, announce, takes_signals=takes_signals)


async def _serve(loaded: Loaded, ready: Ready, announce: Announce, *, takes_signals: bool) -> None:
    settings = loaded.settings
    raise_file_limit()
    if takes_signals:  # the process is the server's own
        give_back_early()
    announce("settings", f"{settings.environment} ({_sources(loaded)})")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(logging_as(settings, is_for_good=takes_signals))
        prepared = await prepare(settings, stack)
        for place in prepared.places:
            announce("database", await _greeted(place, is_first=place is prepared.places.first))
        process = _Process(loaded, prepared, takes_signals=takes_signals)
        if takes_signals:
            spare_collector()
        await process.run(ready=ready, announce=announce)


async def _greeted(place: Place, *, is_first: bool) -> str:
    """Say which database answers. One that does not, but for the first, keeps nobody waiting who lives elsewhere."""
    try:
        await place.storage.ping()
    except Unavailable:
        if is_first:
            raise
        return f"{place.shown} does not answer: whoever lives there is told to come back"
    return f"{place.shown} (log {place.storage.log})"


class _Process:
    """One process: its parts in the order of their start, and the server that listens."""

    def __init__(self, loaded: Loaded, prepared: Prepared, *, takes_signals: bool) -> None:
        settings = self._settings = loaded.settings
        self._auth_store = prepared.places.first.storage.auth
        self._listener = prepared.listener
        self._is_draining = False
        # A server beside somebody's own code is not what was started.
        self._supervisor = Supervisor(supervision() if takes_signals else Supervision(None, None))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{prepared.listener.getsockname()[1]}"
        self._place = url + settings.path_prefix
        assembled = assemble(
            Ground(
                settings=settings,
                allowed=loaded.allowed,
                places=prepared.places,
                agents=prepared.agents,
                url=url,
                place=self._place,
                sign_in=self._sign_in,
                is_draining=lambda: self._is_draining,
                registry=CollectorRegistry(),
                # Made up only where both ends of it are in this process.
                secret=settings.service_secret or secrets.token_urlsafe(32),
            )
        )
        self._parts = assembled.parts
        self._self_check = assembled.self_check
        self._server: Server = make_server(
            assembled.asgi, server_settings(settings, takes_signals=takes_signals), drain=self._drain
        )
        self._management: tuple[Server, socket.socket] | None = None
        if assembled.management is not None and prepared.management is not None:
            # It has no signals and no drain of its own: machines see the other one drain, and then it ends.
            quiet = server_settings(settings, takes_signals=False)
            self._management = make_server(assembled.management, quiet, drain=_nothing), prepared.management

    async def run(self, *, ready: Ready, announce: Announce) -> None:
        """Start the parts, each only after what it needs has answered; stop them in the opposite order."""
        if self._settings.is_shared and self._settings.public_url is None and "gateway" in self._settings.active_roles:
            announce("warning", _NO_PUBLIC_URL)
        async with together() as tasks:
            started: list[tuple[Part, asyncio.Task[None]]] = []
            living = tasks.create_task(self._supervisor.live())
            checking: asyncio.Task[None] | None = None
            try:
                for part in self._parts:
                    started.append((part, tasks.create_task(part.run())))
                    await part.check(announce)
                machines: asyncio.Task[None] | None = None
                if self._management:
                    server, listener = self._management
                    machines = tasks.create_task(server.serve(sockets=[listener]))
                    await server.until_up()
                    announce("management", f"port {listener.getsockname()[1]}")
                serving = tasks.create_task(self._server.serve(sockets=[self._listener]))
                # A server that cannot start ends the whole group, and with it this wait.
                await self._server.until_up()
                checking = tasks.create_task(self._self_check.run(lambda why: self._say_unready(why, announce)))
                passing = tasks.create_task(self._self_check.until_passed())
                await asyncio.wait([serving, passing], return_when=asyncio.FIRST_COMPLETED)
                if passing.done():
                    ready(self._place, await self._sign_in())
                    self._supervisor.say("READY=1", f"STATUS=Serving at {self._place}")
                passing.cancel()
                await asyncio.wait([serving])
                if self._management and machines:
                    self._management[0].stop()
                    await asyncio.wait([machines], timeout=_MACHINES_S)
            finally:
                if checking is not None:
                    checking.cancel()
                    await asyncio.wait([checking], timeout=_SELF_CHECK_END_S)
                # The server has drained and closed its sockets: nobody needs the rest any more.
                for part, task in reversed(started):
                    await part.close()
                    task.cancel()
                living.cancel()

    def _say_unready(self, why: str, announce: Announce) -> None:
        announce("warning", f"not ready: {why}")
        # It is tried again for as long as it takes: a start cut off by the supervisor would mend nothing.
        extended = f"EXTEND_TIMEOUT_USEC={round(_SELF_CHECK_TRY_S * 1_000_000)}"
        self._supervisor.say(extended, f"STATUS=Not ready: {why}")

    async def _drain(self) -> None:
        self._is_draining = True
        self._supervisor.say("STOPPING=1", "STATUS=Sending clients elsewhere, handing runs over")
        async with asyncio.TaskGroup() as tasks:
            for part in self._parts:
                tasks.create_task(_drained(part))

    async def _sign_in(self) -> str | None:
        is_for_people = "gateway" in self._settings.active_roles and self._settings.environment == "development"
        return await sign_in_link(self._auth_store, self._place) if is_for_people else None


async def _nothing() -> None:
    """Have nobody to send elsewhere."""


async def _drained(part: Part) -> None:
    await part.drain()


@contextlib.asynccontextmanager
async def running(loaded: Loaded) -> AsyncIterator[tuple[str, str | None]]:
    """Run a server beside the caller's own code; gives its URL and sign-in link.

    Raises:
        RunwireError: it did not start.
    """
    place: asyncio.Future[tuple[str, str | None]] = asyncio.get_running_loop().create_future()

    def ready(url: str, link: str | None) -> None:
        place.set_result((url, link))

    async with together() as tasks:
        # If it does not start, its error ends the group and this wait with it.
        serving = tasks.create_task(
            serve(loaded, ready=ready, announce=lambda _part, _detail: None, takes_signals=False)
        )
        yield await place
        serving.cancel()


def _sources(loaded: Loaded) -> str:
    named = sorted({source for source in loaded.sources.values() if source != "default"})
    return ", ".join(named) if named else "defaults"
