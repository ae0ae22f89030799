"""`runwire members`: who serves the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from runwire import app
from runwire.cli.operating import DataDir, moment, table
from runwire.settings import load

__all__ = ["members"]

_HEAD = ("NODE", "ROLES", "STATE", "LAST SEEN (UTC)", "VERSION", "CODE", "AGENTS")


def members(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the processes that were seen within a day: roles, agents, version, and when each was last seen."""
    settings = load({"data_dir": data_dir}, serves=False).settings
    rows = asyncio.run(app.members(settings))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for number in sorted({row["place"] for row in rows}):
        if len(settings.storage_urls) > 1:
            typer.echo(f"{number}. {settings.shown_urls[number - 1]}")
        for line in table([_HEAD, *(_cells(row) for row in rows if row["place"] == number)]):
            typer.echo(line)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    agents = [f"{name} (default)" if name == row["default_agent"] else name for name in row["agents"]]
    return (
        row["node"],
        ",".join(row["roles"]),
        row["state"],
        moment(row["seen_at"]),
        row["version"],
        row["code"],
        ", ".join(agents),
    )
