"""What the value of a setting looks like, and how much of it may be shown. Pure.

A value is read here from what an operator writes; what is wrong with one is said without repeating it.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from runwire.auth.issuers import Issuer, read_issuers
from runwire.resilience.terms import TermsTable, read_terms

__all__ = [
    "ROLES",
    "SHARED",
    "Addresses",
    "AuthUrl",
    "BreakerTerms",
    "Collector",
    "Databases",
    "Headers",
    "Issuers",
    "Names",
    "Origins",
    "PathPrefix",
    "PublicUrl",
    "RedisUrl",
    "Roles",
    "Secret",
    "hint",
    "shown_database",
    "shown_redis",
]

ROLES: Final = ("gateway", "worker", "auth")
SHARED: Final = ("postgresql://", "postgres://")  # databases that several servers may use at once
_REDIS: Final = (
    *("redis://", "redis+sentinel://", "redis+cluster://"),
    *("rediss://", "rediss+sentinel://", "rediss+cluster://", "unix://"),
)
_SHOWN: Final = re.compile(r"postgres(?:ql)?://(?:[^@/?#]*@)?([\w.,:\[\]-]*)(/[\w.%-]*)?(?:\?[^@]*)?")
_SHOWN_REDIS: Final = re.compile(
    r"(rediss?|rediss?\+sentinel|rediss?\+cluster|unix)://(?:[^@/?#]*@)?([\w.,:\[\]/-]*)(?:\?[^@]*)?"
)
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[!-~]+")  # RFC 9110 §5.1, W3C Baggage §3.3.1.3
_BETWEEN_URLS: Final = re.compile(r"\s+(?=[a-z]+://)")  # not every space: the path of a data file may have some


def hint(name: str, candidates: Iterable[str]) -> str:
    """Return what a misspelt name may have been meant to be, as a piece of a sentence; empty: nothing is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def shown_database(url: str) -> str:
    """Return a database's URL as it may be shown: short, without who signs in there and with what."""
    if not url.startswith(SHARED):
        return url.replace(str(Path.home()), "~", 1)
    found = _SHOWN.fullmatch(url)
    # What is not understood wholly is not shown in part: it may be a piece of the password.
    return f"postgresql://{found[1]}{found[2] or ''}" if found else "postgresql://…"


def shown_redis(url: str) -> str:
    """Return the URL of Redis as it may be shown: without who signs in there and with what."""
    found = _SHOWN_REDIS.fullmatch(url)
    return f"{found[1]}://{found[2]}" if found else f"{url.partition('://')[0]}://…"


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _split_urls(value: object) -> object:
    return tuple(_BETWEEN_URLS.split(value.strip())) if isinstance(value, str) else value


def _read_issuers(value: object) -> object:
    is_read = isinstance(value, tuple) and all(isinstance(one, Issuer) for one in value)
    return value if is_read else read_issuers(value)


def _are_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2 or "*" in origin:
            raise ValueError("write each origin as scheme://host[:port], without a path and without *")
    return tuple(_normal(origin) for origin in value)


def _are_databases(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not all(url.startswith((*SHARED, "sqlite://", "memory://")) for url in value):
        raise ValueError("write postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:///abs/path.db")
    if len(value) > 1:
        if not all(url.startswith(SHARED) for url in value):
            raise ValueError("several databases must all be PostgreSQL: postgresql://…")
        _refuse_twins(value)
    return value


def _refuse_twins(urls: tuple[str, ...]) -> None:
    """Refuse a database that is named twice, whoever signs in there. Raises ValueError."""
    seen: dict[str, int] = {}
    for number, url in enumerate(urls, 1):
        found = _SHOWN.fullmatch(url)
        name = f"{found[1].lower().removesuffix(':5432')}{found[2] or ''}" if found else url
        if name in seen:
            raise ValueError(f"the {number}. database is the {seen[name]}. again; name each once")
        seen[name] = number


def _are_roles(value: tuple[str, ...]) -> tuple[str, ...]:
    for role in value:
        if role not in (*ROLES, "all"):
            # What is like none of them is not repeated: it may be anything.
            meant = hint(role, [*ROLES, "all"])
            named = f"role `{role[:40]}`{meant}" if meant else "such role"
            raise ValueError(f"there is no {named}; write all, or some of gateway, worker, auth")
    if not value or ("all" in value and set(value) != {"all"}):
        raise ValueError("write all alone, or some of gateway, worker, auth")
    return tuple(dict.fromkeys(value))


def _is_service(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write where the auth service listens, e.g. https://auth.internal:8443")
    if "@" in parts.netloc:
        raise ValueError("no user and password here; service_secret is what proves a gateway")
    return _normal(value)


def _is_redis(value: str) -> str:
    if not value.startswith(_REDIS):
        raise ValueError(
            "write redis://:PASSWORD@HOST:PORT/0, rediss://… (TLS), redis+sentinel://HOST:PORT,HOST:PORT/NAME,"
            " redis+cluster://HOST:PORT or unix:///path/of/the.sock"
        )
    return value


def _fits_a_header(value: str) -> str:
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise ValueError("use ASCII letters, digits and signs without spaces: it goes into a header")
    return value


def _is_url(value: str) -> str:
    if not value.startswith(("http://", "https://")) or not urlsplit(value).netloc:
        raise ValueError("write it as people type it, e.g. https://agents.example.org")
    return _normal(value)


def _is_collector(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write where the collector takes OTLP over HTTP, e.g. https://collector.internal:4318")
    if "@" in parts.netloc:
        raise ValueError("no user and password here; otel_headers may have an authorization")
    return _normal(value)


def _are_headers(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_HEADER.fullmatch(header) for header in value):
        raise ValueError("write each as name=value, with %20 for a space and %2C for a comma in the value")
    return value


def _are_addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    for address in value:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            raise ValueError("write each as an IP address or network, e.g. 10.0.0.0/8") from None
    return value


def _is_prefix(value: str) -> str:
    if value and (not value.startswith("/") or value.endswith("/")):
        raise ValueError("must begin with / and not end with it, e.g. /agents")
    return value


def _normal(url: str) -> str:
    """Return a URL's origin as browsers write it (RFC 6454 §6.1): lower case, no default port; the path stays."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    is_default = parts.port is None or (parts.scheme, parts.port) in (("http", 80), ("https", 443))
    return f"{parts.scheme}://{host}{'' if is_default else f':{parts.port}'}{parts.path.rstrip('/')}"


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Roles = Annotated[Names, AfterValidator(_are_roles)]
Origins = Annotated[Names, AfterValidator(_are_origins)]
Addresses = Annotated[Names, AfterValidator(_are_addresses)]
Databases = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_urls), AfterValidator(_are_databases)]
BreakerTerms = Annotated[TermsTable, NoDecode, BeforeValidator(read_terms)]
Issuers = Annotated[tuple[Issuer, ...], NoDecode, BeforeValidator(_read_issuers)]
Collector = Annotated[str, AfterValidator(_is_collector)]
Headers = Annotated[Names, AfterValidator(_are_headers)]
AuthUrl = Annotated[str, AfterValidator(_is_service)]
RedisUrl = Annotated[str, AfterValidator(_is_redis)]
PublicUrl = Annotated[str, AfterValidator(_is_url)]
PathPrefix = Annotated[str, AfterValidator(_is_prefix)]
Secret = Annotated[str, Field(min_length=32), AfterValidator(_fits_a_header)]
