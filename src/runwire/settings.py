"""The only reader of the environment: defaults → `runwire.toml` → `RUNWIRE_*` → flags.

Loaded once, at start, into one frozen value. Every fault is reported, not only the first; a fault
names the setting and where it came from, never the value (it may be a secret).
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from runwire.auth.issuers import Issuer, read_issuers
from runwire.errors import ConfigurationError

__all__ = ["ClientDefaults", "Loaded", "Settings", "client_defaults", "load", "no_color"]

_PREFIX = "RUNWIRE_"
_CONFIG_FILE = "runwire.toml"
# Read by the verbs that talk to a server, and by the dependencies' own conventions; not settings of a server.
_CLIENT_NAMES = frozenset({"RUNWIRE_URL", "RUNWIRE_TOKEN"})
_CENTURY_DAYS = 36_500  # in ms still a number that every database takes
_CENTURY_S = _CENTURY_DAYS * 86_400
_SHOWN = re.compile(r"postgres(?:ql)?://(?:[^@/?#]*@)?([\w.,:\[\]-]*)(/[\w.%-]*)?(?:\?[^@]*)?")
_SHARED = ("postgresql://", "postgres://")
_ROLES = ("gateway", "worker", "auth")
_REDIS = ("redis://", "rediss://", "redis+sentinel://", "redis+cluster://", "unix://")
_SHOWN_REDIS = re.compile(
    r"(redis|rediss|redis\+sentinel|redis\+cluster|unix)://(?:[^@/?#]*@)?([\w.,:\[\]/-]*)(?:\?[^@]*)?"
)
_NEEDS = {
    "database_url": "share a database: set postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    "auth_url": "must know where the auth service listens: set it, e.g. https://auth.internal:8443",
    "service_secret": "prove gateway and auth service to each other: set the same for both, 32 characters or more",
    "public_url": "must agree who signs people in: set the same for all, e.g. https://agents.example.org",
}
_BETWEEN_URLS = re.compile(r"\s+(?=[a-z]+://)")  # not every space: the path of a data file may have some
_LIST = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What an operator may set. `RUNWIRE_<NAME>` in the environment, `<name>` in `runwire.toml`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    environment: Literal["development", "test", "staging", "production"] = Field(
        "production", description="What this process is for; `runwire dev` makes it development."
    )
    data_dir: Path = Field(Path(".runwire"), description="Folder of the embedded database and its control socket.")
    database_url: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None,
        repr=False,
        description="`postgresql://…` (many servers) or `sqlite:///…`; unset: `runwire.db` in the data folder."
        " Several PostgreSQL: people are placed on them by hash; the order must never change.",
    )
    roles: _LIST = Field(
        ("all",),
        description="What this process does: `all`, or some of `gateway`, `worker`, `auth` (several machines).",
    )
    auth_url: str | None = Field(
        None,
        description="Where the auth service is reached by processes without that role, e.g. `https://auth.internal`.",
    )
    redis_url: str | None = Field(
        None,
        repr=False,
        description="Redis or Valkey that carries hints between processes: `redis://…`; unset: the database does.",
    )
    redis_prefix: str = Field(
        "runwire", min_length=1, max_length=100, description="What the names of this deployment's channels begin with."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    public_url: str | None = Field(None, description="How people reach the server, e.g. `https://agents.example.org`.")
    path_prefix: str = Field("", description="Path below which a proxy serves Runwire, e.g. `/agents`.")
    allowed_origins: _LIST = Field((), description="Origins besides the server's own that browsers may come from.")
    trusted_proxies: _LIST = Field((), description="Addresses whose X-Forwarded-* headers are believed.")
    agents: _LIST = Field((), description="Agents to serve: `file.py`, `module:attribute`; unset: [tool.runwire].")
    default_agent: str | None = Field(None, description="The agent that answers when a message names none.")
    max_runs: int = Field(100, ge=1, le=10_000, description="Runs at a time in this process.")
    user_run_limit: int = Field(10, ge=1, description="Active runs at a time of one user.")
    deadline_s: float = Field(600.0, gt=0, description="Running time after which a run fails, seconds.")
    lease_s: float = Field(
        6.0,
        ge=3,
        le=300,
        description="How long after its last sign of life a server's runs go to another (PostgreSQL), seconds.",
    )
    agent_absent_s: float = Field(
        60.0,
        ge=1,
        le=3_600,
        description="How long a run waits when no worker has its agent, before it ends (PostgreSQL), seconds.",
    )
    park_after_s: float = Field(
        10.0, ge=0, le=_CENTURY_S, description="Waiting time after which a run is put aside, its code unwound, seconds."
    )
    cancel_grace_s: float = Field(5.0, gt=0, description="How long cancelled code may clean up, seconds.")
    drain_s: float = Field(30.0, ge=0, description="How long runs may finish when the server stops, seconds.")
    blocked_warn_s: float = Field(2.0, gt=0, description="A loop blocked this long is reported, seconds.")
    blocked_fail_s: float = Field(30.0, gt=0, description="A loop blocked this long ends the run, seconds.")
    ping_s: float = Field(25.0, gt=0, description="Time between pings on a socket, seconds.")
    pong_s: float = Field(10.0, gt=0, description="Time a client has to answer a ping, seconds.")
    slow_reader_s: float = Field(20.0, gt=0, description="Unsent bytes not falling this long end the socket, seconds.")
    max_connections: int = Field(10_000, ge=1, description="TCP connections at a time; one more is answered 503.")
    max_loop_lag_s: float | None = Field(
        None,
        gt=0,
        description="Lag of a gateway's event loop over which it takes nothing new, seconds; unset: no limit.",
    )
    max_queued_runs: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="Runs of a database that wait for a worker, over which gateways take no new message.",
    )
    max_queue_age_s: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="How long an agent's oldest run may wait for a worker; over it, it gets no new message, seconds.",
    )
    access_ttl_s: int = Field(300, ge=30, le=900, description="Life of an access token, seconds.")
    refresh_ttl_s: int = Field(30 * 86_400, ge=300, description="Life of a sign-in without use, seconds.")
    service_secret: str | None = Field(
        None, min_length=32, description="Secret between backend and auth service; unset: made at start (embedded)."
    )
    service_secret_before: str | None = Field(
        None, min_length=32, description="The secret that the auth service takes too, while it is being changed."
    )
    issuers: Annotated[tuple[Issuer, ...], NoDecode] = Field(
        (), repr=False, description="Other issuers whose sign-ins are taken: tables `[[issuers]]`; see the how-to."
    )
    registration: Literal["off", "invite", "open"] = Field(
        "off", description="Who may register: nobody, whoever has an invitation, everybody."
    )
    compact_after_s: float = Field(
        60.0,
        ge=0,
        le=_CENTURY_S,
        description="How long after the end of a run its deltas are kept, seconds; whole messages stay.",
    )
    retention_days: float | None = Field(
        None,
        gt=0,
        le=_CENTURY_DAYS,
        description="How long ended runs are kept, days; unset: for ever. The last one of a thread stays.",
    )
    purge_deleted_s: float = Field(
        86_400.0,
        ge=0,
        le=_CENTURY_S,
        description="How long what a deleted thread leaves stays in the database, seconds.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("roles", "allowed_origins", "trusted_proxies", "agents", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("issuers", mode="before")
    @classmethod
    def _read_issuers(cls, value: object) -> object:
        is_read = isinstance(value, tuple) and all(isinstance(one, Issuer) for one in value)
        return value if is_read else read_issuers(value)

    @field_validator("database_url", mode="before")
    @classmethod
    def _split_urls(cls, value: object) -> object:
        return tuple(_BETWEEN_URLS.split(value.strip())) if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2 or "*" in origin:
                raise ValueError("write each origin as scheme://host[:port], without a path and without *")
        return tuple(_normal(origin) for origin in value)

    @field_validator("database_url")
    @classmethod
    def _are_databases(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return value
        if not value or not all(url.startswith((*_SHARED, "sqlite://", "memory://")) for url in value):
            raise ValueError("write postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:///abs/path.db")
        if len(value) > 1:
            if not all(url.startswith(_SHARED) for url in value):
                raise ValueError("several databases must all be PostgreSQL: postgresql://…")
            _refuse_twins(value)
        return value

    @field_validator("roles")
    @classmethod
    def _are_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for role in value:
            if role not in (*_ROLES, "all"):
                hint = _hint(role, [*_ROLES, "all"])
                raise ValueError(f"there is no role `{role[:40]}`{hint}; write all, or some of gateway, worker, auth")
        if not value or ("all" in value and set(value) != {"all"}):
            raise ValueError("write all alone, or some of gateway, worker, auth")
        return tuple(dict.fromkeys(value))

    @field_validator("auth_url")
    @classmethod
    def _is_service(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("write where the auth service listens, e.g. https://auth.internal:8443")
            if "@" in parts.netloc:
                raise ValueError("no user and password here; service_secret is what proves a gateway")
        return _normal(value) if value else value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(_REDIS):
            raise ValueError(
                "write redis://:PASSWORD@HOST:PORT/0, rediss://… (TLS), redis+sentinel://HOST:PORT,HOST:PORT/NAME,"
                " redis+cluster://HOST:PORT or unix:///path/of/the.sock"
            )
        return value

    @field_validator("service_secret", "service_secret_before")
    @classmethod
    def _fits_a_header(cls, value: str | None) -> str | None:
        if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
            raise ValueError("use ASCII letters, digits and signs without spaces: it goes into a header")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith(("http://", "https://")) or not urlsplit(value).netloc):
            raise ValueError("write it as people type it, e.g. https://agents.example.org")
        return _normal(value) if value else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                raise ValueError("write each as an IP address or network, e.g. 10.0.0.0/8") from None
        return value

    @field_validator("path_prefix")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.endswith("/")):
            raise ValueError("must begin with / and not end with it, e.g. /agents")
        return value

    @model_validator(mode="after")
    def _has_room_for_each(self) -> Settings:
        if self.max_runs < len(self.storage_urls):
            # With less, one busy database could keep the others waiting.
            raise ValueError("max_runs: must be at least the number of databases in database_url")
        return self

    @property
    def active_roles(self) -> frozenset[str]:
        """Return what this process does; `all` is each of them."""
        return frozenset(_ROLES if "all" in self.roles else self.roles)

    @property
    def shown_redis_url(self) -> str | None:
        """Return the URL of Redis as it may be shown: without who signs in there and with what."""
        if self.redis_url is None:
            return None
        found = _SHOWN_REDIS.fullmatch(self.redis_url)
        return f"{found[1]}://{found[2]}" if found else f"{self.redis_url.partition('://')[0]}://…"

    @property
    def storage_urls(self) -> tuple[str, ...]:
        """Return the databases' URLs, absolute, in the order that says who is placed where."""
        return self.database_url or (f"sqlite://{quote(str((self.data_dir / 'runwire.db').absolute()))}",)

    @property
    def storage_url(self) -> str:
        """Return the URL of the first database: the only one, or the one that has everybody's accounts."""
        return self.storage_urls[0]

    @property
    def is_shared(self) -> bool:
        """Return whether several servers may use the database at once."""
        return self.storage_url.startswith(_SHARED)

    @property
    def shown_urls(self) -> tuple[str, ...]:
        """Return the databases' URLs as they may be shown: short, without who signs in there and with what."""
        return tuple(map(_shown, self.storage_urls))

    @property
    def shown_url(self) -> str:
        """Return the first database's URL as it may be shown."""
        return self.shown_urls[0]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what `load` hands over: layering is decided there, once."""
        return (init_settings,)


def _shown(url: str) -> str:
    if not url.startswith(_SHARED):
        return url.replace(str(Path.home()), "~", 1)
    found = _SHOWN.fullmatch(url)
    # What is not understood wholly is not shown in part: it may be a piece of the password.
    return f"postgresql://{found[1]}{found[2] or ''}" if found else "postgresql://…"


def _refuse_twins(urls: tuple[str, ...]) -> None:
    """Refuse a database that is named twice, whoever signs in there. Raises ValueError."""
    seen: dict[str, int] = {}
    for number, url in enumerate(urls, 1):
        found = _SHOWN.fullmatch(url)
        name = f"{found[1].lower().removesuffix(':5432')}{found[2] or ''}" if found else url
        if name in seen:
            raise ValueError(f"the {number}. database is the {seen[name]}. again; name each once")
        seen[name] = number


def _normal(url: str) -> str:
    """Return a URL's origin as browsers write it (RFC 6454 §6.1): lower case, no default port; the path stays."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    is_default = parts.port is None or (parts.scheme, parts.port) in (("http", 80), ("https", 443))
    return f"{parts.scheme}://{host}{'' if is_default else f':{parts.port}'}{parts.path.rstrip('/')}"


