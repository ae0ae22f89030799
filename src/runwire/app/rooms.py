"""What each room is told of the settings."""

from __future__ import annotations

from urllib.parse import urlsplit

import runwire
from runwire.app.limits import memory_limit_bytes
from runwire.auth.client import AuthClientSettings
from runwire.auth.service.settings import AuthSettings
from runwire.gateway.app import GatewaySettings
from runwire.gateway.server import ServerSettings
from runwire.protocol.connection import ConnectionSettings
from runwire.runtime.upkeep import UpkeepSettings
from runwire.runtime.worker import WorkerSettings
from runwire.settings import Settings

__all__ = [
    "auth_client_settings",
    "auth_settings",
    "gateway_settings",
    "server_settings",
    "upkeep_settings",
    "worker_settings",
]


def auth_settings(settings: Settings, *, issuer: str, page_url: str, secret: str) -> AuthSettings:
    """Return the auth service's; `page_url` is where people find the page."""
    before = (settings.service_secret_before,) if settings.service_secret_before else ()
    return AuthSettings(
        issuer=issuer,
        page_url=page_url,
        issuers=settings.issuers,
        registration=settings.registration,
        version=runwire.__version__,
        service_secrets=(secret, *before),
        access_ttl_s=settings.access_ttl_s,
        refresh_ttl_s=settings.refresh_ttl_s,
    )


def auth_client_settings(settings: Settings, *, issuer: str, secret: str) -> AuthClientSettings:
    """Return those of its client."""
    return AuthClientSettings(
        issuer=issuer, version=runwire.__version__, service_secret=secret, issuers=settings.issuers
    )


def worker_settings(settings: Settings) -> WorkerSettings:
    """Return a worker's."""
    return WorkerSettings(
        max_runs=settings.max_runs,
        max_memory_bytes=memory_limit_bytes(settings),
        user_limit=settings.user_run_limit,
        deadline_s=settings.deadline_s,
        park_after_s=settings.park_after_s,
        grace_s=settings.cancel_grace_s,
        drain_s=settings.drain_s,
        blocked_warn_s=settings.blocked_warn_s,
        blocked_fail_s=settings.blocked_fail_s,
    )


def upkeep_settings(settings: Settings) -> UpkeepSettings:
    """Return the caretaker's."""
    return UpkeepSettings(
        compact_after_s=settings.compact_after_s,
        retention_days=settings.retention_days,
        purge_deleted_s=settings.purge_deleted_s,
    )


def gateway_settings(settings: Settings, url: str) -> GatewaySettings:
    """Return the gateway's; `url` is where it listens."""
    port = url.rpartition(":")[2]
    own = {url, f"http://localhost:{port}", f"http://127.0.0.1:{port}"}
    hosts: set[str] = set()
    if settings.public_url:
        own = {_origin(settings.public_url)}
    elif settings.environment == "development":
        # A page of another site, its name bent to this address, must not reach a developer's server.
        hosts = {"localhost", "127.0.0.1", "[::1]", settings.host}
    return GatewaySettings(
        server=f"runwire/{runwire.__version__}",
        connection=ConnectionSettings(ping_s=settings.ping_s, pong_s=settings.pong_s, stall_s=settings.slow_reader_s),
        allowed_origins=tuple(sorted(own | set(settings.allowed_origins))),
        allowed_hosts=tuple(sorted(hosts)),
        path_prefix=settings.path_prefix,
        max_loop_lag_s=settings.max_loop_lag_s,
        max_queued_runs=settings.max_queued_runs,
        max_queue_age_s=settings.max_queue_age_s,
        user_run_limit=settings.user_run_limit,
        listeners_per_user=settings.user_sockets,
        max_memory_bytes=memory_limit_bytes(settings),
        has_management_port=settings.management_port is not None,
    )


def server_settings(settings: Settings, *, takes_signals: bool) -> ServerSettings:
    """Return those of the server that listens."""
    return ServerSettings(
        host=settings.host,
        port=settings.port,
        trusted_proxies=settings.trusted_proxies,
        takes_signals=takes_signals,
        connections=settings.max_connections,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
