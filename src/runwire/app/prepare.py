"""What a process needs before it starts anything: databases, agents, a port. All faults are found at once."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from runwire.agents.load import Agents, load_agents
from runwire.app.administration import opened_all, where
from runwire.app.checked import with_conformance_agents
from runwire.app.tracing import missing_extra
from runwire.errors import ConfigurationError, RunwireError
from runwire.settings import Settings
from runwire.storage.base import Bus, Storage
from runwire.storage.open import migrate_storage, open_bus
from runwire.storage.placed import Place, Placed
from runwire.storage.sqlite.lock import OwnedElsewhere

__all__ = ["Prepared", "prepare", "raise_file_limit"]

_COMMAND_S: Final = 10.0  # a command that has the data folder is done within that time


class Prepared(NamedTuple):
    """What a process stands on when nothing is wrong with it."""

    places: Placed[Place]  # the databases
    agents: Agents | None  # None: this process runs none
    listener: socket.socket
    management: socket.socket | None  # for machines; None: they ask at `listener`


async def prepare(settings: Settings, stack: contextlib.AsyncExitStack) -> Prepared:
    """Open the databases, load the agents if this process runs any, and take the ports; `stack` gives all back.

    Raises:
        ConfigurationError: every fault.
        Unavailable: a database server does not answer.
    """
    faults: list[str] = missing_extra(settings)
    places: Placed[Place] | None = None
    agents: Agents | None = None
    listeners: list[socket.socket] = []
    try:
        if settings.is_shared and settings.environment == "development":
            for url in settings.storage_urls:  # elsewhere it is a step of its own: `runwire migrate`
                await migrate_storage(url)
        storages = await stack.enter_async_context(opened_all(settings, patience_s=_COMMAND_S))
        places = Placed(
            [
                Place(number=number, shown=shown, storage=storage, bus=_bus(settings, storage, number))
                for number, (shown, storage) in enumerate(zip(settings.shown_urls, storages, strict=True), 1)
            ]
        )
    except OwnedElsewhere as owned:
        faults.append(await _describe_owner(settings, owned))
    except ConfigurationError as error:
        faults += error.faults
    try:
        if "worker" in settings.active_roles:  # nobody else's process has the user's code, or what that imports
            agents = _load_agents(settings)
    except ConfigurationError as error:
        faults += error.faults
    for name, host, port in _addresses(settings):
        try:
            listeners.append(_listen(name, host, port))
            stack.callback(listeners[-1].close)
        except ConfigurationError as error:
            faults += error.faults
    if faults or places is None:
        raise ConfigurationError(faults)
    return Prepared(places, agents, listeners[0], listeners[1] if len(listeners) > 1 else None)


def _addresses(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Yield where the process listens: (what its setting begins with, host, port)."""
    yield "", settings.host, settings.port
    if settings.management_port is not None:
        yield "management_", settings.management_host, settings.management_port


def _bus(settings: Settings, storage: Storage, number: int) -> Bus:
    """Return the bus of one of the databases; on one Redis each has its own channels."""
    prefix = settings.redis_prefix if len(settings.storage_urls) == 1 else f"{settings.redis_prefix}.{number}"
    return open_bus(storage, settings.redis_url, prefix)


def raise_file_limit() -> None:
    """Take as many open files as this user may have: each connection is one, and the soft limit is often 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems say "unlimited" and mean less: then it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _describe_owner(settings: Settings, owned: OwnedElsewhere) -> str:
    process = f"process {owned.owner.pid}" if owned.owner else "another process"
    try:
        place = await where(settings)
    except RunwireError:
        place = None
    at = f" at {place[0]}" if place else ""
    return f"data_dir {settings.data_dir}: already served{at} by {process}; use that, stop it, or choose --data-dir."


def _load_agents(settings: Settings) -> Agents:
    agents = load_agents(settings.agents, root=Path.cwd(), default=settings.default_agent)
    if not agents.names:
        raise ConfigurationError(["agents: none is named; run `runwire dev agent.py`."])
    return with_conformance_agents(agents) if settings.with_conformance_agents else agents


def _listen(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # So that a restart after `kill -9` need not wait for old connections to time out.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2_048)
    except OSError as error:
        listener.close()
        free = _free_port(host, family)
        hint = f"; port {free} is free" if free else ""
        if free and not name:
            hint += f": --port {free} (make: PORT={free})"
        address = f"{host}:{port}"
        fault = f"{name}{'port' if free else 'host'}: cannot listen on {address} ({error.strerror}){hint}."
        raise ConfigurationError([fault]) from error
    listener.setblocking(False)
    return listener


def _free_port(host: str, family: socket.AddressFamily) -> int | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return None  # the address itself is the fault
        return int(probe.getsockname()[1])
