"""The services that somebody names for the tests to use: whether they are there."""

from __future__ import annotations

import socket
from typing import Final
from urllib.parse import urlsplit

__all__ = ["missing", "shown"]

_PORTS: Final = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379}
_ANSWER_S: Final = 5.0
_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # every PostgreSQL answers it with one letter, S or N
_PING: Final = b"*1\r\n$4\r\nPING\r\n"


def missing(url: str) -> str | None:
    """Return a sentence that says why a service cannot be used; None: it answers as what it is called.

    Args:
        url: `postgresql://…` or `redis://…`; what it says of users and passwords is never repeated.
    """
    try:
        kind, host, port = _parts(url)
    except ValueError:
        return "A service is a URL such as postgresql://user@127.0.0.1:5432/postgres or redis://127.0.0.1:6379."
    if kind not in _PORTS:
        return f"There are no services of the kind {kind or url!r}: name postgresql://… or redis://…, or auto."
    try:
        answer = _asked(kind, host, port)
    except OSError as error:
        return f"The service {shown(url)} does not answer ({error.strerror or error})."
    said = answer[:1] in (b"S", b"N") if kind.startswith("postgres") else answer[:1] in (b"+", b"-")
    if kind != "rediss" and not said:
        return f"What answers at {host}:{port} is no {'PostgreSQL' if kind.startswith('postgres') else 'Redis'}."
    return None


def shown(url: str) -> str:
    """Return a service as it may be shown, without who uses it and where in it; `auto` is said in words."""
    if url == "auto":
        return "PostgreSQL and Redis of this machine, started for them"
    kind, host, port = _parts(url)
    return f"{kind}://{host}:{port}"


def _parts(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "127.0.0.1", parts.port or _PORTS.get(parts.scheme, 0)


def _asked(kind: str, host: str, port: int) -> bytes:
    with socket.create_connection((host, port), timeout=_ANSWER_S) as connection:
        if kind == "rediss":
            return b""  # that it listens is all that can be seen without its certificates
        connection.sendall(_SSL_REQUEST if kind.startswith("postgres") else _PING)
        return connection.recv(64)
