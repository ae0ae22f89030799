"""`runwire user …` and `runwire token …`: beside a running server or alone on the data folder."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from runwire import app
from runwire.errors import NotFound
from runwire.settings import load

__all__ = ["DataDir", "token", "user"]

user = typer.Typer(no_args_is_help=True)
token = typer.Typer(no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The server's data folder (default ./.runwire).")]


def _administer(data_dir: Path | None, verb: str, **arguments: Any) -> dict[str, Any]:
    settings = load({"data_dir": data_dir}, serves=False).settings
    try:
        return asyncio.run(app.administer(settings, verb, **arguments))
    except NotFound as error:
        # Its last line is a command to copy: it must work on the same folder.
        raise NotFound(error.message + _same_folder(data_dir), field=error.field) from error


def _same_folder(data_dir: Path | None) -> str:
    return "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"


def _password() -> str:
    """Read a password: its line from standard input, or what is typed unseen at a terminal."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise typer.BadParameter("standard input was empty; write the password on one line", param_hint="password")
    return line


@user.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What the person signs in with.")],
    data_dir: DataDir = None,
    role: Annotated[
        list[str] | None, typer.Option("--role", help="user, operator, admin or service; repeatable.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password's line from stdin.")
    ] = False,
) -> None:
    """Add a user; an existing one is an error."""
    password = _password() if password_stdin else None
    made = _administer(data_dir, "user_add", name=name, password=password, roles=role or ["user"])
    typer.echo(f"added {name} ({made['user']})")
    if password is None:
        folder = _same_folder(data_dir)
        typer.echo(
            f"Without a password: set one with `runwire user password {name}{folder}`,"
            f" or make an API key with `runwire token create --user {name}{folder}`.",
            err=True,
        )


@user.command("password")
def password(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Set a user's password, read from standard input; they are signed out everywhere."""
    _administer(data_dir, "user_password", name=name, password=_password())
    typer.echo(f"changed the password of {name}")


@user.command("disable")
def disable(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Withdraw a user's access: sockets close, runs are cancelled, tokens and keys die."""
    _administer(data_dir, "user_disable", name=name)
    typer.echo(f"disabled {name}")


@user.command("enable")
def enable(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Give access back; sessions and API keys from before stay dead."""
    _administer(data_dir, "user_enable", name=name)
    typer.echo(f"enabled {name}")


@user.command("list")
def list_users(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List users: name, status, roles."""
    rows = _administer(data_dir, "user_list")["users"]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
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
