"""`runwire doctor`: what is wrong with a deployment; and `doctor …`: whether what should agree does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from runwire import app
from runwire.cli.accounts import DataDir
from runwire.settings import load

__all__ = ["doctor"]

doctor = typer.Typer(invoke_without_command=True)

_WORDS: Final = {
    "no_account": ("there is no account of this id", "quarantined; nothing was deleted"),
    "account_is_back": ("quarantined, but there is an account", "released"),
    "not_erased": ("the account is deleted, what belonged to it is still there", "erased"),
}


_EXIT: Final = {"healthy": 0, "faulty": 1, "unknown": 78}


@doctor.callback()
def examine(
    context: typer.Context,
    agents: Annotated[
        list[str] | None, typer.Option("--agent", metavar="TARGET", help="As `serve TARGET`. Repeatable.")
    ] = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="As of a server with this role. Repeatable.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="As in this environment.")] = None,
    data_dir: DataDir = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file instead of ./runwire.toml.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PART", help="Look at this part alone. Repeatable.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=600, help="For each answer, seconds.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what is wrong with the deployment that the settings describe, and what mends it; nothing is started."""
    if context.invoked_subcommand is not None:
        return
    from runwire.cli import diagnosis

    for part in only or ():
        if part not in app.PARTS:
            raise typer.BadParameter(f"there is no part {part!r}, only {', '.join(app.PARTS)}", param_hint="--only")
    flags = {
        "agents": tuple(agents) if agents else None,
        "roles": tuple(role) if role else None,
        "environment": environment,
        "data_dir": data_dir,
    }
    found = asyncio.run(app.diagnose(flags, config_file=config, only=only or (), limit_s=timeout_s))
    if as_json:
        typer.echo(diagnosis.as_json(found))
    else:
        diagnosis.show(found)
    raise typer.Exit(_EXIT[found.verdict])


@doctor.command("auth-sync")
def auth_sync(
    data_dir: DataDir = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Quarantine people without an account; finish erasures. See the how-to.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare accounts with the people that the backend has met; status 1 if a difference is left."""
    settings = load({"data_dir": data_dir}, serves=False).settings
    found = asyncio.run(app.reconcile(settings, repairs=repair, say=lambda line: typer.echo(line, err=True)))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _show(found)
    left = found["has_more"] or not all(difference["is_repaired"] for difference in found["differences"])
    if left:
        raise typer.Exit(1)


@doctor.command("issuers")
def issuers(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Ask each configured issuer for its keys, and say how soon a withdrawal there is known here; status 1: a fault."""
    found = asyncio.run(app.examine_issuers(load({"data_dir": data_dir}, serves=False).settings))
    if as_json:
        typer.echo(json.dumps(found))
    elif not found:
        typer.echo("no other issuers are configured; people sign in here")
    else:
        for one in found:
            _show_issuer(one)
    if any(one["fault"] for one in found):
        raise typer.Exit(1)


def _show_issuer(found: dict[str, Any]) -> None:
    typer.echo(f"{found['name']}\t{found['issuer']}")
    if found["fault"]:
        typer.echo(f"\tfault\t{found['fault']}")
    if found["keys"] is not None:
        skew = "unknown" if found["skew_s"] is None else f"{found['skew_s']:+.0f} s"
        typer.echo(f"\tkeys\t{found['keys']} for {', '.join(found['algorithms'])}; clock {skew}")
    for what, bound in found["withdrawn_within"].items():
        typer.echo(f"\t{what}\twithdrawals known {bound}")


def _show(found: dict[str, Any]) -> None:
    for difference in found["differences"]:
        what, done = _WORDS[difference["kind"]]
        typer.echo(f"{difference['user']}\t{what}" + (f"\t{done}" if difference["is_repaired"] else ""))
    more = "or more " if found["has_more"] else ""
    typer.echo(
        f"{len(found['differences'])} {more}differences between {found['accounts']} accounts and {found['people']}"
        f" people met; {found['quarantined']} quarantined"
    )
