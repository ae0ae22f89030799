"""`runwire members`: who serves the database."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from runwire import app
from runwire.cli.accounts import DataDir
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
        for line in _table(row for row in rows if row["place"] == number):
            typer.echo(line)


def _table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    seen = datetime.datetime.fromtimestamp(row["seen_at"] / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    agents = [f"{name} (default)" if name == row["default_agent"] else name for name in row["agents"]]
    cells = (row["node"], ",".join(row["roles"]), row["state"], seen, row["version"], row["code"], ", ".join(agents))
    return tuple(cell or "-" for cell in cells)
