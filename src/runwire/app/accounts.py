"""What an operator does to accounts: users, their sessions and API keys, invitations, resets, signing keys."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import msgspec

from runwire.auth.service import users
from runwire.auth.service.accounts import Accounts, Entry, key_state
from runwire.errors import NotFound, ProtocolError
from runwire.runtime.withdrawal import REVOKED
from runwire.storage.base import AuditEntry, Bus, BusMessage, Storage, UserRow, Wake
from runwire.storage.placed import Placed
from runwire.storage.sqlite.control import Verb

__all__ = ["AccountVerbs"]

_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,64}")  # RFC 6749 §3.3
_SCOPES: Final = 16
_LABEL: Final = 128  # characters

Arguments = dict[str, Any]


class AccountVerbs:
    """What whoever owns the databases does about accounts. Each is one write, with its line in the audit.

    Args:
        storages: the databases; accounts are in the first one.
        bus: wakes the parts of the running server; None: this process serves nobody.
    """

    def __init__(self, storages: Placed[Storage], bus: Bus | None) -> None:
        self._storages = storages
        self._auth = storages.first.auth
        self._bus = bus
        self._accounts = Accounts(self._auth, self._wake)

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {
            "user_add": self.user_add,
            "user_password": self.user_password,
            "user_disable": self.user_disable,
            "user_enable": self.user_enable,
            "user_delete": self.user_delete,
            "user_roles": self.user_roles,
            "user_list": self.user_list,
            "user_show": self.user_show,
            "user_sessions": self.user_sessions,
            "user_sign_out": self.user_sign_out,
            "user_sign_out_all": self.user_sign_out_all,
            "session_revoke": self.session_revoke,
            "user_reset": self.user_reset,
            "invite_create": self.invite_create,
            "invite_list": self.invite_list,
            "invite_revoke": self.invite_revoke,
            "token_create": self.token_create,
            "token_list": self.token_list,
            "token_revoke": self.token_revoke,
            "signing_key_list": self.signing_key_list,
            "signing_key_rotate": self.signing_key_rotate,
            "signing_key_revoke": self.signing_key_revoke,
        }

    # Users

    async def user_add(self, arguments: Arguments) -> dict[str, Any]:
        """Add a user."""
        row = await self._accounts.add(
            arguments["name"], arguments["roles"], _entries(arguments), password=arguments.get("password")
        )
        return {"user": row.user, "name": row.name}

    async def user_password(self, arguments: Arguments) -> dict[str, Any]:
        """Give a user another password."""
        entry = _entry(arguments, "user.password")
        row = await users.set_password(self._auth, arguments["name"], arguments["password"], audit=entry)
        self._wake()
        return {"user": row.user}

    async def user_disable(self, arguments: Arguments) -> dict[str, Any]:
        """Withdraw a user's access and end what runs for them."""
        holder = await self._found(arguments["name"])
        # The last administrator, too: whose account was stolen must be stopped, and who stops it is at the machine.
        await self._accounts.disable(holder.user, _entries(arguments), keep_admin=False)
        await self._end_runs(holder.user)
        return {"user": holder.user}

    async def user_enable(self, arguments: Arguments) -> dict[str, Any]:
        """Let a user sign in again."""
        holder = await self._found(arguments["name"])
        await self._accounts.enable(holder.user, _entries(arguments))
        return {"user": holder.user}

    async def user_delete(self, arguments: Arguments) -> dict[str, Any]:
        """Withdraw a user's access for good and end what runs for them; a tombstone stays."""
        holder = await self._found(arguments["name"])
        await self._accounts.delete(holder.user, _entries(arguments))
        await self._end_runs(holder.user)
        return {"user": holder.user}

    async def user_roles(self, arguments: Arguments) -> dict[str, Any]:
        """Replace a user's roles, but never the last administrator's."""
        holder = await self._found(arguments["name"])
        row = await self._accounts.set_roles(holder, arguments["roles"], _entries(arguments))
        return {"user": row.user, "roles": list(row.roles)}

    async def user_list(self, _arguments: Arguments) -> dict[str, Any]:
        """List everybody."""
        rows = [row async for row in self._everybody()]
        return {"users": [{"name": r.name, "status": r.status, "roles": list(r.roles), "user": r.user} for r in rows]}

    async def user_show(self, arguments: Arguments) -> dict[str, Any]:
        """Tell what is known of an account, a deleted one too."""
        return msgspec.structs.asdict(await self._accounts.profile(await self._found(arguments["name"])))

    # Sessions

    async def user_sessions(self, arguments: Arguments) -> dict[str, Any]:
        """List a user's live sessions."""
        rows = await self._accounts.sessions((await self._found(arguments["name"])).user)
        names = ("session", "client", "address", "created_at", "rotated_at", "expires_at")
        return {"sessions": [{name: getattr(row, name) for name in names} for row in rows]}

    async def user_sign_out(self, arguments: Arguments) -> dict[str, Any]:
        """End a user's sessions; with `with_keys` their API keys, too."""
        holder = await self._found(arguments["name"])
        ended = await self._accounts.sign_out(
            holder.user,
            _entries(arguments),
            with_keys=arguments.get("with_keys", False),
            before=arguments.get("before"),
        )
        return {"user": holder.user, "sessions": ended}

    async def user_sign_out_all(self, arguments: Arguments) -> dict[str, Any]:
        """End everybody's sessions that were made before a time."""
        entry = _entry(arguments, "session.revoke_all")
        before = arguments.get("before")
        if before is None:
            before = await self._accounts.now() + 1  # those of this very millisecond, too
        ended = await self._auth.sign_out_before(before, reason="operator", audit=entry)
        self._wake()
        return {"sessions": ended}

    async def session_revoke(self, arguments: Arguments) -> dict[str, Any]:
        """End one session of a user."""
        holder, session = await self._found(arguments["name"]), arguments["session"]
        row = await self._auth.session(session)
        if row is None or row.holder.user != holder.user:
            sentence = f"{holder.name} has no session {session}; `runwire user sessions {holder.name}` shows them."
            raise NotFound(sentence, field="session")
        entry = _entry(arguments, "session.revoke", session)
        ended = await self._auth.revoke_session(session, reason="operator", audit=entry)
        self._wake()
        return {"user": holder.user, "sessions": int(ended)}

    # One-time secrets

    async def user_reset(self, arguments: Arguments) -> dict[str, Any]:
        """Make a one-time secret by which a person sets a new password."""
        holder = await users.find_user(self._auth, arguments["name"])
        return {"secret": await self._accounts.reset(holder.user, arguments["ttl_s"], _entries(arguments))}

    async def invite_create(self, arguments: Arguments) -> dict[str, Any]:
        """Make an invitation."""
        secret, row = await self._accounts.invite(arguments["roles"], arguments["ttl_s"], _entries(arguments))
        return {"secret": secret, "invite": row.invite}

    async def invite_list(self, _arguments: Arguments) -> dict[str, Any]:
        """List invitations that are still good."""
        names = ("invite", "roles", "created_by", "created_at", "ends_at")
        return {"invites": [{name: getattr(row, name) for name in names} for row in await self._auth.list_invites()]}

    async def invite_revoke(self, arguments: Arguments) -> dict[str, Any]:
        """Take an invitation back."""
        try:
            await self._accounts.revoke_invite(arguments["invite"], _entries(arguments))
        except NotFound as error:
            sentence = f"{error.message} `runwire user invite --list` shows those that are good."
            raise NotFound(sentence, field="invite") from error
        return {}

    # API keys

    async def token_create(self, arguments: Arguments) -> dict[str, Any]:
        """Make an API key."""
        scopes, label = arguments.get("scopes") or ["runwire"], arguments.get("label", "")
        if len(scopes) > _SCOPES or not all(_SCOPE.fullmatch(scope) for scope in scopes):
            raise ProtocolError('A scope has 1 to 64 visible ASCII characters, no " and no \\.', field="scope")
        if len(label) > _LABEL:
            raise ProtocolError(f"A label has at most {_LABEL} characters.", field="label")
        key = await users.create_api_key(
            self._auth,
            arguments["name"],
            ttl_s=arguments.get("ttl_s"),
            label=label,
            scopes=scopes,
            audit=_entry(arguments, "key.create", scopes=" ".join(sorted(set(scopes)))),
        )
        self._wake()
        return {"key": key}

    async def token_list(self, arguments: Arguments) -> dict[str, Any]:
        """List a user's API keys, without what they are proved by."""
        holder = await self._found(arguments["name"])
        names = ("key", "label", "scopes", "created_at", "last_used_at", "expires_at")
        rows = await self._auth.list_keys(holder.user)
        return {"keys": [{name: getattr(row, name) for name in names} | {"state": key_state(row)} for row in rows]}

    async def token_revoke(self, arguments: Arguments) -> dict[str, Any]:
        """End an API key."""
        key = arguments["key"]
        row = await self._auth.key(key)
        if row is None:
            sentence = f"There is no API key {key}; `runwire token list --user NAME` shows those of a user."
            raise NotFound(sentence, field="key")
        entry = _entry(arguments, "key.revoke", key)
        is_done = await self._auth.revoke_key(key, reason="operator", audit=entry)
        self._wake()
        return {"name": row.holder.name, "is_done": is_done}

    # Signing keys

    async def signing_key_list(self, _arguments: Arguments) -> dict[str, Any]:
        """List the signing keys, without what they sign with."""
        return {"keys": [msgspec.structs.asdict(key) for key in await self._accounts.signing_keys()]}

    async def signing_key_rotate(self, arguments: Arguments) -> dict[str, Any]:
        """Have a new signing key follow."""
        key = await self._accounts.rotate_signing_key(arguments["access_ttl_s"], _entries(arguments))
        return {"kid": key.kid, "activates_at": key.activates_at}

    async def signing_key_revoke(self, arguments: Arguments) -> dict[str, Any]:
        """End a signing key and all it has signed."""
        try:
            await self._accounts.revoke_signing_key(arguments["kid"], _entries(arguments))
        except NotFound as error:
            sentence = f"{error.message} `runwire signing-key list` shows which there are."
            raise NotFound(sentence, field="kid") from error
        return {}

    async def _found(self, name: str) -> UserRow:
        """Return an account by its name, or its id. Raises NotFound."""
        return await self._accounts.found(name)

    async def _everybody(self) -> AsyncIterator[UserRow]:
        after: str | None = None
        while rows := await self._auth.list_users(after=after):
            for row in rows:
                yield row
            after = rows[-1].name

    async def _end_runs(self, user: str) -> None:
        # After the change, so that no new run of theirs can slip in between.
        cancelled = await self._storages.of(user).runs.cancel_user(user, REVOKED)
        self._tell(*(committed for run in cancelled for committed in run.committed), Wake(topic="signals"))

    def _wake(self) -> None:
        self._tell(Wake(topic="auth"))

    def _tell(self, *messages: BusMessage) -> None:
        if self._bus is not None:
            for message in messages:
                self._bus.publish(message)


def _entries(arguments: Arguments) -> Entry:
    """Return what makes lines of the audit: who did it is whom the machine knows as the one who called the verb."""
    return partial(_entry, arguments)


def _entry(arguments: Arguments, action: str, subject: str | None = None, **detail: str) -> AuditEntry:
    return AuditEntry(actor=arguments.get("by"), actor_kind="operator", action=action, subject=subject, detail=detail)
