"""`runwire test`: the tests of an agent project, by category."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runwire.errors import ConfigurationError
from runwire.testing.categories import STANDARD
from runwire.testing.runner import Options, categories, run

__all__ = ["run_tests"]


def run_tests(
    category: Annotated[
        list[str] | None, typer.Option("--category", help=f"Repeatable: {', '.join(STANDARD)}, and what --list names.")
    ] = None,
    fast_fail: Annotated[bool, typer.Option("--fast-fail", help="Stop at the first failure.")] = False,
    max_workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that test at a time.")] = 1,
    no_docker: Annotated[bool, typer.Option("--no-docker", help="Always so: no test uses a container.")] = False,
    services: Annotated[
        list[str] | None,
        typer.Option(help="auto: real PostgreSQL and Redis of this machine; or a URL of one to use. Repeatable."),
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="Write what ran: .json, .xml (JUnit), .md or .html. Repeatable.")
    ] = None,
    last_failed: Annotated[bool, typer.Option("--last-failed", help="Only what failed when it ran last.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Name the categories.")] = False,
    durations: Annotated[int, typer.Option(min=0, help="Show that many of the slowest tests.")] = 0,
    project: Annotated[Path | None, typer.Option(help="Folder of the project; default: here.")] = None,
) -> None:
    """Run tests by category.

    Exit status 0: all passed; 1: something failed; 2: nothing could be run.
    """
    del no_docker  # there is nothing that it could turn off
    place = (project or Path.cwd()).absolute()
    options = Options(
        categories=category or (),
        fast_fail=fast_fail,
        workers=max_workers,
        services=services or (),
        reports=report or (),
        last_failed=last_failed,
        durations=durations,
    )
    try:
        if list_:
            typer.echo("\n".join(categories(place)))
            return
        is_success = run(options, place=place, say=typer.echo)
    except ConfigurationError as error:
        for fault in error.faults:
            typer.echo(fault, err=True)
        raise typer.Exit(2) from error  # nothing ran, which is neither passed nor failed
    raise typer.Exit(0 if is_success else 1)
