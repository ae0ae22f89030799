"""Where it listens, and how people are said to come there."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2

from runwire.app.doctor.finding import Finding, fault, fine, warning
from runwire.app.doctor.subject import Subject
from runwire.settings import Settings

__all__ = ["examine_collector", "examine_port", "examine_urls"]


async def examine_port(subject: Subject, *, is_management: bool) -> list[Finding]:
    """Look whether a server could listen, or does."""
    settings = subject.settings
    what = "management_port" if is_management else "port"
    host = settings.management_host if is_management else settings.host
    port = settings.management_port if is_management else settings.port
    if port is None:
        return []
    if port == 0:
        return [fine(what, f"any free one of {host}")]
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    problem = _bound(host, port)
    if problem is None:
        return [fine(what, f"{at} is free")]
    if problem == errno.EADDRINUSE:
        reason = await _unready(host, port, subject.limit_s)
        if reason == "self_check":
            fix = "look in its log for self_check_failed: it names the step that did not work, and what to do"
            return [fault(what, f"{at} is served by a Runwire whose self-check has not passed", fix)]
        if reason is not None:
            return [fine(what, f"{at} is served by a Runwire")]
        return [fault(what, f"{at} is taken by another program", f"end that, or set {what} to another one")]
    name = "management_host" if is_management else "host"
    if problem == errno.EACCES:
        return [fault(what, f"this user may not listen on {at}", f"set {what} to 1024 or more, behind a proxy")]
    return [fault(name, f"{host} is no address of this machine", f"set {name} to one, or to 0.0.0.0 for all")]


def _bound(host: str, port: int) -> int | None:
    """Return why nobody could listen there; None: somebody could. Nothing listens meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno or errno.EINVAL
    return None


async def _unready(host: str, port: int, limit_s: float) -> str | None:
    """Return why a Runwire that listens there is not ready, "" if it is or does not say; None: it is none."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked at, not listened on
    url = f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"
    try:
        async with asyncio.timeout(limit_s), httpx2.AsyncClient(base_url=url, timeout=limit_s, trust_env=False) as http:
            answer = await http.get("/health/ready")
            body = answer.json()
    except (httpx2.HTTPError, TimeoutError, ValueError):
        return None
    if not isinstance(body, dict):
        return None
    if body.get("status") in ("ok", "unready"):
        return str(body.get("reason", ""))
    # Where machines have a port of their own the other one says that there is nothing, in its own words.
    return "" if body.keys() >= {"code", "field", "retry_after_s"} else None


async def examine_collector(subject: Subject) -> list[Finding]:
    """Look whether somebody listens where traces go; without one they are lost, and nothing else is."""
    url = subject.settings.otel_endpoint
    if url is None:
        return []
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    fix = "start the collector, or correct otel_endpoint, or unset it"
    try:
        async with asyncio.timeout(subject.limit_s):
            _, writer = await asyncio.open_connection(parts.hostname, port)
            writer.close()
    except TimeoutError:
        return [warning("otel_endpoint", f"{parts.hostname}:{port} does not answer within {subject.limit_s:g} s", fix)]
    except OSError:
        return [warning("otel_endpoint", f"{parts.hostname}:{port} cannot be reached: traces are lost", fix)]
    return [fine("otel_endpoint", f"traces go to {parts.hostname}:{port}")]


async def examine_urls(subject: Subject) -> list[Finding]:
    """Compare what browsers are told with where they are let in from."""
    if not subject.roles & {"gateway", "auth"}:
        return []
    return list(_urls(subject.settings, subject.roles))


def _urls(settings: Settings, roles: frozenset[str]) -> Iterator[Finding]:
    url = settings.public_url
    if url is None:
        if settings.is_shared and "gateway" in roles:
            fix = "set the same public_url for all servers of this database, e.g. https://agents.example.org"
            yield warning("public_url", "is not set: a sign-in of one server is unknown to the others", fix)
        else:
            yield fine("public_url", "is not set: whoever comes says what the server is called")
        return
    parts = urlsplit(url)
    if parts.path not in ("", settings.path_prefix):
        fix = f"set path_prefix to {parts.path}, or public_url to what is below {settings.path_prefix or '/'}"
        yield warning("public_url", f"{url} has a path, and path_prefix is {settings.path_prefix or 'not set'}", fix)
    if parts.scheme == "https" and not settings.trusted_proxies:
        fix = "set trusted_proxies to the address of what speaks https for it"
        yield warning("trusted_proxies", "is not set: to limits and the audit all people have the proxy's address", fix)
    own = f"{parts.scheme}://{parts.netloc}"
    others = [origin for origin in settings.allowed_origins if origin != own]
    yield fine("public_url", f"{url}; browsers come from there{' and ' + ', '.join(others) if others else ''}")
