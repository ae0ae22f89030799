"""`runwire dev` and `runwire serve`."""

from __future__ import annotations

import asyncio
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from runwire import app
from runwire.cli.accounts import DataDir
from runwire.settings import Loaded, load

__all__ = ["dev", "serve"]

_Target = Annotated[
    list[str] | None,
    typer.Argument(help="agent.py, agent.py:name or module:attribute; without it \\[tool.runwire] of pyproject.toml."),
]
_Host = Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")]
_Port = Annotated[int | None, typer.Option(help="Port to listen on (default 8000; 0: any free one).")]
_Config = Annotated[Path | None, typer.Option("--config", help="Settings file instead of ./runwire.toml.")]


_Role = Annotated[
    list[str] | None,
    typer.Option(
        "--role", help="all (default), gateway, worker or auth; repeatable. See docs/explanation/architecture.md."
    ),
]

_AllowUnsafe = Annotated[
    list[str] | None,
    typer.Option("--allow-unsafe", help="RULE that may be broken in production; repeatable. Logged every hour."),
]
_WithConformanceAgents = Annotated[
    bool, typer.Option("--with-conformance-agents", help="Also serve the agents that `runwire check` asks.")
]


def dev(
    target: _Target = None,
    host: _Host = None,
    port: _Port = None,
    data_dir: DataDir = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
    config: _Config = None,
) -> None:
    """Start a development server; print where it is ready and a sign-in link."""
    flags = {"environment": "development", "host": host, "port": port, "data_dir": data_dir, "agents": _words(target)}

    def ready(url: str, link: str | None) -> None:
        # Outside programs read exactly these two lines (PROTOCOL §6); all else goes to standard error.
        print(f"ready {url}", flush=True)
        print(f"sign-in {link or url}", flush=True)
        if not no_open and link and sys.stdout.isatty():
            webbrowser.open(link)

    _run(load(flags, config_file=config), ready)


def serve(
    target: _Target = None,
    role: _Role = None,
    host: _Host = None,
    port: _Port = None,
    data_dir: DataDir = None,
    config: _Config = None,
    allow_unsafe: _AllowUnsafe = None,
    with_conformance_agents: _WithConformanceAgents = False,
) -> None:
    """Start the server as configured (environment: production unless set), or some roles of it."""
    roles = tuple(role) if role else None
    flags = {
        "roles": roles,
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "agents": _words(target),
        "allow_unsafe": _words(allow_unsafe),
        "with_conformance_agents": with_conformance_agents or None,
    }
    _run(load(flags, config_file=config), lambda url, _link: print(f"ready {url}", flush=True))


def _words(words: list[str] | None) -> tuple[str, ...] | None:
    return tuple(words) if words else None


def _run(loaded: Loaded, ready: Any) -> None:
    asyncio.run(app.serve(loaded, ready=ready, announce=_announce))


def _announce(part: str, detail: str) -> None:
    """Say on standard error that a part has answered."""
    sys.stderr.write(f"  {part:<9} {detail}\n")
    sys.stderr.flush()
