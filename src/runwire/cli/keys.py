"""`runwire token …` and `runwire signing-key …`."""

from __future__ import annotations

from typing import Annotated

import typer

from runwire.cli.operating import AsJson, DataDir, ask, moment, show

__all__ = ["signing_key", "token"]

token = typer.Typer(no_args_is_help=True)
signing_key = typer.Typer(no_args_is_help=True)

_KEYS = {
    "key": "KEY",
    "state": "STATE",
    "label": "LABEL",
    "scopes": "SCOPES",
    "created_at": "CREATED (UTC)",
    "last_used_at": "LAST USED (UTC)",
    "expires_at": "ENDS (UTC)",
}
_SIGNING_KEYS = {
    "kid": "KID",
    "state": "STATE",
    "activates_at": "SIGNS FROM (UTC)",
    "retires_at": "RETIRES (UTC)",
    "revoked_at": "REVOKED (UTC)",
}


@token.command("create")
def create(
    user: Annotated[str, typer.Option("--user", help="Whose key it will be.")],
    data_dir: DataDir = None,
    ttl: Annotated[
        int | None, typer.Option("--ttl", min=1, help="Life in seconds; without it the key has no end.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="What it is for (default runwire); repeatable.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="To know it again by.")] = "",
) -> None:
    """Print a new API key, and nothing else. It is shown this once."""
    typer.echo(ask(data_dir, "token_create", name=user, ttl_s=ttl, scopes=scope, label=label)["key"])


@token.command("list")
def list_keys(
    user: Annotated[str, typer.Option("--user", help="Whose keys.")], data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List a user's API keys, the newest first; what proves them is not kept."""
    show(ask(data_dir, "token_list", name=user)["keys"], _KEYS, as_json=as_json)


@token.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `runwire token list` shows it: key_…")],
    data_dir: DataDir = None,
) -> None:
    """End an API key for good; its sockets close within a second."""
    done = ask(data_dir, "token_revoke", key=key)
    typer.echo(f"revoked {key} of {done['name']}" if done["is_done"] else f"{key} was revoked already")


@signing_key.command("list")
def list_signing_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the keys that sign access tokens, those that ended, too."""
    show(ask(data_dir, "signing_key_list")["keys"], _SIGNING_KEYS, as_json=as_json)


@signing_key.command("rotate")
def rotate(data_dir: DataDir = None) -> None:
    """Have a new signing key follow; nobody is signed out."""
    made = ask(data_dir, "signing_key_rotate")
    typer.echo(f"{made['kid']} signs from {moment(made['activates_at'])} UTC, when everybody knows it")


@signing_key.command("revoke")
def revoke_signing_key(
    kid: Annotated[str, typer.Argument(metavar="KID", help="As `runwire signing-key list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """End a stolen signing key: tokens it signed are refused, their sockets close within a second."""
    ask(data_dir, "signing_key_revoke", kid=kid)
    typer.echo(f"revoked {kid}")
