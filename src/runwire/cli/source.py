"""`runwire doctor source`: whether each concept of a checkout has one home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from runwire import app
from runwire.errors import NotFound

__all__ = ["source"]

_MARKS: Final = {"ok": "ok", "fault": "FAULT", "not_checked": "not checked"}


def source(
    root: Annotated[Path, typer.Option("--root", help="The checkout of Runwire; its own code is looked at.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Look through a checkout of Runwire for what has more homes than one; 1: something has, 2: not all was checked."""
    try:
        looked = []
        for one in app.look_through(root.resolve()):
            looked.append(one)
            if not as_json:
                typer.echo(f"{_MARKS[one.state]}\t{one.check}\t{one.reason or one.about}")
                for finding in one.findings:
                    typer.echo(f"\t{finding.where}\t{finding.what}; {finding.fix}")
    except NotFound as error:
        typer.echo(f"error: {error.message}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(looked)))
    states = {one.state for one in looked}
    if states != {"ok"}:
        raise typer.Exit(1 if "fault" in states else 2)
