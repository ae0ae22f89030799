"""People who come to a gateway with a token of another issuer: whose it is here, and whether it still stands there.

What an issuer signs is proved here; what it only answers for (opaque tokens) is asked again while it may be in use, and
an end that is found so goes into the log of auth changes, where every gateway learns it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from runwire.auth.follower import Follower
from runwire.auth.foreign import CACHE_S, Foreign, Proved, Provider
from runwire.auth.identity import Identity
from runwire.auth.remote import Remote
from runwire.errors import RunwireError, Unauthenticated, Unavailable
from runwire.storage.base import UserRow

__all__ = ["Foreigners"]

_MET: Final = 16_384  # people whose user is remembered; past it the one met longest ago is asked about again
_OPAQUE: Final = 2_000  # opaque tokens that are asked about again and again; one more is refused
_AT_ONCE: Final = 8  # of these questions

_log = structlog.get_logger("runwire.auth")


class Foreigners:
    """Turn tokens of other issuers into identities. One event loop.

    Limits: `_MET` people are remembered; `_OPAQUE` opaque tokens are in use, and one more is `Unavailable`.

    Args:
        foreign: proves the tokens.
        remote: the auth service, which knows whose they are.
        follower: follows everybody's standing.
        wall_s: clock of tokens.
    """

    def __init__(self, foreign: Foreign, *, remote: Remote, follower: Follower, wall_s: Callable[[], float]) -> None:
        self._foreign = foreign
        self._wall_s = wall_s
        self._remote = remote
        self._follower = follower
        self._met: OrderedDict[tuple[str, str, bytes], str] = OrderedDict()  # (iss, sub, name and roles) -> user
        self._in_use: dict[str, tuple[Proved, str]] = {}  # opaque token -> what was last said of it, whose it is

    def is_one(self, credential: str) -> bool:
        """Return whether a credential says that it is of another issuer."""
        return self._foreign.of(credential) is not None

    async def identity(self, token: str) -> Identity:
        """Prove a token and return who it is here; the caller looks at the standing.

        Raises:
            Unauthenticated: it proves nothing, or nobody who may come in.
            Unavailable: it cannot be decided now.
        """
        proved = await self._foreign.prove(token)
        holder = await self._holder(proved, token)
        # The view's row is one instant: this epoch began at this time.
        if proved.issued_at < holder.valid_from:
            raise Unauthenticated("This access was withdrawn; sign in again.")
        if proved.is_opaque:
            self._use(token, proved, holder.user)
        return Identity(
            user=holder.user,
            name=holder.name,
            roles=frozenset(),
            kind="session",
            session=proved.session,
            key=None,
            epoch=holder.epoch,
            expires_at=proved.expires_at,
        )

    async def run(self) -> None:
        """Ask about opaque tokens in use, each every 5 s, or as often as that can be done; until cancelled."""
        while True:
            await asyncio.sleep(CACHE_S)
            waiting = iter(list(self._in_use))
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._ask_again(waiting))

    async def _holder(self, proved: Proved, token: str) -> UserRow:
        met = (proved.issuer.issuer, proved.subject, proved.digest())
        user = self._met.get(met)
        if user is None:
            # First contact, or another name or other roles than before: the service writes that down.
            user = await self._remote.contact(token)
            if user is None:
                raise Unauthenticated("This sign-in is not known here; ask whoever runs this server.")
            self._met[met] = user
            if len(self._met) > _MET:
                self._met.popitem(last=False)
            await self._follower.confirm()  # what it wrote, such as the user, is newer than this view
        await self._follower.be_fresh()
        holder = self._follower.view.user(user)
        if holder is None or holder.status != "active":
            self._met.pop(met, None)  # the service is asked the next time
            raise Unauthenticated("This access was withdrawn; sign in again.")
        return holder

    def _use(self, token: str, proved: Proved, user: str) -> None:
        if token not in self._in_use and len(self._in_use) >= _OPAQUE:
            raise Unavailable("Too many sign-ins of this kind; try again.", retry_after_s=CACHE_S)
        self._in_use[token] = (proved, user)

    async def _ask_again(self, waiting: Iterator[str]) -> None:
        for token in waiting:
            provider, (proved, user) = self._foreign.of(token), self._in_use[token]
            if provider is None or proved.expires_at <= self._wall_s() * 1000:
                del self._in_use[token]  # over: whoever came with it has been told when
                continue
            with contextlib.suppress(RunwireError):  # what is away is asked again in the next turn
                await self._look(provider, token, proved, user)

    async def _look(self, provider: Provider, token: str, proved: Proved, user: str) -> None:
        try:
            await provider.opaque(token, is_asked_anew=True)
        except Unauthenticated:
            await self._remote.end_external(proved.session or "", user)
            self._in_use.pop(token, None)
            _log.info("external_token_ended", issuer=proved.issuer.name, user=user, session=proved.session)
