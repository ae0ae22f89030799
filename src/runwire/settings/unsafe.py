"""What is not served in production and staging: rules as data, over frozen settings and facts. Pure.

A rule has an id, what is wrong, and how to mend it. Those that apply are refused all at once; `allow_unsafe` lets
single ones pass, and is the only way. Why some apply only where the server can be reached: docs/adr/0028.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from runwire.settings.model import Settings
from runwire.settings.values import hint

__all__ = ["ELSEWHERE", "RULES", "Facts", "Rule", "broken", "is_reachable", "unknown_rules"]

_STRICT: Final = ("production", "staging")
_NETWORK_FILE_SYSTEMS: Final = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs"),
)
_PLACEHOLDERS: Final = ("changeme", "change-me", "change_me", "secret", "password", "example", "fill-in", "default")
_DIFFERENT: Final = 8  # signs; 32 random hexadecimal digits have as few once in 10^5 or less
_MOST_TRUSTED: Final = {4: 8, 6: 7}  # 10.0.0.0/8 and fc00::/7 are the largest networks that can be one's own
_ENCRYPTED: Final = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the settings do not say."""

    # kind of the file system that has the embedded database, such as `ext4`; empty: not known, or there is none
    file_system: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that is not served."""

    # as in `--allow-unsafe ID`
    id: str
    # whose values are at fault, the first before all
    settings: tuple[str, ...]
    # what is wrong, after the name of the setting
    sentence: str
    # what to do
    fix: str
    # whether it is so
    applies: Callable[[Settings, Facts], bool]

    def fault(self, sources: Mapping[str, str]) -> str:
        """Return what is said at the start."""
        name = self.settings[0]
        return f"{name} (from {sources[name]}): {self.sentence}; {self.fix} (rule {self.id})."


def broken(settings: Settings, facts: Facts) -> tuple[Rule, ...]:
    """Return the rules that these settings break; outside production and staging none."""
    if settings.environment not in _STRICT:
        return ()
    return tuple(rule for rule in RULES if rule.applies(settings, facts))


def unknown_rules(settings: Settings, sources: Mapping[str, str]) -> list[str]:
    """Say which of `allow_unsafe` are no rules: a misspelt one would allow nothing."""
    known = [rule.id for rule in RULES]
    where = f"allow_unsafe (from {sources['allow_unsafe']})"
    faults = []
    for id_ in settings.allow_unsafe:
        if id_ not in known:
            # What is like none of them is not repeated: it may be anything.
            meant = hint(id_, known)
            named = f"rule `{id_[:40]}`{meant}" if meant else "such rule"
            faults.append(f"{where}: there is no {named}; docs/reference/settings.md has all.")
    return faults


def is_reachable(settings: Settings) -> bool:
    """Return whether anybody but this machine can be meant to come: by the address, a proxy, or the public URL."""
    if not _is_loopback(settings.host) or settings.trusted_proxies:
        return True
    return settings.public_url is not None and not _is_loopback(urlsplit(settings.public_url).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "localhost.")


def _is_plain(url: str) -> bool:
    """Return whether a URL of people is http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _is_weak(secret: str | None) -> bool:
    return secret is not None and (
        len(set(secret)) < _DIFFERENT or any(word in secret.lower() for word in _PLACEHOLDERS)
    )


def _is_guessable(settings: Settings, _facts: Facts) -> bool:
    has_door = is_reachable(settings) or "all" not in settings.roles
    return has_door and (_is_weak(settings.service_secret) or _is_weak(settings.service_secret_before))


def _trusts_everybody(settings: Settings, _facts: Facts) -> bool:
    networks = [ipaddress.ip_network(address, strict=False) for address in settings.trusted_proxies]
    return is_reachable(settings) and any(net.prefixlen < _MOST_TRUSTED[net.version] for net in networks)


