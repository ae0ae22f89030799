"""Where values come from: a file, variables, secrets in files. The only reader of the environment.

Each source gives what it sets, by name, and adds its faults to a list. A fault names the setting and the source and
never says the value: it may be a secret, or one that was put into the wrong place.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from runwire.settings.model import PREFIX, Settings
from runwire.settings.values import hint

__all__ = [
    "CLIENT_NAMES",
    "ENVIRONMENTS",
    "TEST_NAMES",
    "Layer",
    "environment_file",
    "from_file",
    "from_secret_files",
    "from_secret_folders",
    "from_variables",
    "process_environment",
]

Layer = dict[str, tuple[Any, str]]  # setting → its value, and where it came from in words

# Read by the verbs that talk to a server; not settings of a server.
CLIENT_NAMES: Final = frozenset({"RUNWIRE_URL", "RUNWIRE_TOKEN"})
# Read by tests of a deployment that is there; whoever has them set starts servers beside them.
TEST_NAMES: Final = frozenset(f"RUNWIRE_STAGING_{name}" for name in ("URL", "TOKEN", "TOKEN_2", "AGENT"))
ENVIRONMENTS: Final[tuple[str, ...]] = get_args(Settings.model_fields["environment"].annotation)
_IN_FILE: Final = "_FILE"
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"  # systemd: LoadCredential=service_secret:/etc/…
_SECRET_BYTES: Final = 65_536  # of a file: the tables of many issuers fit
_NOT_SECRET: Final = ("environment", "secrets_dir")  # they say which files are read


def process_environment(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return the environment of this process, or the one that a test gives."""
    return os.environ if environ is None else environ  # noqa: TID251 - the one reader


