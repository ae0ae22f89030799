"""Sign-in by other issuers over HTTP: for people, for issuers that say who has logged out, and for gateways."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from runwire.auth import tokens
from runwire.auth.foreign import Foreign, Provider
from runwire.auth.problem import problem
from runwire.auth.service.external import External
from runwire.auth.service.problems import body_of
from runwire.auth.service.requests import bearer, form_of
from runwire.auth.service.settings import AuthSettings
from runwire.errors import ConfigurationError, NotFound, ProtocolError, RunwireError, Unauthenticated
from runwire.protocol.codes import ErrorCode
from runwire.storage.base import AuthStore

__all__ = ["external_routes"]

_NO_EXTRA: Final = "issuers: sign-in by the page (client_id) needs another package: pip install 'runwire[oidc]'."

if TYPE_CHECKING:
    from runwire.auth.service.external_sign_in import ExternalSignIn

T = TypeVar("T")
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=tokens.MAX_CREDENTIAL_BYTES)]


class _Contact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: _Text


class _Ended(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    session: _Text
    user: _Text


def external_routes(
    store: AuthStore,
    settings: AuthSettings,
    *,
    check_service: Callable[[str], None],
    changed: Callable[[], None],
    wall_s: Callable[[], float],
    monotonic_s: Callable[[], float],
) -> APIRouter:
    """Make the routes.

    Args:
        store: the auth tables.
        settings: the issuers, and where people find our page.
        check_service: raises Unauthenticated for a wrong service secret.
        changed: called after each change that views must learn.
        wall_s: clock of tokens.
        monotonic_s: clock of what is remembered.

    Raises:
        ConfigurationError: an issuer is for the page, and what that needs is not installed.
    """
    foreign = Foreign(settings.issuers, wall_s=wall_s, monotonic_s=monotonic_s)
    external = External(store, foreign, changed=changed)
    router = APIRouter()
    _for_gateways(router, external, check_service)
    _for_issuers(router, foreign, external)

    @router.get("/auth/external", response_class=Response)
    async def offered() -> Response:
        """List the issuers that people can sign in by; the page shows a button for each."""
        return _json({"issuers": [{"name": one.name} for one in settings.issuers if one.client_id]})

    if any(one.client_id for one in settings.issuers):
        try:
            from runwire.auth.service.external_sign_in import ExternalSignIn  # brings Authlib, an extra
        except ImportError:
            raise ConfigurationError([_NO_EXTRA]) from None
        _for_people(router, foreign, ExternalSignIn(store, settings, external, wall_s=wall_s))
    return router


def _for_gateways(router: APIRouter, external: External, check_service: Callable[[str], None]) -> None:
    """Below a path that no gateway leads to."""

    @router.post("/internal/external", response_class=Response)
    async def contact(request: Request) -> Response:
        """Say whose a token of another issuer is: `{"token"}` -> `{"user"}`, null: nobody's here."""
        check_service(bearer(request))
        user = await external.contact(_read(await body_of(request), _Contact).token)
        return _json({"user": user})

    @router.post("/internal/external/ended", response_class=Response, status_code=204)
    async def ended(request: Request) -> Response:
        """End a session of an issuer that does not answer for it any more: `{"session", "user"}`."""
        check_service(bearer(request))
        said = _read(await body_of(request), _Ended)
        if not said.session.startswith("ext_"):
            raise ProtocolError("This is no session of an issuer.", field="session")
        await external.end_opaque(said.session, said.user)
        return Response(status_code=204)


def _for_issuers(router: APIRouter, foreign: Foreign, external: External) -> None:
    @router.post("/auth/external/{name}/backchannel", response_class=Response)
    async def backchannel(name: str, request: Request) -> Response:
        """Log out who has logged out at the issuer: `logout_token=…` (OpenID Connect Back-Channel Logout 1.0)."""
        provider = _provider(foreign, name)
        address = request.client.host if request.client else ""
        try:
            token = (await form_of(request)).get("logout_token", "")
            await external.log_out(await provider.logout(token), address=address)
        except (Unauthenticated, ProtocolError) as error:
            # §2.8: 400 for whatever is wrong with it.
            return problem(error, status=400, error="invalid_request")
        return Response(status_code=200, headers={"cache-control": "no-store"})


def _for_people(router: APIRouter, foreign: Foreign, sign_in: ExternalSignIn) -> None:
    @router.get("/auth/external/{name}/start", response_class=Response)
    async def start(name: str, request: Request) -> Response:
        """Send a person to the issuer."""
        return await _shown(request, sign_in.start(_provider(foreign, name)))

    @router.get("/auth/external/{name}/callback", response_class=Response)
    async def callback(name: str, request: Request) -> Response:
        """Take a person back from the issuer, to the page, signed in."""
        return await _shown(request, sign_in.finish(_provider(foreign, name), request))


def _provider(foreign: Foreign, name: str) -> Provider:
    provider = foreign.providers.get(name)
    if provider is None or provider.issuer.client_id is None:
        raise NotFound("There is no sign-in of this name.")
    return provider


async def _shown(request: Request, answer: Awaitable[Response]) -> Response:
    """Return an answer; an error as a page for a person who came by a link, as a problem for everybody else."""
    try:
        return await answer
    except RunwireError as error:
        refused = problem(error)
        if "text/html" not in request.headers.get("accept", ""):
            return refused
        kept = {name: refused.headers[name] for name in ("retry-after", "cache-control") if name in refused.headers}
        policy = {"content-security-policy": "default-src 'none'", "referrer-policy": "no-referrer"}
        text = f"<!doctype html><title>Sign-in</title><p>{html.escape(error.message)}</p>"
        return Response(text, ErrorCode(error.code).http_status, kept | policy, "text/html; charset=utf-8")


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError):
        raise ProtocolError("The body does not fit.") from None


def _json(content: dict[str, object]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(content), media_type="application/json", headers=headers)
