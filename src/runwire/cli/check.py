"""`runwire check URL`: prove the promises of a deployment from outside."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from runwire.settings import client_defaults

__all__ = ["check"]


def check(
    url: Annotated[str | None, typer.Argument(help="Where the deployment answers (RUNWIRE_URL).")] = None,
    token: Annotated[str | None, typer.Option(help="API key or access token (RUNWIRE_TOKEN).")] = None,
    agent: Annotated[str | None, typer.Option(help="The agent to talk to; default: the deployment's.")] = None,
    message: Annotated[str | None, typer.Option(help="What to ask it.")] = None,
    expect: Annotated[Literal["five", "any"], typer.Option(help="five: all five events must come.")] = "five",
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this category; repeatable.")] = None,
    timeout_s: Annotated[float, typer.Option(help="For each case, seconds.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write a Markdown report here.")] = None,
) -> None:
    """Exit status 0: every promise kept; 1: one is broken; 2: it could not be checked."""
    raise typer.Exit(2)


_ = (asyncio, json, client_defaults)
