"""The auth service as seen from a backend: a few requests, bounded in time, size and number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import httpx2
import msgspec
import structlog

from runwire.auth.background import Background, Shared
from runwire.auth.contract import About
from runwire.auth.identity import ALL_SCOPE
from runwire.auth.tokens import PublicKeys, read_jwks
from runwire.errors import Unavailable
from runwire.resilience.breaker import CircuitOpen, Terms
from runwire.resilience.breakers import Breakers, Kind

__all__ = ["BATCH", "Introspected", "Jwks", "NoBatches", "Remote", "SecretRefused"]

BATCH: Final = 128  # keys of one request: the service takes 16 KiB, and a key has 85 bytes
_MAX_RESPONSE_BYTES: Final = 1_048_576
_AT_ONCE: Final = 32  # requests at a time: a service that is asked about all of a dead gateway's clients stays quick
_MAX_REQUESTS: Final = 10_000  # that go on or wait; one more is Unavailable at once
_WAIT_S: Final = 6.0  # for a turn; a socket waits for its identity for 10 s
_JWKS_MAX_AGE_S: Final = 300.0  # then it is read again beside the traffic; the last good one goes on
_JWKS_RETRY_S: Final = 1.0  # after a failed first read
_SOON_S: Final = 1.0  # between two reads of the keys because of unknown kids, after one was revoked
_FAILURES: Final = 5  # without an answer, in a row: then nobody asks for a moment, and after it one does
_PAUSE_S: Final = (0.25, 4.0)  # the first moment and the longest
_NO_BATCHES_S: Final = 60.0  # after a service that cannot do them, such as an older one in a deploy, has said so

_log = structlog.get_logger("runwire.auth")

T = TypeVar("T")


class Introspected(msgspec.Struct, frozen=True, kw_only=True):
    """What the service says about a token (RFC 7662 §2.2)."""

    active: bool
    sub: str | None = None
    key: str | None = None  # id of the API key
    epo: int | None = None
    exp: int | None = None  # s UTC
    scope: str = ALL_SCOPE  # an older service, in the middle of a deploy, names none: its keys have this one


class _Many(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Introspected]


class _Contact(msgspec.Struct, frozen=True, kw_only=True):
    user: str | None


class NoBatches(Unavailable):
    """This service answers one question at a time: ask so."""


class SecretRefused(Unavailable):
    """The service does not know this backend's secret: a person must act, and nothing can be asked before."""


