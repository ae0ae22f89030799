"""The tables of log and runs. The auth service adds its own to the same `metadata` in `schema_auth.py`.

`key` is the database's integer, never shown; `id` is the opaque text that the wire carries. Changing a
table here needs a migration beside it: a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = ["Whole", "blob", "member", "meta", "metadata", "pinned", "run", "segment", "thread", "user", "wait"]

metadata: Final = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_unique",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

# 64 bits everywhere; on SQLite the name INTEGER makes a primary key the rowid itself.
Whole: Final = BigInteger().with_variant(Integer, "sqlite")


def _key() -> Column[int]:
    return Column("key", Whole, primary_key=True)


def _whole(name: str, *arguments: Any, null: bool = False, zero: bool = False) -> Column[int]:
    return Column(name, Whole, *arguments, nullable=null, server_default=text("0") if zero else None)


def _text(name: str, *, null: bool = False, zero: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null, server_default=text("''") if zero else None)


meta: Final = Table(
    "meta",  # one row
    metadata,
    _key(),
    _text("log"),  # identity of this history (DESIGN §4)
    _whole("incarnation", zero=True),  # moves by one each time a process becomes the owner
    _whole("turn", zero=True),  # counts claims, so that users are served in turn
    _text("place_set", null=True),  # of several databases with users placed on them: which ones; NULL: it stands alone
    _whole("place", null=True),  # which of them, from 0
    _whole("places", null=True),  # how many they are
    CheckConstraint("key = 1", name="one_row"),
    sqlite_strict=True,
)

user: Final = Table(
    "user",  # the backend's own row of a person, made on first contact
    metadata,
    _key(),
    _text("id"),
    _text("iss"),
    _text("sub"),
    _whole("turn", zero=True),  # `meta.turn` when a queued run of theirs was last claimed
    _whole("created_at"),
    _whole("quarantined_at", null=True),  # since when there is no account to it
    UniqueConstraint("id"),
    UniqueConstraint("iss", "sub"),
    sqlite_strict=True,
)

thread: Final = Table(
    "thread",
    metadata,
    _key(),
    _text("id"),
    _whole("user_key", ForeignKey("user.key")),
    _text("title", null=True),
    _whole("head", zero=True),  # the seq of the last event; moved by one statement only
    _whole("floor", zero=True),  # events up to this seq are gone for readers, if not from the file
    _whole("created_at"),
    _whole("updated_at"),
    _whole("deleted_at", null=True),  # set: a tombstone
    _whole("purged_at", null=True),  # a tombstone whose runs and events are gone from the file
    UniqueConstraint("id"),
    Index(None, "user_key", "key"),
    sqlite_strict=True,
)

run: Final = Table(
    "run",
    metadata,
    _key(),
    _text("id"),
    _whole("thread_key", ForeignKey("thread.key")),
    _whole("user_key", ForeignKey("user.key")),
    _text("agent"),
    _text("message"),  # id of the user's message
    _whole("after", zero=True),  # the thread's head before the write that made this run
    _whole("seq", zero=True),  # of the user_message
    _text("status"),
    _whole("attempt", zero=True),  # the fencing token
    _whole("ordinal", zero=True),  # events appended by workers
    _whole("owner", null=True),  # incarnation that holds it; NULL: nobody
    _text("worker", null=True),
    _text("handed_over", null=True),  # why the last holder gave it back
    _text("cancel_by", null=True),
    _text("cancel_reason", null=True),
    _text("error", null=True),  # {"code", "message"} of a failed run, JSON
    _whole("started_seq", null=True),
    _whole("terminal_seq", null=True),
    _text("idempotency_key", null=True),
    _text("fingerprint", null=True),
    _whole("created_at"),
    _whole("ended_at", null=True),
    _whole("compacted_at", null=True),  # its deltas were looked at, and what was complete is gone
    _whole(
        "lease_until", null=True
    ),  # ms of the database's clock; only where owners have leases. In no index: it moves
    _text("lost", zero=True),  # the attempts whose worker was lost, "1,3,4,"
    _whole("woken_at", null=True),  # since when a parked run is to be claimed: it was answered, or called off
    Column("closing", LargeBinary, nullable=True),  # of a parked run: what ends it, should it be cancelled; packed
    UniqueConstraint("id"),
    CheckConstraint("status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')", name="status"),
    CheckConstraint(
        "(terminal_seq IS NULL) = (status IN ('queued', 'running', 'waiting'))", name="ends_with_its_event"
    ),
    Index("run_by_idempotency_key", "user_key", "idempotency_key", unique=True),
    Index("run_of_thread", "thread_key", "key"),
    Index("run_of_user", "user_key", "key"),
    sqlite_strict=True,
)
_DELETED: Final = text("deleted_at IS NOT NULL AND purged_at IS NULL")
# Neither condition is of a column that an append changes: the indexes of upkeep cost the hot path nothing.
Index("thread_to_purge", thread.c.deleted_at, sqlite_where=_DELETED, postgresql_where=_DELETED)
_WITH_DELTAS: Final = text("ended_at IS NOT NULL AND compacted_at IS NULL")
Index("run_to_compact", run.c.ended_at, sqlite_where=_WITH_DELTAS, postgresql_where=_WITH_DELTAS)
_QUEUED: Final = text("status = 'queued'")
_RUNNING: Final = text("status = 'running'")
_ACTIVE: Final = text("status IN ('running', 'waiting')")
Index("run_queued", run.c.user_key, run.c.key, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
Index("run_queued_of_agent", run.c.agent, run.c.user_key, run.c.key, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
Index("run_queued_of_thread", run.c.thread_key, run.c.key, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
Index("run_running", run.c.user_key, run.c.key, sqlite_where=_RUNNING, postgresql_where=_RUNNING)
_WOKEN: Final = text("status = 'waiting' AND woken_at IS NOT NULL")
Index("run_woken", run.c.user_key, run.c.woken_at, run.c.key, sqlite_where=_WOKEN, postgresql_where=_WOKEN)
Index(
    "run_woken_of_agent",
    run.c.agent,
    run.c.user_key,
    run.c.woken_at,
    run.c.key,
    sqlite_where=_WOKEN,
    postgresql_where=_WOKEN,
)
# At most one active run per thread is the database's promise, not the code's.
Index("run_one_active", run.c.thread_key, unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)

pinned: Final = Table(
    "pinned",  # what a replay reads again; beside `run`, whose row every append rewrites
    metadata,
    Column("run_key", Whole, ForeignKey("run.key"), primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
    sqlite_strict=True,
)

segment: Final = Table(
    "segment",  # what one commit stores for one run, in order of arrival; compaction puts several into one
    metadata,
    _key(),
    _whole("thread_key", ForeignKey("thread.key")),
    _whole("first_seq"),
    _whole("last_seq"),
    _whole("run_key", ForeignKey("run.key")),
    _whole("attempt"),
    # of the first event among those of the run's workers; NULL: by a gateway, or compacted
    _whole("ordinal", null=True),
    _whole("flags", zero=True),  # 1: has agent_started, 2: has the terminal event
    Column("events", LargeBinary, nullable=False),  # protocol.events.pack
    Index("segment_by_seq", "thread_key", "first_seq", unique=True),
    sqlite_strict=True,
)
_STARTED: Final = text("(flags & 1) <> 0")
_TERMINAL: Final = text("(flags & 2) <> 0")
# Exactly one start and one terminal per run are the database's promise.
Index("segment_one_start", segment.c.run_key, unique=True, sqlite_where=_STARTED, postgresql_where=_STARTED)
Index("segment_one_terminal", segment.c.run_key, unique=True, sqlite_where=_TERMINAL, postgresql_where=_TERMINAL)

wait: Final = Table(
    "wait",  # what runs wait, or waited, for
    metadata,
    _key(),
    _whole("run_key", ForeignKey("run.key")),
    _text("id"),
    _text("kind"),
    _whole("due_at", null=True),  # ms UTC
    _text("by", null=True),  # a user's id, "timer", or "ended" with its run; NULL: it is open
    Column("value", LargeBinary, nullable=True),  # of an answer, JSON
    UniqueConstraint("id"),
    CheckConstraint("kind IN ('approval', 'input', 'timer')", name="kind"),
    Index("wait_of_run", "run_key"),
    sqlite_strict=True,
)
_DUE: Final = text('"by" IS NULL AND due_at IS NOT NULL')
Index("wait_due", wait.c.due_at, sqlite_where=_DUE, postgresql_where=_DUE)

blob: Final = Table(
    "blob",  # large values that `$ref` in events names
    metadata,
    _key(),
    _whole("user_key", ForeignKey("user.key")),
    _whole("run_key", ForeignKey("run.key")),
    _text("ref"),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("run_key", "ref"),
    Index(None, "user_key", "ref"),
    sqlite_strict=True,
)

member: Final = Table(
    "member",  # the processes that serve this database
    metadata,
    Column("node", Text, primary_key=True),
    _text("roles"),  # JSON
    _text("agents"),  # JSON
    _text("default_agent", null=True),
    _text("version"),
    _text("code", null=True),
    _whole("since"),  # seen without a gap since then; ms of the database's clock, as all times here
    _whole("seen_at"),
    _whole("good_until"),  # until when what it says counts
    _whole("left_at", null=True),  # it said goodbye
    Index("member_by_age", "seen_at"),
    sqlite_strict=True,
)
