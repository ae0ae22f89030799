"""The functions, each broken in one place: what the hunt must see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.storage.sql import load

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """Functions with other text; `applied` is SQL that puts them in the place of the right ones."""

    name: str
    changes: tuple[tuple[str, str, str], ...]  # (function, what stands there, what stands there instead)
    for_s: float = 30.0  # in which it is seen, mostly much sooner
    is_quick: bool = False

    @property
    def applied(self) -> str:
        texts = {**load("postgres_functions.sql"), **load("postgres_claim_functions.sql")}
        for function, old, new in self.changes:
            if old not in texts[function]:
                raise LookupError(f"{function} has no such text any more: {old}")
            texts[function] = texts[function].replace(old, new)
        changed = {function for function, _, _ in self.changes}
        return ";\n".join(texts[name].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION") for name in changed)


MUTANTS: Final = (
    Mutant(
        "append waits, and locks runs first",
        (
            ("runwire_append", "FOR NO KEY UPDATE OF t SKIP LOCKED", "FOR NO KEY UPDATE OF t"),
            (
                "runwire_append",
                "\nBEGIN\n",
                "\nBEGIN\n  PERFORM 1 FROM run r WHERE r.id = ANY (p_runs) ORDER BY r.key FOR NO KEY UPDATE;\n",
            ),
        ),
    ),
    Mutant(
        "cancel locks runs before their threads",
        (
            (
                "runwire_cancel",
                "  PERFORM 1 FROM thread t WHERE",
                "  PERFORM 1 FROM run r WHERE r.key = ANY (v_keys) ORDER BY r.key FOR NO KEY UPDATE;\n"
                "  PERFORM 1 FROM thread t WHERE",
            ),
        ),
        is_quick=True,
    ),
    Mutant(
        "claim waits for runs, and locks users against foreign keys",
        (
            ("runwire_claim", "FOR NO KEY UPDATE OF r SKIP LOCKED", "FOR NO KEY UPDATE OF r"),
            ("runwire_people", "FOR NO KEY UPDATE OF u", "FOR UPDATE OF u"),
        ),
    ),
    Mutant(
        "claim counts without the lock of the user",
        (("runwire_people", "FOR NO KEY UPDATE OF u SKIP LOCKED", ""),),
        is_quick=True,
    ),
    Mutant(
        "a seq is left out now and then",
        (("runwire_extend", "SET head = t.head + m.size", "SET head = t.head + m.size + (m.size > 1)::int"),),
        for_s=1.0,  # it is seen in the end
    ),
)