class _Described(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str


class Remote:
    """Requests to the auth service. Each is a task of its own.

    Limits: `_AT_ONCE` go on at a time, the others wait for their turn, `_WAIT_S` at most; past `_MAX_REQUESTS` of both
    one more is refused. Who comes to a fresh process in a crowd is late, and nobody is sent away. But while the service
    does not answer, nobody waits for a deadline of his own: there is a circuit breaker. A refusal is an answer.

    Args:
        http: a client with the service's base URL; in-process its transport is the ASGI app.
        background: where requests run.
        service_secret: proves this backend to the service.
        deadline_s: of one request.
        breakers: those of the process; None: its own.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        *,
        background: Background,
        service_secret: str,
        deadline_s: float,
        breakers: Breakers | None = None,
    ) -> None:
        self._http = http
        self._background = background
        self._service_secret = service_secret
        self._deadline_s = deadline_s
        self._open = 0
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._terms = Terms(
            failure_rate=None,
            failures_in_row=_FAILURES,
            open_s=_PAUSE_S[0],
            longest_open_s=_PAUSE_S[1],
            lease_s=deadline_s,
        )
        self._breakers = breakers or Breakers()
        self.is_refused = False  # the last answer to our secret
        self._batches_at_s = 0.0  # not before

    async def jwks(self) -> PublicKeys:
        """Read the public keys of access tokens. Raises Unavailable."""
        status, body = await self._request("GET", "/.well-known/jwks.json")
        try:
            if status == 200:
                return read_jwks(body)
        except ValueError:
            pass
        raise Unavailable("The auth service shows no usable keys; try again.", retry_after_s=1.0)

    async def issuer(self) -> str:
        """Ask as whom the service signs people in (RFC 8414 §3). Raises Unavailable."""
        status, body = await self._request("GET", "/.well-known/oauth-authorization-server")
        try:
            if status == 200:
                return msgspec.json.decode(body, type=_Described).issuer
        except msgspec.DecodeError:
            pass
        raise Unavailable("The auth service does not say who it is; try again.", retry_after_s=1.0)

    async def about(self) -> About | None:
        """Ask what the service is, and prove our secret; None: it is an older one, which does not say.

        Raises:
            SecretRefused: our secret is not one that it knows.
            Unavailable: it does not answer.
        """
        status, body = await self._proved("GET", "/internal/about")
        if status in (404, 405):
            return None
        try:
            if status == 200:
                return msgspec.json.decode(body, type=About)
        except msgspec.DecodeError:
            pass
        raise Unavailable("The auth service does not say who it is; try again.", retry_after_s=1.0)

    async def introspect(self, token: str) -> Introspected:
        """Ask what a token is good for. Raises Unavailable; SecretRefused when the service secret is refused."""
        status, body = await self._proved("POST", "/auth/introspect", data={"token": token})
        try:
            if status == 200:
                return msgspec.json.decode(body, type=Introspected)
        except msgspec.DecodeError:
            pass
        raise _no_answer()

    async def introspect_many(self, keys: Sequence[str]) -> list[Introspected]:
        """Ask what API keys are good for, `BATCH` at most; the answers come in their order.

        Raises:
            NoBatches: the service does not do that.
            Unavailable: as `introspect`.
        """
        now_s = asyncio.get_running_loop().time()
        if now_s < self._batches_at_s:
            raise NoBatches("One at a time.")
        content = msgspec.json.encode({"keys": keys})
        status, body = await self._proved("POST", "/internal/introspect", content=content)
        if status in (404, 405):
            self._batches_at_s = now_s + _NO_BATCHES_S
            raise NoBatches("One at a time.")
        try:
            if status == 200:
                answers = msgspec.json.decode(body, type=_Many).items
                if len(answers) == len(keys):
                    return answers
        except msgspec.DecodeError:
            pass
        raise _no_answer()

    async def contact(self, token: str) -> str | None:
        """Ask whose a token of another issuer is; None: nobody's here. Raises as `introspect`."""
        status, body = await self._proved("POST", "/internal/external", content=msgspec.json.encode({"token": token}))
        try:
            if status == 200:
                return msgspec.json.decode(body, type=_Contact).user
        except msgspec.DecodeError:
            pass
        raise _no_answer()

    async def end_external(self, session: str, user: str) -> None:
        """Have a session ended that its issuer has ended, for every gateway. Raises as `introspect`."""
        content = msgspec.json.encode({"session": session, "user": user})
        status, _ = await self._proved("POST", "/internal/external/ended", content=content)
        if status != 204:
            raise _no_answer()

    async def _proved(
        self, method: str, path: str, *, data: dict[str, str] | None = None, content: bytes | None = None
    ) -> tuple[int, bytes]:
        """Ask with our secret. Raises SecretRefused, Unavailable."""
        headers = {"authorization": f"Bearer {self._service_secret}"}
        if content is not None:
            headers["content-type"] = "application/json"
        status, body = await self._request(method, path, headers=headers, data=data, content=content)
        was_refused, self.is_refused = self.is_refused, status == 401
        if self.is_refused != was_refused:  # one line per change: a crowd of keys would fill the log
            _log.log(40 if self.is_refused else 20, f"service_secret_{'refused' if self.is_refused else 'accepted'}")
        if self.is_refused:
            raise SecretRefused("The auth service refuses this backend's service secret; set the one it knows.")
        return status, body

    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes]:
        def ask() -> AbstractAsyncContextManager[httpx2.Response]:
            return self._http.stream(method, path, headers=headers, data=data, content=content, follow_redirects=False)

        return await asyncio.shield(self._background.start(lambda: self._bounded(ask)))

    async def _bounded(self, ask: Callable[[], AbstractAsyncContextManager[httpx2.Response]]) -> tuple[int, bytes]:
        if self._open >= _MAX_REQUESTS:
            raise _too_many()
        self._open += 1
        try:
            await self._wait_for_turn()
            try:
                return await self._answered(ask)
            finally:
                self._turns.release()
        finally:
            self._open -= 1

    async def _answered(self, ask: Callable[[], AbstractAsyncContextManager[httpx2.Response]]) -> tuple[int, bytes]:
        # Looked at when the turn has come: whoever waited for it while the service fell silent learns it at once.
        try:
            # Asked for each time: one that was closed for long may have made room for others.
            with self._breakers.of(Kind.AUTH, self._http.base_url.host, own=self._terms).acquire() as permit:
                try:
                    async with asyncio.timeout(self._deadline_s):
                        return await _read(ask())
                except (httpx2.HTTPError, TimeoutError):
                    permit.failure()
                    # Without its text, which may quote a URL or a header.
                    raise _silent(1.0) from None
        except CircuitOpen as refused:
            raise _silent(refused.retry_after_s or 0.0) from None

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._turns.acquire()
        except TimeoutError:
            raise _too_many() from None