class Loaded:
    """The settings and where each value came from.

    Args:
        settings: the frozen values.
        sources: setting name → `default`, a file's path, a variable's name or a flag.
    """

    def __init__(self, settings: Settings, sources: Mapping[str, str]) -> None:
        self.settings = settings
        self.sources = dict(sources)


class ClientDefaults:
    """Where the verbs that talk to a server find it: `RUNWIRE_URL`, `RUNWIRE_TOKEN`."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self.url = url
        self.token = token


def client_defaults(environ: Mapping[str, str] | None = None) -> ClientDefaults:
    """Read the environment of `run`, `tail`, `replay` and `check`."""
    env = _environ(environ)
    return ClientDefaults(env.get("RUNWIRE_URL") or None, env.get("RUNWIRE_TOKEN") or None)


def no_color(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the person asked for no colour (no-color.org)."""
    return bool(_environ(environ).get("NO_COLOR"))


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    serves: bool = True,
) -> Loaded:
    """Load the settings.

    Args:
        flags: values given on the command line; None values are not set.
        environ: the environment, for tests.
        config_file: an explicit file, which must exist; else `runwire.toml` of the working folder if there.
        serves: whether a server is to be started with them. Else nobody is put at risk by what would be unsafe to
            serve, and a command beside a development server must not be refused what that server was allowed.

    Raises:
        ConfigurationError: every fault at once.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    layers = [
        _from_file(config_file, faults),
        _from_environment(_environ(environ), faults),
        {name: (value, "the command line") for name, value in (flags or {}).items() if value is not None},
    ]
    for layer in layers:
        for name, (value, source) in layer.items():
            values[name], sources[name] = value, source
    wrong: set[str] = set()
    settings: Settings | None = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        faults += [_sentence(fault, sources) for fault in error.errors()]
        wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
        # The others are judged beside each other all the same, so that all faults are there at once.
        with contextlib.suppress(ValidationError):
            settings = Settings(**{name: value for name, value in values.items() if name not in wrong})
    if serves and settings:
        faults += [fault for names, fault in _unfit(settings, sources) if not wrong & {*names}]
    if faults or settings is None:
        raise ConfigurationError(faults)
    return Loaded(settings, sources)


def _unfit(settings: Settings, sources: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """Say what must not be served so: (the settings that it is about, the fault)."""
    faults: list[tuple[tuple[str, ...], str]] = []
    roles = settings.active_roles
    named = f"roles {', '.join(settings.roles)} (from {sources['roles']})"
    if settings.environment not in ("development", "test"):
        origins = settings.allowed_origins
        if any(origin.startswith("http://") and urlsplit(origin).hostname != "localhost" for origin in origins):
            sentence = "allowed_origins: http origins are refused outside development; use https"
            faults.append((("allowed_origins",), sentence))
        for issuer in settings.issuers:
            if issuer.is_loopback:
                sentence = f"issuers: {issuer.name}: issuer: http is refused outside development; use https"
                faults.append((("issuers",), sentence))
    if len(roles) == len(_ROLES):
        return faults
    needed = {"database_url": settings.is_shared, "auth_url": True, "service_secret": True, "public_url": True}
    if {"gateway", "auth"} & roles and not {"gateway", "auth"} <= roles:
        # They are two processes then, which have to agree on who signs in where and by which proof.
        needed |= {"service_secret": settings.service_secret is not None, "public_url": settings.public_url is not None}
        needed["auth_url"] = settings.auth_url is not None or "auth" in roles
    elif "gateway" in roles and settings.environment not in ("development", "test"):
        needed["public_url"] = settings.public_url is not None
    faults += [
        ((name, "roles"), f"{name}: {named} {_NEEDS[name]}.") for name, is_there in needed.items() if not is_there
    ]
    return faults


def _environ(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ  # noqa: TID251 - the one reader


def _from_file(path: Path | None, faults: list[str]) -> dict[str, tuple[Any, str]]:
    file = path or Path(_CONFIG_FILE)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is not None:
            faults.append(f"{path}: no such file; create it or drop --config.")
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{file}: cannot be read as TOML ({error}).")
        return {}
    known: dict[str, tuple[Any, str]] = {}
    for name, value in table.items():
        if name in Settings.model_fields:
            known[name] = (tuple(value) if isinstance(value, list) else value, str(file))
        else:
            faults.append(f"{file}: unknown setting `{name}`{_hint(name, list(Settings.model_fields))}.")
    return known


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> dict[str, tuple[Any, str]]:
    names = {f"{_PREFIX}{name.upper()}": name for name in Settings.model_fields}
    known: dict[str, tuple[Any, str]] = {}
    for variable, value in environ.items():
        if not variable.startswith(_PREFIX) or variable in _CLIENT_NAMES:
            continue
        if variable not in names:
            # A misspelt variable would silently leave a default in force.
            faults.append(f"{variable}: unknown variable{_hint(variable, list(names))}.")
        elif not value.strip():
            faults.append(f"{variable}: is empty; give it a value or unset it.")
        else:
            known[names[variable]] = (value, variable)
    return known


def _hint(name: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(name, candidates, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def _sentence(fault: Any, sources: Mapping[str, str]) -> str:
    where = ".".join(str(part) for part in cast("tuple[object, ...]", fault["loc"]))
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    source = sources.get(where.split(".")[0], "default")
    return f"{where} (from {source}): {message}"
