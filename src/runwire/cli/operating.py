"""What the verbs about accounts share: how they ask whoever owns the database, and how they print what it says."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import pwd
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from runwire import app
from runwire.errors import NotFound
from runwire.settings import load

__all__ = ["AsJson", "DataDir", "Name", "ask", "moment", "read_password", "same_folder", "show", "table"]

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The server's data folder (default ./.runwire).")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON array.")]
Name = Annotated[str, typer.Argument(help="The user's name, or id.")]


def ask(data_dir: Path | None, verb: str, **arguments: Any) -> dict[str, Any]:
    """Have a verb carried out, in the name of whoever the machine knows this process as."""
    settings = load({"data_dir": data_dir}, serves=False).settings
    if verb == "signing_key_rotate":
        arguments["access_ttl_s"] = settings.access_ttl_s
    try:
        return asyncio.run(app.administer(settings, verb, by=_operator(), **arguments))
    except NotFound as error:
        if "\n" not in error.message:
            raise
        # Its last line is a command to copy: it must work on the same folder.
        raise NotFound(error.message + same_folder(data_dir), field=error.field) from error


def same_folder(data_dir: Path | None) -> str:
    """Return the option that names the folder in a command to copy."""
    return "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"


def read_password() -> str:
    """Read a password: its line from standard input, or what is typed unseen at a terminal."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise typer.BadParameter("standard input was empty; write the password on one line", param_hint="password")
    return line


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Print rows: all there is as JSON, or the columns (member → heading) as a table; times are in ms UTC."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for line in table([columns.values(), *([_cell(name, row[name]) for name in columns] for row in rows)]):
        typer.echo(line)


def table(lines: Iterable[Iterable[str]]) -> list[str]:
    """Return lines whose cells stand below each other; an empty cell is a dash."""
    cells = [[cell or "-" for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def moment(at_ms: int | None) -> str:
    """Return a time as people read it, UTC."""
    if at_ms is None:
        return ""
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _cell(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return moment(value)
    return ",".join(value) if isinstance(value, list | tuple) else "" if value is None else str(value)


def _operator() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container there may be no name for the number
        return str(os.getuid())
