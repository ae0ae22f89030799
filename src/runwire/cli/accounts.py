"""`runwire user …`: who there is and what they may, beside a running server or alone on the data folder."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from runwire.cli.operating import AsJson, DataDir, Name, ask, moment, read_password, same_folder

__all__ = ["DataDir", "user"]

user = typer.Typer(no_args_is_help=True)


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
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Print a new API key of the user, and nothing else.")
    ] = False,
) -> None:
    """Add a user; an existing one is an error."""
    password = read_password() if password_stdin else None
    made = ask(data_dir, "user_add", name=name, password=password, roles=role or ["user"])
    typer.echo(f"added {name} ({made['user']})", err=with_key)
    if with_key:
        typer.echo(ask(data_dir, "token_create", name=name, ttl_s=None, scopes=None, label="")["key"])
    elif password is None:
        folder = same_folder(data_dir)
        typer.echo(
            f"Without a password: set one with `runwire user password {name}{folder}`,"
            f" or make an API key with `runwire token create --user {name}{folder}`.",
            err=True,
        )


@user.command("password")
def password(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Set a user's password, read from standard input; they are signed out everywhere."""
    ask(data_dir, "user_password", name=name, password=read_password())
    typer.echo(f"changed the password of {name}")


@user.command("disable")
def disable(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Withdraw a user's access: sockets close, runs are cancelled, tokens and keys die."""
    ask(data_dir, "user_disable", name=name)
    typer.echo(f"disabled {name}")


@user.command("enable")
def enable(name: Annotated[str, typer.Argument(help="The user's name.")], data_dir: DataDir = None) -> None:
    """Give access back; sessions and API keys from before stay dead."""
    ask(data_dir, "user_enable", name=name)
    typer.echo(f"enabled {name}")


@user.command("delete")
def delete(
    name: Name,
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an account for good: access is withdrawn, an id remains. The last administrator's is refused."""
    if not yes:
        typer.confirm(f"Delete the account {name}? There is no way back", abort=True)
    gone = ask(data_dir, "user_delete", name=name)["user"]
    typer.echo(f"deleted {name} ({gone})")
    line = f"Their conversations are still there; to take them away: runwire user erase {gone}{same_folder(data_dir)}"
    typer.echo(line, err=True)


@user.command("roles")
def roles(
    name: Name,
    role: Annotated[list[str], typer.Argument(metavar="ROLE...", help="All that they shall have.")],
    data_dir: DataDir = None,
) -> None:
    """Replace a user's roles; the last administrator stays one."""
    given = ask(data_dir, "user_roles", name=name, roles=role)["roles"]
    typer.echo(f"{name} has {','.join(given)}")


@user.command("list")
def list_users(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List users: name, status, roles."""
    rows = ask(data_dir, "user_list")["users"]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']}\t{row['status']}\t{','.join(row['roles'])}")


@user.command("show")
def show(
    name: Name,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show an account: id, status, roles, how they sign in, and how many sessions and API keys are live."""
    told = ask(data_dir, "user_show", name=name)
    if as_json:
        typer.echo(json.dumps(told))
        return
    issuer = f"{told['issuer']} as {told['subject']}" if told["issuer"] else ""
    lines = {
        "name": told["name"],
        "id": told["user"],
        "status": told["status"],
        "roles": ",".join(told["roles"]) or "none",
        "created": f"{moment(told['created_at'])} UTC",
        "signs in": issuer or ("by password" if told["has_password"] else "by link or API key"),
        "sessions": told["sessions"],
        "API keys": told["api_keys"],
    }
    for word, value in lines.items():
        typer.echo(f"{word:<10}{value}")
