"""How often people may try what costs a hash, a guess or a row: to sign in, change a password, register, get tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runwire.auth.service.settings import AuthSettings
from runwire.auth.service.users import normal_name
from runwire.errors import ProtocolError, Unavailable
from runwire.protocol.codes import ErrorCode
from runwire.resilience.limits import Buckets, network_of

__all__ = ["Tries"]

_TOKENS: Final = 60  # of one API key at once; a token is good for minutes
_TOKEN_S: Final = 1.0  # until one more


class Tries:
    """Count tries per account and per address. Only failures stay counted, but for registrations and tokens.

    Limits: the buckets' own, 10,000 keys each.

    Args:
        settings: how many.
        monotonic_s: clock of the limits.
    """

    def __init__(self, settings: AuthSettings, *, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._accounts = Buckets(burst=settings.account_burst, refill_s=settings.account_refill_s)
        self._addresses = Buckets(burst=settings.address_burst, refill_s=settings.address_refill_s)
        self._registrations = Buckets(burst=settings.address_burst, refill_s=settings.address_refill_s)
        self._tokens = Buckets(burst=_TOKENS, refill_s=_TOKEN_S)

    def take(self, account: str, address: str) -> None:
        """Count a try; `account` is a name as somebody typed it, "": of none. Raises Unavailable `rate_limited`."""
        now_s = self._monotonic_s()
        network = network_of(address)
        wait_s = self._addresses.take(network, now_s=now_s)
        if wait_s == 0 and account and (wait_s := self._accounts.take(_spelled(account), now_s=now_s)) > 0:
            self._addresses.give_back(network)
        if wait_s > 0:
            raise _too_many("Too many failed sign-ins; wait before the next one.", wait_s)

    def give_back(self, account: str, address: str) -> None:
        """Count a try no more: it was a good one."""
        self._accounts.give_back(_spelled(account))
        self._addresses.give_back(network_of(address))

    def register(self, address: str) -> None:
        """Count a registration, a good one too: each makes an account. Raises Unavailable `rate_limited`."""
        wait_s = self._registrations.take(network_of(address), now_s=self._monotonic_s())
        if wait_s > 0:
            raise _too_many("Too many registrations from this address; wait before the next one.", wait_s)

    def grant(self, key: str) -> None:
        """Count a token for an API key, each of which is a session's row. Raises Unavailable `rate_limited`."""
        wait_s = self._tokens.take(key, now_s=self._monotonic_s())
        if wait_s > 0:
            raise _too_many("Too many tokens for one client; use each until it ends.", wait_s)


def _spelled(name: str) -> str:
    """Return what stands for an account: each of its spellings with a bucket of its own would be a limit for none."""
    try:
        return normal_name(name)
    except ProtocolError:
        return name


def _too_many(sentence: str, wait_s: float) -> Unavailable:
    return Unavailable(sentence, code=ErrorCode.RATE_LIMITED, retry_after_s=wait_s)
