"""Which other issuers' tokens are taken, and on what terms: configuration, read strictly. Pure.

One issuer, as in `runwire.toml`:

    [[issuers]]
    name = "company"
    issuer = "https://id.example.org/realms/main"
    audience = "runwire"
    algorithms = ["RS256"]
    client_id = "runwire-page"
    client_secret_file = "/run/secrets/company"
    may_create_users = true
    [issuers.claims]
    name = "preferred_username"
    roles = ["realm_access", "roles"]
    role_values = { "runwire-admins" = "admin" }
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["Claims", "Issuer", "is_usable_url", "read_issuers"]

_FAMILIES: Final = (("ES256", "ES384"), ("EdDSA",), ("RS256", "PS256"))
_ROLES: Final = ("user", "operator", "admin", "service")  # those of the auth service
_TYPES: Final = ("at+jwt", "JWT")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MOST: Final = 16  # issuers
_SECRET_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """How an issuer's claims become a name and roles of ours. A path is the names on the way down."""

    # what a person is called here
    name: tuple[str, ...] = ("preferred_username",)
    # a text or a list of texts; empty: an operator gives roles here, the issuer has no say
    roles: tuple[str, ...] = ()
    # the issuer's word for a role → ours; what is not named gives nothing
    role_values: Mapping[str, str] = field(default_factory=dict)
    # of everybody from there
    default_roles: tuple[str, ...] = ("user",)
    # claim → the only value with which anybody is let in, such as `hd = "example.org"` of Google
    required: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Another issuer, and what it is believed."""

    # in our URLs, and on the page's button
    name: str
    # its exact `iss`
    issuer: str
    # the `aud` of access tokens for us; None: its access tokens are not taken, people sign in by the page
    audience: str | None = None
    # of one family
    algorithms: tuple[str, ...] = ("ES256",)
    # `typ` of its access tokens; many say JWT and mean it
    token_types: tuple[str, ...] = ("at+jwt",)
    # where its keys are; None: as its discovery document says
    jwks_url: str | None = None
    # where it says what an opaque token is good for; None: opaque tokens are not taken
    introspection_url: str | None = None
    # our name there, for sign-in by the page and for introspection
    client_id: str | None = None
    # and the proof of it; None: a public client
    client_secret: str | None = field(default=None, repr=False)
    # asked for at sign-in
    scopes: tuple[str, ...] = ("openid", "profile")
    # what its claims mean here
    claims: Claims = field(default_factory=Claims)
    # whether people who were never here become users at their first contact
    may_create_users: bool = False
    # whether it may lie in a private network; else nobody's document can send us there
    allow_private_addresses: bool = False

    @property
    def is_loopback(self) -> bool:
        """Return whether it is on this machine, unencrypted: for development."""
        return self.issuer.startswith("http://")


def read_issuers(value: object) -> tuple[Issuer, ...]:
    """Read the setting `issuers`: a list of tables, or JSON that says the same.

    Raises:
        ValueError: names the issuer and the field, never a value that may be a secret.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError('write JSON: [{"name": …, "issuer": …}, …]') from None
    if not isinstance(value, list | tuple):
        raise ValueError("write a list of tables: [[issuers]]")  # noqa: TRY004 - what pydantic shows
    if len(value) > _MOST:
        raise ValueError(f"at most {_MOST} issuers")
    issuers = tuple(_read(number, table) for number, table in enumerate(value, 1))
    for attribute in ("name", "issuer"):
        seen = [getattr(one, attribute) for one in issuers]
        if twice := sorted({one for one in seen if seen.count(one) > 1}):
            raise ValueError(f"{attribute}: {twice[0]} is there twice")
    if sum(one.introspection_url is not None for one in issuers) > 1:
        # Nothing in an opaque token says whose it is, and one issuer must not see another's.
        raise ValueError("introspection_url: only one issuer can have it")
    return issuers


