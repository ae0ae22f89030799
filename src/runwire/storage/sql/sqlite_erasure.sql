-- The statements of erasure in SQLite. ?1 is the user's id. Each deletes up to ?2 rows, or those of a JSON list of keys.

-- name: unfinished
SELECT count(*) FROM run r JOIN user u ON u.key = r.user_key
WHERE u.id = ?1 AND r.status IN ('running', 'waiting', 'queued')

-- name: segments
SELECT s.key, length(s.events) FROM user u JOIN thread t ON t.user_key = u.key JOIN segment s ON s.thread_key = t.key
WHERE u.id = ?1

-- name: blobs
SELECT b.key, length(b.data) FROM user u JOIN blob b ON b.user_key = u.key WHERE u.id = ?1

-- name: runs
SELECT r.key FROM user u JOIN run r ON r.user_key = u.key WHERE u.id = ?1 LIMIT ?2

-- name: threads
SELECT t.key, t.id FROM user u JOIN thread t ON t.user_key = u.key WHERE u.id = ?1 LIMIT ?2

-- name: drop_segments
DELETE FROM segment WHERE key IN (SELECT value FROM json_each(?1))

-- name: drop_blobs
DELETE FROM blob WHERE key IN (SELECT value FROM json_each(?1))

-- name: drop_pinned
DELETE FROM pinned WHERE run_key IN (SELECT value FROM json_each(?1))

-- name: drop_waits
DELETE FROM wait WHERE run_key IN (SELECT value FROM json_each(?1))

-- name: drop_runs
DELETE FROM run WHERE key IN (SELECT value FROM json_each(?1))

-- name: drop_threads
DELETE FROM thread WHERE key IN (SELECT value FROM json_each(?1))

-- ?1 is what such names begin with; by the index, for there are none as a rule.
-- name: leftovers
SELECT id FROM user WHERE id >= ?1 AND id < ?1 || char(1114111) AND created_at <= ?2 LIMIT 1000

-- name: drop_user
DELETE FROM user WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM thread t WHERE t.user_key = user.key)

-- Copies the pages that are in use, and no others; what was deleted stays behind.
-- name: vacuum
VACUUM

-- Answers (busy, pages of the log, pages moved). TRUNCATE leaves an empty log.
-- name: checkpoint
PRAGMA wal_checkpoint(TRUNCATE)
