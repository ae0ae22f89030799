-- The tables of a new data file, in the order in which they are made. Generated from the migrations, do not edit:
-- `python -m runwire.storage.migrations.tables --write`.

-- name: alembic_version
CREATE TABLE alembic_version (
version_num VARCHAR(32) NOT NULL,
CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)

-- name: meta
CREATE TABLE meta (
"key" INTEGER NOT NULL,
log TEXT NOT NULL,
incarnation INTEGER DEFAULT 0 NOT NULL,
turn INTEGER DEFAULT 0 NOT NULL, place_set TEXT, place INTEGER, places INTEGER,
CONSTRAINT meta_pkey PRIMARY KEY ("key"),
CONSTRAINT meta_one_row CHECK (key = 1)
)
STRICT


-- name: user
CREATE TABLE user (
"key" INTEGER NOT NULL,
id TEXT NOT NULL,
iss TEXT NOT NULL,
sub TEXT NOT NULL,
turn INTEGER DEFAULT 0 NOT NULL,
created_at INTEGER NOT NULL, quarantined_at INTEGER,
CONSTRAINT user_pkey PRIMARY KEY ("key"),
CONSTRAINT user_id_unique UNIQUE (id),
CONSTRAINT user_iss_sub_unique UNIQUE (iss, sub)
)
STRICT


-- name: thread
CREATE TABLE thread (
"key" INTEGER NOT NULL,
id TEXT NOT NULL,
user_key INTEGER NOT NULL,
title TEXT,
head INTEGER DEFAULT 0 NOT NULL,
floor INTEGER DEFAULT 0 NOT NULL,
created_at INTEGER NOT NULL,
updated_at INTEGER NOT NULL,
deleted_at INTEGER, purged_at INTEGER,
CONSTRAINT thread_pkey PRIMARY KEY ("key"),
CONSTRAINT thread_user_key_fkey FOREIGN KEY(user_key) REFERENCES user ("key"),
CONSTRAINT thread_id_unique UNIQUE (id)
)
STRICT


-- name: thread_user_key_key
CREATE INDEX thread_user_key_key ON thread (user_key, "key")

