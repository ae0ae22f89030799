"""What all probes are told, and how they look without hanging."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Final, TypeVar

from runwire.settings import Loaded, Settings

__all__ = ["EXTRAS", "Subject", "apart"]

# Extra → the module that it is there for.
EXTRAS: Final = {
    "postgres": "asyncpg",
    "redis": "redis",
    "oidc": "authlib",
    "otel": "opentelemetry.exporter.otlp.proto.http",
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The deployment that is looked at, as the settings of one of its processes describe it."""

    loaded: Loaded
    limit_s: float  # for each answer of another process

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self.loaded.settings

    @property
    def roles(self) -> frozenset[str]:
        """Return what the process does."""
        return self.settings.active_roles

    @cached_property
    def missing_extras(self) -> tuple[str, ...]:
        """Return the extras that the settings need and that are not installed."""
        settings = self.settings
        needed = {
            "postgres": settings.is_shared,
            "redis": settings.is_shared and settings.redis_url is not None,
            "oidc": "auth" in self.roles and any(issuer.client_id is not None for issuer in settings.issuers),
            "otel": settings.otel_endpoint is not None,
        }
        return tuple(name for name, is_needed in needed.items() if is_needed and not _is_there(EXTRAS[name]))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False


async def apart(work: Callable[[], T]) -> T:
    """Have a thread do what blocks; one that hangs, on a file system that is away, keeps this process from nothing."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[], None]) -> None:
        if not done.done():
            set_it()

    def run() -> None:
        with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            try:
                value = work()
            except Exception as error:  # the caller's, and goes there
                loop.call_soon_threadsafe(settle, lambda error=error: done.set_exception(error))
            else:
                loop.call_soon_threadsafe(settle, lambda: done.set_result(value))

    threading.Thread(target=run, daemon=True).start()
    return await done
