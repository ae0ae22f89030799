-- Every statement of compaction, retention and figures in PostgreSQL. What writes is a function of
-- `postgres_upkeep_functions.sql`.

-- name: runs_to_compact
SELECT key, id, thread_key, coalesce(started_seq, terminal_seq) AS first_seq, terminal_seq AS last_seq FROM run
WHERE ended_at IS NOT NULL AND compacted_at IS NULL AND ended_at < $1 ORDER BY ended_at LIMIT $2

-- Of the segments between the first and the last, those of other runs are their messages: they stay as they are.
-- name: run_pieces
SELECT first_seq, last_seq, attempt, flags, events FROM segment
WHERE thread_key = $1 AND run_key = $2 AND first_seq BETWEEN $3 AND $4 ORDER BY first_seq LIMIT $5

-- name: replace
SELECT runwire_replace($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: threads_to_purge
SELECT t.key, t.id, t.head FROM thread t
WHERE t.deleted_at IS NOT NULL AND t.purged_at IS NULL AND t.deleted_at < $1
  AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status IN ('running', 'waiting'))
  AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status = 'queued')
ORDER BY t.deleted_at LIMIT $2

-- name: next_run
SELECT key, created_at FROM run WHERE key > $1 ORDER BY key LIMIT 1

-- Threads whose first run is among these, ended long ago, and is not the only one; without one that goes on.
-- name: threads_to_trim
SELECT r.key, r.thread_key, t.id, t.floor FROM run r JOIN thread t ON t.key = r.thread_key
WHERE r.key BETWEEN $1 AND $2 AND r.ended_at < $3 AND t.deleted_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM run e WHERE e.thread_key = r.thread_key AND e.key < r.key)
  AND EXISTS (SELECT 1 FROM run l WHERE l.thread_key = r.thread_key AND l.key > r.key)
  AND NOT EXISTS (SELECT 1 FROM run a WHERE a.thread_key = r.thread_key AND a.status IN ('running', 'waiting'))
ORDER BY r.key

-- name: spans_of_thread
SELECT seq, terminal_seq, ended_at FROM run WHERE thread_key = $1 ORDER BY key LIMIT $2

-- name: trim
SELECT is_done, floor, runs, freed_bytes FROM runwire_trim($1, $2, $3, $4)

-- Figures, asked for by people: this walks through whole tables, in one instant. Space to be used again PostgreSQL does
-- not count.
-- name: stats
SELECT pg_database_size(current_database()) AS size_bytes,
  (SELECT count(*) FROM "user") AS users,
  t.threads, t.deleted_threads, r.runs, r.unfinished_runs, r.compactable_runs, r.oldest_run_at,
  s.segments, s.event_bytes, b.blobs, b.blob_bytes
FROM
  (SELECT count(*) - count(deleted_at) AS threads, count(deleted_at) AS deleted_threads FROM thread) t,
  (SELECT count(*) AS runs, min(created_at) AS oldest_run_at,
    count(*) FILTER (WHERE status IN ('queued', 'running', 'waiting')) AS unfinished_runs,
    count(*) FILTER (WHERE ended_at IS NOT NULL AND compacted_at IS NULL) AS compactable_runs FROM run) r,
  (SELECT count(*) AS segments, coalesce(sum(octet_length(events)), 0)::bigint AS event_bytes FROM segment) s,
  (SELECT count(*) AS blobs, coalesce(sum(octet_length(data)), 0)::bigint AS blob_bytes FROM blob) b