def _split(url: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the hosts of a server's URL, and what its query says. What cannot be read is another machine's."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ["?"], {}
    inner, query = parts.netloc.rpartition("@")[2], parse_qs(parts.query)
    return [unquote(part) for part in inner.split(",")] if inner else query.get("host", []), query


def _is_off_host(hosts: Sequence[str]) -> bool:
    """Return whether one is another machine. A path is a socket of this one."""
    return any(not host.startswith("/") and not _is_loopback(_without_port(host)) for host in hosts if host)


def _without_port(host: str) -> str:
    return host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


def _is_database_plain(settings: Settings, _facts: Facts) -> bool:
    found = [_split(url) for url in settings.storage_urls] if settings.is_shared else []
    return any(_is_off_host(hosts) and query.get("sslmode", [""])[-1] not in _ENCRYPTED for hosts, query in found)


def _is_redis_plain(settings: Settings, _facts: Facts) -> bool:
    url = settings.redis_url
    return url is not None and not url.startswith(("rediss", "unix:")) and _is_off_host(_split(url)[0])


def _is_collector_plain(settings: Settings, _facts: Facts) -> bool:
    return settings.otel_endpoint is not None and _is_plain(settings.otel_endpoint)


def _has_open_metrics(settings: Settings, _facts: Facts) -> bool:
    return is_reachable(settings) and "gateway" in settings.active_roles and settings.management_port is None


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        id="no-public-url",
        settings=("public_url",),
        sentence="is not set, so whoever asks says what this server is called",
        fix="set it to what people type, e.g. https://agents.example.org",
        applies=lambda settings, _: (
            settings.public_url is None and is_reachable(settings) and bool({"gateway", "auth"} & settings.active_roles)
        ),
    ),
    Rule(
        id="http-public-url",
        settings=("public_url",),
        sentence="is http, so passwords and tokens cross the network in clear",
        fix="serve https at a proxy and set https://…",
        applies=lambda settings, _: settings.public_url is not None and _is_plain(settings.public_url),
    ),
    Rule(
        id="http-origins",
        settings=("allowed_origins",),
        sentence="has an http origin, and anybody on the way can put a script into its pages",
        fix="use https",
        applies=lambda settings, _: any(map(_is_plain, settings.allowed_origins)),
    ),
    Rule(
        id="http-issuers",
        settings=("issuers",),
        sentence="has an issuer that is asked over http",
        fix="use https",
        applies=lambda settings, _: any(issuer.is_loopback for issuer in settings.issuers),
    ),
    Rule(
        id="weak-secret",
        settings=("service_secret", "service_secret_before"),
        sentence="looks like a placeholder or repeats itself, and can be guessed",
        fix="make one by `openssl rand -base64 32`",
        applies=_is_guessable,
    ),
    Rule(
        id="trust-all-proxies",
        settings=("trusted_proxies",),
        sentence="believes almost everybody, so anybody can claim any address",
        fix="name the proxy's own address",
        applies=_trusts_everybody,
    ),
    Rule(
        id="open-metrics",
        settings=("management_port",),
        sentence="is not set, so /metrics and /health are answered to whoever reaches the port of people",
        fix="set it, and let only your monitoring reach it",
        applies=_has_open_metrics,
    ),
    Rule(
        id="database-without-tls",
        settings=("database_url",),
        sentence="is a PostgreSQL on another machine without TLS",
        fix="add ?sslmode=verify-full (or require)",
        applies=_is_database_plain,
    ),
    Rule(
        id="redis-without-tls",
        settings=("redis_url",),
        sentence="is a Redis on another machine without TLS",
        fix="use rediss://…",
        applies=_is_redis_plain,
    ),
    Rule(
        id="otel-without-tls",
        settings=("otel_endpoint",),
        sentence="is a collector on another machine without TLS",
        fix="use https, or a collector on this machine",
        applies=_is_collector_plain,
    ),
    Rule(
        id="sqlite-on-network",
        settings=("data_dir", "database_url"),
        sentence="is on a network file system, where SQLite's locks do not hold",
        fix="use a local disk, or PostgreSQL",
        applies=lambda _, facts: facts.file_system in _NETWORK_FILE_SYSTEMS,
    ),
    Rule(
        id="memory-database",
        settings=("database_url",),
        sentence="is memory, so a restart loses all that was acknowledged",
        fix="unset it, or use PostgreSQL",
        applies=lambda settings, _: settings.storage_url.startswith("memory:"),
    ),
    Rule(
        id="conformance-agents",
        settings=("with_conformance_agents",),
        sentence="has everybody start agents that fail, flood and wait on purpose",
        fix="set it only where nobody works, or while you check",
        applies=lambda settings, _: settings.with_conformance_agents,
    ),
    Rule(
        id="debug-log",
        settings=("log_level",),
        sentence="is debug, which writes down every request",
        fix="use info",
        applies=lambda settings, _: settings.log_level == "debug" and is_reachable(settings),
    ),
)

# What is unsafe as well and cannot be set, or is refused in every environment: (what, how, who refuses).
ELSEWHERE: Final[tuple[tuple[str, str], ...]] = (
    ("A `service_secret` of less than 32 characters; none where gateway and auth service are two processes", "refused"),
    ("`*` among `allowed_origins`", "refused"),
    ("`access_ttl_s` of more than 15 minutes", "refused"),
    ("Unsigned or HS256 tokens: `algorithms` of `[[issuers]]` are ES, EdDSA or RS and PS ones", "refused"),
    ("SQLite, or an auth service of its own for each, with several processes", "refused: some roles need PostgreSQL"),
    ("A database whose schema is not this version's", "refused at the start: `runwire migrate`"),
    ("A clock that is off from the auth service's", "a warning from 10 s on; not ready over 30 s: `clock_skewed`"),
    ("A credential in the query of a URL, debug mode, reloading, no limit for stale standing", "no setting does that"),
)
