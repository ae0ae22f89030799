-- Every statement of export and import. An export looks at everything once: these may walk through a whole table, and
-- `CROSS JOIN` makes them walk in the order of `key`, so that nothing has to be sorted. ?1 is a user's id, or NULL for all.

-- Export --------------------------------------------------------------------------------------------

-- name: account_of_name
SELECT id FROM auth_user WHERE name = ?1

-- name: count_account
SELECT count(*) FROM auth_user WHERE ?1 IS NULL OR id = ?1

-- name: account
SELECT id, name, status, epoch, roles, password_hash, created_at, valid_from FROM auth_user
WHERE ?1 IS NULL OR id = ?1 ORDER BY id

-- name: count_api_key
SELECT count(*) FROM auth_key WHERE ?1 IS NULL OR user_id = ?1

-- name: api_key
SELECT id, user_id, secret_hash, label, created_at, expires_at, revoked_at, reason, scopes,
  last_used_at
FROM auth_key WHERE ?1 IS NULL OR user_id = ?1 ORDER BY id

-- name: count_external
SELECT count(*) FROM auth_external WHERE ?1 IS NULL OR user_id = ?1

-- name: external
SELECT subject_hash, issuer, subject, user_id FROM auth_external WHERE ?1 IS NULL OR user_id = ?1 ORDER BY subject_hash

-- name: count_audit
SELECT count(*) FROM auth_audit WHERE ?1 IS NULL OR actor = ?1 OR subject = ?1

-- name: audit
SELECT seq, at, actor, actor_kind, action, subject, address, detail
FROM auth_audit WHERE ?1 IS NULL OR actor = ?1 OR subject = ?1 ORDER BY seq

-- name: count_user
SELECT count(*) FROM user WHERE ?1 IS NULL OR id = ?1

-- name: user
SELECT id, iss, sub, created_at, quarantined_at FROM user WHERE ?1 IS NULL OR id = ?1 ORDER BY key

-- name: count_thread
SELECT count(*) FROM thread t JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1)

-- name: thread
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM thread t CROSS JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1) ORDER BY t.key

-- name: count_run
SELECT count(*) FROM run r JOIN thread t ON t.key = r.thread_key JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1)

-- name: run
SELECT r.id, t.id, r.agent, r.message, r.after, r.seq, r.status, r.attempt, r.ordinal, r.handed_over, r.cancel_by,
  r.cancel_reason, r.error, r.started_seq, r.terminal_seq, r.idempotency_key, r.fingerprint, r.created_at, r.ended_at,
  r.compacted_at, r.lost, r.woken_at, r.closing, p.data
FROM run r CROSS JOIN thread t ON t.key = r.thread_key CROSS JOIN user u ON u.key = t.user_key
  LEFT JOIN pinned p ON p.run_key = r.key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1) ORDER BY r.key

-- name: count_wait
SELECT count(*) FROM wait w JOIN run r ON r.key = w.run_key JOIN thread t ON t.key = r.thread_key
  JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1)

-- name: wait
SELECT r.id, w.id, w.kind, w.due_at, w."by", w.value
FROM wait w CROSS JOIN run r ON r.key = w.run_key CROSS JOIN thread t ON t.key = r.thread_key
  CROSS JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1) ORDER BY w.key

-- name: count_segment
SELECT count(*) FROM segment s JOIN thread t ON t.key = s.thread_key JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1)

-- name: segment
SELECT t.id, r.id, s.first_seq, s.last_seq, s.attempt, s.ordinal, s.events
FROM segment s CROSS JOIN thread t ON t.key = s.thread_key CROSS JOIN user u ON u.key = t.user_key
  CROSS JOIN run r ON r.key = s.run_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1) ORDER BY s.key

-- name: count_blob
SELECT count(*) FROM blob b JOIN run r ON r.key = b.run_key JOIN thread t ON t.key = r.thread_key
  JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1)

-- name: blob
SELECT r.id, b.ref, b.data
FROM blob b CROSS JOIN run r ON r.key = b.run_key CROSS JOIN thread t ON t.key = r.thread_key
  CROSS JOIN user u ON u.key = t.user_key
WHERE t.deleted_at IS NULL AND (?1 IS NULL OR u.id = ?1) ORDER BY b.key

-- Import --------------------------------------------------------------------------------------------

-- What makes a database not empty.
-- name: contents
SELECT (SELECT count(*) FROM auth_user), (SELECT count(*) FROM thread WHERE deleted_at IS NULL), (SELECT count(*) FROM run),
  (SELECT count(*) FROM user)

-- name: add_account
INSERT INTO auth_user (id, name, status, epoch, roles, password_hash, created_at, valid_from)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)

-- name: add_api_key
INSERT INTO auth_key (id, user_id, secret_hash, label, created_at, expires_at, revoked_at, reason, scopes, last_used_at)
SELECT ?1, id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM auth_user WHERE id = ?2

-- name: add_external
INSERT INTO auth_external (subject_hash, issuer, subject, user_id)
SELECT ?1, ?2, ?3, id FROM auth_user WHERE id = ?4

-- name: add_audit
INSERT INTO auth_audit (seq, at, actor, actor_kind, action, subject, address, detail)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)

-- name: add_user
INSERT INTO user (id, iss, sub, created_at, quarantined_at) VALUES (?1, ?2, ?3, ?4, ?5)

-- name: add_thread
INSERT INTO thread (id, user_key, title, head, floor, created_at, updated_at)
SELECT ?1, key, ?3, ?4, ?5, ?6, ?7 FROM user WHERE id = ?2

-- Nobody holds it: an unfinished run is claimed by the next server, like one whose server was killed.
-- name: add_run
INSERT INTO run (id, thread_key, user_key, agent, message, after, seq, status, attempt, ordinal, handed_over, cancel_by,
  cancel_reason, error, started_seq, terminal_seq, idempotency_key, fingerprint, created_at, ended_at, compacted_at,
  lost, woken_at, closing)
SELECT ?1, key, user_key, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23
FROM thread WHERE id = ?2

-- name: add_wait
INSERT INTO wait (run_key, id, kind, due_at, "by", value) SELECT key, ?2, ?3, ?4, ?5, ?6 FROM run WHERE id = ?1

-- name: add_pinned
INSERT INTO pinned (run_key, data) SELECT key, ?2 FROM run WHERE id = ?1

-- name: add_segment
INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, ordinal, flags, events)
SELECT t.key, ?3, ?4, r.key, ?5, ?6, ?7, ?8 FROM run r JOIN thread t ON t.key = r.thread_key
WHERE r.id = ?2 AND t.id = ?1 AND ?4 <= t.head

-- name: add_blob
INSERT INTO blob (user_key, run_key, ref, data) SELECT user_key, key, ?2, ?3 FROM run WHERE id = ?1

-- Segments cover a thread from its floor to its head, each seq once. Below the floor retention may have left some.
-- name: gaps
SELECT t.id FROM thread t LEFT JOIN (
  SELECT thread_key, first_seq, last_seq, lag(last_seq) OVER (PARTITION BY thread_key ORDER BY first_seq) AS before
  FROM segment
) s ON s.thread_key = t.key
GROUP BY t.key
HAVING coalesce(max(s.last_seq), t.floor) <> t.head OR coalesce(min(s.first_seq), t.floor + 1) > t.floor + 1
  OR sum(s.before IS NOT NULL AND s.first_seq > t.floor + 1 AND s.first_seq <> s.before + 1) > 0
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
