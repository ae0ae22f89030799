-- Every statement of export and import in PostgreSQL, with the columns of `sqlite_transfer.sql`. An export looks at
-- everything once, in one instant: these walk through whole tables. $1 is a user's id, or NULL for all.

-- Export --------------------------------------------------------------------------------------------

-- Whoever takes the lines may be slow: the server must not end a transaction that reads for it.
-- name: be_patient
SELECT set_config('idle_in_transaction_session_timeout', '0', false)

-- name: account_of_name
SELECT id FROM auth_user WHERE name = $1

-- name: count_account
SELECT count(*) FROM auth_user WHERE $1::text IS NULL OR id = $1

-- name: account
SELECT id, name, status, epoch, roles, password_hash, created_at, valid_from FROM auth_user
WHERE $1::text IS NULL OR id = $1 ORDER BY id

-- name: count_api_key
SELECT count(*) FROM auth_key WHERE $1::text IS NULL OR user_id = $1

-- name: api_key
SELECT id, user_id, secret_hash, label, created_at, expires_at, revoked_at, reason, scopes,
  last_used_at
FROM auth_key WHERE $1::text IS NULL OR user_id = $1 ORDER BY id

-- name: count_external
SELECT count(*) FROM auth_external WHERE $1::text IS NULL OR user_id = $1

-- name: external
SELECT subject_hash, issuer, subject, user_id FROM auth_external WHERE $1::text IS NULL OR user_id = $1 ORDER BY subject_hash

-- name: count_audit
SELECT count(*) FROM auth_audit WHERE $1::text IS NULL OR actor = $1 OR subject = $1

-- name: audit
SELECT seq, at, actor, actor_kind, action, subject, address, detail
FROM auth_audit WHERE $1::text IS NULL OR actor = $1 OR subject = $1 ORDER BY seq

-- name: count_user
SELECT count(*) FROM "user" WHERE $1::text IS NULL OR id = $1

-- name: user
SELECT id, iss, sub, created_at, quarantined_at FROM "user" WHERE $1::text IS NULL OR id = $1 ORDER BY key

-- name: count_thread
SELECT count(*) FROM thread t JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1)

-- name: thread
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM thread t JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1) ORDER BY t.key

-- name: count_run
SELECT count(*) FROM run r JOIN thread t ON t.key = r.thread_key JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1)

-- name: run
SELECT r.id, t.id, r.agent, r.message, r.after, r.seq, r.status, r.attempt, r.ordinal, r.handed_over, r.cancel_by,
  r.cancel_reason, r.error, r.started_seq, r.terminal_seq, r.idempotency_key, r.fingerprint, r.created_at, r.ended_at,
  r.compacted_at, r.lost, r.woken_at, r.closing, p.data
FROM run r JOIN thread t ON t.key = r.thread_key JOIN "user" u ON u.key = t.user_key
  LEFT JOIN pinned p ON p.run_key = r.key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1) ORDER BY r.key

-- name: count_wait
SELECT count(*) FROM wait w JOIN run r ON r.key = w.run_key JOIN thread t ON t.key = r.thread_key
  JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1)

-- name: wait
SELECT r.id, w.id, w.kind, w.due_at, w."by", w.value
FROM wait w JOIN run r ON r.key = w.run_key JOIN thread t ON t.key = r.thread_key
  JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1) ORDER BY w.key

-- name: count_segment
SELECT count(*) FROM segment s JOIN thread t ON t.key = s.thread_key JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1)

-- name: segment
SELECT t.id, r.id, s.first_seq, s.last_seq, s.attempt, s.ordinal, s.events
FROM segment s JOIN thread t ON t.key = s.thread_key JOIN "user" u ON u.key = t.user_key
  JOIN run r ON r.key = s.run_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1) ORDER BY s.key

-- name: count_blob
SELECT count(*) FROM blob b JOIN run r ON r.key = b.run_key JOIN thread t ON t.key = r.thread_key
  JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1)

-- name: blob
SELECT r.id, b.ref, b.data
FROM blob b JOIN run r ON r.key = b.run_key JOIN thread t ON t.key = r.thread_key
  JOIN "user" u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND ($1::text IS NULL OR u.id = $1) ORDER BY b.key

-- Import --------------------------------------------------------------------------------------------

-- One import at a time; the number is arbitrary. It ends with the connection.
-- name: lock_import
SELECT pg_try_advisory_lock(7234582137451962004)

-- name: is_unfinished
SELECT to_regclass('unfinished_import') IS NOT NULL

-- How far an import has come; the table is there until all is. Whoever opens the database looks for it (`identity`).
-- name: begin_import
CREATE TABLE unfinished_import (
  key bigint PRIMARY KEY CHECK (key = 1),
  lines bigint NOT NULL,
  sha256 text NOT NULL
)

-- name: first_mark
INSERT INTO unfinished_import (key, lines, sha256) VALUES (1, 0, '')

-- name: mark
SELECT lines, sha256 FROM unfinished_import

-- name: set_mark
UPDATE unfinished_import SET lines = $1, sha256 = $2 WHERE key = 1

-- name: end_import
DROP TABLE unfinished_import

-- What an import that cannot be finished has stored; it was empty before.
-- name: forget_import
TRUNCATE auth_user, auth_key, auth_external, auth_audit, "user", thread, run, wait, pinned, segment, blob CASCADE