def is_usable_url(url: str, *, allows_loopback: bool) -> bool:
    """Return whether something may be asked there: https, or http on this machine where that is allowed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and not parts.fragment and "@" not in parts.netloc
    is_encrypted = parts.scheme == "https" or (parts.scheme == "http" and allows_loopback and _is_loopback(host))
    return bool(host) and is_plain and is_encrypted


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Table:
    """A table that is taken apart name by name, so that a misspelt one is left over."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: must be a table")  # noqa: TRY004 - what pydantic shows
        self.where = where
        self._left = dict(value)
        self._known: list[str] = []  # what was asked for

    def fault(self, name: str, sentence: str) -> ValueError:
        return ValueError(f"{self.where}: {name}: {sentence}")

    def take(self, name: str) -> Any:
        self._known.append(name)
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 1024 and value.isprintable()):
            raise self.fault(name, "must be a text")
        return value

    def texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one for one in value):
            raise self.fault(name, "must be a list of texts")
        return tuple(dict.fromkeys(value))

    def path(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self._left.get(name)
        if isinstance(value, str) and value:
            self._left[name] = [value]  # a claim's name may have dots: a path is a list
        return self.texts(name, default)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.fault(name, "must be true or false")
        return bool(value)

    def words(self, name: str) -> dict[str, str]:
        value = self.take(name) or {}
        if not isinstance(value, Mapping) or not all(isinstance(one, str) for pair in value.items() for one in pair):
            raise self.fault(name, "must be a table of texts")
        return dict(value)

    def end(self) -> None:
        if self._left:
            name = min(map(str, self._left))[:40]
            near = difflib.get_close_matches(name, self._known, n=1)
            meant = f" (did you mean `{near[0]}`?)" if near else ""
            raise ValueError(f"{self.where}: there is no {name} here{meant}")


def _read(number: int, value: object) -> Issuer:
    table = _Table(f"the {number}.", value)
    name = table.text("name")
    if name is None or not _NAME.fullmatch(name):
        raise table.fault("name", "1 to 32 lower-case letters, digits and -, for URLs")
    table.where = name
    issuer = Issuer(
        name=name,
        issuer=_address(table, "issuer") or "",
        audience=table.text("audience"),
        algorithms=_algorithms(table),
        token_types=_token_types(table),
        jwks_url=_address(table, "jwks_url"),
        introspection_url=_address(table, "introspection_url"),
        client_id=table.text("client_id"),
        client_secret=_secret(table),
        scopes=table.texts("scopes", ("openid", "profile")),
        claims=_claims(table),
        may_create_users=table.flag("may_create_users"),
        allow_private_addresses=table.flag("allow_private_addresses"),
    )
    table.end()
    _judge(table, issuer)
    return issuer


def _judge(table: _Table, issuer: Issuer) -> None:
    if not issuer.issuer:
        raise table.fault("issuer", "is missing: its exact `iss`, e.g. https://id.example.org/realms/main")
    if issuer.is_loopback and not issuer.allow_private_addresses:
        raise table.fault("allow_private_addresses", "must be true for an issuer on this machine")
    if not issuer.is_loopback and "http" in {
        urlsplit(url).scheme for url in (issuer.jwks_url, issuer.introspection_url) if url
    }:
        raise table.fault("issuer", "is https, so all its addresses must be")
    if issuer.audience is None and issuer.client_id is None:
        raise table.fault("audience", "set it for its access tokens, or client_id for sign-in by the page, or both")
    if issuer.audience is not None and issuer.audience == issuer.client_id:
        # Its ID tokens are for the client, and are no keys to anything: the audience tells the two apart.
        raise table.fault("audience", "must not be client_id; name an API or resource of its own there")
    if issuer.client_secret is not None and issuer.client_id is None:
        raise table.fault("client_id", "is missing, though there is a client_secret")
    if issuer.introspection_url is not None and (issuer.client_secret is None or issuer.audience is None):
        raise table.fault("introspection_url", "needs audience, client_id and client_secret")
    if issuer.client_id is not None and "openid" not in issuer.scopes:
        raise table.fault("scopes", "must have openid")


def _address(table: _Table, name: str) -> str | None:
    url = table.text(name)
    if url is not None and not is_usable_url(url, allows_loopback=True):
        raise table.fault(name, "must be https:// (http:// only on this machine, in development)")
    if url is not None and name == "issuer" and urlsplit(url).query:
        raise table.fault(name, "has no query")
    return url


def _algorithms(table: _Table) -> tuple[str, ...]:
    algorithms = table.texts("algorithms", ("ES256",))
    if not any(algorithms and set(algorithms) <= set(family) for family in _FAMILIES):
        raise table.fault("algorithms", "write some of one family: ES256 and ES384; EdDSA; RS256 and PS256")
    # RFC 9864 §2.2: the same, by the name that says the curve.
    return (*algorithms, "Ed25519") if algorithms == ("EdDSA",) else algorithms


def _token_types(table: _Table) -> tuple[str, ...]:
    types = table.texts("token_types", ("at+jwt",))
    if not types or not set(types) <= {*_TYPES, "none"}:
        raise table.fault("token_types", "write some of at+jwt, JWT, and none for tokens that do not say")
    return tuple("" if one == "none" else one.lower() for one in types)


def _secret(table: _Table) -> str | None:
    secret, file = table.text("client_secret"), table.text("client_secret_file")
    if secret is not None and file is not None:
        raise table.fault("client_secret_file", "set it or client_secret, not both")
    if file is None:
        return secret
    try:
        with Path(file).open(encoding="utf-8") as opened:
            secret = opened.read(_SECRET_BYTES).strip()
    except (OSError, UnicodeDecodeError):
        raise table.fault("client_secret_file", "cannot be read") from None
    if not secret or not secret.isprintable():
        raise table.fault("client_secret_file", "must have one line, the secret")
    return secret


def _claims(table: _Table) -> Claims:
    inner = _Table(f"{table.where}: claims", table.take("claims") or {})
    claims = Claims(
        name=inner.path("name", ("preferred_username",)),
        roles=inner.path("roles", ()),
        role_values=inner.words("role_values"),
        default_roles=inner.texts("default_roles", ("user",)),
        required=inner.words("required"),
    )
    inner.end()
    for name, roles in (("role_values", claims.role_values.values()), ("default_roles", claims.default_roles)):
        if unknown := sorted(set(roles) - set(_ROLES)):
            raise inner.fault(name, f"there is no role {unknown[0][:40]}; there are {', '.join(_ROLES)}")
    if claims.role_values and not claims.roles:
        raise inner.fault("roles", "is missing: the claim that role_values is about")
    return claims
