"""`runwire check URL`: prove the promises of a deployment from outside."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from runwire.cli.accounts import DataDir
from runwire.cli.place import TokenOption, found
from runwire.conformance.check import CATEGORIES
from runwire.conformance.check import check as prove
from runwire.conformance.report import Report, as_markdown, as_text
from runwire.conformance.report import as_json as as_json_report
from runwire.errors import ProtocolError, Unauthenticated, Unavailable

__all__ = ["check"]


def check(
    url: Annotated[
        str | None, typer.Argument(help="The deployment (RUNWIRE_URL); default: the data folder's server.")
    ] = None,
    token: TokenOption = None,
    data_dir: DataDir = None,
    agent: Annotated[str | None, typer.Option(help="The agent to talk to; default: the deployment's.")] = None,
    expect: Annotated[Literal["five", "any"], typer.Option(help="five: all five events must come.")] = "five",
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this category; repeatable.")] = None,
    timeout_s: Annotated[float, typer.Option(help="For each case, seconds.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write a Markdown report here.")] = None,
) -> None:
    """Exit status 0: every promise kept; 1: one is broken; 2: it could not be checked."""

    async def prove_it() -> Report:
        async with found(url, token, data_dir) as (place, credential):
            return await prove(
                place,
                credential,
                categories=only or tuple(CATEGORIES),
                expect=expect,
                agent=agent,
                timeout_s=timeout_s,
                on_result=lambda _: _dot(quiet=as_json),
            )

    try:
        done = asyncio.run(prove_it())
    except (Unavailable, Unauthenticated, ProtocolError) as error:
        # No server, no credential: nothing was checked, which is neither kept nor broken.
        typer.echo(f"Could not check: {error.message}", err=True)
        raise typer.Exit(2) from error
    typer.echo(as_json_report(done) if as_json else as_text(done))
    if report:
        _write(report, as_markdown(done))
    raise typer.Exit(done.exit_code)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"The report {path} cannot be written ({error.strerror}).", field="--report") from error


def _dot(*, quiet: bool) -> None:
    """Show that it goes on, where somebody watches."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(".")
        sys.stderr.flush()
