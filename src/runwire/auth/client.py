"""Who is this? The backend's side of identity: tokens checked here, standing from the log, keys by the service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import httpx2
import structlog

from runwire.auth import clock, contract, tokens
from runwire.auth.agreement import compare
from runwire.auth.background import Background
from runwire.auth.follower import Follower
from runwire.auth.foreign import Foreign
from runwire.auth.foreigners import Foreigners
from runwire.auth.identity import ALL_SCOPE, READ_SCOPE, Identity
from runwire.auth.introspections import Introspections
from runwire.auth.issuers import Issuer
from runwire.auth.remote import Introspected, Jwks, Remote
from runwire.auth.view import AuthView, Freshness
from runwire.errors import ConfigurationError, Forbidden, RunwireError, Unauthenticated, Unavailable
from runwire.resilience.breakers import Breakers
from runwire.storage.base import AuthStore, TicketRow

__all__ = ["TICKET_TTL_S", "AuthClient", "AuthClientSettings"]

TICKET_TTL_S: Final = 30

_AMISS_S: Final = 5.0  # between two looks at the service while something is wrong with it, so that it heals soon
_WATCH_TURNS: Final = 12  # so many times longer while nothing is: whether it is still the right one, with our time

_log = structlog.get_logger("runwire.auth")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthClientSettings:
    """What a backend must know of the auth service."""

    # the only accepted `iss`
    issuer: str = "http://127.0.0.1:8000"
    # the only accepted `aud`
    audience: str = "runwire"
    # of Runwire: the service's may be one minor version more or less
    version: str = ""
    # proves this backend to the service
    service_secret: str = field(default="", repr=False)
    # deadline of one request to the service, seconds
    request_deadline_s: float = 3.0
    # least time between two reads of the public keys because of an unknown kid, seconds
    kid_refetch_s: float = 10.0
    # how long an introspected API key is believed while nothing in the view speaks against it, seconds
    key_cache_s: float = 60.0
    # how many API keys are remembered; about 1 KiB each; past it the one used longest ago is asked for again
    key_cache_size: int = 16_384
    # others whose tokens are taken, too
    issuers: tuple[Issuer, ...] = ()


class AuthClient:
    """Prove credentials against the service's keys and everybody's standing. One event loop.

    Args:
        http: a client with the service's base URL; in-process: `AsyncClient(transport=ASGITransport(app), …)`.
        store: the tickets.
        follower: follows everybody's standing; it runs elsewhere.
        settings: what to accept, how long to wait.
        breakers: those of the process; None: its own.
        wall_s: clock of tokens.
        monotonic_s: clock of caches.
    """

    def __init__(
        self,
        *,
        http: httpx2.AsyncClient,
        store: AuthStore,
        follower: Follower,
        settings: AuthClientSettings,
        breakers: Breakers | None = None,
        wall_s: Callable[[], float] = clock.wall_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._settings = settings
        self._store = store
        self._follower = follower
        self._view = follower.view
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._background = Background()
        self._remote = Remote(
            http,
            background=self._background,
            service_secret=settings.service_secret,
            deadline_s=settings.request_deadline_s,
            breakers=breakers,
        )
        self._introspections = Introspections(self._remote, background=self._background)
        self._jwks = Jwks(
            self._remote.jwks,
            background=self._background,
            refetch_s=settings.kid_refetch_s,
            monotonic_s=monotonic_s,
        )
        self._foreigners = Foreigners(
            Foreign(settings.issuers, wall_s=wall_s, monotonic_s=monotonic_s),
            remote=self._remote,
            follower=follower,
            wall_s=wall_s,
        )
        self._amiss: str | None = None  # what is wrong between the service and us
        self._is_skewed = False  # the alarm is given once
        self._revoked_kids = 0  # that this one has heard of
        follower.on_change(self._note_revoked_keys)
        self._asking: dict[bytes, asyncio.Future[Introspected]] = {}  # one request per key, however many wait
        self._asked: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()  # hash of key -> (who, until)

    @property
    def view(self) -> AuthView:
        """Everybody's standing as this process knows it; `is_current` is asked before every use."""
        return self._view

    def freshness(self) -> Freshness:
        """Return how far the view may be behind; `expired`: sockets must not go on (4013)."""
        return self._follower.freshness()

    async def run(self) -> None:
        """Carry requests to the service until cancelled. Everything else needs this, and the follower, to run."""
        await self._background.run(self._look_after())

    def unready(self) -> str | None:
        """Return why this backend should get no new clients, one word for `/health/ready`; None: nothing is wrong."""
        return "service_secret_refused" if self._remote.is_refused else self._amiss

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in this event loop after something was withdrawn or re-scoped; returns the way to stop."""
        return self._follower.on_change(callback)

    def _note_revoked_keys(self) -> None:
        if self._view.revoked_kids != self._revoked_kids:
            self._revoked_kids = self._view.revoked_kids
            self._jwks.expect_another()

    async def check(self) -> None:
        """Prove that the log, the service and its secret are right: for the start and for readiness.

        Raises:
            SecretRefused: a person must set another one; `unready` says so until it is accepted.
            Unavailable: which of them is not, and why.
            ConfigurationError: the service is not the one of this backend: another issuer, audience or version.
        """
        await self._background.until_running()
        await self._follower.check()
        await self._jwks.keys()
        await self._agree()

    async def _agree(self) -> None:
        found = await compare(
            self._remote,
            version=self._settings.version,
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            wall_s=self._wall_s,
            monotonic_s=self._monotonic_s,
        )
        if found.faults:
            self._amiss = "auth_service_differs"
            raise ConfigurationError(found.faults)
        self._judge_clocks(found.skew_s)

    def _judge_clocks(self, skew_s: float) -> None:
        was_skewed, self._is_skewed = self._is_skewed, abs(skew_s) > contract.SKEW_ALARM_S
        if self._is_skewed and not was_skewed:
            _log.warning("auth_clock_skewed", skew_s=round(skew_s, 1), leeway_s=tokens.LEEWAY_S)
        self._amiss = "clock_skewed" if abs(skew_s) > tokens.LEEWAY_S else None
        if self._amiss:
            sentence = f"The clock of the auth service is {skew_s:+.0f} s off this one's; set both by NTP."
            raise Unavailable(sentence, retry_after_s=_AMISS_S)

    async def _look_after(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._foreigners.run())

    async def _watch(self) -> None:
        """Look from time to time whether the service is still the right one: it may be replaced while this runs."""
        for turn in itertools.count(1):
            await asyncio.sleep(_AMISS_S)
            was_unready = self.unready()
            if was_unready is None and turn % _WATCH_TURNS:
                continue
            with contextlib.suppress(RunwireError):  # silence is no fault: who is signed in goes on without it
                await self._agree()
            if self.unready() != was_unready:
                _log.warning("auth_service_judged", unready=self.unready())

    async def authenticate(self, credential: str) -> Identity:
        """Prove an access token or an API key.

        Register the socket before calling, and ask `view.is_current` once more before accepting it: a
        revocation in between then finds it.

        Raises:
            Unauthenticated: it proves nothing, or does not any more.
            Unavailable: it cannot be decided now; doubt means no.
        """
        if tokens.is_api_key(credential):
            return await self._of_key(credential)
        if self._foreigners.is_one(credential):
            return await self._standing(await self._foreigners.identity(credential))
        return await self._standing(await self._of_token(credential))

    async def issue_ticket(self, identity: Identity, origin: str | None) -> str:
        """Make a ticket for one socket: single use, 30 s, bound to the user and the Origin.

        Raises:
            Unauthenticated: the identity is not current any more.
            Unavailable: the database does not answer.
        """
        current = await self._standing(identity)
        ticket = _with_kid(tokens.mint_secret(secrets.token_bytes(32)), current.kid)
        row = TicketRow(
            user=current.user,
            session=current.session,
            key=current.key,
            epoch=current.epoch,
            origin=origin,
            ends_at=current.expires_at,
        )
        await self._bounded(self._store.create_ticket(row, secret_hash=tokens.secret_hash(ticket), ttl_s=TICKET_TTL_S))
        return ticket

    async def redeem_ticket(self, ticket: str, origin: str | None) -> Identity:
        """Use up a ticket; presented from another Origin it is used up too, and proves nothing.

        Raises:
            Unauthenticated: unknown, used, too old, from another Origin, or its identity was withdrawn.
            Unavailable: the database does not answer.
        """
        row = await self._bounded(self._store.consume_ticket(tokens.secret_hash(ticket)))
        if row is None or row.origin != origin or _is_over(row.ends_at, self._wall_s()):
            raise _refused()
        proved = _proved(user=row.user, session=row.session, key=row.key, epoch=row.epoch, expires_at=row.ends_at)
        return await self._standing(replace(proved, kid=_kid_in(ticket)))

    async def _of_token(self, token: str) -> Identity:
        keys = await self._jwks.keys()
        try:
            claims = self._verified(token, keys)
        except tokens.UnknownKid:
            claims = self._verified(token, await self._jwks.after_unknown_kid())
        proved = _proved(
            user=claims.sub, session=claims.sid, key=None, epoch=claims.epo, expires_at=int(claims.exp * 1000)
        )
        return replace(proved, kid=tokens.kid_of(token), scopes=frozenset(claims.scope.split()))

    def _verified(self, token: str, keys: tokens.PublicKeys) -> tokens.AccessToken:
        return tokens.verify(
            token,
            keys,
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            now_s=self._wall_s(),
        )

    async def _of_key(self, text: str) -> Identity:
        tokens.read_api_key(text)  # a mistyped one costs no request
        digest = tokens.secret_hash(text)
        known, until_s = self._asked.get(digest, (None, 0.0))
        if known is not None and self._monotonic_s() < until_s and not _is_over(known.expires_at, self._wall_s()):
            self._asked.move_to_end(digest)
            with contextlib.suppress(Unauthenticated):
                return await self._standing(known)
            # The epoch moved, or the key is gone: the service knows which.
        self._asked.pop(digest, None)
        identity = await self._standing(self._introspected(await self._ask(digest, text)))
        self._remember(digest, identity)
        return identity

    async def _ask(self, digest: bytes, text: str) -> Introspected:
        flight = self._asking.get(digest)
        if flight is None or flight.done():
            flight = self._asking[digest] = self._background.start(lambda: self._introspections.ask(text))
            flight.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(flight)

    def _introspected(self, answer: Introspected) -> Identity:
        if not answer.active or answer.sub is None or answer.key is None or answer.epo is None:
            raise _refused()
        expires_at = None if answer.exp is None else answer.exp * 1000
        proved = _proved(user=answer.sub, session=None, key=answer.key, epoch=answer.epo, expires_at=expires_at)
        return replace(proved, scopes=frozenset(answer.scope.split()))

    def _remember(self, digest: bytes, identity: Identity) -> None:
        self._asked[digest] = (identity, self._monotonic_s() + self._settings.key_cache_s)
        if len(self._asked) > self._settings.key_cache_size:
            self._asked.popitem(last=False)

    async def _standing(self, proved: Identity) -> Identity:
        """Return an identity with today's name and roles, if it is current by a fresh view."""
        await self._follower.be_fresh()
        if self._view.is_behind(proved):
            # Made by a change that this view has not seen, or withdrawn: a read that begins now tells.
            await self._follower.confirm()
        holder = self._view.user(proved.user)
        if holder is None:
            raise _refused()
        if not self._view.is_current(proved):
            raise Unauthenticated("This access was withdrawn; sign in again.")
        if not proved.may_look:
            raise Forbidden(
                f"This credential is for something else; here its scope must be {ALL_SCOPE} or {READ_SCOPE}."
            )
        return replace(proved, name=holder.name, roles=frozenset(holder.roles))

    async def _bounded(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._settings.request_deadline_s):
                return await call
        except TimeoutError:
            raise Unavailable("The database does not answer; try again.", retry_after_s=1.0) from None


def _proved(*, user: str, session: str | None, key: str | None, epoch: int, expires_at: int | None) -> Identity:
    """Return what a credential proved; name and roles are the view's to say."""
    return Identity(
        user=user,
        name="",
        roles=frozenset(),
        kind="session" if key is None else "key",
        session=session,
        key=key,
        epoch=epoch,
        expires_at=expires_at,
    )


def _with_kid(secret: str, kid: str | None) -> str:
    """Return a ticket that says which key signed the token it was got with: a revoked key takes that socket, too.

    The hash in the row is of all of it, so nobody can change what it says.
    """
    return secret if kid is None else f"{secret}.{base64.urlsafe_b64encode(kid.encode()).rstrip(b'=').decode()}"


def _kid_in(ticket: str) -> str | None:
    """Return what `_with_kid` put into a ticket that was found to be ours."""
    spelled = ticket.partition(".")[2]
    return base64.urlsafe_b64decode(spelled + "=" * (-len(spelled) % 4)).decode() if spelled else None


def _is_over(expires_at: int | None, now_s: float) -> bool:
    return expires_at is not None and expires_at <= now_s * 1000


def _refused() -> Unauthenticated:
    return Unauthenticated("This credential is not valid; sign in again.")
