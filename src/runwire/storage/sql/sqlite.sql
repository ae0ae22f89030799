-- Every statement that the SQLite adapter of log, runs and threads executes. Parameters are numbered.

-- Opening -------------------------------------------------------------------------------------------

-- name: journal_mode
PRAGMA journal_mode = WAL

-- name: synchronous
PRAGMA synchronous = FULL

-- name: foreign_keys
PRAGMA foreign_keys = ON

-- name: cache_size
PRAGMA cache_size = -16384

-- The log beside the file is cut back to this size when a burst is over.
-- name: journal_size_limit
PRAGMA journal_size_limit = 67108864

-- name: query_only
PRAGMA query_only = ON

-- name: tables
SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'

-- name: revision
SELECT version_num FROM alembic_version

-- name: make_meta
INSERT INTO meta (key, log) VALUES (1, ?1) ON CONFLICT DO NOTHING

-- name: become_owner
UPDATE meta SET incarnation = incarnation + 1 WHERE key = 1 RETURNING log, incarnation

-- name: ping
SELECT 1

-- Transactions --------------------------------------------------------------------------------------

-- name: begin_write
BEGIN IMMEDIATE

-- name: begin_read
BEGIN

-- name: commit
COMMIT

-- name: rollback
ROLLBACK

-- name: savepoint_job
SAVEPOINT job

-- name: rollback_job
ROLLBACK TO job

-- name: release_job
RELEASE job
