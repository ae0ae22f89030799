"""`runwire user sessions|sign-out|invite|reset`: how people come in, and how they are sent out."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from runwire.cli.ages import age_s
from runwire.cli.operating import AsJson, DataDir, Name, ask, show

__all__ = ["invite", "reset", "sessions", "sign_out"]

_INVITE_S = 7 * 86_400
_RESET_S = 3_600

_SESSIONS = {
    "session": "SESSION",
    "client": "CLIENT",
    "address": "ADDRESS",
    "created_at": "SIGNED IN (UTC)",
    "rotated_at": "REFRESHED (UTC)",
    "expires_at": "ENDS (UTC)",
}
_INVITES = {"invite": "INVITATION", "roles": "ROLES", "created_by": "BY", "ends_at": "ENDS (UTC)"}


def sessions(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List a user's live sessions, the newest first."""
    show(ask(data_dir, "user_sessions", name=name)["sessions"], _SESSIONS, as_json=as_json)


def sign_out(
    name: Annotated[str | None, typer.Argument(help="The user's name, or id; --all: everybody.")] = None,
    data_dir: DataDir = None,
    session: Annotated[str | None, typer.Option("--session", metavar="ID", help="Only this one.")] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only sign-ins at least that long ago: 90s, 12h, 7d."),
    ] = None,
    with_keys: Annotated[bool, typer.Option("--with-keys", help="End their API keys, too.")] = False,
    everybody: Annotated[bool, typer.Option("--all", help="Sign everybody out.")] = False,
) -> None:
    """End a user's sessions; their sockets close within a second."""
    if (name is None) != everybody:
        raise typer.BadParameter("name a user, or give --all", param_hint="NAME")
    if (session is not None and (everybody or with_keys or older_than)) or (everybody and with_keys):
        raise typer.BadParameter("this goes with no other choice", param_hint="--session" if session else "--with-keys")
    before = None if older_than is None else int((time.time() - age_s(older_than)) * 1000)  # noqa: TID251
    if everybody:
        ended = ask(data_dir, "user_sign_out_all", before=before)
    elif session is not None:
        ended = ask(data_dir, "session_revoke", name=name, session=session)
    else:
        ended = ask(data_dir, "user_sign_out", name=name, with_keys=with_keys, before=before)
    count = ended["sessions"]
    typer.echo(f"ended {count} session{'' if count == 1 else 's'} of {'everybody' if everybody else name}")


def invite(
    data_dir: DataDir = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="That the new user gets; repeatable.")] = None,
    ttl: Annotated[int, typer.Option("--ttl", min=1, help="How long it is good, seconds.")] = _INVITE_S,
    list_: Annotated[bool, typer.Option("--list", help="Show those that are still good.")] = False,
    revoke: Annotated[str | None, typer.Option("--revoke", metavar="INVITATION", help="Take one back.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the secret of a new invitation to register, and nothing else. It is shown this once."""
    if list_:
        show(ask(data_dir, "invite_list")["invites"], _INVITES, as_json=as_json)
    elif revoke is not None:
        ask(data_dir, "invite_revoke", invite=revoke)
        typer.echo(f"took back {revoke}")
    else:
        typer.echo(ask(data_dir, "invite_create", roles=role or ["user"], ttl_s=ttl)["secret"])


def reset(
    name: Name,
    data_dir: DataDir = None,
    ttl: Annotated[int, typer.Option("--ttl", min=1, help="How long it is good, seconds.")] = _RESET_S,
) -> None:
    """Print a one-time secret by which the person sets a new password, and nothing else."""
    typer.echo(ask(data_dir, "user_reset", name=name, ttl_s=ttl)["secret"])
