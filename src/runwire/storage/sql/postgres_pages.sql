-- How PostgreSQL keeps the tables that are rewritten all the time.

-- An append rewrites its run and its thread; with room in the page no index has to know of it (heap-only tuples).
-- name: run_pages
ALTER TABLE run SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)

-- name: thread_pages
ALTER TABLE thread SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)

-- name: user_pages
ALTER TABLE "user" SET (fillfactor = 70)

-- Compaction deletes nine tenths of what was appended, a minute after its run; retention the rest, in time. Vacuum follows
-- at two of a hundred rows, not at twenty: what is free is used again before the table grows. Rows that only came are
-- frozen in steps, too, so that the day on which all must be never comes.
-- name: segment_pages
ALTER TABLE segment SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.02,
  toast.autovacuum_vacuum_insert_scale_factor = 0.05)

-- name: blob_pages
ALTER TABLE blob SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_insert_scale_factor = 0.05)

-- name: pinned_pages
ALTER TABLE pinned SET (autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_scale_factor = 0.02)

-- name: wait_pages
ALTER TABLE wait SET (autovacuum_vacuum_scale_factor = 0.02)
