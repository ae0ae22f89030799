"""The only reader of the environment: defaults → `runwire.toml` → `RUNWIRE_*` → flags.

Loaded once, at start, into one frozen value. Every fault is reported, not only the first; a fault
names the setting and where it came from, never the value (it may be a secret).
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pydantic import ValidationError

from runwire.errors import ConfigurationError
from runwire.settings.model import PREFIX, Settings
from runwire.settings.values import ROLES, hint

__all__ = ["ClientDefaults", "Loaded", "client_defaults", "load", "no_color"]

_CONFIG_FILE: Final = "runwire.toml"
# Read by the verbs that talk to a server, and by the dependencies' own conventions; not settings of a server.
_CLIENT_NAMES: Final = frozenset({"RUNWIRE_URL", "RUNWIRE_TOKEN"})
_NEEDS: Final = {
    "database_url": "share a database: set postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    "auth_url": "must know where the auth service listens: set it, e.g. https://auth.internal:8443",
    "service_secret": "prove gateway and auth service to each other: set the same for both, 32 characters or more",
    "public_url": "must agree who signs people in: set the same for all, e.g. https://agents.example.org",
}


class Loaded:
    """The settings and where each value came from.

    Args:
        settings: the frozen values.
        sources: setting name → `default`, a file's path, a variable's name or a flag.
    """

    def __init__(self, settings: Settings, sources: Mapping[str, str]) -> None:
        self.settings = settings
        self.sources = dict(sources)


class ClientDefaults:
    """Where the verbs that talk to a server find it: `RUNWIRE_URL`, `RUNWIRE_TOKEN`."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self.url = url
        self.token = token


def client_defaults(environ: Mapping[str, str] | None = None) -> ClientDefaults:
    """Read the environment of `run`, `tail`, `replay` and `check`."""
    env = _environ(environ)
    return ClientDefaults(env.get("RUNWIRE_URL") or None, env.get("RUNWIRE_TOKEN") or None)


def no_color(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the person asked for no colour (no-color.org)."""
    return bool(_environ(environ).get("NO_COLOR"))


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
    faults: list[str] = []
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    layers = [
        _from_file(config_file, faults),
        _from_environment(_environ(environ), faults),
        {name: (value, "the command line") for name, value in (flags or {}).items() if value is not None},
    ]
    for layer in layers:
        for name, (value, source) in layer.items():
            values[name], sources[name] = value, source
    wrong: set[str] = set()
    settings: Settings | None = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        faults += [_sentence(fault, sources) for fault in error.errors()]
        wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
        # The others are judged beside each other all the same, so that all faults are there at once.
        with contextlib.suppress(ValidationError):
            settings = Settings(**{name: value for name, value in values.items() if name not in wrong})
    if serves and settings:
        faults += [fault for names, fault in _unfit(settings, sources) if not wrong & {*names}]
    if faults or settings is None:
        raise ConfigurationError(faults)
    return Loaded(settings, sources)


def _unfit(settings: Settings, sources: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """Say what must not be served so: (the settings that it is about, the fault)."""
    faults: list[tuple[tuple[str, ...], str]] = []
    roles = settings.active_roles
    named = f"roles {', '.join(settings.roles)} (from {sources['roles']})"
    if settings.environment not in ("development", "test"):
        origins = settings.allowed_origins
        if any(origin.startswith("http://") and urlsplit(origin).hostname != "localhost" for origin in origins):
            sentence = "allowed_origins: http origins are refused outside development; use https"
            faults.append((("allowed_origins",), sentence))
        for issuer in settings.issuers:
            if issuer.is_loopback:
                sentence = f"issuers: {issuer.name}: issuer: http is refused outside development; use https"
                faults.append((("issuers",), sentence))
    if len(roles) == len(ROLES):
        return faults
    needed = {"database_url": settings.is_shared, "auth_url": True, "service_secret": True, "public_url": True}
    if {"gateway", "auth"} & roles and not {"gateway", "auth"} <= roles:
        # They are two processes then, which have to agree on who signs in where and by which proof.
        needed |= {"service_secret": settings.service_secret is not None, "public_url": settings.public_url is not None}
        needed["auth_url"] = settings.auth_url is not None or "auth" in roles
    elif "gateway" in roles and settings.environment not in ("development", "test"):
        needed["public_url"] = settings.public_url is not None
    faults += [
        ((name, "roles"), f"{name}: {named} {_NEEDS[name]}.") for name, is_there in needed.items() if not is_there
    ]
    return faults


def _environ(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ  # noqa: TID251 - the one reader


def _from_file(path: Path | None, faults: list[str]) -> dict[str, tuple[Any, str]]:
    file = path or Path(_CONFIG_FILE)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is not None:
            faults.append(f"{path}: no such file; create it or drop --config.")
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{file}: cannot be read as TOML ({error}).")
        return {}
    known: dict[str, tuple[Any, str]] = {}
    for name, value in table.items():
        if name in Settings.model_fields:
            known[name] = (tuple(value) if isinstance(value, list) else value, str(file))
        else:
            faults.append(f"{file}: unknown setting `{name}`{hint(name, Settings.model_fields)}.")
    return known


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> dict[str, tuple[Any, str]]:
    names = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    known: dict[str, tuple[Any, str]] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in _CLIENT_NAMES:
            continue
        if variable not in names:
            # A misspelt variable would silently leave a default in force.
            faults.append(f"{variable}: unknown variable{hint(variable, names)}.")
        elif not value.strip():
            faults.append(f"{variable}: is empty; give it a value or unset it.")
        else:
            known[names[variable]] = (value, variable)
    return known


def _sentence(fault: Any, sources: Mapping[str, str]) -> str:
    where = ".".join(str(part) for part in cast("tuple[object, ...]", fault["loc"]))
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    source = sources.get(where.split(".")[0], "default")
    return f"{where} (from {source}): {message}"