class Jwks:
    """The public keys of access tokens, cached.

    Single flight; an unknown kid leads to at most one read in `refetch_s`, however many ask; for that long after a key
    was revoked one a second, as tokens of the next one come at once. The last good keys go on when a later read fails.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[PublicKeys]],
        *,
        background: Background,
        refetch_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._read = read
        self._refetch_s = refetch_s
        self._monotonic_s = monotonic_s
        self._reading = Shared(background, self._load)
        self._keys: PublicKeys = {}
        self._loaded_s = 0.0
        self._failed_s: float | None = None  # when the last read failed; None: it did not
        self._reason = ""  # why it did
        self._refetched_s: float | None = None
        self._revoked_s: float | None = None  # when it was last heard that one was

    def expect_another(self) -> None:
        """Have unknown kids looked up sooner for a while: a key was revoked, and another one signs."""
        self._revoked_s = self._monotonic_s()

    async def keys(self) -> PublicKeys:
        """Return the keys; the first call reads them. Raises Unavailable."""
        now_s = self._monotonic_s()
        if not self._keys:
            if self._failed_s is not None and now_s - self._failed_s < _JWKS_RETRY_S:
                raise Unavailable(self._reason, retry_after_s=1.0)
            await self._reading.outcome()
        elif now_s - self._loaded_s > _JWKS_MAX_AGE_S and not self._failed_within(now_s, self._refetch_s):
            self._reading.start()  # nobody waits for it
        return self._keys

    async def after_unknown_kid(self) -> PublicKeys:
        """Return the keys, read again if that has not been done lately.

        Raises:
            Unavailable: that read failed, so nothing can be said about the kid.
        """
        now_s = self._monotonic_s()
        is_soon = self._revoked_s is not None and now_s - self._revoked_s < self._refetch_s
        pause_s = min(_SOON_S, self._refetch_s) if is_soon else self._refetch_s
        if self._refetched_s is None or now_s - self._refetched_s >= pause_s:
            self._refetched_s = now_s
            await self._reading.outcome()
        elif self._failed_s is not None:
            raise Unavailable(self._reason, retry_after_s=1.0)
        return self._keys

    def _failed_within(self, now_s: float, seconds: float) -> bool:
        return self._failed_s is not None and now_s - self._failed_s < seconds

    async def _load(self) -> None:
        try:
            self._keys = await self._read()
        except Unavailable as error:
            self._failed_s, self._reason = self._monotonic_s(), error.message
            raise
        self._failed_s = None
        self._loaded_s = self._monotonic_s()


async def _read(answer: AbstractAsyncContextManager[httpx2.Response]) -> tuple[int, bytes]:
    body = b""
    async with answer as response:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _MAX_RESPONSE_BYTES:
                raise Unavailable("The auth service answers too much.")
        return response.status_code, body


def _silent(retry_after_s: float) -> Unavailable:
    return Unavailable("The auth service does not answer; try again.", retry_after_s=max(1.0, retry_after_s))


def _no_answer() -> Unavailable:
    return Unavailable("The auth service gives no answer; try again.", retry_after_s=1.0)


def _too_many() -> Unavailable:
    return Unavailable("Too many sign-ins at the moment; try again.", retry_after_s=1.0)
