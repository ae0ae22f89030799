-- The statements of erasure in PostgreSQL: $1 is the user's id, $2 how many rows go at most. Runs go first, for nobody
-- can append to a run that is gone; what refers to them goes in the same statement, at whose end references are checked.

-- name: unfinished
SELECT count(*) FROM "user" u JOIN run r ON r.user_key = u.key
WHERE u.id = $1 AND coalesce(r.status, '') IN ('running', 'waiting', 'queued')

-- name: erase_runs
WITH gone AS (
  SELECT r.key FROM "user" u JOIN run r ON r.user_key = u.key WHERE u.id = $1 ORDER BY r.key LIMIT $2 FOR UPDATE OF r
), pins AS (
  DELETE FROM pinned p USING gone g WHERE p.run_key = g.key
), waits AS (
  DELETE FROM wait w USING gone g WHERE w.run_key = g.key
), blobs AS (
  DELETE FROM blob b USING gone g WHERE b.run_key = g.key
), runs AS (
  DELETE FROM run r USING gone g WHERE r.key = g.key RETURNING 1
)
SELECT count(*) FROM runs

-- name: erase_segments
WITH gone AS (
  DELETE FROM segment s WHERE s.key IN (
    SELECT e.key FROM "user" u JOIN thread t ON t.user_key = u.key JOIN segment e ON e.thread_key = t.key
    WHERE u.id = $1 LIMIT $2
  ) RETURNING 1
)
SELECT count(*) FROM gone

-- name: erase_threads
DELETE FROM thread d WHERE d.key IN (
  SELECT t.key FROM "user" u JOIN thread t ON t.user_key = u.key
  WHERE u.id = $1 AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key) LIMIT $2
) RETURNING d.id

-- $1 is what such names begin with.
-- name: leftovers
SELECT u.id FROM "user" u WHERE starts_with(u.id, $1) AND u.created_at <= $2 LIMIT 1000

-- name: erase_user
DELETE FROM "user" u WHERE u.id = $1 AND NOT EXISTS (SELECT 1 FROM thread t WHERE t.user_key = u.key)

-- Space of what is gone is used again; what stood there stays in the files until then. ANALYZE: the planner's samples of
-- columns have names and titles in them.
-- name: vacuum
VACUUM (ANALYZE)

-- name: vacuum_thoroughly
VACUUM (FULL, ANALYZE)
