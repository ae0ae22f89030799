"""All of the looks at a checkout, and what is made by a command and so must be as that command makes it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from runwire.app.source import rules
from runwire.app.source.tree import Finding, Tree
from runwire.errors import Unavailable

__all__ = ["CHECKS", "Looked", "look_through"]

State = Literal["ok", "fault", "not_checked"]

_GENERATORS: Final = (
    "runwire.protocol.schema",
    "runwire.settings.reference",
    "runwire.conformance.reference",
    "runwire.app.pages",
)
_LIMIT_S: Final = 120.0  # for a command


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has found."""

    check: str
    about: str
    state: State
    findings: tuple[Finding, ...] = ()
    reason: str = ""  # why it was not checked


def look_through(root: Path) -> Iterator[Looked]:
    """Look at everything in a checkout, one after the other.

    Raises:
        NotFound: there is none.
    """
    tree = Tree(root)
    for name, look in CHECKS.items():
        about = (look.__doc__ or "").split("\n")[0]
        try:
            findings = tuple(look(tree))
        except Unavailable as error:
            yield Looked(check=name, about=about, state="not_checked", reason=error.message)
        else:
            yield Looked(check=name, about=about, state="fault" if findings else "ok", findings=findings)


def _generated_files(tree: Tree) -> Iterator[Finding]:
    """What commands make of the code is what they make of it now."""
    for module in _GENERATORS:
        status, said = _run(tree, f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)")
        if status:
            stale = re.search(r"out of date: ([^;]*)", said)
            what = f"{stale[1]} is not what {module} makes" if stale else f"{module} fails: {said.strip()[-200:]}"
            yield Finding("docs/reference", what, f"run `python -m {module} --write`")


def _import_contracts(tree: Tree) -> Iterator[Finding]:
    """Rooms import what ARCHITECTURE.md allows them to, by `.importlinter`."""
    if importlib.util.find_spec("importlinter") is None:
        raise Unavailable("import-linter is not installed here: `make setup` installs it.")
    status, said = _run(tree, "import importlinter.cli as c; c.lint_imports_command(['--no-logo', '--no-cache'])")
    if status:
        for name in re.findall(r"^(.*) BROKEN", said, re.MULTILINE) or [said.strip()[-200:]]:
            yield Finding(".importlinter", f"broken: {name.strip()}", "run `lint-imports`: it shows the chain")


def _run(tree: Tree, code: str) -> tuple[int, str]:
    """Run a line of Python on the checkout's own code, with `--check` as its argument; give status and what it said."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'src'); {code}", "--check"]
    try:
        done = subprocess.run(  # noqa: S603 - the lines above, and nobody else's
            command, cwd=tree.root, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"A command could not be run: {type(error).__name__}.") from error
    return done.returncode, done.stdout + done.stderr


CHECKS: Final[Mapping[str, Callable[[Tree], Iterable[Finding]]]] = MappingProxyType(
    {
        "codes": rules.codes_have_one_home,
        "seqs": rules.seqs_are_born_once,
        "verifier": rules.one_verifier_of_tokens,
        "environment": rules.one_reader_of_the_environment,
        "databases": rules.databases_have_one_door_each,
        "names": rules.names_have_one_home,
        "generated": _generated_files,
        "contracts": _import_contracts,
    }
)
