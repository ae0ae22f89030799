"""The first tables: owner, people, threads, runs and the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_initial"
down_revision = None
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ZERO = sa.text("0")


def upgrade() -> None:
    """Create the tables of `storage/schema.py`."""
    _create_people()
    _create_runs()
    _create_log()


def _create_people() -> None:
    op.create_table(
        "meta",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("log", sa.Text, nullable=False),
        sa.Column("incarnation", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("turn", _WHOLE, server_default=_ZERO, nullable=False),
        sa.CheckConstraint("key = 1", name=op.f("meta_one_row")),
        sa.PrimaryKeyConstraint("key", name=op.f("meta_pkey")),
        sqlite_strict=True,
    )
    op.create_table(
        "user",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("iss", sa.Text, nullable=False),
        sa.Column("sub", sa.Text, nullable=False),
        sa.Column("turn", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("user_pkey")),
        sa.UniqueConstraint("id", name=op.f("user_id_unique")),
        sa.UniqueConstraint("iss", "sub", name=op.f("user_iss_sub_unique")),
        sqlite_strict=True,
    )
    op.create_table(
        "thread",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_key", _WHOLE, nullable=False),
        sa.Column("title", sa.Text, nullable=True),
        sa.Column("head", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("floor", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.Column("updated_at", _WHOLE, nullable=False),
        sa.Column("deleted_at", _WHOLE, nullable=True),
        sa.ForeignKeyConstraint(["user_key"], ["user.key"], name=op.f("thread_user_key_fkey")),
        sa.PrimaryKeyConstraint("key", name=op.f("thread_pkey")),
        sa.UniqueConstraint("id", name=op.f("thread_id_unique")),
        sqlite_strict=True,
    )
    op.create_index(op.f("thread_user_key_key"), "thread", ["user_key", "key"])


def _create_runs() -> None:
    op.create_table(
        "run",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("thread_key", _WHOLE, nullable=False),
        sa.Column("user_key", _WHOLE, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("after", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("seq", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("ordinal", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("owner", _WHOLE, nullable=True),
        sa.Column("worker", sa.Text, nullable=True),
        sa.Column("handed_over", sa.Text, nullable=True),
        sa.Column("cancel_by", sa.Text, nullable=True),
        sa.Column("cancel_reason", sa.Text, nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("started_seq", _WHOLE, nullable=True),
        sa.Column("terminal_seq", _WHOLE, nullable=True),
        sa.Column("idempotency_key", sa.Text, nullable=True),
        sa.Column("fingerprint", sa.Text, nullable=True),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.Column("ended_at", _WHOLE, nullable=True),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')",
            name=op.f("run_status"),
        ),
        sa.CheckConstraint(
            "(terminal_seq IS NULL) = (status IN ('queued', 'running', 'waiting'))",
            name=op.f("run_ends_with_its_event"),
        ),
        sa.ForeignKeyConstraint(["thread_key"], ["thread.key"], name=op.f("run_thread_key_fkey")),
        sa.ForeignKeyConstraint(["user_key"], ["user.key"], name=op.f("run_user_key_fkey")),
        sa.PrimaryKeyConstraint("key", name=op.f("run_pkey")),
        sa.UniqueConstraint("id", name=op.f("run_id_unique")),
        sqlite_strict=True,
    )
    op.create_index("run_by_idempotency_key", "run", ["user_key", "idempotency_key"], unique=True)
    op.create_index("run_of_thread", "run", ["thread_key", "key"])
    op.create_index("run_of_user", "run", ["user_key", "key"])
    for name, columns, is_unique, where in (
        ("run_queued", ["user_key", "key"], False, "status = 'queued'"),
        ("run_queued_of_thread", ["thread_key", "key"], False, "status = 'queued'"),
        ("run_running", ["user_key", "key"], False, "status = 'running'"),
        ("run_one_active", ["thread_key"], True, "status IN ('running', 'waiting')"),
    ):
        condition = sa.text(where)
        op.create_index(name, "run", columns, unique=is_unique, sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "pinned",
        sa.Column("run_key", _WHOLE, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["run.key"], name=op.f("pinned_run_key_fkey")),
        sa.PrimaryKeyConstraint("run_key", name=op.f("pinned_pkey")),
        sqlite_strict=True,
    )


def _create_log() -> None:
    op.create_table(
        "segment",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("thread_key", _WHOLE, nullable=False),
        sa.Column("first_seq", _WHOLE, nullable=False),
        sa.Column("last_seq", _WHOLE, nullable=False),
        sa.Column("run_key", _WHOLE, nullable=False),
        sa.Column("attempt", _WHOLE, nullable=False),
        sa.Column("ordinal", _WHOLE, nullable=True),
        sa.Column("flags", _WHOLE, server_default=_ZERO, nullable=False),
        sa.Column("events", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["thread_key"], ["thread.key"], name=op.f("segment_thread_key_fkey")),
        sa.ForeignKeyConstraint(["run_key"], ["run.key"], name=op.f("segment_run_key_fkey")),
        sa.PrimaryKeyConstraint("key", name=op.f("segment_pkey")),
        sqlite_strict=True,
    )
    op.create_index("segment_by_seq", "segment", ["thread_key", "first_seq"], unique=True)
    for name, where in (("segment_one_start", "(flags & 1) <> 0"), ("segment_one_terminal", "(flags & 2) <> 0")):
        condition = sa.text(where)
        op.create_index(name, "segment", ["run_key"], unique=True, sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "blob",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("user_key", _WHOLE, nullable=False),
        sa.Column("run_key", _WHOLE, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["user_key"], ["user.key"], name=op.f("blob_user_key_fkey")),
        sa.ForeignKeyConstraint(["run_key"], ["run.key"], name=op.f("blob_run_key_fkey")),
        sa.PrimaryKeyConstraint("key", name=op.f("blob_pkey")),
        sa.UniqueConstraint("run_key", "ref", name=op.f("blob_run_key_ref_unique")),
        sqlite_strict=True,
    )
    op.create_index(op.f("blob_user_key_ref"), "blob", ["user_key", "ref"])
