"""The service's signing keys: which one signs, which ones are shown, and how one follows another.

A new key is shown in the JWKS before it signs, for as long as anybody may keep an older JWKS; the one before it is
shown until the last token that it signed is over. So nobody's token is refused for a rotation.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Literal

from joserfc.jwk import ECKey

from runwire.auth import clock, tokens
from runwire.errors import NotFound, Unavailable
from runwire.storage.base import AuditEntry, AuthStore, SigningKeyRow

__all__ = ["JWKS_MAX_AGE_S", "SKEW_S", "Keyring", "key_state", "new_signing_key", "revoke", "rotate"]

JWKS_MAX_AGE_S: Final = 300  # how long others may keep a JWKS
SKEW_S: Final = 2 * tokens.LEEWAY_S  # between two clocks that are each within what is forgiven

_MAX_IN_FORCE: Final = 8  # each is in the JWKS that everybody reads; one rotation after the other needs 2
_GOOD_S: Final = 1.0  # how long a read is believed: other processes revoke keys, too
_RETRY_S: Final = 1.0  # after a failed read, while there are keys to go on with
_READ_DEADLINE_S: Final = 2.0  # less than a backend waits for the JWKS


class Keyring:
    """The keys in force, as the store had them at most a second ago. One event loop.

    Any number of callers share one read; how many wait for it is bounded by whoever lets requests in. While the store
    does not answer the last good keys go on: what a revoked one signs meanwhile is refused by everybody's view.

    Args:
        store: the auth tables.
        access_ttl_s: life of what is signed.
        wall_s: clock of tokens, which says which key signs by now.
        monotonic_s: clock of the age of a read.
    """

    def __init__(
        self,
        store: AuthStore,
        *,
        access_ttl_s: int = 300,
        wall_s: Callable[[], float] = clock.wall_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._store = store
        self._access_ttl_s = access_ttl_s
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._reading = asyncio.Lock()
        self._rows: list[SigningKeyRow] = []
        self._keys: dict[str, ECKey] = {}
        self._read_s: float | None = None  # when the last good read began
        self._failed_s: float | None = None  # when the last read failed; None: it did not
        self._changed_s = -math.inf  # when this process last changed something

    async def keys(self) -> dict[str, ECKey]:
        """Return all keys in force by kid, those that do not sign yet too, in the order in which they begin to.

        Raises:
            Unavailable: there was no good read yet, and the store does not answer; the next call tries again.
        """
        await self._refresh(since_s=self._monotonic_s() - _GOOD_S)
        return self._keys

    async def published(self) -> dict[str, ECKey]:
        """Return what the JWKS shows: `keys`, by a read that begins now.

        Who asks because of a kid that he does not know asks once in 10 s, so he must not be told of a second ago.
        """
        await self._refresh(since_s=self._monotonic_s())
        return self._keys

    async def newest(self) -> tuple[str, ECKey]:
        """Return the key that signs: the newest of those that do by now. Raises Unavailable."""
        await self._refresh(since_s=self._monotonic_s() - _GOOD_S)
        row = self._signer() or self._rows[-1]  # the store is away for so long that the last one ends, too
        return row.kid, self._keys[row.kid]

    def forget(self) -> None:
        """Have the next call read anew: this process changed something."""
        self._changed_s = self._monotonic_s()
        self._failed_s = None

    async def _refresh(self, *, since_s: float) -> None:
        async with self._reading:
            since_s = max(since_s, self._changed_s)  # a read under way when it changed does not count
            if self._read_s is not None and self._read_s > since_s:
                return  # read by another one since this call began
            began_s = self._monotonic_s()
            if self._keys and self._failed_s is not None and began_s - self._failed_s < _RETRY_S:
                return
            try:
                async with asyncio.timeout(_READ_DEADLINE_S):
                    await self._read()
            except (Unavailable, TimeoutError) as error:
                self._failed_s = self._monotonic_s()
                if not self._keys:
                    sentence = "The signing keys cannot be read at the moment; try again."
                    raise Unavailable(sentence, retry_after_s=1.0) from error
                return
            self._read_s, self._failed_s = began_s, None

    async def _read(self) -> None:
        self._take(await self._store.signing_keys())
        if self._signer() is None:
            # Of any number of services that find none at once one is the maker; all go on with its key.
            self._take(await self._store.create_signing_key(*new_signing_key()))
        if self._signer() is None:
            # There is one, but it leaves before its tokens would: what should have followed it was revoked.
            kid, private_jwk = new_signing_key()
            rows = await self._store.add_signing_key(kid, private_jwk, activate_in_s=0, retire_others_in_s=None)
            self._take(rows)

    def _take(self, rows: Sequence[SigningKeyRow]) -> None:
        known = self._keys
        self._rows = list(rows)
        self._keys = {row.kid: known.get(row.kid) or tokens.read_signing_key(row.private_jwk) for row in rows}

    def _signer(self) -> SigningKeyRow | None:
        """Return the newest key that signs by now; if none does, the next one: it is shown already."""
        now = int(self._wall_s() * 1000)
        good = [row for row in self._rows if not self._ends_early(row)]
        active = [row for row in good if row.activates_at <= now]
        return active[-1] if active else next(iter(good), None)

    def _ends_early(self, row: SigningKeyRow) -> bool:
        """Return whether a key leaves the JWKS before a token that it signed now is over."""
        last_s = self._wall_s() + self._access_ttl_s + tokens.LEEWAY_S
        return row.retires_at is not None and row.retires_at < last_s * 1000


def new_signing_key() -> tuple[str, bytes]:
    """Return a new kid and its private key."""
    kid = secrets.token_hex(8)
    return kid, tokens.new_signing_key(kid)


async def rotate(store: AuthStore, *, access_ttl_s: int, audit: AuditEntry | None = None) -> SigningKeyRow:
    """Have a new key follow those there are, when everybody knows it; they leave when what they signed is over.

    Args:
        store: the auth tables.
        access_ttl_s: life of what was signed.
        audit: who did it.

    Returns:
        The new key.

    Raises:
        Conflict: 8 are in force; each leaves minutes after the next one signs, or by `revoke`.
        Unavailable: the store does not answer.
    """
    kid, private_jwk = new_signing_key()
    activate_in_s = JWKS_MAX_AGE_S + SKEW_S
    rows = await store.add_signing_key(
        kid,
        private_jwk,
        activate_in_s=activate_in_s,
        retire_others_in_s=activate_in_s + access_ttl_s + SKEW_S,
        at_most=_MAX_IN_FORCE,
        audit=audit,
    )
    return next(row for row in rows if row.kid == kid)


async def revoke(store: AuthStore, kid: str, *, audit: AuditEntry | None = None) -> None:
    """End a key and all it has signed, at once and for good: whoever signed in by it signs in again or refreshes.

    Raises:
        NotFound: there is none of this kid that was not revoked already.
        Unavailable: the store does not answer.
    """
    if not await store.revoke_signing_key(kid, audit=audit):
        raise NotFound("There is no signing key of this kid that could be revoked.", field="kid")


def key_state(row: SigningKeyRow, *, now: int) -> Literal["pending", "active", "retired", "revoked"]:
    """Return `pending`, `active`, `retired` or `revoked`; `now` in ms."""
    if row.revoked_at is not None:
        return "revoked"
    if row.retires_at is not None and row.retires_at <= now:
        return "retired"
    return "pending" if row.activates_at > now else "active"
