"""People of other issuers: who they are here, and that they have logged out there."""

from __future__ import annotations

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from runwire.auth.foreign import Foreign, LoggedOut, Proved
from runwire.errors import Forbidden, NotFound, ProtocolError, Unauthenticated
from runwire.storage.base import AuditEntry, AuthStore, UserRow

__all__ = ["External"]

_REMEMBERED: Final = 16_384
_NOT_NAME: Final = re.compile(r"[^\w.@+-]+")
_SECOND_MS: Final = 1000

_log = structlog.get_logger("runwire.auth")


class External:
    """What other issuers say, written into the auth tables.

    Limits: of `_REMEMBERED` people is remembered how new their last token was, and as many log-outs.

    Args:
        store: the auth tables.
        foreign: proves tokens of other issuers.
        changed: called after each change that views must learn.
    """

    def __init__(
        self,
        store: AuthStore,
        foreign: Foreign,
        *,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._foreign = foreign
        self._changed = changed
        self._newest: OrderedDict[str, int] = OrderedDict()  # user -> `iat` of the newest token, ms
        self._logouts: OrderedDict[tuple[str, str], None] = OrderedDict()  # (issuer, jti) of those carried out

    async def contact(self, token: str) -> str | None:
        """Return the user of an access token, made if this is the first contact; None: nobody here.

        Raises:
            Unavailable: the issuer or the database does not answer.
        """
        try:
            proved = await self._foreign.prove(token)
            return (await self.meet(proved)).user
        except (Unauthenticated, Forbidden):
            return None

    async def meet(self, proved: Proved, *, is_signing_in: bool = False, address: str = "") -> UserRow:
        """Return whose an external identity is here: by issuer and subject, and never by name or address.

        Args:
            proved: who it is there.
            is_signing_in: it was made for this sign-in, so that it is no older than anything.
            address: where the person is; "": not known.

        Raises:
            Forbidden: nobody here, and its issuer may not make users.
            Unauthenticated: a user who is not active, or a token from before all were withdrawn.
        """
        issuer = proved.issuer
        holder = await self._store.external_user(issuer.issuer, proved.subject)
        if holder is None:
            if not issuer.may_create_users:
                raise Forbidden("Nobody here is known by this sign-in; ask whoever runs this server.")
            holder = await self._store.link_external(
                issuer.issuer,
                proved.subject,
                name=_name(proved),
                roles=proved.roles(),
                audit=_entry(proved, "user.link", address),
            )
            _log.info("external_user_met", issuer=issuer.name, user=holder.user)
            self._changed()
        if holder.status != "active" or (not is_signing_in and proved.issued_at < holder.valid_from):
            raise Unauthenticated("This access was withdrawn.")
        return await self._with_roles(holder, proved, address)

    async def _with_roles(self, holder: UserRow, proved: Proved, address: str) -> UserRow:
        """Give a user the roles that the newest token says, if its issuer has a say in them."""
        wanted = tuple(proved.roles())
        is_newest = proved.issued_at >= self._newest.get(holder.user, 0)
        if not proved.issuer.claims.roles or not is_newest:
            return holder
        self._newest[holder.user] = proved.issued_at
        self._newest.move_to_end(holder.user)
        if len(self._newest) > _REMEMBERED:
            self._newest.popitem(last=False)
        if wanted == tuple(holder.roles):
            return holder
        entry = _entry(proved, "user.roles", address)
        row = await self._store.set_roles(holder.user, wanted, audit=entry)
        if set(holder.roles) - set(wanted):
            # What is remembered here is lost with this process, and then an older token, which still says more, could
            # give it back: so they die, this one too. Who has it gets another one from the issuer.
            await self._store.sign_out_everywhere(holder.user, reason="roles_withdrawn", audit=entry)
        _log.info("external_roles_changed", issuer=proved.issuer.name, user=holder.user)
        self._changed()
        return row

    async def log_out(self, said: LoggedOut, *, address: str) -> None:
        """Carry out a log-out: of one session of the issuer, or of all that a person has. A repeat does nothing.

        Raises:
            ProtocolError: this one was carried out before.
            Unavailable: it may not have been done; the issuer may send it again.
        """
        once = (said.issuer.issuer, said.jti)
        if once in self._logouts:
            raise ProtocolError("This log-out was carried out already.")
        holder = await self._store.external_user(said.issuer.issuer, said.subject)
        if holder is not None:
            entry = AuditEntry(
                actor=None,
                actor_kind="service",
                action="session.backchannel_logout",
                subject=holder.user,
                address=address,
                detail={"issuer": said.issuer.name},
            )
            if said.session is not None:
                await self.end_session(said.session, holder.user, reason="backchannel_logout", audit=entry)
            elif said.issued_at + _SECOND_MS > holder.valid_from:
                # Else all were signed out after it was sent: this process was started anew, and it comes again.
                await self._store.sign_out_everywhere(holder.user, reason="backchannel_logout", audit=entry)
                self._changed()
            _log.info("external_log_out", issuer=said.issuer.name, user=holder.user, session=said.session)
        # Remembered only once it was done: an issuer that had no answer sends it again.
        self._logouts[once] = None
        if len(self._logouts) > _REMEMBERED:
            self._logouts.popitem(last=False)

    async def end_session(self, session: str, user: str, *, reason: str, audit: AuditEntry | None = None) -> None:
        """End a session of an issuer, and those of ours that began with it. Raises NotFound."""
        await self._store.revoke_external_session(session, user, reason=reason, audit=audit)
        # After that: who signs in with it meanwhile makes his session first and looks for this row then.
        for row in await self._store.list_sessions(user):
            if row.client == session:
                await self._store.revoke_session(row.session, reason=reason)
        self._changed()

    async def end_opaque(self, session: str, user: str) -> None:
        """End what an issuer does not answer for any more; a user who is gone has none."""
        try:
            await self.end_session(session, user, reason="introspection_inactive")
        except NotFound:
            return


def _name(proved: Proved) -> str:
    """Return a name that fits ours; whether others have it is the store's to see."""
    said = unicodedata.normalize("NFKC", proved.name() or "")
    fitting = _NOT_NAME.sub("-", said).strip("-.@+")[:128]
    return fitting or f"{proved.issuer.name}-user"


def _entry(proved: Proved, action: str, address: str) -> AuditEntry:
    detail = {"issuer": proved.issuer.name, "roles": ",".join(proved.roles())}
    return AuditEntry(actor=None, actor_kind="service", action=action, address=address, detail=detail)
