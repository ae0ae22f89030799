"""`runwire user …` and `runwire token …`: beside a running server or alone on the data folder."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from runwire import app
from runwire.settings import load

__all__ = ["DataDir", "token", "user"]

user = typer.Typer(no_args_is_help=True)
token = typer.Typer(no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The server's data folder (default ./.runwire).")]


def _administer(data_dir: Path | None, verb: str, **arguments: Any) -> dict[str, Any]:
    settings = load({"data_dir": data_dir}).settings
    return asyncio.run(app.administer(settings, verb, **arguments))


@user.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What the person signs in with.")],
    data_dir: DataDir = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="user, operator or admin; repeatable.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password's line from stdin.")
    ] = False,
) -> None:
    """Add a user; an existing one is an error."""
    password = None
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise typer.BadParameter(
                "standard input was empty; write the password on one line", param_hint="--password-stdin"
            )
    made = _administer(data_dir, "user_add", name=name, password=password, roles=role or ["user"])
    typer.echo(f"added {name} ({made['user']})")
    if password is None:
        typer.echo(f"No password was set. For an API key: runwire token create --user {name}", err=True)


@user.command("disable")
def disable(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Withdraw a user's access: sockets close, runs are cancelled, tokens and keys die."""
    _administer(data_dir, "user_disable", name=name)
    typer.echo(f"disabled {name}")


@user.command("enable")
def enable(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Give access back; what was signed in before stays signed out."""
    _administer(data_dir, "user_enable", name=name)
    typer.echo(f"enabled {name}")


@user.command("list")
def list_users(data_dir: DataDir = None) -> None:
    """List users: name, status, roles."""
    for row in _administer(data_dir, "user_list")["users"]:
        typer.echo(f"{row['name']}\t{row['status']}\t{','.join(row['roles'])}")


@token.command("create")
def create(
    user: Annotated[str, typer.Option("--user", help="Whose key it will be.")],
    data_dir: DataDir = None,
    ttl: Annotated[
        int | None, typer.Option("--ttl", min=1, help="Life in seconds; without it the key has no end.")
    ] = None,
) -> None:
    """Print a new API key, and nothing else. It is shown this once."""
    typer.echo(_administer(data_dir, "token_create", name=user, ttl_s=ttl)["key"])
