"""`runwire storage …`: figures, compaction, backup, export and import of the data folder's database."""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from runwire import app
from runwire.cli.accounts import DataDir
from runwire.cli.ages import age_s
from runwire.settings import Settings, load

__all__ = ["storage"]

storage = typer.Typer(no_args_is_help=True)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Where it shall stand; a file of this name is refused.")]

_Place = Annotated[
    int | None, typer.Option("--place", min=1, metavar="N", help="Of several databases the Nth; default: all.")
]
_OnePlace = Annotated[int | None, typer.Option("--place", min=1, metavar="N", help="Of several databases the Nth.")]

_EVERY_S: Final = 0.5  # progress at a terminal
_SELDOM_S: Final = 10.0  # progress in a log
_SECRETS: Final = "It holds conversations, password hashes and API-key hashes: keep it where only you can read it."


@storage.command("stats")
def stats(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each database.")] = False,
    place: _Place = None,
) -> None:
    """Show how large the database is and what is in it."""
    settings = _settings(data_dir)
    for number in _numbers(settings, place):
        found = asyncio.run(app.figures(settings, place=number))
        _head(settings, number, is_shown=not as_json)
        typer.echo(json.dumps(found) if as_json else "\n".join(_lines(found)))


@storage.command("compact")
def compact(
    data_dir: DataDir = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="AGE", help="Deltas of runs that ended this long ago, e.g. 7d, 12h, 30m, 0s."
        ),
    ] = None,
    place: _Place = None,
) -> None:
    """Delete the deltas of ended runs now, and what is over its time by the settings."""
    settings = _settings(data_dir)
    days = settings.retention_days
    ages = app.Ages(
        deltas_s=settings.compact_after_s if older_than is None else age_s(older_than),
        runs_s=None if days is None else days * 86_400,
        deleted_threads_s=settings.purge_deleted_s,
    )
    for number in _numbers(settings, place):
        with _progress("compacting", "runs") as progress:
            done = asyncio.run(app.tidy(settings, ages, progress=progress, place=number))
        _head(settings, number)
        typer.echo(
            f"compacted {done.compacted_runs} runs ({done.deleted_events} deltas deleted),"
            f" deleted {done.deleted_runs} old runs; {_size(done.freed_bytes)} of the file are free for what comes"
        )


@storage.command("backup")
def backup(file: _File, data_dir: DataDir = None) -> None:
    """Copy the whole database as it is at one moment, while the server goes on."""
    with _progress("copying", "pages") as progress:
        made = app.back_up(_settings(data_dir), file, progress=progress)
    typer.echo(f"{file} is a whole backup ({_size(made.size_bytes)}, of log {made.log})")
    typer.echo(_SECRETS, err=True)


@storage.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it shall stand, or - for standard output.")],
    data_dir: DataDir = None,
    user: Annotated[str | None, typer.Option("--user", help="Only what belongs to the user of this name.")] = None,
    place: _OnePlace = None,
) -> None:
    """Write users, threads, runs and events as JSON lines, as they are at one moment."""
    settings = _settings(data_dir)
    number = _number(settings, place)
    with _progress("exporting", "lines") as progress:
        header = app.export(settings, file, user=user, progress=progress, place=number)
    typer.echo(f"exported {_contents(header.counts)}", err=str(file) == "-")
    typer.echo(_SECRETS, err=True)


@storage.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup or an export.")],
    data_dir: DataDir = None,
    place: _OnePlace = None,
) -> None:
    """Fill an empty data folder from a backup or an export, or an empty PostgreSQL database from an export.

    Wholly or not at all; into PostgreSQL one that was stopped goes on where it was, if it is started again.
    """
    settings = _settings(data_dir)
    number = _number(settings, place)
    with _progress("importing", "lines") as progress:
        counts = app.import_from(
            settings, file, progress=progress, announce=lambda told: typer.echo(told, err=True), place=number
        )
    typer.echo(f"imported {_contents(counts)}")
    typer.echo("It is another log than the copied one: clients take what it has, and people sign in again.", err=True)


@storage.command("restored")
def restored(place: _OnePlace = None) -> None:
    """Tell a PostgreSQL database that it was put back to an older state, before the first server starts.

    Clients then drop what they hold and take what it has, and everybody signs in again.
    """
    settings = load({}, serves=False).settings
    log = app.restored(settings, place=_number(settings, place))
    typer.echo(f"it is another history now (log {log}): clients take what it has, and people sign in again")


def _settings(data_dir: Path | None) -> Settings:
    return load({"data_dir": data_dir}, serves=False).settings


def _number(settings: Settings, place: int | None) -> int | None:
    """Return the place that a person named by its number from 1, from 0."""
    if place is not None and place > len(settings.storage_urls):
        count = len(settings.storage_urls)
        raise typer.BadParameter(f"{place}: database_url names {count}", param_hint="--place")
    return None if place is None else place - 1


def _numbers(settings: Settings, place: int | None) -> Sequence[int]:
    number = _number(settings, place)
    return range(len(settings.storage_urls)) if number is None else (number,)


def _head(settings: Settings, number: int, *, is_shown: bool = True) -> None:
    """Say which of several databases the next lines are about."""
    if is_shown and len(settings.storage_urls) > 1:
        typer.echo(f"{number + 1}. {settings.shown_urls[number]}")


@contextmanager
def _progress(what: str, unit: str) -> Iterator[app.Progress]:
    """Show on standard error how far it is: at a terminal in one line, else now and then in a line of its own."""
    is_terminal = sys.stderr.isatty()
    shown_s = time.monotonic()
    has_shown = False

    def show(done: int, total: int) -> None:
        nonlocal shown_s, has_shown
        if time.monotonic() - shown_s < (_EVERY_S if is_terminal else _SELDOM_S):
            return
        shown_s, has_shown = time.monotonic(), True
        line = f"{what}: {done} of {total} {unit} ({100 * done // total} %)" if total else f"{what}: {done} {unit}"
        sys.stderr.write(f"\r{line}" if is_terminal else f"{line}\n")
        sys.stderr.flush()

    try:
        yield show
    finally:
        if has_shown and is_terminal:
            sys.stderr.write("\n")


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"log             {figures['log']}"
    free = f", of which {_size(figures['free_bytes'])} are free" if figures["free_bytes"] else ""
    yield f"size            {_size(figures['size_bytes'])}{free}"
    yield f"event bytes     {_size(figures['event_bytes'])}"
    yield f"blob bytes      {_size(figures['blob_bytes'])}"
    for name, number in figures["counts"].items():
        yield f"{name.replace('_', ' '):<15} {number}"
    yield f"to compact      {figures['compactable_runs']} runs"
    oldest = figures["oldest_run_at"]
    if oldest is not None:
        yield f"oldest run      {datetime.datetime.fromtimestamp(oldest / 1000, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _contents(counts: Mapping[str, int]) -> str:
    named = (("account", "users"), ("thread", "threads"), ("run", "runs"), ("segment", "stretches of events"))
    return ", ".join(f"{counts.get(kind, 0)} {word}" for kind, word in named)


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