-- Connections of servers. The import's own has the advisory lock, and the one that opened the database is idle beside it.
-- name: others
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'runwire' AND pid <> pg_backend_pid()

-- Nobody writes while it is looked whether it is empty.
-- name: lock_tables
LOCK TABLE auth_counter, auth_user, "user", thread, run IN SHARE ROW EXCLUSIVE MODE

-- What makes a database not empty.
-- name: contents
SELECT (SELECT count(*) FROM auth_user), (SELECT count(*) FROM thread WHERE deleted_at IS NULL),
  (SELECT count(*) FROM run), (SELECT count(*) FROM "user"),
  (SELECT count(*) FROM auth_audit)

-- What a line names is found by a subquery: without it the row has a NULL where none may be, and is refused.

-- name: add_account
INSERT INTO auth_user (id, name, status, epoch, roles, password_hash, created_at, valid_from)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)

-- name: add_api_key
INSERT INTO auth_key (id, user_id, secret_hash, label, created_at, expires_at, revoked_at, reason, scopes, last_used_at)
VALUES ($1, (SELECT id FROM auth_user WHERE id = $2), $3, $4, $5, $6, $7, $8, $9, $10)

-- name: add_external
INSERT INTO auth_external (subject_hash, issuer, subject, user_id)
VALUES ($1, $2, $3, (SELECT id FROM auth_user WHERE id = $4))

-- name: add_audit
INSERT INTO auth_audit (seq, at, actor, actor_kind, action, subject, address, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)

-- name: add_user
INSERT INTO "user" (id, iss, sub, created_at, quarantined_at) VALUES ($1, $2, $3, $4, $5)

-- name: add_thread
INSERT INTO thread (id, user_key, title, head, floor, created_at, updated_at)
VALUES ($1, (SELECT key FROM "user" WHERE id = $2), $3, $4, $5, $6, $7)

-- Nobody holds it: an unfinished run is claimed by the next worker, as one whose server was killed.
-- name: add_run
INSERT INTO run (id, thread_key, user_key, agent, message, after, seq, status, attempt, ordinal, handed_over, cancel_by,
  cancel_reason, error, started_seq, terminal_seq, idempotency_key, fingerprint, created_at, ended_at, compacted_at,
  lost, woken_at, closing)
VALUES ($1, (SELECT key FROM thread WHERE id = $2), (SELECT user_key FROM thread WHERE id = $2), $3, $4, $5, $6, $7, $8,
  $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)

-- name: add_wait
INSERT INTO wait (run_key, id, kind, due_at, "by", value)
VALUES ((SELECT key FROM run WHERE id = $1), $2, $3, $4, $5, $6)

-- name: add_pinned
INSERT INTO pinned (run_key, data) VALUES ((SELECT key FROM run WHERE id = $1), $2)

-- name: add_segment
INSERT INTO segment (thread_key, run_key, first_seq, last_seq, attempt, ordinal, flags, events)
VALUES (
  (SELECT t.key FROM run r JOIN thread t ON t.key = r.thread_key WHERE r.id = $2 AND t.id = $1 AND $4 <= t.head),
  (SELECT key FROM run WHERE id = $2), $3, $4, $5, $6, $7, $8)

-- name: add_blob
INSERT INTO blob (user_key, run_key, ref, data)
VALUES ((SELECT user_key FROM run WHERE id = $1), (SELECT key FROM run WHERE id = $1), $2, $3)

-- Segments cover a thread from its floor to its head, each seq once. Below the floor retention may have left some.
-- name: gaps
SELECT t.id FROM thread t LEFT JOIN (
  SELECT thread_key, first_seq, last_seq, lag(last_seq) OVER (PARTITION BY thread_key ORDER BY first_seq) AS before
  FROM segment
) s ON s.thread_key = t.key
GROUP BY t.key
HAVING coalesce(max(s.last_seq), t.floor) <> t.head OR coalesce(min(s.first_seq), t.floor + 1) > t.floor + 1
  OR count(*) FILTER (WHERE s.before IS NOT NULL AND s.first_seq > t.floor + 1 AND s.first_seq <> s.before + 1) > 0
LIMIT 1

-- Where a run says that its events lie, they lie: its message, its start and its end, if retention left them.
-- name: misplaced
SELECT r.id FROM run r JOIN thread t ON t.key = r.thread_key
WHERE r.seq > t.floor AND NOT EXISTS (
    SELECT 1 FROM segment s WHERE s.thread_key = t.key AND s.first_seq = r.seq AND s.run_key = r.key)
  OR r.terminal_seq > t.floor AND NOT EXISTS (
    SELECT 1 FROM segment s WHERE s.run_key = r.key AND (s.flags & 2) <> 0 AND s.last_seq = r.terminal_seq)
  OR r.started_seq > t.floor AND NOT EXISTS (
    SELECT 1 FROM segment s
    WHERE s.run_key = r.key AND (s.flags & 1) <> 0 AND r.started_seq BETWEEN s.first_seq AND s.last_seq)
  OR (r.terminal_seq IS NULL AND EXISTS (SELECT 1 FROM segment s WHERE s.run_key = r.key AND (s.flags & 2) <> 0))
  OR (r.started_seq IS NULL AND EXISTS (SELECT 1 FROM segment s WHERE s.run_key = r.key AND (s.flags & 1) <> 0))
LIMIT 1
