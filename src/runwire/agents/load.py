"""Find the user's agents: `file.py`, `file.py:name`, `module:name`, or `[tool.runwire]` in pyproject.toml.

A mistake is answered with the file and what to write instead; a fault in the user's file shows the user's own
lines and none of ours.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
import tomllib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

from runwire.agents.plain import Agent, fault_of, plain_agent
from runwire.errors import ConfigurationError

__all__ = ["Agents", "NoneNamed", "load_agents"]

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MAX_AGENTS: Final = 1_000  # a process tells the others of each (`storage.base_members`)
_PROJECT_FILE: Final = "pyproject.toml"
_SHOWN_LINES: Final = 5
_EXAMPLE: Final = 'write `async def agent(ctx, message): …`, or `agents = {"name": function}`'
_TABLE_EXAMPLE: Final = '[tool.runwire]\nagent = "agent.py"'


class NoneNamed(ConfigurationError):
    """Report that nothing says which agents there are; a command that starts a server may still name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agents:
    """The agents that this process can run. Immutable: a reload makes a new one."""

    by_name: Mapping[str, Agent]
    default: str | None = None  # who answers a message that names none
    is_default_chosen: bool = False  # somebody named it; else it is the only one, or there is none
    version: str | None = None  # of their code, told with `agent_started`
    names: tuple[str, ...] = field(init=False)  # sorted

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", MappingProxyType(dict(self.by_name)))
        object.__setattr__(self, "names", tuple(sorted(self.by_name)))

    def get(self, name: str) -> Agent | None:
        """Return an agent by its name; None if nobody here has it."""
        return self.by_name.get(name)

    @classmethod
    def of(cls, functions: Mapping[str, Callable[..., Any]], *, default: str | None = None) -> Agents:
        """Make agents of plain functions, for tests and embedding.

        Raises:
            ConfigurationError: one of them cannot be an agent.
        """
        faults = [f"agent {name}: it {why}" for name, fn in functions.items() if (why := _fault(name, fn))]
        if faults:
            raise ConfigurationError(faults)
        by_name = {name: plain_agent(fn) for name, fn in functions.items()}
        return cls(by_name=by_name, default=default or _only(by_name), is_default_chosen=default is not None)


def load_agents(targets: Sequence[str], *, root: Path, default: str | None = None, fresh: bool = False) -> Agents:
    """Load the agents that the targets name; with no target, those of `[tool.runwire]` in the root's pyproject.toml.

    Imports the user's code, so it may do whatever that code does when it is imported.

    Args:
        targets: such as `agent.py`, `agents/weather.py:forecast`, `my_package.agents:support`.
        root: the folder that relative files and modules are found from.
        default: name of the agent that answers when a message names none; else the only one.
        fresh: import files and modules below the root anew, beside what is loaded already (reload).

    Raises:
        ConfigurationError: with every fault found, each naming its target; `NoneNamed` if there is no target.
    """
    loading = _Loading(root.resolve(), fresh=fresh)
    if targets:
        for target in targets:
            loading.add(target)
    else:
        loading.add_project()
    if default is not None and default not in loading.found and not loading.faults:
        loading.faults.append(
            f"default_agent {default!r}: there is no such agent, only {', '.join(sorted(loading.found))}"
        )
    if len(loading.found) > _MAX_AGENTS:
        loading.faults.append(f"{len(loading.found)} agents; a process may have {_MAX_AGENTS}")
    if loading.faults:
        raise NoneNamed(loading.faults) if loading.names_none else ConfigurationError(loading.faults)
    return Agents(
        by_name={name: plain_agent(fn) for name, fn in loading.found.items()},
        default=default or _only(loading.found),
        is_default_chosen=default is not None,
        version=loading.version(),
    )


