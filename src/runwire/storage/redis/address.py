"""What a Redis URL says: where the server is to be found, and how to speak to it.

    redis://[USER:PASSWORD@]HOST[:6379]                      one server
    redis+sentinel://[…@]HOST[:26379],HOST[:26379]/MASTER    whom sentinels call the master
    redis+cluster://[…@]HOST[:6379],HOST[:6379]              a cluster, of which these are some nodes

`rediss`, `rediss+sentinel` and `rediss+cluster` are the same over TLS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from runwire.errors import ConfigurationError

__all__ = ["Address", "Node", "parse_address"]

Node = tuple[str, int]  # host and port

_KNOWN: Final = "redis://HOST, redis+sentinel://HOST,HOST/MASTER or redis+cluster://HOST,HOST (rediss… for TLS)"
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_LOGINS: Final = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to find Redis, and what to tell it."""

    kind: Literal["server", "sentinel", "cluster"]
    nodes: tuple[Node, ...]  # the server; or some sentinels or nodes of the cluster, of which one is enough
    master: str  # its name with the sentinels; else empty
    is_tls: bool
    files: dict[str, str]  # for TLS: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`
    login: tuple[str | None, str | None] = field(repr=False)  # user, password
    sentinel_login: tuple[str | None, str | None] = field(repr=False)

    @property
    def shown(self) -> str:
        """Return it as a person may read it: without user and password."""
        scheme = ("rediss" if self.is_tls else "redis") + ("" if self.kind == "server" else f"+{self.kind}")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        return f"{scheme}://{hosts}" + (f"/{self.master}" if self.master else "")


def parse_address(url: str) -> Address:
    """Read a Redis URL.

    Raises:
        ConfigurationError: it cannot be meant; no fault tells what it said, which may be a password.
    """
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
            raise ConfigurationError([f"redis_url: it is {_KNOWN}; this one has another scheme."])
        login, _, hosts = parts.netloc.rpartition("@")
        nodes = tuple(_node(host, default=26379 if kind == "sentinel" else 6379) for host in hosts.split(","))
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        # Not the reason: it quotes the part that was not understood.
        raise ConfigurationError(
            [f"redis_url: it is {_KNOWN}; a character like @ or / in a password is %40."]
        ) from None
    faults = _faults(kind, nodes, parts.path.strip("/"), options, is_tls=scheme == "rediss")
    if faults:
        raise ConfigurationError([f"redis_url: {fault}" for fault in faults])
    user, _, password = login.partition(":")
    return Address(
        kind="sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "server",
        nodes=nodes,
        master=unquote(parts.path.strip("/")) if kind == "sentinel" else "",
        is_tls=scheme == "rediss",
        files={name: options[name] for name in _FILES if name in options},
        login=(unquote(user) or None, unquote(password) or None),
        sentinel_login=(options.get(_LOGINS[0]), options.get(_LOGINS[1])),
    )


def _node(text: str, *, default: int) -> Node:
    parts = urlsplit(f"//{text}")  # understands [::1]:6379
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or default


def _faults(kind: str, nodes: tuple[Node, ...], path: str, options: dict[str, str], *, is_tls: bool) -> list[str]:
    faults = []
    if kind == "" and len(nodes) > 1:
        faults.append("several hosts are sentinels (redis+sentinel://) or nodes of a cluster (redis+cluster://).")
    if kind == "sentinel" and not path:
        faults.append("after the sentinels comes the name of the master: redis+sentinel://HOST,HOST/MASTER.")
    if kind != "sentinel" and path and not path.isdigit():
        # A number is let pass, since so many have one; channels know no databases, the prefix separates deployments.
        faults.append("after the host comes nothing.")
    known = {*(_FILES if is_tls else ()), *(_LOGINS if kind == "sentinel" else ())}
    faults += [
        f"unknown option {name}; known: {', '.join(sorted(known)) or 'none'}." for name in options.keys() - known
    ]
    for name in _FILES:
        if is_tls and name in options and not Path(options[name]).is_file():
            faults.append(f"{name}: there is no file {options[name]}.")
    return faults
