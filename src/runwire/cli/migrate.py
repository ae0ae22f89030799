"""`runwire migrate`: bring the database to this version's schema."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from runwire import app
from runwire.cli.accounts import DataDir
from runwire.settings import load

__all__ = ["migrate"]


def migrate(
    data_dir: DataDir = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", help="Another database than the folder's.")
    ] = None,
) -> None:
    """Create or upgrade the database; nothing happens when it is up to date."""
    settings = load({"data_dir": data_dir, "database_url": database_url}, serves=False).settings
    typer.echo(asyncio.run(app.migrate(settings)))
