"""Layers, each over the one before, into one frozen value.

defaults → `runwire.toml` → `runwire.<environment>.toml` → `RUNWIRE_*` → `RUNWIRE_*_FILE` and folders of secrets → flags

Loaded once, at start. Every fault is reported, not only the first. Nothing is kept here: whoever loads twice has two.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from pydantic import ValidationError

from runwire.errors import ConfigurationError
from runwire.settings import sources
from runwire.settings.facts import facts_of
from runwire.settings.model import Settings
from runwire.settings.needs import unmet
from runwire.settings.sources import Layer, process_environment
from runwire.settings.unsafe import Rule, broken, unknown_rules

__all__ = [
    "ClientDefaults",
    "Judged",
    "Loaded",
    "Supervision",
    "client_defaults",
    "judge",
    "load",
    "no_color",
    "supervision",
]

_CONFIG_FILE: Final = "runwire.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The settings and where each value came from."""

    settings: Settings
    # setting → `default`, a file's path, a variable's name, `the command line`
    sources: Mapping[str, str]
    # setting → everything that sets it besides the default, the one that counts last
    trail: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # unsafe, refused in this environment, and allowed all the same by `allow_unsafe`
    allowed: tuple[Rule, ...] = ()
    # setting → what was written, secrets too, for who hands it on to another process; none of the defaults
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What can be said of the settings, whether or not a server would start with them."""

    # without what is wrong in itself; None: nothing is left that could be
    loaded: Loaded | None
    # what cannot be read, cannot be or is missing, each a sentence; with one of them no setting is sure
    faults: tuple[str, ...]
    # unsafe, and refused in this environment
    refused: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientDefaults:
    """Where the verbs that talk to a server find it: `RUNWIRE_URL`, `RUNWIRE_TOKEN`."""

    url: str | None
    token: str | None = field(repr=False)


def client_defaults(environ: Mapping[str, str] | None = None) -> ClientDefaults:
    """Read the environment of `run`, `tail`, `replay` and `check`."""
    env = process_environment(environ)
    return ClientDefaults(env.get("RUNWIRE_URL") or None, env.get("RUNWIRE_TOKEN") or None)


@dataclass(frozen=True, slots=True)
class Supervision:
    """What systemd asks of a process that it has started: where to tell, and how often to give a sign of life."""

    notify_socket: str | None
    watchdog_s: float | None


def supervision(environ: Mapping[str, str] | None = None) -> Supervision:
    """Read `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as `sd_watchdog_enabled` does."""
    env = process_environment(environ)
    usec = env.get("WATCHDOG_USEC", "")
    is_ours = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog_s = int(usec) / 1_000_000 if is_ours and usec.isdecimal() and int(usec) else None
    return Supervision(env.get("NOTIFY_SOCKET") or None, watchdog_s)


def no_color(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the person asked for no colour (no-color.org)."""
    return bool(process_environment(environ).get("NO_COLOR"))


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    serves: bool = True,
) -> Loaded:
    """Load the settings.

    Args:
        flags: values given on the command line; None values are not set.
        environ: the environment, for tests.
        config_file: an explicit file, which must exist; else `runwire.toml` of the working folder if there.
        serves: whether a server is to be started with them. Else nobody is put at risk by what would be unsafe to
            serve, and a command beside a development server must not be refused what that server was allowed.

    Raises:
        ConfigurationError: every fault at once.
    """
    judged = judge(flags, environ=environ, config_file=config_file, serves=serves)
    faults = list(judged.faults)
    if judged.loaded is not None:
        faults += [rule.fault(judged.loaded.sources) for rule in judged.refused]
    if faults or judged.loaded is None:
        raise ConfigurationError(faults)
    return judged.loaded


def judge(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    serves: bool = True,
) -> Judged:
    """Load the settings as `load` does, and say what is wrong with them in place of raising it."""
    faults: list[str] = []
    layers = _layers(flags or {}, process_environment(environ), config_file, faults)
    values: dict[str, Any] = {}
    trail: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        for name, (value, source) in layer.items():
            values[name] = _over(values.get(name), value)
            trail[name] = (*trail.get(name, ()), source)
    found = {name: trail[name][-1] if name in trail else "default" for name in Settings.model_fields}
    settings, wrong = _judged(values, found, faults)
    if settings is None:
        return Judged(loaded=None, faults=tuple(faults))
    faults += unknown_rules(settings, found)
    unsafe: list[Rule] = []
    if serves:
        missing = [(names, fault) for names, fault in unmet(settings, found) if not wrong & {*names}]
        faults += [fault for _, fault in missing]
        wrong |= {names[0] for names, _ in missing}  # said already
        unsafe = [rule for rule in broken(settings, facts_of(settings)) if not wrong & {*rule.settings}]
    loaded = Loaded(
        settings=settings,
        sources=MappingProxyType(found),
        trail=MappingProxyType(trail),
        allowed=tuple(rule for rule in unsafe if rule.id in settings.allow_unsafe),
        given=MappingProxyType(values),
    )
    refused = tuple(rule for rule in unsafe if rule.id not in settings.allow_unsafe)
    return Judged(loaded=loaded, faults=tuple(faults), refused=refused)


def _layers(
    flags: Mapping[str, Any], environ: Mapping[str, str], config_file: Path | None, faults: list[str]
) -> list[Layer]:
    file = config_file or Path(_CONFIG_FILE)
    common = sources.from_file(file, faults, must_exist=config_file is not None)
    variables = sources.from_variables(environ, faults)
    in_files = sources.from_secret_files(environ, faults)
    given: Layer = {name: (value, "the command line") for name, value in flags.items() if value is not None}
    environment = _last("environment", [common, variables, in_files, given])
    if environment is None:
        environment = Settings.model_fields["environment"].default
    # What is no environment is a fault of its own, and has no file.
    own = sources.environment_file(file, environment, faults) if environment in sources.ENVIRONMENTS else {}
    folder = _last("secrets_dir", [common, own, variables, in_files, given])
    path = Path(folder) if isinstance(folder, str | Path) else None
    secrets = sources.from_secret_folders(path, environ, in_files, faults)
    return [common, own, variables, secrets, given]


def _last(name: str, layers: Sequence[Layer]) -> Any:
    return next((layer[name][0] for layer in reversed(layers) if name in layer), None)


def _judged(values: Mapping[str, Any], found: Mapping[str, str], faults: list[str]) -> tuple[Settings | None, set[str]]:
    """Return the settings, and the names of those that are wrong and were left out; None: they cannot be at all."""
    try:
        return Settings(**values), set()
    except ValidationError as error:
        faults += [_sentence(fault, found) for fault in error.errors(include_input=False, include_url=False)]
        wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
    # The others are judged beside each other all the same, so that all faults are there at once.
    with contextlib.suppress(ValidationError):
        return Settings(**{name: value for name, value in values.items() if name not in wrong}), wrong
    return None, wrong


def _over(below: Any, above: Any) -> Any:
    """Return a value over one of an earlier layer: of tables each entry for itself, else the whole."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{name: _over(below.get(name), value) for name, value in above.items()}}
    return above


def _sentence(fault: Any, found: Mapping[str, str]) -> str:
    path = cast("tuple[object, ...]", fault["loc"])
    where = ".".join(str(part) for part in path)
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    return f"{where} (from {found.get(str(path[0]), 'default')}): {message}"
