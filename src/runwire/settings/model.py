"""What an operator may set: the fields, each with its default, its bounds and one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from runwire.resilience.retry_budget import RATIO
from runwire.resilience.terms import TermsTable
from runwire.settings.values import (
    ROLES,
    SHARED,
    Addresses,
    AuthUrl,
    BreakerTerms,
    Collector,
    Databases,
    Headers,
    Issuers,
    Names,
    Origins,
    PathPrefix,
    PublicUrl,
    RedisUrl,
    Roles,
    Secret,
    shown_database,
    shown_redis,
)

__all__ = ["PREFIX", "Settings"]

PREFIX: Final = "RUNWIRE_"
_CENTURY_DAYS: Final = 36_500  # in ms still a number that every database takes
_CENTURY_S: Final = _CENTURY_DAYS * 86_400


class Settings(BaseSettings):
    """What an operator may set. `RUNWIRE_<NAME>` in the environment, `<name>` in `runwire.toml`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    environment: Literal["development", "test", "staging", "production"] = Field(
        "production", description="What this process is for; `runwire dev` makes it development."
    )
    secrets_dir: Path | None = Field(
        None, description="Folder whose files are named like settings and have their values, e.g. `service_secret`."
    )
    allow_unsafe: Names = Field(
        (), description="Rules that may be broken in production all the same; each is logged every hour."
    )
    data_dir: Path = Field(Path(".runwire"), description="Folder of the embedded database and its control socket.")
    database_url: Databases | None = Field(
        None,
        repr=False,
        description="`postgresql://…` (many servers) or `sqlite:///…`; unset: `runwire.db` in the data folder."
        " Several PostgreSQL: people are placed on them by hash; the order must never change.",
    )
    roles: Roles = Field(
        ("all",),
        description="What this process does: `all`, or some of `gateway`, `worker`, `auth` (several machines).",
    )
    auth_url: AuthUrl | None = Field(
        None,
        description="Where the auth service is reached by processes without that role, e.g. `https://auth.internal`.",
    )
    redis_url: RedisUrl | None = Field(
        None,
        repr=False,
        description="Redis or Valkey that carries hints between processes: `redis://…`; unset: the database does.",
    )
    redis_prefix: str = Field(
        "runwire", min_length=1, max_length=100, description="What the names of this deployment's channels begin with."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    management_port: int | None = Field(
        None, ge=0, le=65535, description="Port for health and metrics alone; unset: they are on `port`."
    )
    management_host: str = Field("127.0.0.1", description="Address to listen on for `management_port`.")
    public_url: PublicUrl | None = Field(
        None, description="How people reach the server, e.g. `https://agents.example.org`."
    )
    path_prefix: PathPrefix = Field("", description="Path below which a proxy serves Runwire, e.g. `/agents`.")
    allowed_origins: Origins = Field((), description="Origins besides the server's own that browsers may come from.")
    trusted_proxies: Addresses = Field((), description="Addresses whose X-Forwarded-* headers are believed.")
    agents: Names = Field((), description="Agents to serve: `file.py`, `module:attribute`; unset: [tool.runwire].")
    default_agent: str | None = Field(None, description="The agent that answers when a message names none.")
    with_conformance_agents: bool = Field(
        False, description="Serve the agents that `runwire check` asks too, beside your own; anybody may start them."
    )
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
    max_memory_mb: int | None = Field(
        None,
        ge=64,
        description="Memory of a process over which it takes nothing new, MiB; unset: nine tenths of its container's.",
    )
    user_sockets: int = Field(
        500, ge=1, description="Sockets and streams of one user at a time, at each gateway; one more is refused."
    )
    user_messages_per_minute: int | None = Field(
        None, ge=1, le=10_000, description="Messages that one user may send within a minute; unset: no limit."
    )
    key_messages_per_minute: int | None = Field(
        None, ge=1, le=10_000, description="Messages that may come with one API key within a minute; unset: no limit."
    )
    user_bytes_per_minute: int | None = Field(
        None,
        ge=65_536,
        description="Bytes that one user may send to a gateway within a minute, all frames together; unset: no limit.",
    )
    user_tokens_per_day: int | None = Field(
        None,
        ge=1,
        description="Tokens that one user's agents may report by `ctx.usage` within 24 hours; unset: no limit.",
    )
    user_cost_per_day: float | None = Field(
        None, gt=0, le=1e9, description="Cost that they may report within 24 hours; unset: no limit."
    )
    access_ttl_s: int = Field(300, ge=30, le=900, description="Life of an access token, seconds.")
    refresh_ttl_s: int = Field(30 * 86_400, ge=300, description="Life of a sign-in without use, seconds.")
    service_secret: Secret | None = Field(
        None, repr=False, description="Secret between backend and auth service; unset: made at start (embedded)."
    )
    service_secret_before: Secret | None = Field(
        None, repr=False, description="The secret that the auth service takes too, while it is being changed."
    )
    issuers: Issuers = Field(
        (), repr=False, description="Other issuers whose sign-ins are taken: tables `[[issuers]]`; see the how-to."
    )
    breakers: BreakerTerms = Field(
        TermsTable(),
        description="When circuit breakers open and close: tables `[breakers]`; see the how-to.",
    )
    retry_budget_ratio: float = Field(
        RATIO, ge=0, le=1, description="Retries of tools and steps, for each first call of the same."
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
    otel_endpoint: Collector | None = Field(
        None,
        description="Where traces go, OTLP over HTTP, e.g. `http://127.0.0.1:4318`; unset: there are none. Needs"
        " `runwire[otel]`.",
    )
    otel_headers: Headers | None = Field(
        None, repr=False, description="Headers sent with them: `name=value,…`, values URL-encoded, such as a key."
    )
    otel_content: bool = Field(
        False, description="Traces have what people and agents say, arguments and results of tools too."
    )
    otel_sample_ratio: float = Field(1.0, ge=0, le=1, description="Share of runs that are traced.")
    otel_service_name: str = Field(
        "runwire", min_length=1, max_length=100, description="What traces call this deployment (`service.name`)."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @model_validator(mode="after")
    def _has_room_for_each(self) -> Settings:
        if self.max_runs < len(self.storage_urls):
            # With less, one busy database could keep the others waiting.
            raise ValueError("max_runs: must be at least the number of databases in database_url")
        return self

    @property
    def active_roles(self) -> frozenset[str]:
        """Return what this process does; `all` is each of them."""
        return frozenset(ROLES if "all" in self.roles else self.roles)

    @property
    def shown_redis_url(self) -> str | None:
        """Return the URL of Redis as it may be shown: without who signs in there and with what."""
        return None if self.redis_url is None else shown_redis(self.redis_url)

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
        return self.storage_url.startswith(SHARED)

    @property
    def shown_urls(self) -> tuple[str, ...]:
        """Return the databases' URLs as they may be shown: short, without who signs in there and with what."""
        return tuple(map(shown_database, self.storage_urls))

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