def from_file(file: Path, faults: list[str], *, must_exist: bool = False) -> Layer:
    """Read a TOML file; nothing if it need not be there and is not."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            faults.append(f"{file}: no such file; create it or drop --config.")
        return {}
    except UnicodeDecodeError:
        faults.append(f"{file}: cannot be read as TOML (it is not UTF-8).")
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{file}: cannot be read as TOML ({_reason(error)}).")
        return {}
    layer: Layer = {}
    for name, value in table.items():
        if name in Settings.model_fields:
            layer[name] = (tuple(value) if isinstance(value, list) else value, str(file))
        else:
            faults.append(f"{file}: unknown setting `{name}`{hint(name, Settings.model_fields)}.")
    return layer


def environment_file(file: Path, environment: str, faults: list[str]) -> Layer:
    """Read the file that is for one environment only: `runwire.production.toml` beside `runwire.toml`.

    One whose name is nearly that of an environment is a fault: nobody would read it.
    """
    for beside in sorted(file.parent.glob(f"{file.stem}.*{file.suffix}")):
        word = beside.name.removeprefix(f"{file.stem}.").removesuffix(file.suffix)
        near = [name for name in ENVIRONMENTS if len(word) > 2 and name.startswith(word)]
        meant = f" (did you mean `{near[0]}`?)" if near else hint(word, ENVIRONMENTS)
        if word not in ENVIRONMENTS and meant:
            faults.append(f"{beside}: is read by nobody, there is no environment `{word}`{meant}.")
    own = file.with_name(f"{file.stem}.{environment}{file.suffix}")
    layer = from_file(own, faults)
    if layer.get("environment", (environment, ""))[0] != environment:
        faults.append(f"{own}: sets another environment than the one for which it is read; leave it out here.")
    layer.pop("environment", None)
    return layer


def from_variables(environ: Mapping[str, str], faults: list[str]) -> Layer:
    """Take `RUNWIRE_<NAME>`; a name that is nearly one is a fault, for it would leave a default in force."""
    names = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    candidates = [*names, *(f"{variable}{_IN_FILE}" for variable in names)]
    layer: Layer = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in CLIENT_NAMES | TEST_NAMES:
            continue
        if variable not in candidates:
            faults.append(f"{variable}: unknown variable{_nearest(variable, candidates)}.")
        elif not value.strip():
            faults.append(f"{variable}: is empty; give it a value or unset it.")
        elif variable in names:
            layer[names[variable]] = (value, variable)
    return layer


def _nearest(variable: str, candidates: list[str]) -> str:
    # What all begin with makes nothing alike.
    found = hint(variable.removeprefix(PREFIX), [name.removeprefix(PREFIX) for name in candidates])
    return found.replace("`", f"`{PREFIX}", 1)


def from_secret_files(environ: Mapping[str, str], faults: list[str]) -> Layer:
    """Take `RUNWIRE_<NAME>_FILE`: the path of a file that has the value, as Docker and others mount secrets."""
    layer: Layer = {}
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        source = f"{variable}{_IN_FILE}"
        path = environ.get(source, "").strip()
        if not path:
            continue  # an empty one is told among the variables
        if environ.get(variable):
            faults.append(f"{variable} and {source} are both set; unset one of them.")
            continue
        value = _read_secret(Path(path), source, faults)
        if value is not None:
            layer[name] = (value, source)
    return layer


def from_secret_folders(
    secrets_dir: Path | None, environ: Mapping[str, str], before: Layer, faults: list[str]
) -> Layer:
    """Take the files of folders of secrets, each named like its setting.

    Args:
        secrets_dir: a folder of Runwire's own; any other name there is a fault. Names with a dot at first are not
            secrets: Kubernetes has its versions there.
        environ: has systemd's `CREDENTIALS_DIRECTORY`, where agents' credentials may be, too: names unlike any
            setting's are not ours.
        before: what `from_secret_files` took. The same setting twice is a fault: nobody could know which one counts.
        faults: gets them.
    """
    layer = dict(before)
    if secrets_dir is not None:
        _take_folder(secrets_dir, "secrets_dir", layer, faults, is_ours=True)
    if credentials := environ.get(_CREDENTIALS):
        _take_folder(Path(credentials), _CREDENTIALS, layer, faults, is_ours=False)
    return layer


def _take_folder(folder: Path, whose: str, layer: Layer, faults: list[str], *, is_ours: bool) -> None:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        faults.append(f"{whose}: cannot be read as a folder ({_reason(error)}).")
        return
    for name in names:
        source = f"{name} of {whose}"
        if name not in Settings.model_fields or name in _NOT_SECRET:
            meant = _meant(name, is_ours=is_ours)
            if meant is not None:
                faults.append(f"{whose}: {name}: {meant}.")
        elif name in layer:
            faults.append(f"{name}: is set by {layer[name][1]} and by {source}; remove one of them.")
        else:
            value = _read_secret(folder / name, source, faults)
            if value is not None:
                layer[name] = (value, source)


def _meant(name: str, *, is_ours: bool) -> str | None:
    """Say what is wrong with a file's name; None: it is somebody else's."""
    if name in _NOT_SECRET:
        return "says which files are read, and cannot come from one of them"
    meant = hint(name.lower(), Settings.model_fields)
    if not is_ours and not meant:
        return None
    return f"is no setting{meant}"


def _read_secret(path: Path, source: str, faults: list[str]) -> str | None:
    """Return what a file has, without white space around it; the path is not said: it may be the secret itself."""
    try:
        with path.open("rb") as opened:
            data = opened.read(_SECRET_BYTES + 1)
        text = data.decode("utf-8").strip()
    except FileNotFoundError:
        faults.append(f"{source}: there is no such file; give the path of a file that has the value.")
    except UnicodeDecodeError:
        faults.append(f"{source}: the file is not UTF-8 text.")
    except (OSError, ValueError) as error:
        faults.append(f"{source}: the file cannot be read ({_reason(error)}).")
    else:
        if len(data) > _SECRET_BYTES:
            faults.append(f"{source}: the file has more than {_SECRET_BYTES // 1024} KiB.")
        elif text:
            return text
        else:
            faults.append(f"{source}: the file is empty; write the value into it.")
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)  # what and where, no value
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
