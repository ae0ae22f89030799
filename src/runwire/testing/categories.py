"""Names for tests that belong together, and where a project keeps them.

A project says so in pyproject.toml; what it does not say is a folder or files of `tests/` that are named like it::

    [tool.runwire.test]
    marker = "not slow"                # pytest's -m of every category that has none of its own
    together = ["tests/cluster"]       # folders whose tests share what takes long to start: one worker runs them

    [tool.runwire.test.categories]
    golden_path = { paths = ["tests/test_answers.py"], never_skips = true }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from runwire.errors import ConfigurationError

__all__ = ["STANDARD", "Category", "Project"]

STANDARD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mission_critical": "the promises, on real services",
        "golden_path": "from a message through the five events to the stored answer",
        "unit": "every part alone; seconds",
        "integration": "parts together, on real services",
        "e2e": "started servers, a real browser",
        "security": "what attackers do",
        "performance": "what it costs",
        "chaos": "kills, full disks, clocks that jump",
        "all": "everything",
    }
)
"""Category → its purpose; every project has these names, and tests for them or not."""

_TESTS: Final = "tests"
_FILE: Final = "pyproject.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A name for tests that belong together."""

    name: str
    purpose: str
    # below the project's root, maybe of one test (`file.py::test_name`); each must exist when the category is run
    paths: tuple[str, ...]
    # pytest's -m; empty: every test
    marker: str = ""
    # a skip is a failure: the promise was not looked at
    never_skips: bool = False

    def has(self, name: str) -> bool:
        """Return whether a test's id lies on a path of it; the marker was pytest's to choose."""
        return any(
            wanted == "." or name == wanted or name.startswith((f"{wanted}/", f"{wanted}::", f"{wanted}["))
            for wanted in self.paths
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with tests."""

    root: Path
    # by name, in the order in which they are listed
    categories: Mapping[str, Category]
    # folders whose tests one worker runs, one after the other
    together: tuple[str, ...] = ()

    @classmethod
    def around(cls, place: Path) -> Project:
        """Read the project that a folder is in: the nearest above it with a pyproject.toml or `tests/`, else itself.

        Raises:
            ConfigurationError: what pyproject.toml says of tests is not so.
        """
        for folder in (place, *place.parents):
            if (folder / _FILE).is_file() or (folder / _TESTS).is_dir():
                return cls.at(folder)
        return cls.at(place)

    @classmethod
    def at(cls, root: Path) -> Project:
        """Read the project of a folder.

        Raises:
            ConfigurationError: what pyproject.toml says of tests is not so.
        """
        table = _table(root / _FILE)
        marker = _text(table, "marker", "tool.runwire.test")
        found = {name: _own(root, name, purpose, marker) for name, purpose in STANDARD.items() if name != "all"}
        for folder in sorted(_below(root)):
            found.setdefault(folder, _own(root, folder, f"what is in {_TESTS}/{folder}", marker))
        for name, entry in _tables(table).items():
            found[name] = _said(name, entry, marker, found.get(name))
        found["all"] = _said("all", _tables(table).get("all", {}), marker, _own(root, "all", STANDARD["all"], marker))
        return cls(root=root, categories=found, together=_names(table, "together", "tool.runwire.test"))


def _own(root: Path, name: str, purpose: str, marker: str) -> Category:
    """Return what a project has of a category that it says nothing about."""
    tests = root / _TESTS
    if name == "all":
        paths = [_TESTS if tests.is_dir() else "."]
    elif (tests / name).is_dir():
        paths = [f"{_TESTS}/{name}"]
    else:
        paths = sorted(path.relative_to(root).as_posix() for path in tests.glob(f"test_{name}*.py"))
    return Category(name=name, purpose=purpose, paths=tuple(paths) or (f"{_TESTS}/{name}",), marker=marker)


def _below(root: Path) -> list[str]:
    """Return the folders of `tests/` that have tests."""
    return [path.name for path in (root / _TESTS).glob("*/") if next(path.rglob("test_*.py"), None)]


def _said(name: str, entry: Any, marker: str, known: Category | None) -> Category:
    where = f"tool.runwire.test.categories.{name}"
    if not isinstance(entry, dict):
        raise ConfigurationError([f'{_FILE}: {where} is a table, such as `{{ paths = ["{_TESTS}/{name}"] }}`'])
    if unknown := sorted(set(entry) - {"purpose", "paths", "marker", "never_skips"}):
        raise ConfigurationError([f"{_FILE}: {where} has no {', '.join(unknown)}"])
    never_skips = entry.get("never_skips", False)
    if not isinstance(never_skips, bool):
        raise ConfigurationError([f"{_FILE}: {where}.never_skips is true or false"])
    return Category(
        name=name,
        purpose=_text(entry, "purpose", where) or (known.purpose if known else name),
        paths=_names(entry, "paths", where) or (known.paths if known else (f"{_TESTS}/{name}",)),
        marker=_text(entry, "marker", where) or marker,
        never_skips=never_skips,
    )


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path} is not TOML: {error}"]) from error
    for name in ("tool", "runwire", "test"):
        table = table.get(name, {})
        if not isinstance(table, dict):
            raise ConfigurationError([f"{path}: tool.runwire.test is a table"])
    if unknown := sorted(set(table) - {"marker", "together", "categories"}):
        raise ConfigurationError([f"{path}: tool.runwire.test has no {', '.join(unknown)}"])
    return table


def _tables(table: Mapping[str, Any]) -> dict[str, Any]:
    found = table.get("categories", {})
    if not isinstance(found, dict):
        raise ConfigurationError([f"{_FILE}: tool.runwire.test.categories is a table of categories"])
    return found


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise ConfigurationError([f"{_FILE}: {where}.{name} is text"])
    return value


def _names(table: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError([f"{_FILE}: {where}.{name} is a list of paths"])
    return tuple(each.strip("/") for each in value)
