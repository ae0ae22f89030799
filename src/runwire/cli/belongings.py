"""`runwire user export` and `runwire user erase`: what is kept of a person, handed over or taken away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from runwire import app
from runwire.cli.accounts import DataDir
from runwire.settings import load

__all__ = ["erase", "export"]

_Name = Annotated[str, typer.Argument(help="The user's name, or id.")]


def export(
    name: _Name,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A new zip archive.")],
    data_dir: DataDir = None,
) -> None:
    """Write all that is kept of a person to one archive: profile, threads, runs, waits, audit."""
    settings = load({"data_dir": data_dir}, serves=False).settings
    lines = app.hand_over(settings, name, to)
    told = ", ".join(f"{count} in {file}" for file, count in sorted(lines.items()))
    typer.echo(f"wrote {to}: profile.json; {told or 'nothing else'}")
    typer.echo("It holds conversations: keep it where only you, and then that person, can read it.", err=True)


def erase(
    name: _Name,
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite", help="PostgreSQL: write its tables anew, so that files hold nothing; locks each."),
    ] = False,
) -> None:
    """Erase a person for good: access, conversations, and their name in the audit. An id remains, never used again."""
    settings = load({"data_dir": data_dir}, serves=False).settings
    if not yes:
        typer.confirm(f"Erase {name} and all their conversations? There is no way back", abort=True)
    gone = asyncio.run(app.erase(settings, name, say=lambda line: typer.echo(line, err=True), is_thorough=rewrite))
    typer.echo(f"erased {gone.user}: {gone.threads} threads, {gone.runs} runs")
    kept = "Backups and exports from before still hold it: let them run out, or restore, erase again, and back up."
    if settings.is_shared:
        kept += " So do the write-ahead log and its archive, until they are recycled"
        kept += "." if rewrite else ", and free space of the tables, until it is used again (--rewrite)."
    typer.echo(kept, err=True)
