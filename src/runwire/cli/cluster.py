"""`runwire cluster`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from runwire import app
from runwire.settings import load

__all__ = ["cluster"]

_FOLDER = Path(".runwire-cluster")


def cluster(
    target: Annotated[
        list[str] | None, typer.Argument(help="Agents of the workers; without it \\[tool.runwire] of pyproject.toml.")
    ] = None,
    gateways: Annotated[int, typer.Option(min=1, max=16, help="How many.")] = 2,
    workers: Annotated[int, typer.Option(min=1, max=32, help="How many.")] = 3,
    port: Annotated[int, typer.Option(min=1, max=65_000, help="Of the first gateway; the others follow.")] = 8000,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder of its PostgreSQL and its settings.")] = _FOLDER,
) -> None:
    """Run a whole deployment on this machine: PostgreSQL, Redis, gateways, workers, an auth service."""
    layout = app.Layout(target=tuple(target or ()), gateways=gateways, workers=workers, port=port)
    asyncio.run(app.run_cluster(load({"data_dir": data_dir}, serves=False), layout, say=_say, ready=_ready))


def _say(name: str, line: str) -> None:
    sys.stderr.write(f"{name:<9} | {line}\n")
    sys.stderr.flush()


def _ready(lines: Sequence[str]) -> None:
    print("\n".join(lines), flush=True)
