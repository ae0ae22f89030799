"""The verbs of `runwire` (PROTOCOL §6). Each is a few lines: what it does lives in the rooms below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import typer

__all__ = ["make_app"]

_HELP: Final = "Runwire: a self-hosted, real-time server for AI agents."
# Verb → module of this room and function.
_VERBS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dev": "serve:dev",
        "serve": "serve:serve",
        "cluster": "cluster:cluster",
        "new": "project:new",
        "run": "listen:run",
        "tail": "listen:tail",
        "replay": "listen:replay",
        "answer": "listen:answer",
        "retry": "listen:retry",
        "check": "check:check",
        "bench": "bench:bench",
        "test": "test:run_tests",
        "members": "members:members",
        "audit": "audit:audit",
        "migrate": "migrate:migrate",
        "version": "project:version",
    }
)
# Group → module of this room and the verbs that it makes, and what it is for.
_GROUPS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "user": ("accounts:user", "Who there is, what they may, and how they come in."),
        "token": ("keys:token", "API keys."),
        "signing-key": ("keys:signing_key", "The keys that sign access tokens."),
        "config": ("config:config", "What is set, where it came from, and whether a server would start."),
        "doctor": ("doctor:doctor", "What is wrong with a deployment, and how to mend it."),
        "storage": ("storage:storage", "Figures, compaction, backup, export and import of the database."),
    }
)
# What else a group has.
_MORE: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "doctor": {"source": "source:source"},
        "user": {
            "sessions": "sign_ins:sessions",
            "sign-out": "sign_ins:sign_out",
            "invite": "sign_ins:invite",
            "reset": "sign_ins:reset",
            "export": "belongings:export",
            "erase": "belongings:erase",
        },
    }
)


def make_app(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line.

    Args:
        words: what was said; if it begins with a verb only that one is imported, for the others take half a second.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # errors are ours to word; tracebacks belong to bugs only
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=_HELP)(_begin)
    wanted = {words[0]} & (_VERBS.keys() | _GROUPS.keys()) if words else set[str]()
    for name, place in _VERBS.items():
        if name in wanted or not wanted:
            app.command(name)(_found(place))
    for name, (place, purpose) in _GROUPS.items():
        if name in wanted or not wanted:
            app.add_typer(_group(name, place), name=name, help=purpose)
    return app


def _begin() -> None:
    """Do nothing; but for this, a verb that is alone would not be said."""


def _group(name: str, place: str) -> typer.Typer:
    group: typer.Typer = _found(place)
    known = {command.name for command in group.registered_commands}
    for verb, where in _MORE.get(name, {}).items():
        if verb not in known:
            group.command(verb)(_found(where))
    return group


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"runwire.cli.{module}"), name)
