"""The OpenAPI document of the auth service: each route that leads here from outside, its bodies, answers and refusals.

FastAPI describes paths and queries; bodies and answers are by the types that read and write them. The routes below
`/internal` are between this service and gateways, and in no document.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from runwire.auth.service import admin_shapes as admin
from runwire.auth.service import own_shapes as own
from runwire.auth.service.accounts import Profile, ShownSigningKey
from runwire.auth.service.requests import SignIn
from runwire.protocol.openapi import Problem, documented, schemas

__all__ = ["describe"]


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What signing in and refreshing give (RFC 6749 §5.1)."""

    access_token: str
    token_type: str
    expires_in: int  # s
    refresh_token: str | msgspec.UnsetType = msgspec.UNSET  # not of a service
    user: str | msgspec.UnsetType = msgspec.UNSET
    scope: str | msgspec.UnsetType = msgspec.UNSET


class TokenForm(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /auth/token`: which parameters are needed depends on the first one (RFC 6749 §4.4, §6)."""

    grant_type: str
    refresh_token: str | msgspec.UnsetType = msgspec.UNSET
    client_id: str | msgspec.UnsetType = msgspec.UNSET
    client_secret: str | msgspec.UnsetType = msgspec.UNSET
    scope: str | msgspec.UnsetType = msgspec.UNSET


class PresentedForm(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /auth/revoke` and `/auth/introspect`."""

    token: str
    token_type_hint: str | msgspec.UnsetType = msgspec.UNSET


class LogoutForm(msgspec.Struct, frozen=True, kw_only=True):
    """OpenID Connect Back-Channel Logout 1.0 §2.5."""

    logout_token: str


class Introspected(msgspec.Struct, frozen=True, kw_only=True):
    """What a token is good for (RFC 7662 §2.2); more members if it is active."""

    active: bool


class Jwks(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys (RFC 7517 §5)."""

    keys: list[dict[str, Any]]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What this service offers (RFC 8414 §2)."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    grant_types_supported: list[str]
    response_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]


class IssuerButton(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer that people can sign in by."""

    name: str


class IssuerPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /auth/external`."""

    issuers: list[IssuerButton]


def _page() -> dict[str, Any]:
    """Describe a route that people come to with their browser: it leads on, or says in words why not."""
    described = documented(returns=None, status=303, also=(401, 403, 404), is_public=True)
    for said in described["responses"].values():
        if "content" in said:
            said["content"] = {"text/html": {"schema": {"type": "string"}}, **said["content"]}
    return described


_USER: Final = "/auth/users/{user}"
_ROUTES: Final[dict[str, dict[str, Any]]] = {
    "GET /.well-known/jwks.json": documented(returns=Jwks, is_public=True),
    "GET /.well-known/oauth-authorization-server": documented(returns=Metadata, is_public=True),
    "POST /auth/sessions": documented(body=SignIn, returns=Tokens, status=201, also=(401, 403), is_public=True),
    "POST /auth/register": documented(
        body=own.RegisterBody, returns=Tokens, status=201, also=(401, 403, 409), is_public=True
    ),
    "GET /auth/sessions": documented(returns=own.OwnSessionPage, also=(403,)),
    "DELETE /auth/sessions": documented(returns=admin.SignedOut, also=(403,)),
    "DELETE /auth/sessions/{session}": documented(returns=None, status=204, also=(403, 404)),
    "DELETE /auth/sessions/current": documented(returns=None, status=204),
    "POST /auth/password": documented(body=own.PasswordBody, returns=None, status=204, also=(403,)),
    "POST /auth/password/reset": documented(
        body=own.PasswordResetBody, returns=None, status=204, also=(401,), is_public=True
    ),
    "GET /auth/keys": documented(returns=own.KeyPage, also=(403,)),
    "POST /auth/keys": documented(body=own.KeyBody, returns=own.MadeKey, status=201, also=(403, 409)),
    "DELETE /auth/keys/{key}": documented(returns=None, status=204, also=(403, 404)),
    "POST /auth/token": documented(form=TokenForm, returns=Tokens, also=(401,), is_public=True),
    "POST /auth/revoke": documented(form=PresentedForm, returns=None, is_public=True),
    "POST /auth/introspect": documented(form=PresentedForm, returns=Introspected, also=(404,)),
    "GET /auth/external": documented(returns=IssuerPage, is_public=True),
    "GET /auth/external/{name}/start": _page(),
    "GET /auth/external/{name}/callback": _page(),
    "POST /auth/external/{name}/backchannel": documented(form=LogoutForm, returns=None, also=(404,), is_public=True),
    "GET /auth/users": documented(returns=admin.UserPage, also=(403,)),
    "POST /auth/users": documented(body=admin.UserBody, returns=admin.MadeUser, status=201, also=(403, 409)),
    f"GET {_USER}": documented(returns=Profile, also=(403, 404)),
    f"DELETE {_USER}": documented(returns=None, status=204, also=(403, 404, 409)),
    f"GET {_USER}/sessions": documented(returns=admin.SessionPage, also=(403, 404)),
    f"POST {_USER}/disable": documented(returns=admin.User, also=(403, 404, 409)),
    f"POST {_USER}/enable": documented(returns=admin.User, also=(403, 404)),
    f"POST {_USER}/roles": documented(body=admin.RolesBody, returns=admin.User, also=(403, 404, 409)),
    f"POST {_USER}/reset": documented(body=admin.ResetBody, returns=admin.Reset, status=201, also=(403, 404)),
    f"POST {_USER}/sign-out": documented(body=admin.SignOutBody, returns=admin.SignedOut, also=(403, 404)),
    "GET /auth/invites": documented(returns=admin.InvitePage, also=(403,)),
    "POST /auth/invites": documented(body=admin.InviteBody, returns=admin.MadeInvite, status=201, also=(403,)),
    "DELETE /auth/invites/{invite}": documented(returns=None, status=204, also=(403, 404)),
    "GET /auth/signing-keys": documented(returns=admin.SigningKeyPage, also=(403,)),
    "POST /auth/signing-keys": documented(returns=ShownSigningKey, status=201, also=(403, 409)),
    "DELETE /auth/signing-keys/{kid}": documented(returns=None, status=204, also=(403, 404)),
    "GET /auth/audit": documented(returns=admin.AuditedPage, also=(403,)),
}
_TYPES: Final = (
    Introspected,
    IssuerPage,
    Jwks,
    LogoutForm,
    Metadata,
    PresentedForm,
    Problem,
    Profile,
    ShownSigningKey,
    SignIn,
    TokenForm,
    Tokens,
    admin.AuditedPage,
    admin.InviteBody,
    admin.InvitePage,
    admin.MadeInvite,
    admin.MadeUser,
    admin.Reset,
    admin.ResetBody,
    admin.RolesBody,
    admin.SessionPage,
    admin.SignOutBody,
    admin.SignedOut,
    admin.SigningKeyPage,
    admin.User,
    admin.UserBody,
    admin.UserPage,
    own.KeyBody,
    own.KeyPage,
    own.MadeKey,
    own.OwnSessionPage,
    own.PasswordBody,
    own.PasswordResetBody,
    own.RegisterBody,
)


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the auth service.

    Raises:
        KeyError: a route is not described.
    """
    if app.openapi_schema:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    paths = {path: said for path, said in document["paths"].items() if not path.startswith("/internal/")}
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation.update(_ROUTES[f"{method.upper()} {path}"], tags=["identity"])
    document["paths"] = paths
    document["components"] = {
        "schemas": schemas(_TYPES),
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    }
    document["security"] = [{"bearer": []}]
    app.openapi_schema = document
    return document
