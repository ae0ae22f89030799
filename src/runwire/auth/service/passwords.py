"""Passwords: argon2id in a bounded thread pool, with a deadline."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from runwire.auth.service.settings import AuthSettings
from runwire.errors import ProtocolError, Unavailable

__all__ = ["MAX_PASSWORD_CHARS", "MIN_PASSWORD_CHARS", "Passwords"]

MIN_PASSWORD_CHARS: Final = 8  # ASVS 6.2.1
MAX_PASSWORD_CHARS: Final = 1024  # hashing time does not depend on it, reading it does

T = TypeVar("T")


class Passwords:
    """Hash and verify passwords away from the event loop.

    Bounded: `argon2_threads` at work, `argon2_waiting` waiting; one more is `Unavailable` at once, and so
    is one that has waited longer than `argon2_deadline_s`. A hash that began runs to its end, even when
    nobody waits for it any more, and keeps its place until then.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.argon2_threads, thread_name_prefix="runwire-argon2")
        self._places = threading.BoundedSemaphore(settings.argon2_threads + settings.argon2_waiting)
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_passes,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_lanes,
        )
        self._dummy: str | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to be stored.

        Raises:
            ProtocolError: too short or too long.
            Unavailable: too many at once.
        """
        if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
            raise ProtocolError(
                f"Choose a password of {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters.", field="password"
            )
        return await self._in_pool(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Return whether a password fits; without a stored hash the same work is done for nothing.

        Raises:
            Unavailable: too many at once.
        """
        if self._dummy is None:
            # Before the first verification of any kind, so that no kind is slower for it.
            filler = secrets.token_hex(16)
            self._dummy = await self._in_pool(lambda: self._hasher.hash(filler))
        against = stored or self._dummy
        fits = await self._in_pool(lambda: self._fits(against, password[:MAX_PASSWORD_CHARS]))
        return fits and stored is not None and len(password) <= MAX_PASSWORD_CHARS

    def close(self) -> None:
        """Let the threads end when their work is done."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fits(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_pool(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise _busy()
        job = self._pool.submit(work)
        # In the thread, not in the loop: the place is free when the work is done, whoever still waits for it.
        job.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(self._settings.argon2_deadline_s):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise _busy() from None


def _busy() -> Unavailable:
    return Unavailable("Too many sign-ins at the moment; try again.", retry_after_s=2.0)
