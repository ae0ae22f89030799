"""The service's signing keys, read once and made if there are none."""

from __future__ import annotations

import asyncio
import secrets

from joserfc.jwk import ECKey

from runwire.auth import tokens
from runwire.storage.base import AuthStore

__all__ = ["Keyring"]


class Keyring:
    """The keys that sign; the newest one does."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._reading = asyncio.Lock()
        self._keys: dict[str, ECKey] = {}

    async def keys(self) -> dict[str, ECKey]:
        """Return all keys in force by kid, oldest first; the first call reads or makes them.

        Raises:
            Unavailable: the store does not answer; the next call tries again.
        """
        async with self._reading:
            if not self._keys:
                self._keys = await self._read()
        return self._keys

    async def newest(self) -> tuple[str, ECKey]:
        """Return the key that signs. Raises Unavailable."""
        return list((await self.keys()).items())[-1]

    async def _read(self) -> dict[str, ECKey]:
        rows = await self._store.signing_keys()
        if not rows:
            kid = secrets.token_hex(8)
            # Of any number of services that start at once one is the maker; all go on with its key.
            rows = await self._store.create_signing_key(kid, tokens.new_signing_key(kid))
        return {row.kid: tokens.read_signing_key(row.private_jwk) for row in rows}