class _Loading:
    """One call of `load_agents`: collects agents and faults."""

    def __init__(self, root: Path, *, fresh: bool) -> None:
        self.found: dict[str, Callable[..., Any]] = {}
        self.faults: list[str] = []
        self.names_none = False  # the one fault is that the project names no agent
        self._root = root
        self._fresh = fresh
        self._modules: dict[str, ModuleType] = {}

    def version(self) -> str | None:
        """Return a hash of the source files that were named."""
        files = sorted({file for module in self._modules.values() if (file := module.__file__)})
        if not files:
            return None
        return hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files)).hexdigest()[:12]

    def add_project(self) -> None:
        """Add what pyproject.toml names."""
        path = self._root / _PROJECT_FILE
        if not path.is_file():
            self.names_none = True
            self.faults.append(
                f"no agent is named and {path} does not exist; run `runwire dev agent.py`, or write there:\n"
                f"{_TABLE_EXAMPLE}"
            )
            return
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("runwire")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.faults.append(f"{path} is not TOML: {error}")
            return
        if not isinstance(table, dict) or not ("agent" in table or "agents" in table):
            self.names_none = True
            self.faults.append(f"{path} names no agent; add:\n{_TABLE_EXAMPLE}")
            return
        named = table.get("agents", {})
        if "agent" in table:
            self._add_from_table(path, None, table["agent"])
        if not isinstance(named, dict):
            self.faults.append(f'{path}: tool.runwire.agents is a table: `agents = {{weather = "weather.py:agent"}}`')
            return
        for name, target in named.items():
            self._add_from_table(path, name, target)

    def _add_from_table(self, path: Path, name: str | None, target: object) -> None:
        if isinstance(target, str):
            self.add(target, name=name)
        else:
            self.faults.append(f'{path}: a target is text such as "agent.py" or "module:name", not {target!r}')

    def add(self, target: str, *, name: str | None = None) -> None:
        """Add the agents of one target; `name` renames its only one."""
        place, _, attribute = target.partition(":") if not target.endswith(".py") else (target, "", "")
        module = self._import(target, place)
        if module is None:
            return
        stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
        value = self._look_up(target, module, attribute)
        if value is None:
            return
        found = dict(value) if isinstance(value, Mapping) else {_name_for(attribute, stem): value}
        if name is not None and len(found) != 1:
            self.faults.append(f"{target}: agent {name!r} must be one function; this names {len(found)}")
            return
        for own_name, fn in found.items():
            self._keep(target, name or str(own_name), fn)

    def _keep(self, target: str, name: str, fn: object) -> None:
        fault = _fault(name, fn)
        if fault:
            self.faults.append(f"{target}: agent {name!r} {fault}")
        elif name in self.found and self.found[name] is not fn:
            self.faults.append(f"{target}: there is another agent named {name!r}; give one another name")
        elif callable(fn):
            self.found[name] = fn

    def _look_up(self, target: str, module: ModuleType, attribute: str) -> object:
        for name in [attribute] if attribute else ["agents", "agent"]:
            value: object = module
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is not None:
                return value
        if attribute:
            near = [n for n, v in vars(module).items() if not n.startswith("_") and fault_of(v) is None]
            hint = f"; it has {', '.join(near)}" if near else f"; {_EXAMPLE}"
            self.faults.append(f"{target}: there is no {attribute!r} in {_file_of(module)}{hint}")
        else:
            self.faults.append(f"{target}: there is no `agent` in {_file_of(module)}; {_EXAMPLE}")
        return None

    def _import(self, target: str, place: str) -> ModuleType | None:
        if place in self._modules:
            return self._modules[place]
        path = (self._root / place).resolve()
        if place.endswith(".py") and not path.is_file():
            self.faults.append(f"{target}: there is no file {path}")
            return None
        if not place.endswith(".py") and not re.fullmatch(r"[A-Za-z_][\w.]*", place):
            self.faults.append(f"{target}: write `file.py`, `file.py:name` or `module:name`")
            return None
        try:
            module = self._import_file(path) if place.endswith(".py") else self._import_module(place)
        except ModuleNotFoundError as error:
            if error.name and (place == error.name or place.startswith(error.name + ".")):
                hint = f"; did you mean {place}.py?" if (self._root / f"{place}.py").is_file() else ""
                self.faults.append(f"{target}: there is no module {error.name!r} in {self._root}{hint}")
            else:
                self.faults.append(_fault_in_file(target, error))
            return None
        except (Exception, SystemExit) as error:  # the user's code: whatever it does when it is imported
            self.faults.append(_fault_in_file(target, error))
            return None
        self._modules[place] = module
        return module

    def _import_file(self, path: Path) -> ModuleType:
        # As Python does for a script: what lies beside the file can be imported by it.
        _put_first_on_path(path.parent)
        if self._fresh:
            self._forget(path.parent)
        name = f"_runwire_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None, "a .py file always has a loader"  # noqa: PT018 - one fact
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and typing look a class's module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    def _import_module(self, name: str) -> ModuleType:
        _put_first_on_path(self._root)
        if self._fresh:
            self._forget(self._root)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def _forget(self, folder: Path) -> None:
        """Let modules of the user's folder be imported anew; who holds the old ones keeps them."""
        importlib.invalidate_caches()
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and _is_own(file) and Path(file).is_relative_to(folder) and module not in self._modules.values():
                del sys.modules[name]


def _name_for(attribute: str, stem: str) -> str:
    return stem if attribute in ("", "agent", "agents") else attribute.rpartition(".")[2]


def _fault(name: str, fn: object) -> str | None:
    if not _NAME.fullmatch(name):
        return "has a name of other characters than letters, digits and _ . - (at most 64)"
    return fault_of(fn)


def _only(found: Mapping[str, object]) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _put_first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _file_of(module: ModuleType) -> str:
    return module.__file__ or module.__name__


def _fault_in_file(target: str, error: BaseException) -> str:
    """Say what went wrong in the user's file, with the user's own lines."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}\n    {frame.line}" for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        text = (error.text or "").rstrip("\n")
        lines.append(f"  {error.filename}:{error.lineno}\n    {text.strip()}")
        reason = f"{type(error).__name__}: {error.msg}"
    else:
        reason = f"{type(error).__name__}: {error}"
    return "\n".join([f"{target}: {reason}", *lines[-_SHOWN_LINES:]])


def _is_own(file: str) -> bool:
    """Return whether a file is the user's: neither Python's, nor a library's, nor Runwire's."""
    if file.startswith("<") or "site-packages" in file:
        return False
    libraries = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))
    return not any(Path(file).is_relative_to(library) for library in libraries)