-- name: run
CREATE TABLE run (
"key" INTEGER NOT NULL,
id TEXT NOT NULL,
thread_key INTEGER NOT NULL,
user_key INTEGER NOT NULL,
agent TEXT NOT NULL,
message TEXT NOT NULL,
"after" INTEGER DEFAULT 0 NOT NULL,
seq INTEGER DEFAULT 0 NOT NULL,
status TEXT NOT NULL,
attempt INTEGER DEFAULT 0 NOT NULL,
ordinal INTEGER DEFAULT 0 NOT NULL,
owner INTEGER,
worker TEXT,
handed_over TEXT,
cancel_by TEXT,
cancel_reason TEXT,
error TEXT,
started_seq INTEGER,
terminal_seq INTEGER,
idempotency_key TEXT,
fingerprint TEXT,
created_at INTEGER NOT NULL,
ended_at INTEGER, compacted_at INTEGER, lease_until INTEGER, lost TEXT DEFAULT '' NOT NULL, woken_at INTEGER, closing BLOB,
CONSTRAINT run_pkey PRIMARY KEY ("key"),
CONSTRAINT run_status CHECK (status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
CONSTRAINT run_ends_with_its_event CHECK ((terminal_seq IS NULL) = (status IN ('queued', 'running', 'waiting'))),
CONSTRAINT run_thread_key_fkey FOREIGN KEY(thread_key) REFERENCES thread ("key"),
CONSTRAINT run_user_key_fkey FOREIGN KEY(user_key) REFERENCES user ("key"),
CONSTRAINT run_id_unique UNIQUE (id)
)
STRICT


-- name: run_by_idempotency_key
CREATE UNIQUE INDEX run_by_idempotency_key ON run (user_key, idempotency_key)

-- name: run_of_thread
CREATE INDEX run_of_thread ON run (thread_key, "key")

-- name: run_of_user
CREATE INDEX run_of_user ON run (user_key, "key")

-- name: run_queued
CREATE INDEX run_queued ON run (user_key, "key") WHERE status = 'queued'

-- name: run_queued_of_thread
CREATE INDEX run_queued_of_thread ON run (thread_key, "key") WHERE status = 'queued'

-- name: run_running
CREATE INDEX run_running ON run (user_key, "key") WHERE status = 'running'

-- name: run_one_active
CREATE UNIQUE INDEX run_one_active ON run (thread_key) WHERE status IN ('running', 'waiting')

-- name: pinned
CREATE TABLE pinned (
run_key INTEGER NOT NULL,
data BLOB NOT NULL,
CONSTRAINT pinned_pkey PRIMARY KEY (run_key),
CONSTRAINT pinned_run_key_fkey FOREIGN KEY(run_key) REFERENCES run ("key")
)
STRICT


-- name: segment
CREATE TABLE segment (
"key" INTEGER NOT NULL,
thread_key INTEGER NOT NULL,
first_seq INTEGER NOT NULL,
last_seq INTEGER NOT NULL,
run_key INTEGER NOT NULL,
attempt INTEGER NOT NULL,
ordinal INTEGER,
flags INTEGER DEFAULT 0 NOT NULL,
events BLOB NOT NULL,
CONSTRAINT segment_pkey PRIMARY KEY ("key"),
CONSTRAINT segment_thread_key_fkey FOREIGN KEY(thread_key) REFERENCES thread ("key"),
CONSTRAINT segment_run_key_fkey FOREIGN KEY(run_key) REFERENCES run ("key")
)
STRICT


-- name: segment_by_seq
CREATE UNIQUE INDEX segment_by_seq ON segment (thread_key, first_seq)

-- name: segment_one_start
CREATE UNIQUE INDEX segment_one_start ON segment (run_key) WHERE (flags & 1) <> 0

-- name: segment_one_terminal
CREATE UNIQUE INDEX segment_one_terminal ON segment (run_key) WHERE (flags & 2) <> 0

-- name: blob
CREATE TABLE blob (
"key" INTEGER NOT NULL,
user_key INTEGER NOT NULL,
run_key INTEGER NOT NULL,
ref TEXT NOT NULL,
data BLOB NOT NULL,
CONSTRAINT blob_pkey PRIMARY KEY ("key"),
CONSTRAINT blob_user_key_fkey FOREIGN KEY(user_key) REFERENCES user ("key"),
CONSTRAINT blob_run_key_fkey FOREIGN KEY(run_key) REFERENCES run ("key"),
CONSTRAINT blob_run_key_ref_unique UNIQUE (run_key, ref)
)
STRICT


-- name: blob_user_key_ref
CREATE INDEX blob_user_key_ref ON blob (user_key, ref)

-- name: auth_counter
CREATE TABLE auth_counter (
"key" INTEGER NOT NULL,
generation TEXT NOT NULL,
seq INTEGER NOT NULL,
CONSTRAINT auth_counter_pkey PRIMARY KEY ("key"),
CONSTRAINT auth_counter_one_row CHECK (key = 1)
)
STRICT


-- name: auth_event
CREATE TABLE auth_event (
seq INTEGER NOT NULL,
kind TEXT NOT NULL,
at INTEGER NOT NULL,
user_id TEXT,
session_id TEXT,
key_id TEXT,
kid TEXT,
holder TEXT,
reason TEXT,
CONSTRAINT auth_event_pkey PRIMARY KEY (seq)
)
STRICT


-- name: auth_session
CREATE TABLE auth_session (
id TEXT NOT NULL,
user_id TEXT NOT NULL,
client TEXT NOT NULL,
epoch INTEGER NOT NULL,
refresh_key BLOB NOT NULL,
counter INTEGER NOT NULL,
rotated_at INTEGER NOT NULL,
created_at INTEGER NOT NULL,
expires_at INTEGER NOT NULL,
revoked_at INTEGER,
reason TEXT, address TEXT DEFAULT '' NOT NULL,
CONSTRAINT auth_session_pkey PRIMARY KEY (id),
CONSTRAINT auth_session_user_id_fkey FOREIGN KEY(user_id) REFERENCES auth_user (id)
)
STRICT


-- name: auth_key
CREATE TABLE auth_key (
id TEXT NOT NULL,
user_id TEXT NOT NULL,
secret_hash BLOB NOT NULL,
label TEXT NOT NULL,
created_at INTEGER NOT NULL,
expires_at INTEGER,
revoked_at INTEGER,
reason TEXT, scopes TEXT DEFAULT '["runwire"]' NOT NULL, last_used_at INTEGER,
CONSTRAINT auth_key_pkey PRIMARY KEY (id),
CONSTRAINT auth_key_user_id_fkey FOREIGN KEY(user_id) REFERENCES auth_user (id)
)
STRICT


-- name: auth_session_user_id
CREATE INDEX auth_session_user_id ON auth_session (user_id)

-- name: auth_session_revoked
CREATE INDEX auth_session_revoked ON auth_session (revoked_at) WHERE revoked_at IS NOT NULL

-- name: auth_key_user_id
CREATE INDEX auth_key_user_id ON auth_key (user_id)

-- name: auth_key_revoked
CREATE INDEX auth_key_revoked ON auth_key (revoked_at) WHERE revoked_at IS NOT NULL

-- name: auth_signing_key
CREATE TABLE auth_signing_key (
kid TEXT NOT NULL,
private_jwk BLOB NOT NULL,
created_at INTEGER NOT NULL, activates_at INTEGER DEFAULT 0 NOT NULL, retires_at INTEGER, revoked_at INTEGER,
CONSTRAINT auth_signing_key_pkey PRIMARY KEY (kid)
)
STRICT


-- name: auth_link
CREATE TABLE auth_link (
secret_hash BLOB NOT NULL,
user_id TEXT NOT NULL,
expires_at INTEGER NOT NULL,
CONSTRAINT auth_link_pkey PRIMARY KEY (secret_hash),
CONSTRAINT auth_link_user_id_fkey FOREIGN KEY(user_id) REFERENCES auth_user (id)
)
STRICT


-- name: auth_ticket
CREATE TABLE auth_ticket (
secret_hash BLOB NOT NULL,
ticket TEXT NOT NULL,
expires_at INTEGER NOT NULL,
CONSTRAINT auth_ticket_pkey PRIMARY KEY (secret_hash)
)
STRICT


-- name: auth_link_expires_at
CREATE INDEX auth_link_expires_at ON auth_link (expires_at)

-- name: auth_ticket_expires_at
CREATE INDEX auth_ticket_expires_at ON auth_ticket (expires_at)

-- name: thread_to_purge
CREATE INDEX thread_to_purge ON thread (deleted_at) WHERE deleted_at IS NOT NULL AND purged_at IS NULL

-- name: run_to_compact
CREATE INDEX run_to_compact ON run (ended_at) WHERE ended_at IS NOT NULL AND compacted_at IS NULL

-- name: run_woken
CREATE INDEX run_woken ON run (user_key, woken_at, "key") WHERE status = 'waiting' AND woken_at IS NOT NULL

-- name: wait
CREATE TABLE wait (
"key" INTEGER NOT NULL,
run_key INTEGER NOT NULL,
id TEXT NOT NULL,
kind TEXT NOT NULL,
due_at INTEGER,
"by" TEXT,
value BLOB,
CONSTRAINT wait_pkey PRIMARY KEY ("key"),
CONSTRAINT wait_id_unique UNIQUE (id),
CONSTRAINT wait_kind CHECK (kind IN ('approval', 'input', 'timer')),
CONSTRAINT wait_run_key_fkey FOREIGN KEY(run_key) REFERENCES run ("key")
)
STRICT


-- name: wait_of_run
CREATE INDEX wait_of_run ON wait (run_key)

-- name: wait_due
CREATE INDEX wait_due ON wait (due_at) WHERE "by" IS NULL AND due_at IS NOT NULL

-- name: member
CREATE TABLE member (
node TEXT NOT NULL,
roles TEXT NOT NULL,
agents TEXT NOT NULL,
default_agent TEXT,
version TEXT NOT NULL,
code TEXT,
since INTEGER NOT NULL,
seen_at INTEGER NOT NULL,
good_until INTEGER NOT NULL,
left_at INTEGER,
CONSTRAINT member_pkey PRIMARY KEY (node)
)
STRICT


-- name: member_by_age
CREATE INDEX member_by_age ON member (seen_at)

-- name: run_queued_of_agent
CREATE INDEX run_queued_of_agent ON run (agent, user_key, "key") WHERE status = 'queued'

-- name: run_woken_of_agent
CREATE INDEX run_woken_of_agent ON run (agent, user_key, woken_at, "key") WHERE status = 'waiting' AND woken_at IS NOT NULL

-- name: auth_user
CREATE TABLE auth_user (
id TEXT NOT NULL,
name TEXT NOT NULL,
status TEXT NOT NULL,
epoch INTEGER NOT NULL,
roles TEXT NOT NULL,
password_hash TEXT,
created_at INTEGER NOT NULL, valid_from INTEGER DEFAULT 0 NOT NULL,
CONSTRAINT auth_user_pkey PRIMARY KEY (id),
CONSTRAINT auth_user_status CHECK (status IN ('active', 'disabled', 'deleted')),
CONSTRAINT auth_user_name_unique UNIQUE (name)
)
STRICT


-- name: auth_event_of_holder
CREATE INDEX auth_event_of_holder ON auth_event (user_id) WHERE holder IS NOT NULL

-- name: auth_audit
CREATE TABLE auth_audit (
seq INTEGER NOT NULL,
at INTEGER NOT NULL,
actor TEXT,
actor_kind TEXT NOT NULL,
action TEXT NOT NULL,
subject TEXT,
address TEXT NOT NULL,
detail TEXT NOT NULL,
CONSTRAINT auth_audit_pkey PRIMARY KEY (seq)
)
STRICT


-- name: auth_external
CREATE TABLE auth_external (
subject_hash BLOB NOT NULL,
issuer TEXT NOT NULL,
subject TEXT,
user_id TEXT NOT NULL,
CONSTRAINT auth_external_pkey PRIMARY KEY (subject_hash),
CONSTRAINT auth_external_user_id_fkey FOREIGN KEY(user_id) REFERENCES auth_user (id)
)
STRICT


-- name: auth_external_user_id
CREATE INDEX auth_external_user_id ON auth_external (user_id)

-- name: auth_invite
CREATE TABLE auth_invite (
secret_hash BLOB NOT NULL,
id TEXT NOT NULL,
roles TEXT NOT NULL,
created_by TEXT,
created_at INTEGER NOT NULL,
ends_at INTEGER NOT NULL,
CONSTRAINT auth_invite_pkey PRIMARY KEY (secret_hash)
)
STRICT


-- name: auth_reset
CREATE TABLE auth_reset (
secret_hash BLOB NOT NULL,
user_id TEXT NOT NULL,
expires_at INTEGER NOT NULL,
CONSTRAINT auth_reset_pkey PRIMARY KEY (secret_hash),
CONSTRAINT auth_reset_user_id_fkey FOREIGN KEY(user_id) REFERENCES auth_user (id)
)
STRICT


-- name: auth_audit_breaker
CREATE INDEX auth_audit_breaker ON auth_audit (seq) WHERE action IN ('breaker.reset', 'breaker.force-open', 'breaker.disable')
