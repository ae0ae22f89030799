"""The auth service: an ASGI app of its own, mounted in-process or run as a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request, Response
from starlette.background import BackgroundTask

from runwire.auth import clock, tokens
from runwire.auth.problem import problem
from runwire.auth.service.about import about_routes
from runwire.auth.service.accounts import Accounts
from runwire.auth.service.admin_routes import admin_routes
from runwire.auth.service.bodies import read_json
from runwire.auth.service.callers import Callers
from runwire.auth.service.clients import client_of
from runwire.auth.service.external_routes import external_routes
from runwire.auth.service.grants import Granted, Grants
from runwire.auth.service.keyring import JWKS_MAX_AGE_S, Keyring
from runwire.auth.service.openapi import describe
from runwire.auth.service.own import OwnAccount
from runwire.auth.service.own_routes import own_routes
from runwire.auth.service.own_shapes import RegisterBody
from runwire.auth.service.passwords import Passwords
from runwire.auth.service.problems import add_problems
from runwire.auth.service.requests import address_of, bearer, form_of, read_keys, read_sign_in
from runwire.auth.service.settings import AuthSettings
from runwire.auth.service.standing import Standing
from runwire.auth.service.tries import Tries
from runwire.errors import Conflict, Forbidden, ProtocolError, Unauthenticated
from runwire.storage.base import AuthStore

__all__ = ["make_auth_app"]


def make_auth_app(
    store: AuthStore,
    settings: AuthSettings,
    *,
    changed: Callable[[], None] = lambda: None,
    wall_s: Callable[[], float] = clock.wall_s,
    monotonic_s: Callable[[], float] = clock.monotonic_s,
) -> FastAPI:
    """Make the auth service.

    Args:
        store: the auth tables.
        settings: issuer, lifetimes, limits, service secrets.
        changed: called after each committed change, to wake views: `bus.publish(Wake(topic="auth"))`.
        wall_s: clock of tokens.
        monotonic_s: clock of limits.
    """
    keyring = Keyring(store, access_ttl_s=settings.access_ttl_s, wall_s=wall_s, monotonic_s=monotonic_s)
    passwords = Passwords(settings)
    tries = Tries(settings, monotonic_s=monotonic_s)
    grants = Grants(
        store,
        settings,
        keyring=keyring,
        passwords=passwords,
        tries=tries,
        wall_s=wall_s,
        changed=changed,
    )
    standing = Standing(store, settings, keyring=keyring, wall_s=wall_s, changed=changed)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        passwords.close()

    app = FastAPI(
        title="Runwire auth",
        version=settings.version or "0",
        lifespan=lifespan,
        openapi_url="/auth/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    add_problems(app)
    app.include_router(_sessions(store, grants, standing))
    app.include_router(_oauth(grants, standing))
    app.include_router(_well_known(keyring, settings))
    app.include_router(
        external_routes(
            store,
            settings,
            check_service=standing.check_service,
            changed=changed,
            wall_s=wall_s,
            monotonic_s=monotonic_s,
        )
    )
    accounts = Accounts(store, changed, keyring.forget)
    callers = Callers(standing)
    app.include_router(own_routes(OwnAccount(store, changed, passwords, tries), callers))
    app.include_router(admin_routes(accounts, callers, access_ttl_s=settings.access_ttl_s))
    app.include_router(about_routes(settings, check_service=standing.check_service, wall_s=wall_s))
    return app


def _sessions(store: AuthStore, grants: Grants, standing: Standing) -> APIRouter:
    router = APIRouter()

    @router.post("/auth/sessions", status_code=201, response_class=Response)
    async def sign_in(request: Request) -> Response:
        """Sign in with `{user, password}` or `{link}`."""
        wanted = await read_sign_in(request)
        address = address_of(request)
        if wanted.link is not None:
            return _tokens(await grants.by_link(wanted.link, address=address), status=201)
        later = BackgroundTasks()
        name, password = wanted.user or "", wanted.password or ""
        try:
            granted = await grants.by_password(
                name, password, address=address, refused=lambda entry: later.add_task(store.record, entry)
            )
        except Unauthenticated as error:
            answer = problem(error)
            answer.background = later
            return answer
        return _tokens(granted, status=201)

    @router.post("/auth/register", status_code=201, response_class=Response)
    async def register(request: Request) -> Response:
        """Make an account with `{user, password}`, where it is asked for with an `invite`, and sign it in."""
        wanted = await read_json(request, RegisterBody)
        later = BackgroundTasks()
        try:
            granted = await grants.register(
                wanted.user,
                wanted.password,
                wanted.invite,
                address=address_of(request),
                refused=lambda entry: later.add_task(store.record, entry),
            )
        except (Conflict, Forbidden) as error:
            answer = problem(error)
            answer.background = later
            return answer
        return _tokens(granted, status=201)

    @router.delete("/auth/sessions/current", status_code=204, response_class=Response)
    async def sign_out(request: Request) -> Response:
        """End the session of the presented access token."""
        await standing.sign_out(bearer(request), address=address_of(request))
        return Response(status_code=204)

    return router


def _oauth(grants: Grants, standing: Standing) -> APIRouter:
    router = APIRouter()

    @router.post("/auth/token", response_class=Response)
    async def token(request: Request) -> Response:
        """Refresh (RFC 6749 §6), or give a service account an access token (§4.4)."""
        try:
            return await _token(grants, request, await form_of(request))
        except ProtocolError as error:
            return problem(error, error="invalid_request")

    @router.post("/auth/revoke", response_class=Response)
    async def revoke(request: Request) -> Response:
        """End what a token stands for: `token=…` (RFC 7009)."""
        await standing.revoke(_required(await form_of(request), "token"), address=address_of(request))
        return Response(status_code=200)

    @router.post("/auth/introspect", response_class=Response)
    async def introspect(request: Request) -> Response:
        """Describe a token to a backend that knows the service secret: `token=…` (RFC 7662)."""
        standing.check_service(bearer(request))
        said = await standing.introspect(_required(await form_of(request), "token"))
        return _touching(_json(said), standing, [said])

    @router.post("/internal/introspect", response_class=Response)
    async def introspect_keys(request: Request) -> Response:
        """Describe API keys, many at once: `{"keys": […]}` -> `{"items": […]}`, in their order.

        Below a path of its own, which no gateway leads to: only who reaches this process itself can try a secret here.
        """
        standing.check_service(bearer(request))
        items = await standing.introspect_keys(await read_keys(request))
        return _touching(_json({"items": items}), standing, items)

    return router


def _touching(answer: Response, standing: Standing, said: Sequence[Mapping[str, Any]]) -> Response:
    """Note that the API keys which are good are in use, when the answer is out: nobody waits for that."""
    used = sorted({one["key"] for one in said if "key" in one})
    if used:
        answer.background = BackgroundTask(standing.touch, used)
    return answer


async def _token(grants: Grants, request: Request, parameters: dict[str, str]) -> Response:
    grant_type, address = _required(parameters, "grant_type"), address_of(request)
    if grant_type == "client_credentials":
        return await _service_token(grants, request, parameters)
    if grant_type != "refresh_token":
        unknown = ProtocolError("The grant types are refresh_token and client_credentials.", field="grant_type")
        return problem(unknown, error="unsupported_grant_type")
    try:
        return _tokens(await grants.refresh(_required(parameters, "refresh_token"), address=address), status=200)
    except Unauthenticated as error:
        # RFC 6749 §5.2: 400 for a grant that is not valid; 401 is for clients that fail to authenticate.
        return problem(error, status=400, error="invalid_grant")


async def _service_token(grants: Grants, request: Request, parameters: dict[str, str]) -> Response:
    try:
        client = client_of(request, parameters)
        scope = parameters.get("scope", "")
        granted = await grants.by_client(client, scope=scope, address=address_of(request))
    except Unauthenticated as error:
        answer = problem(error, error="invalid_client")
        answer.headers["www-authenticate"] = 'Basic realm="runwire"'  # RFC 6749 §5.2
        return answer
    except Forbidden as error:
        return problem(error, status=400, error="invalid_scope")
    return _json(
        {
            "access_token": granted.access_token,
            "token_type": "Bearer",
            "expires_in": granted.expires_in,
            "scope": granted.scope,
        }
    )


def _well_known(keyring: Keyring, settings: AuthSettings) -> APIRouter:
    router = APIRouter()

    @router.get("/.well-known/jwks.json", response_class=Response)
    async def jwks() -> Response:
        """Show the public keys of access tokens (RFC 7517)."""
        keys = [tokens.public_jwk(kid, key) for kid, key in (await keyring.published()).items()]
        return _json({"keys": keys}, cache=f"public, max-age={JWKS_MAX_AGE_S}")

    @router.get("/.well-known/oauth-authorization-server", response_class=Response)
    async def metadata() -> Response:
        """Say what this service offers (RFC 8414) at the public address: introspection is for backends, at its own."""
        base = settings.issuer.rstrip("/")
        return _json(
            {
                "issuer": settings.issuer,
                "token_endpoint": f"{base}/auth/token",
                "revocation_endpoint": f"{base}/auth/revoke",
                "jwks_uri": f"{base}/.well-known/jwks.json",
                "scopes_supported": ["runwire", "runwire:read"],
                "grant_types_supported": ["refresh_token", "client_credentials"],
                "response_types_supported": [],
                "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
                "revocation_endpoint_auth_methods_supported": ["none"],
            }
        )

    return router


def _required(parameters: dict[str, str], name: str) -> str:
    value = parameters.get(name, "")
    if not value:
        raise ProtocolError(f"The parameter {name} is missing.", field=name)
    return value


def _tokens(granted: Granted, *, status: int) -> Response:
    return _json(
        {
            "access_token": granted.access_token,
            "token_type": "Bearer",
            "expires_in": granted.expires_in,
            "refresh_token": granted.refresh_token,
            "user": granted.user,
        },
        status=status,
    )


def _json(content: dict[str, Any], *, status: int = 200, cache: str = "no-store") -> Response:
    body = msgspec.json.encode(content)
    return Response(body, status, media_type="application/json", headers={"cache-control": cache})
