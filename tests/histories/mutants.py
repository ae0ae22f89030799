"""Named mutants: one change in the source text of the rule, the reducer, the matcher or the JavaScript client.

A mutant is a substitution in a *copy* of the text; the copy is loaded under another name, with the modules that
build on it, and the tree is never touched. One whose pattern the source no longer has is an error, not a pass.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
_PROTOCOL = ROOT / "src" / "runwire" / "protocol"
_ALIAS = "runwire_mutant"

# Modules of the same copy: each imports only those before it.
_FAMILIES = (("shown", "view"), ("acts", "sayings", "journal", "voices", "matching", "replay"))


@dataclass(frozen=True)
class Mutant:
    name: str  # what it does wrong
    file: str
    old: str  # occurs once; more than the changed line only where that alone is not unique
    new: str

    @property
    def source(self) -> str:
        """Return the changed text.

        Raises:
            LookupError: the source has changed; write the mutant anew.
        """
        path = (ROOT if "/" in self.file else _PROTOCOL) / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} has {text.count(self.old)} times: {self.old!r} (mutant {self.name!r})")
        return text.replace(self.old, self.new)


@contextmanager
def loaded(mutant: Mutant) -> Iterator[ModuleType]:
    """Load the copy; the module that is given is the last of its family (`view` or `replay`)."""
    stem = mutant.file.removesuffix(".py")
    family = next(family for family in _FAMILIES if stem in family)
    changed = mutant.source
    try:
        for name in family:
            text = changed if name == stem else (_PROTOCOL / f"{name}.py").read_text(encoding="utf-8")
            for sibling in family:
                text = text.replace(f"from runwire.protocol.{sibling} import", f"from {_ALIAS}_{sibling} import")
            module = ModuleType(f"{_ALIAS}_{name}")
            sys.modules[module.__name__] = module  # before it runs: dataclasses look themselves up
            exec(compile(text, f"{name}.py, {mutant.name}", "exec"), vars(module))
        yield sys.modules[f"{_ALIAS}_{family[-1]}"]
    finally:
        for name in family:
            sys.modules.pop(f"{_ALIAS}_{name}", None)
