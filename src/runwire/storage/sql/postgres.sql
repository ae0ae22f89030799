-- Every statement that the PostgreSQL adapter of log, runs and threads executes. Parameters are numbered.
-- What writes is a function of `postgres_functions.sql`, one call per write.

-- Opening -------------------------------------------------------------------------------------------

-- name: server_version
SELECT current_setting('server_version_num')::int

-- name: tables
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')

-- name: revision
SELECT version_num FROM alembic_version

-- name: limit_waiting
SELECT set_config('lock_timeout', $1, true)

-- The number is arbitrary; no other program of this database has a reason to take it.
-- name: lock_migration
SELECT pg_advisory_xact_lock(7234582137451962003)

-- name: make_meta
INSERT INTO meta (key, log) VALUES (1, $1) ON CONFLICT DO NOTHING

-- What makes a history this one and no other. A promoted standby has another timeline; what is restored into another
-- database, of this cluster or not, has another oid or system.
-- name: identity
SELECT m.log, s.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline, d.oid
FROM meta m, pg_control_system() s, pg_database d
WHERE m.key = 1 AND d.datname = current_database()

-- name: ping
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool
