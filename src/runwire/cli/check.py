"""`runwire check URL`: prove the promises of a deployment from outside."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from runwire.conformance.check import CATEGORIES
from runwire.conformance.check import check as prove
from runwire.conformance.report import as_json as as_json_report
from runwire.conformance.report import as_markdown, as_text
from runwire.settings import client_defaults

__all__ = ["check"]


def check(
    url: Annotated[str | None, typer.Argument(help="Where the deployment answers (RUNWIRE_URL).")] = None,
    token: Annotated[str | None, typer.Option(help="API key or access token (RUNWIRE_TOKEN).")] = None,
    agent: Annotated[str | None, typer.Option(help="The agent to talk to; default: the deployment's.")] = None,
    expect: Annotated[Literal["five", "any"], typer.Option(help="five: all five events must come.")] = "five",
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this category; repeatable.")] = None,
    timeout_s: Annotated[float, typer.Option(help="For each case, seconds.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write a Markdown report here.")] = None,
) -> None:
    """Exit status 0: every promise kept; 1: one is broken; 2: it could not be checked."""
    defaults = client_defaults()
    url, token = url or defaults.url, token or defaults.token
    if url is None or token is None:
        missing = "URL" if url is None else "--token"
        raise typer.BadParameter("name it, or set RUNWIRE_URL and RUNWIRE_TOKEN", param_hint=missing)
    done = asyncio.run(
        prove(
            url,
            token,
            categories=only or tuple(CATEGORIES),
            expect=expect,
            agent=agent,
            timeout_s=timeout_s,
            on_result=lambda _: _dot(quiet=as_json),
        )
    )
    typer.echo(as_json_report(done) if as_json else as_text(done))
    if report:
        report.write_text(as_markdown(done), encoding="utf-8")
    raise typer.Exit(done.exit_code)


def _dot(*, quiet: bool) -> None:
    """Show that it goes on, where somebody watches."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(".")
        sys.stderr.flush()
