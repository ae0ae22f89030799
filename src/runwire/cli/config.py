"""`runwire config …`: what is set, where it came from, and whether a server would start with it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from runwire.errors import ConfigurationError
from runwire.settings import RULES, Loaded, Rule, Settings, hint, load, shown

__all__ = ["config"]

config = typer.Typer(no_args_is_help=True)

_File = Annotated[Path | None, typer.Option("--config", help="Settings file instead of ./runwire.toml.")]
_Environment = Annotated[str | None, typer.Option("--environment", help="As if it were that of this process.")]
_AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
_WIDE: Final = 100  # columns from which on a setting has one line
_NAME: Final = 24


@config.command("show")
def show(
    file: _File = None,
    environment: _Environment = None,
    is_changed: Annotated[bool, typer.Option("--changed", help="Only what is not left at its default.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Print every setting, its value, and where that came from."""
    loaded = _load(file, environment, serves=False)
    names = [name for name in Settings.model_fields if not is_changed or loaded.sources[name] != "default"]
    if as_json:
        rows = {name: {"value": shown.plain(loaded.settings, name), "source": loaded.sources[name]} for name in names}
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for name in names:
        for line in _row(name, shown.text(loaded.settings, name) or "-", loaded.sources[name], _columns()):
            typer.echo(line)


@config.command("explain")
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A setting, its variable, or the id of a rule.")],
    file: _File = None,
    environment: _Environment = None,
    as_json: _AsJson = False,
) -> None:
    """Say what a setting is for, its value, and everything that sets it."""
    name = key.lower().removeprefix("runwire_")
    rule = next((rule for rule in RULES if rule.id == key), None)
    if name not in Settings.model_fields and rule is None:
        meant = hint(name, [*Settings.model_fields, *(rule.id for rule in RULES)])
        raise typer.BadParameter(f"there is no setting of this name{meant}", param_hint="KEY")
    about = _about_rule(rule) if rule else _about(_load(file, environment, serves=False), name)
    if as_json:
        typer.echo(json.dumps(about, ensure_ascii=False))
        return
    for word, value in about.items():
        line = " → ".join(map(str, value)) if isinstance(value, list) else _plain(value)
        for part in _wrapped(f"{word:<9} {line}", 10, _columns()):
            typer.echo(part)


@config.command("check")
def check(file: _File = None, environment: _Environment = None, as_json: _AsJson = False) -> None:
    """Judge the settings as a server does at its start; status 78 and every fault if it would not start."""
    try:
        loaded = _load(file, environment, serves=True)
    except ConfigurationError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"is_ok": False, "faults": list(error.faults)}, ensure_ascii=False))
        raise typer.Exit(78) from None
    settings = loaded.settings
    changed = sum(source != "default" for source in loaded.sources.values())
    if as_json:
        allowed = [rule.id for rule in loaded.allowed]
        about = {"is_ok": True, "environment": settings.environment, "changed": changed, "unsafe_allowed": allowed}
        typer.echo(json.dumps(about))
        return
    typer.echo(
        f"ok: {settings.environment}, {changed} of {len(Settings.model_fields)} settings are not at their default"
    )
    for rule in loaded.allowed:
        for line in _wrapped(f"unsafe and allowed: {rule.id}: {rule.settings[0]} {rule.sentence}", 2, _columns()):
            typer.echo(line)


@config.command("schema")
def schema() -> None:
    """Print the JSON schema of runwire.toml, for editors and other programs."""
    typer.echo(json.dumps(shown.schema(), ensure_ascii=False, indent=2))


@config.command("env")
def env() -> None:
    """Print every variable with its default, commented out: a file to begin with."""
    for name, field in Settings.model_fields.items():
        for line in textwrap.wrap(field.description or "", 100):
            typer.echo(f"# {line}")
        if shown.is_secret(name):
            typer.echo(f"#{shown.variable(name)}_FILE=/run/secrets/{name}\n")
        else:
            typer.echo(f"#{shown.variable(name)}={shown.default_text(name)}\n")


def _load(file: Path | None, environment: str | None, *, serves: bool) -> Loaded:
    return load({"environment": environment}, config_file=file, serves=serves)


def _about(loaded: Loaded, name: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "setting": name,
        "meaning": Settings.model_fields[name].description,
        "value": shown.plain(loaded.settings, name),
        "source": loaded.sources[name],
        "default": shown.default_text(name) or None,
        "bounds": shown.bounds(name) or None,
        "variable": shown.variable(name),
        "rules": [rule.id for rule in RULES if name in rule.settings],
    }
    if len(trail := loaded.trail.get(name, ())) > 1:
        about["layers"] = list(trail)  # each over the one before
    return {word: value for word, value in about.items() if value not in (None, []) or word in ("value", "default")}


def _about_rule(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.id,
        "refused": f"{rule.settings[0]} {rule.sentence}",
        "fix": rule.fix,
        "settings": list(rule.settings),
        "allow": f"--allow-unsafe {rule.id}",
    }


def _plain(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _columns() -> int:
    # What is not looked at is not wrapped: somebody searches it.
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def _row(name: str, value: str, source: str, columns: int) -> list[str]:
    if columns >= _WIDE:
        room = columns - _NAME - len(source) - 4
        parts = textwrap.wrap(value, max(room, 20), break_on_hyphens=False) or [value]
        first = f"{name:<{_NAME}}  {parts[0]:<{min(room, 40)}}  {source}".rstrip()
        return [first, *(f"{'':<{_NAME}}  {part}" for part in parts[1:])]
    lines = _wrapped(f"{name} = {value}", 4, columns)
    return lines if source == "default" else [*lines, *_wrapped(f"    from {source}", 4, columns)]


def _wrapped(line: str, indent: int, columns: int) -> list[str]:
    return textwrap.wrap(line, max(columns, 20), subsequent_indent=" " * indent, break_on_hyphens=False) or [line]
