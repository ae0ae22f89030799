-- How PostgreSQL keeps the tables that are rewritten all the time.

-- An append rewrites its run and its thread; with room in the page no index has to know of it (heap-only tuples).
-- name: run_pages
ALTER TABLE run SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)

-- name: thread_pages
ALTER TABLE thread SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)

-- name: user_pages
ALTER TABLE "user" SET (fillfactor = 70)
