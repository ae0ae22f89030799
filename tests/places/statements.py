"""Every statement of the product on PostgreSQL: which a history reached, and why the others may be left to argument."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import runwire.storage.sql
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.schema import metadata
from runwire.storage.sql import load

__all__ = ["SHARED", "UNREACHED", "UNREACHED_STATEMENTS", "all_statements", "reached", "recorded", "tables_of"]

_FOLDER: Final = Path(runwire.storage.sql.__file__).parent
_CALL: Final = re.compile(r"\brunwire_\w+")

# What a history of people does not execute, and why it relates no two of them. Whole files by their names.
UNREACHED: Final = {
    "postgres_auth.sql": "identity: in the first database only, never read beside rows of runs (a test of its own)",
    "postgres_auth_functions.sql": "identity, likewise",
    "postgres_people.sql": "rows of single people, each found by its id; what relates them to others is `runwire_meet`",
    "postgres_people_functions.sql": "refuses an identity that is another user here, and says no more",
    "postgres_bus.sql": "hints: no table at all",
    "postgres_transfer.sql": "export and import of a whole database, while nobody lives in it or as it is",
    "postgres_places.sql": "of the database itself; it asks whether anybody lives there, not who",
    "postgres_members.sql": "of processes, not of people",
    "postgres_pages.sql": "how tables are kept",
}


UNREACHED_STATEMENTS: Final = {
    **dict.fromkeys(
        ("server_version", "condition", "tables", "revision", "limit_waiting", "lock_migration", "make_meta", "ping"),
        "opening and migrating: of the database, no row of anybody",
    ),
    **dict.fromkeys(
        ("identity", "begin_history", "name_history", "place", "log"), "which history a database is: the row of `meta`"
    ),
    **dict.fromkeys(("drop_claim", "drop_people", "drop_serve", "drop_run_of_segment"), "of a migration, once"),
    **dict.fromkeys(("vacuum", "vacuum_thoroughly"), "how tables are kept"),
    **dict.fromkeys(("leftovers", "erase_user"), "of processes and their self-check: no person has such a name"),
    "stats": "executed on a connection of its own; that its sums add up is compared",
}

# What people of one database do share: how much is done for all of them at once, and who comes first. It decides when
# something of theirs is done, never what; a claim of one run at a time, made again and again, takes the same runs.
SHARED: Final = {
    "runwire_claim": "the limit of a call, and users in turn: each database has turns of its own",
    "runwire_people": "likewise: who was served longest ago; a user whose row is locked is left to the other claimer",
    "runwire_serve": "moves the turn of those who were served, by a sequence of the database",
    "as_of": "whether any lease has run out: if not, the claim need not look",
    "due_waits": "the limit of a call; who is left is due at the next",
    "runs_to_compact": "the limit of a call, longest ended first",
    "threads_to_purge": "the limit of a call, longest deleted first",
    "next_run": "where the next pass over all runs goes on",
    "threads_to_trim": "a stretch of that pass",
    "stats": "sums of the database; they add up over several",
    "waiting_runs": "likewise, up to the limit of a call",
}


def all_statements() -> dict[tuple[str, str], str]:
    """Return (file, name) → text."""
    files = sorted(path.name for path in _FOLDER.glob("postgres*.sql"))
    return {(file, name): text for file in files for name, text in load(file).items()}


@contextmanager
def recorded(patch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Give the texts of all statements that are executed until the block ends."""
    texts: set[str] = set()
    fetch = PostgresDatabase.fetch

    async def noting(self: PostgresDatabase, sql: str, *values: object, **options: Any) -> Any:
        texts.add(sql)
        return await fetch(self, sql, *values, **options)

    with patch.context() as once:
        once.setattr(PostgresDatabase, "fetch", noting)
        yield texts


def reached(texts: set[str]) -> set[tuple[str, str]]:
    """Return the statements with these texts, and the functions that they call, on and on."""
    statements = all_statements()
    found = {key for key, text in statements.items() if text in texts}
    while True:
        called = {name for key in found for name in _CALL.findall(statements[key])}
        more = {key for key in statements if key[1] in called} - found
        if not more:
            return found
        found |= more


def tables_of(text: str) -> set[str]:
    """Return the tables that a statement names, whichever schema of the two describes them."""
    return {table for table in metadata.tables if re.search(rf"(?<![\w.@']){table}\b(?!\s*\()", text)}
