"""Users, API keys and sign-in links, for the command line and the control socket of a running server.

Each is one write of the store. A running server's views take it from the log of auth changes; publish
`Wake(topic="auth")` afterwards to save them the wait for their next poll.
"""

from __future__ import annotations

import re
import secrets
import shlex
import unicodedata
from collections.abc import Sequence
from contextlib import closing

from runwire.auth import tokens
from runwire.auth.service.passwords import Passwords
from runwire.auth.service.settings import ROLES, AuthSettings
from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.protocol.ids import new_id
from runwire.storage.base import AuditEntry, AuthStore, UserRow

__all__ = [
    "add_user",
    "checked_roles",
    "create_api_key",
    "create_sign_in_link",
    "disable_user",
    "enable_user",
    "find_user",
    "normal_name",
    "set_password",
]

LINK_TTL_S = 900  # long enough to start a browser, short enough to be worthless in a log found later

_NAME = re.compile(r"\w[\w.@+-]{0,127}")


def normal_name(name: str) -> str:
    """Return the one spelling of a user's name (NFKC).

    Raises:
        ProtocolError: empty, over 128 characters, or with other characters than letters, digits, `_ . @ + -`.
    """
    normal = unicodedata.normalize("NFKC", name)
    if _NAME.fullmatch(normal) is None:
        raise ProtocolError("A user's name has 1 to 128 letters, digits, _ . @ + or -, no - first.", field="name")
    return normal


async def add_user(
    store: AuthStore,
    name: str,
    *,
    password: str | None = None,
    roles: Sequence[str] = ("user",),
    settings: AuthSettings | None = None,
    audit: AuditEntry | None = None,
) -> UserRow:
    """Create a user.

    Args:
        store: the auth tables.
        name: what the person signs in with.
        password: None: they sign in by link, or their programs by API key.
        roles: of `user`, `operator`, `admin`, `service`.
        settings: how passwords are hashed; None: the defaults.
        audit: who did it.

    Raises:
        Conflict: the name is taken.
        ProtocolError: a bad name, password or role.
    """
    checked_roles(roles)
    normal = normal_name(name)
    hashed = None
    if password is not None:
        with closing(Passwords(settings or AuthSettings())) as passwords:
            hashed = await passwords.hash(password)
    return await store.create_user(normal, roles=roles, password_hash=hashed, audit=audit)


def checked_roles(roles: Sequence[str]) -> tuple[str, ...]:
    """Return roles that there are. Raises ProtocolError."""
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise ProtocolError(f"Unknown role {', '.join(unknown)}; there are {', '.join(ROLES)}.", field="role")
    return tuple(roles)


async def set_password(
    store: AuthStore,
    name: str,
    password: str,
    *,
    settings: AuthSettings | None = None,
    audit: AuditEntry | None = None,
) -> UserRow:
    """Give a user another password; every session of theirs ends.

    Raises:
        NotFound: no such user; the message says what to run.
        ProtocolError: a bad password.
    """
    holder = await find_user(store, name)
    with closing(Passwords(settings or AuthSettings())) as passwords:
        hashed = await passwords.hash(password)
    return await store.set_password(holder.user, hashed, audit=audit)


async def find_user(store: AuthStore, name: str) -> UserRow:
    """Return the user of that name.

    Raises:
        NotFound: there is none; the message says what to run.
    """
    try:
        row = await store.user_by_name(normal_name(name))
    except ProtocolError:
        row = None
    if row is None:
        raise NotFound(f"There is no user {name}. Add it first:\nrunwire user add {shlex.quote(name)}", field="name")
    return row


async def disable_user(store: AuthStore, name: str, *, audit: AuditEntry | None = None) -> UserRow:
    """Withdraw all access of a user; live sockets end within a second. Idempotent. Raises NotFound."""
    return await store.disable_user((await find_user(store, name)).user, audit=audit)


async def enable_user(store: AuthStore, name: str, *, audit: AuditEntry | None = None) -> UserRow:
    """Let a disabled user sign in again; old tokens and API keys stay dead. Idempotent. Raises NotFound."""
    return await store.enable_user((await find_user(store, name)).user, audit=audit)


async def create_api_key(
    store: AuthStore,
    name: str,
    *,
    ttl_s: int | None = None,
    label: str = "",
    scopes: Sequence[str] = ("runwire",),
    audit: AuditEntry | None = None,
) -> str:
    """Create an API key of a user and return its text: the only time it is to be had.

    Raises:
        NotFound: no such user; the message says what to run.
        Conflict: the user is disabled.
    """
    holder = await find_user(store, name)
    key = new_id("key")
    text, secret_hash = tokens.mint_api_key(key, entropy=secrets.token_bytes(32))
    await store.create_key(
        holder.user, key=key, secret_hash=secret_hash, label=label, ttl_s=ttl_s, scopes=scopes, audit=audit
    )
    return text


async def create_sign_in_link(store: AuthStore, name: str, *, ttl_s: int = LINK_TTL_S) -> str:
    """Create a sign-in link of a user and return its secret: for `POST /auth/sessions {"link": …}`, once.

    Raises:
        NotFound: no such user; the message says what to run.
        Conflict: the user is disabled.
    """
    holder = await find_user(store, name)
    if holder.status != "active":
        raise Conflict(f"The user {name} is disabled; enable it first.")
    secret = tokens.mint_secret(secrets.token_bytes(32))
    await store.create_link(holder.user, secret_hash=tokens.secret_hash(secret), ttl_s=ttl_s)
    return secret
