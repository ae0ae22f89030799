"""Statements that relate rows of two users, each by one small change. Every one of them must be seen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Final

import pytest

from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["MUTANTS", "Mutant"]

_DEFINITION: Final = "SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.proname = $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change of one statement."""

    where: str  # a function of the database, or `module:block` of a statement beside it
    old: str
    new: str

    @asynccontextmanager
    async def at_work(self, storages: list[PostgresStorage], patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        """Have the changed statement in all these databases until the block ends."""
        module, _, block = self.where.partition(":")
        if block:
            with self._patched(module, block, patch):
                yield
            return
        before = await storages[0].database.fetchval(_DEFINITION, self.where)
        assert before, f"there is no {self.where}"
        after = self._changed(before)
        try:
            for storage in storages:
                await storage.database.execute(after)
            yield
        finally:
            for storage in storages:
                await storage.database.execute(before)

    @contextmanager
    def _patched(self, module: str, block: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
        found = import_module(f"runwire.storage.postgres.{module}")
        blocks: Mapping[str, str] = found._SQL
        with patch.context() as once:
            once.setattr(found, "_SQL", MappingProxyType({**blocks, block: self._changed(blocks[block])}))
            yield

    def _changed(self, text: str) -> str:
        assert self.old in text, f"{self.where} is written otherwise now: {text}"
        return text.replace(self.old, self.new)


MUTANTS: Final = {
    "the limit of runs counts those of everybody": Mutant(
        where="runwire_claim", old="a.user_key = u.key AND a.status", new="a.status"
    ),
    "a run of anybody keeps queued runs of all waiting": Mutant(
        where="runwire_is_next", old="a.thread_key = p_thread AND a.status", new="a.status"
    ),
    "a message of anybody is before one's own in the queue": Mutant(
        where="runwire_is_next", old="o.thread_key = p_thread AND o.status", new="o.status"
    ),
    "seqs are counted over all threads": Mutant(
        where="runwire_extend",
        old="SET head = t.head + p_sizes[1]",
        new="SET head = (SELECT max(o.head) FROM thread o) + p_sizes[1]",
    ),
    "a key that somebody else used is used": Mutant(
        where="runwire_send", old="u.id = p_user AND r.idempotency_key", new="r.idempotency_key"
    ),
    "who is disabled takes all others along": Mutant(
        where="runwire_cancel",
        old='r.user_key = (SELECT u.key FROM "user" u WHERE u.id = p_user) AND r.key',
        new="r.key",
    ),
    "runs of others can be cancelled": Mutant(
        where="runwire_cancel", old="(u.id = p_user AND t.deleted_at IS NULL)", new="t.deleted_at IS NULL"
    ),
    "waits of others can be answered": Mutant(where="runwire_answer", old="u.id = p_user AND t.", new="t."),
    "one refused batch fails those of others": Mutant(
        where="runwire_append",
        old="IF cardinality(p_closes) > 0 AND cardinality(v_places) > 0 THEN",
        new="IF cardinality(v_places) < cardinality(p_runs) THEN v_places := '{}'; v_keys := '{}';"
        " v_thread_keys := '{}'; v_thread_ids := '{}'; v_people := '{}'; END IF;"
        " IF cardinality(p_closes) > 0 AND cardinality(v_places) > 0 THEN",
    ),
    "threads of others can be read": Mutant(
        where="threads:thread_row", old="t.id = $1 AND u.id = $2", new="t.id = $1 AND $2::text IS NOT NULL"
    ),
    "runs of others are listed": Mutant(
        where="runs:list_runs",
        old='r.user_key = (SELECT u.key FROM "user" u WHERE u.id = $1) AND t.',
        new="$1::text IS NOT NULL AND t.",
    ),
    "large values of others can be fetched": Mutant(
        where="log:blob_of_user", old="u.id = $1 AND b.ref", new="$1::text IS NOT NULL AND b.ref"
    ),
    "nothing old goes while a run of anybody goes on": Mutant(
        where="upkeep:threads_to_trim", old="a.thread_key = r.thread_key AND a.status", new="a.status"
    ),
    "a lease is renewed for one run at a time": Mutant(
        where="runs:renew", old="ORDER BY r.key FOR", new="ORDER BY r.key LIMIT 1 FOR"
    ),
}
