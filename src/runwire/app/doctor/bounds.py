"""What is promised within which time, who is limited to what, and which settings say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runwire.app.doctor.finding import Finding, fine, warning
from runwire.app.doctor.subject import Subject
from runwire.auth.follower import FollowSettings
from runwire.resilience.memory import container_limit_bytes
from runwire.settings import Settings

__all__ = ["examine_bounds", "examine_limits"]

_DAY_S: Final = 86_400
_IDLE_S: Final = 60.0  # after which nginx and most balancers cut a connection that says nothing
_LIMITS: Final = (
    *("user_messages_per_minute", "key_messages_per_minute", "user_bytes_per_minute"),
    *("user_tokens_per_day", "user_cost_per_day"),
)


async def examine_bounds(subject: Subject) -> list[Finding]:
    """Say how soon what happens, at the latest."""
    return list(_bounds(subject.settings, subject.roles))


def _bounds(settings: Settings, roles: frozenset[str]) -> Iterator[Finding]:
    stale_s = FollowSettings().expired_s
    yield fine(
        "withdrawal",
        f"reaches sockets and runs within 1 s; without the database sockets close after {stale_s:.0f} s;"
        f" tokens end after {settings.access_ttl_s} s (access_ttl_s),"
        f" unused sign-ins after {settings.refresh_ttl_s / _DAY_S:.3g} days (refresh_ttl_s)",
    )
    if "worker" in roles:
        takeover = f"within {settings.lease_s:g} + 2 s (lease_s)" if settings.is_shared else "at the next start"
        yield fine("takeover", f"runs of a worker that died go on {takeover}")
        yield fine(
            "runs",
            f"end after {settings.deadline_s:g} s of work (deadline_s); cancelled code may clean up for"
            f" {settings.cancel_grace_s:g} s (cancel_grace_s); {settings.max_runs} at a time (max_runs)",
        )
    yield fine("drain", f"runs may finish for {settings.drain_s:g} s (drain_s): let the supervisor wait longer")
    if "gateway" in roles and settings.ping_s >= _IDLE_S:
        fix = f"set ping_s below {_IDLE_S:.0f}"
        yield warning("ping_s", f"{settings.ping_s:g} s: proxies cut connections that are silent so long", fix)


async def examine_limits(subject: Subject) -> list[Finding]:
    """Say what people and processes are limited to."""
    return list(_limits(subject.settings))


def _limits(settings: Settings) -> Iterator[Finding]:
    limits = [f"{name} {value:,g}" for name in _LIMITS if (value := getattr(settings, name)) is not None]
    by = "counted in Redis" if settings.is_shared and settings.redis_url else "counted by each process for itself"
    own = f"{', '.join(limits)}, {by}" if limits else "none of their own"
    yield fine("limits", f"{own}; user_sockets {settings.user_sockets:,}, user_run_limit {settings.user_run_limit}")
    tables = sorted(name or "all" for name in settings.breakers.each)
    terms = settings.breakers.of("", "")
    rate = "" if terms.failure_rate is None else f" at {terms.failure_rate:.0%} failures of {terms.minimum_calls} calls"
    set_for = f"; set for {', '.join(tables)} (breakers)" if tables else ""
    yield fine("breakers", f"open{rate} in {terms.window_s:g} s, for {terms.open_s:g} s first{set_for}")
    yield _memory(settings.max_memory_mb, container_limit_bytes())


def _memory(set_mb: int | None, container_bytes: int | None) -> Finding:
    container_mb = None if container_bytes is None else container_bytes >> 20
    if set_mb is not None and container_mb is not None and set_mb >= container_mb:
        found = f"{set_mb} MiB (max_memory_mb), and the container has {container_mb}"
        return warning(
            "memory", f"{found}: it is killed first", f"set max_memory_mb to {container_mb * 9 // 10}, or unset it"
        )
    if set_mb is not None:
        return fine("memory", f"over {set_mb} MiB it takes nothing new (max_memory_mb)")
    if container_mb is not None:
        return fine("memory", f"over nine tenths of the container's {container_mb} MiB it takes nothing new")
    return fine("memory", "no limit: max_memory_mb is not set, and no container has one")
