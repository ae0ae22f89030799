-- Every statement that the SQLite adapter of log, runs and threads executes. Parameters are numbered.

-- Opening -------------------------------------------------------------------------------------------

-- name: journal_mode
PRAGMA journal_mode = WAL

-- name: synchronous
PRAGMA synchronous = FULL

-- name: foreign_keys
PRAGMA foreign_keys = ON

-- name: no_foreign_keys
PRAGMA foreign_keys = OFF

-- name: cache_size
PRAGMA cache_size = -16384

-- The log beside the file is cut back to this size when a burst is over.
-- name: journal_size_limit
PRAGMA journal_size_limit = 67108864

-- name: tables
SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'

-- name: revision
SELECT version_num FROM alembic_version

-- name: definitions
SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid

-- name: stamp_revision
INSERT INTO alembic_version (version_num) VALUES (?1)

-- name: begin_generation
INSERT INTO auth_counter (key, generation, seq) VALUES (1, ?1, 0)

-- name: make_meta
INSERT INTO meta (key, log) VALUES (1, ?1) ON CONFLICT DO NOTHING

-- name: become_owner
UPDATE meta SET incarnation = incarnation + 1 WHERE key = 1 RETURNING log, incarnation

-- Whoever owned the file before is gone.
-- name: forget_members
DELETE FROM member

-- A write that needs room on the disk, as every other does; a row that stays as it is would not be written. Of the
-- turns only their order counts.
-- name: ping
UPDATE meta SET turn = turn + 1 WHERE key = 1

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

-- Within a job: batches of one append.
-- name: savepoint_batch
SAVEPOINT batch

-- name: rollback_batch
ROLLBACK TO batch

-- name: release_batch
RELEASE batch

-- The log -------------------------------------------------------------------------------------------

-- The birthplace of every seq: nothing else moves a thread's head. ?1 is {thread key: how many events}.
-- name: move_head
UPDATE thread SET head = head + moved.value, updated_at = ?2
FROM json_each(?1) moved
WHERE thread.key = CAST(moved.key AS INTEGER)
RETURNING key, head, id, (SELECT id FROM user WHERE key = user_key)

-- name: add_segment
INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, ordinal, flags, events)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)

-- Decides an append: only the holder of the attempt, only once, only while the run is not over.
-- ?1 is [[run, attempt, expected ordinal, how many events], ...]. The plus keeps the planner off the index of running
-- runs, so that each run is found by its id.
-- name: take_ordinals
UPDATE run SET ordinal = ordinal + batch.size
FROM (SELECT value ->> 0 AS id, value ->> 1 AS attempt, value ->> 2 AS expected, value ->> 3 AS size
  FROM json_each(?1)) batch
WHERE run.id = batch.id AND run.attempt = batch.attempt AND run.ordinal = batch.expected
  AND +run.status = 'running' AND run.owner = ?2
RETURNING id, key, thread_key

-- name: stored_batch
SELECT s.first_seq, s.last_seq
FROM run r JOIN segment s ON s.thread_key = r.thread_key AND s.run_key = r.key
WHERE r.id = ?1 AND r.attempt = ?2 AND r.ordinal >= ?3 + ?4
  AND s.first_seq >= coalesce(r.started_seq, r.seq)
  AND s.attempt = ?2 AND s.ordinal = ?3 AND s.last_seq - s.first_seq + 1 = ?4

-- name: pin
INSERT INTO pinned (run_key, data) VALUES (?1, ?2) ON CONFLICT DO NOTHING

-- name: add_blob
INSERT INTO blob (user_key, run_key, ref, data) SELECT user_key, key, ?2, ?3 FROM run WHERE key = ?1
ON CONFLICT DO NOTHING

-- name: mark_started
UPDATE run SET started_seq = ?2 WHERE key = ?1 AND started_seq IS NULL

-- name: end_run
UPDATE run SET status = ?2, terminal_seq = ?3, error = ?4, ended_at = ?5, owner = NULL, worker = NULL,
  woken_at = NULL, closing = NULL
WHERE key = ?1 AND terminal_seq IS NULL

-- What a run waits for ----------------------------------------------------------------------------

-- name: add_wait
INSERT INTO wait (run_key, id, kind, due_at) VALUES (?1, ?2, ?3, ?4)

-- name: close_waits
UPDATE wait SET "by" = 'ended' WHERE run_key = ?1 AND "by" IS NULL AND id IN (SELECT value FROM json_each(?2))

-- name: end_waits
UPDATE wait SET "by" = 'ended' WHERE run_key = ?1 AND "by" IS NULL

-- Whether a batch that could be stored closes a wait that was answered meanwhile. ?5 is a JSON array of waits.
-- name: overtaken
SELECT 1 FROM run r JOIN wait w ON w.run_key = r.key
WHERE r.id = ?1 AND r.attempt = ?2 AND r.ordinal = ?3 AND +r.status = 'running' AND r.owner = ?4
  AND w.id IN (SELECT value FROM json_each(?5)) AND w."by" <> 'ended'
LIMIT 1

-- Woken at once: if it was called off, if one of its waits (?6) is not open any more, or if it names none: it would lie
-- there for good.
-- name: park_run
UPDATE run SET status = 'waiting', owner = NULL, worker = NULL, closing = ?5,
  woken_at = CASE WHEN cancel_by IS NOT NULL OR NOT EXISTS (SELECT 1 FROM json_each(?6)) OR EXISTS (
    SELECT 1 FROM json_each(?6) a
    WHERE NOT EXISTS (SELECT 1 FROM wait w WHERE w.id = a.value AND w.run_key = run.key AND w."by" IS NULL)
  ) THEN ?7 END
WHERE id = ?1 AND attempt = ?2 AND ordinal = ?3 AND +status = 'running' AND owner = ?4

-- name: is_parked
SELECT 1 FROM run WHERE id = ?1 AND attempt = ?2 AND +status = 'waiting'

-- name: wait_of_user
SELECT w.key, w.id, r.key, r.id, r.attempt, r.status, t.key, t.id, w.kind, w."by", w.value
FROM run r JOIN user u ON u.key = r.user_key JOIN thread t ON t.key = r.thread_key
  LEFT JOIN wait w ON w.id = ?3 AND w.run_key = r.key
WHERE r.id = ?1 AND u.id = ?2 AND t.deleted_at IS NULL

-- name: due_waits
SELECT w.key, w.id, r.key, r.id, r.attempt, r.status, t.key, t.id
FROM wait w INDEXED BY wait_due JOIN run r ON r.key = w.run_key JOIN thread t ON t.key = r.thread_key
WHERE w."by" IS NULL AND w.due_at <= ?1 ORDER BY w.due_at LIMIT ?2

-- name: resume_wait
UPDATE wait SET "by" = ?2, value = ?3 WHERE key = ?1 AND "by" IS NULL

-- name: wake_run
UPDATE run SET woken_at = ?2 WHERE key = ?1 AND status = 'waiting' AND woken_at IS NULL

-- Of these waits those that are not open any more.
-- name: answers
SELECT r.id, w.id, w."by", w.value
FROM json_each(?1) a CROSS JOIN wait w ON w.id = a.value JOIN run r ON r.key = w.run_key WHERE w."by" IS NOT NULL

-- name: thread_bounds
SELECT key, head, floor FROM thread WHERE id = ?1 AND deleted_at IS NULL

-- name: bounds_of_threads
SELECT t.id, t.key, t.head, t.floor FROM json_each(?1) a CROSS JOIN thread t ON t.id = a.value
WHERE t.deleted_at IS NULL

-- name: read_segments
SELECT s.first_seq, s.last_seq, r.id, s.attempt, s.events
FROM segment s JOIN run r ON r.key = s.run_key
WHERE s.thread_key = ?1
  AND s.first_seq >= coalesce((SELECT max(first_seq) FROM segment WHERE thread_key = ?1 AND first_seq <= ?2 + 1), 0)
ORDER BY s.first_seq

-- name: run_bounds
SELECT key, thread_key, seq, coalesce(started_seq, terminal_seq, 9223372036854775807) FROM run WHERE id = ?1

-- Its message first; between that and its start may lie events of the runs that it queued behind.
-- name: read_run
SELECT first_seq, attempt, events FROM segment WHERE thread_key = ?2 AND first_seq = ?3 AND run_key = ?1
UNION ALL
SELECT first_seq, attempt, events FROM segment
WHERE thread_key = ?2 AND first_seq >= ?4 AND first_seq <> ?3 AND run_key = ?1
ORDER BY first_seq

-- name: moved_heads
-- Two EXISTS: each has its partial index, so that a long past of ended runs costs nothing.
SELECT t.id, t.head,
  EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status IN ('running', 'waiting'))
  OR EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status = 'queued')
FROM json_each(?1) k CROSS JOIN thread t ON t.id = k.key
WHERE t.head > k.value AND t.deleted_at IS NULL

-- name: blob_of_user
SELECT b.data
FROM blob b JOIN user u ON u.key = b.user_key JOIN run r ON r.key = b.run_key JOIN thread t ON t.key = r.thread_key
WHERE u.id = ?1 AND b.ref = ?2 AND t.deleted_at IS NULL
LIMIT 1

-- name: blob_of_run
SELECT b.data FROM blob b JOIN run r ON r.key = b.run_key WHERE r.id = ?1 AND b.ref = ?2

-- People and threads --------------------------------------------------------------------------------

-- name: user_key
SELECT key FROM user WHERE id = ?1

-- name: add_user
INSERT INTO user (id, iss, sub, created_at) VALUES (?1, ?2, ?3, ?4) RETURNING key

-- name: add_thread
INSERT INTO thread (id, user_key, title, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4) RETURNING key

-- name: thread_of_user
SELECT t.key, t.head FROM thread t JOIN user u ON u.key = t.user_key
WHERE t.id = ?1 AND u.id = ?2 AND t.deleted_at IS NULL

-- name: thread_rows
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM json_each(?1) a CROSS JOIN thread t ON t.id = json_extract(a.value, '$[1]')
JOIN user u ON u.key = t.user_key AND u.id = json_extract(a.value, '$[0]')
WHERE t.deleted_at IS NULL

-- name: thread_row
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM thread t JOIN user u ON u.key = t.user_key
WHERE t.id = ?1 AND u.id = ?2 AND t.deleted_at IS NULL

-- name: list_threads
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM user u JOIN thread t ON t.user_key = u.key
WHERE u.id = ?1 AND t.deleted_at IS NULL
  AND (?2 IS NULL OR t.key < (SELECT b.key FROM thread b WHERE b.id = ?2 AND b.user_key = u.key))
ORDER BY t.key DESC LIMIT ?3

-- name: rename_thread
UPDATE thread SET title = ?2, updated_at = ?3 WHERE key = ?1

-- name: delete_thread
UPDATE thread SET title = NULL, deleted_at = ?2, updated_at = ?2 WHERE key = ?1

-- The active run is older than every queued one.
-- name: reset_from
SELECT max(t.floor, coalesce(
  (SELECT r.seq - 1 FROM run r WHERE r.thread_key = t.key AND r.status IN ('running', 'waiting')),
  (SELECT r.seq - 1 FROM run r WHERE r.thread_key = t.key AND r.status = 'queued' ORDER BY r.key LIMIT 1),
  (SELECT r.seq - 1 FROM run r WHERE r.thread_key = t.key ORDER BY r.key DESC LIMIT 1),
  0))
FROM thread t WHERE t.id = ?1 AND t.deleted_at IS NULL

-- Runs ----------------------------------------------------------------------------------------------

-- name: run_by_idempotency_key
SELECT t.id, r.id, r.message, r.seq, r.after, r.fingerprint, t.deleted_at
FROM user u JOIN run r ON r.user_key = u.key JOIN thread t ON t.key = r.thread_key
WHERE u.id = ?1 AND r.idempotency_key = ?2

-- name: add_run
INSERT INTO run (id, thread_key, user_key, agent, message, after, status, idempotency_key, fingerprint, created_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'queued', ?7, ?8, ?9) RETURNING key

-- name: place_run
UPDATE run SET seq = ?2 WHERE key = ?1

-- In two halves, so that each has its partial index: a thread may have thousands of runs that ended.
-- name: unfinished_of_thread
SELECT key, id, thread_key, status, attempt, woken_at, closing FROM run WHERE thread_key = ?1 AND status IN ('running', 'waiting')
UNION ALL
SELECT key, id, thread_key, status, attempt, woken_at, closing FROM run WHERE thread_key = ?1 AND status = 'queued'
ORDER BY key

-- name: unfinished_of_user
SELECT r.key, r.id, r.thread_key, r.status, r.attempt, r.woken_at, r.closing, t.id
FROM user u JOIN run r ON r.user_key = u.key JOIN thread t ON t.key = r.thread_key
WHERE u.id = ?1 AND r.status IN ('queued', 'running', 'waiting') ORDER BY r.key

-- name: run_to_cancel
SELECT r.key, r.id, r.thread_key, r.status, r.attempt, r.woken_at, r.closing, t.id
FROM run r JOIN user u ON u.key = r.user_key JOIN thread t ON t.key = r.thread_key
WHERE r.id = ?1 AND (?2 IS NULL OR (u.id = ?2 AND t.deleted_at IS NULL))

-- The first request stands.
-- name: flag_cancel
UPDATE run SET cancel_by = ?2, cancel_reason = ?3 WHERE key = ?1 AND cancel_by IS NULL

-- Who owns the file: this process, as long as nobody took its lock away.
-- name: owner
SELECT incarnation FROM meta WHERE key = 1

-- What was running under another owner (a dead one, or nobody after a hand-over), and what this very worker owns
-- without knowing: it is not among what it says it holds, a JSON array or null.
-- The index is named because the planner, for the order's sake, would rather walk through all runs there ever were.
-- Of agents that the worker has (?5), or that nobody else has (not in ?6, JSON arrays; null: of its own alone).
-- name: lost_runs
SELECT key FROM run INDEXED BY run_running WHERE status = 'running'
  AND (owner IS NOT ?1 OR (worker = ?3 AND ?4 IS NOT NULL AND id NOT IN (SELECT value FROM json_each(?4))))
  AND (cancel_by IS NOT NULL OR agent IN (SELECT value FROM json_each(?5))
    OR (?6 IS NOT NULL AND agent NOT IN (SELECT value FROM json_each(?6))))
ORDER BY key LIMIT ?2

-- Users in turn: each one's first candidate before anybody's second, and among these who was served longest ago.
-- `people` steps from user to user through the index, and of each at most ?1 runs are looked at, so that one user's
-- thousand queued runs cost nobody else. Agents as of `lost_runs`: here ?3 and ?4.
-- name: queued_runs
WITH RECURSIVE people (user_key) AS (
  SELECT min(user_key) FROM run WHERE status = 'queued'
  UNION ALL
  SELECT (SELECT min(q.user_key) FROM run q WHERE q.status = 'queued' AND q.user_key > people.user_key)
  FROM people WHERE people.user_key IS NOT NULL
)
SELECT key FROM (
  SELECT r.key, u.turn,
    row_number() OVER (PARTITION BY u.key ORDER BY r.key) AS place,
    (SELECT count(*) FROM run a WHERE a.user_key = u.key AND a.status = 'running') AS active
  FROM people JOIN user u ON u.key = people.user_key JOIN run r ON r.key IN (
    SELECT q.key FROM run q
    WHERE q.user_key = u.key AND q.status = 'queued'
      AND (q.agent IN (SELECT value FROM json_each(?3))
        OR (?4 IS NOT NULL AND q.agent NOT IN (SELECT value FROM json_each(?4))))
      AND NOT EXISTS (SELECT 1 FROM run a WHERE a.thread_key = q.thread_key AND a.status IN ('running', 'waiting'))
      AND NOT EXISTS (SELECT 1 FROM run o WHERE o.thread_key = q.thread_key AND o.status = 'queued' AND o.key < q.key)
    ORDER BY q.key LIMIT ?1)
)
WHERE place + active <= ?1
ORDER BY place, turn, key LIMIT ?2

-- As many runs (?1) as a worker with room would take at once, and since when they wait, by agent. Of each user few
-- queued runs are looked at; what was in a run's way, its thread's run before it or the user's limit (?2), has ended since.
-- name: waiting_runs
WITH RECURSIVE people (user_key) AS (
  SELECT min(user_key) FROM run WHERE status = 'queued'
  UNION ALL
  SELECT (SELECT min(q.user_key) FROM run q WHERE q.status = 'queued' AND q.user_key > people.user_key)
  FROM people WHERE people.user_key IS NOT NULL LIMIT ?1
)
SELECT agent, count(*), min(since) FROM (
  SELECT agent, max(created_at,
    coalesce((SELECT b.ended_at FROM run b WHERE b.thread_key = ready.thread_key AND b.key < ready.key
      ORDER BY b.key DESC LIMIT 1), 0),
    coalesce((SELECT max(e.ended_at) FROM (SELECT b.ended_at FROM run b WHERE b.user_key = ready.user_key AND b.key < ready.key
      ORDER BY b.key DESC LIMIT ?2) e), 0)) AS since
  FROM (
    SELECT r.key, r.user_key, r.thread_key, r.agent, r.created_at,
      row_number() OVER (PARTITION BY r.user_key ORDER BY r.key) AS place,
      (SELECT count(*) FROM run a WHERE a.user_key = people.user_key AND a.status = 'running') AS active
    FROM people JOIN run r ON r.key IN (
      SELECT few.key FROM (
        SELECT f.key, f.thread_key FROM run f WHERE f.user_key = people.user_key AND f.status = 'queued'
        ORDER BY f.key LIMIT 2 * ?2) few
      WHERE NOT EXISTS (SELECT 1 FROM run a WHERE a.thread_key = few.thread_key AND a.status IN ('running', 'waiting'))
        AND NOT EXISTS (SELECT 1 FROM run o WHERE o.thread_key = few.thread_key AND o.status = 'queued' AND o.key < few.key)
      ORDER BY few.key LIMIT ?2)
  ) ready
  WHERE place + active <= ?2 LIMIT ?1
)
GROUP BY agent

-- Parked runs that were answered, or called off since: like the queued ones, but whoever was woken first goes first.
-- name: woken_runs
WITH RECURSIVE people (user_key) AS (
  SELECT min(user_key) FROM run WHERE status = 'waiting' AND woken_at IS NOT NULL
  UNION ALL
  SELECT (SELECT min(q.user_key) FROM run q
    WHERE q.status = 'waiting' AND q.woken_at IS NOT NULL AND q.user_key > people.user_key)
  FROM people WHERE people.user_key IS NOT NULL
)
SELECT key FROM (
  SELECT r.key, u.turn, r.woken_at,
    row_number() OVER (PARTITION BY u.key ORDER BY r.woken_at, r.key) AS place,
    (SELECT count(*) FROM run a WHERE a.user_key = u.key AND a.status = 'running') AS active
  FROM people JOIN user u ON u.key = people.user_key JOIN run r ON r.key IN (
    SELECT q.key FROM run q
    WHERE q.user_key = u.key AND q.status = 'waiting' AND q.woken_at IS NOT NULL
      AND (q.agent IN (SELECT value FROM json_each(?3))
        OR (?4 IS NOT NULL AND q.agent NOT IN (SELECT value FROM json_each(?4))))
    ORDER BY q.woken_at, q.key LIMIT ?1)
)
WHERE place + active <= ?1
ORDER BY place, turn, woken_at, key LIMIT ?2

-- name: claimed_run
SELECT r.id, t.id, u.id, r.agent, r.message, r.attempt + 1, r.ordinal, r.created_at, p.data,
  r.cancel_by, r.cancel_reason, r.handed_over, r.status, r.owner, r.lost
FROM run r JOIN thread t ON t.key = r.thread_key JOIN user u ON u.key = r.user_key
  LEFT JOIN pinned p ON p.run_key = r.key
WHERE r.key = ?1

-- name: claim_run
UPDATE run SET status = 'running', attempt = attempt + 1, owner = ?2, worker = ?3, handed_over = NULL, lost = ?4,
  woken_at = NULL, closing = NULL
WHERE key = ?1

-- name: next_turn
UPDATE meta SET turn = turn + 1 WHERE key = 1 RETURNING turn

-- name: serve_user
UPDATE user SET turn = ?2 WHERE key = (SELECT user_key FROM run WHERE key = ?1)

-- name: release_run
UPDATE run SET owner = NULL, worker = NULL, handed_over = nullif(?4, 'worker_lost'),
  lost = CASE ?4 WHEN 'worker_lost' THEN lost || attempt || ',' ELSE lost END
WHERE id = ?1 AND attempt = ?2 AND +status = 'running' AND owner = ?3

-- ?1 is {run: attempt}. Of those that are still held as they say only what is called off.
-- name: signals
SELECT * FROM (
  SELECT h.key, coalesce(r.attempt, h.value),
    r.status IS 'running' AND r.owner IS ?2 AND r.worker IS ?3 AND r.attempt IS h.value AS is_held,
    r.cancel_by, r.cancel_reason
  FROM json_each(?1) h LEFT JOIN run r ON r.id = h.key
)
WHERE NOT is_held OR cancel_by IS NOT NULL

-- name: run_row
SELECT r.id, t.id, u.id, r.agent, r.status, r.attempt, r.message, r.seq, r.started_seq, r.terminal_seq, r.error,
  r.created_at, r.ended_at
FROM run r JOIN thread t ON t.key = r.thread_key JOIN user u ON u.key = r.user_key
WHERE r.id = ?1 AND u.id = ?2 AND t.deleted_at IS NULL

-- name: list_runs
SELECT r.id, t.id, u.id, r.agent, r.status, r.attempt, r.message, r.seq, r.started_seq, r.terminal_seq, r.error,
  r.created_at, r.ended_at
FROM user u JOIN run r ON r.user_key = u.key JOIN thread t ON t.key = r.thread_key
WHERE u.id = ?1 AND t.deleted_at IS NULL
  AND (?2 IS NULL OR t.id = ?2) AND (?3 IS NULL OR r.status = ?3) AND (?4 IS NULL OR r.agent = ?4)
  AND (?5 IS NULL OR r.key < (SELECT b.key FROM run b WHERE b.id = ?5 AND b.user_key = u.key))
ORDER BY r.key DESC LIMIT ?6

-- Upkeep --------------------------------------------------------------------------------------------

-- The index is named because it is small: it has the runs that wait for this, and no other.
-- name: runs_to_compact
SELECT key, id, thread_key, coalesce(started_seq, terminal_seq), terminal_seq FROM run INDEXED BY run_to_compact
WHERE ended_at IS NOT NULL AND compacted_at IS NULL AND ended_at < ?1 ORDER BY ended_at LIMIT ?2

-- Of the segments between the first and the last, those of other runs are their messages: they stay as they are.
-- name: run_pieces
SELECT first_seq, last_seq, attempt, flags, events FROM segment
WHERE thread_key = ?1 AND run_key = ?2 AND first_seq BETWEEN ?3 AND ?4 ORDER BY first_seq

-- name: drop_pieces
DELETE FROM segment WHERE thread_key = ?1 AND run_key = ?2 AND first_seq BETWEEN ?3 AND ?4

-- By its id: the key of a run that was deleted meanwhile may be another's.
-- name: mark_compacted
UPDATE run SET compacted_at = ?2 WHERE id = ?1

-- name: threads_to_purge
SELECT t.key, t.id, t.head FROM thread t INDEXED BY thread_to_purge
WHERE t.deleted_at IS NOT NULL AND t.purged_at IS NULL AND t.deleted_at < ?1
  AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status IN ('running', 'waiting'))
  AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status = 'queued')
ORDER BY t.deleted_at LIMIT ?2

-- name: next_run
SELECT key, created_at FROM run WHERE key > ?1 ORDER BY key LIMIT 1

-- Threads whose first run is among these, ended long ago, and is not the only one; without one that goes on.
-- name: threads_to_trim
SELECT r.key, r.thread_key, t.id, t.floor FROM run r JOIN thread t ON t.key = r.thread_key
WHERE r.key BETWEEN ?1 AND ?2 AND r.ended_at < ?3 AND t.deleted_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM run e WHERE e.thread_key = r.thread_key AND e.key < r.key)
  AND EXISTS (SELECT 1 FROM run l WHERE l.thread_key = r.thread_key AND l.key > r.key)
  AND NOT EXISTS (SELECT 1 FROM run a WHERE a.thread_key = r.thread_key AND a.status IN ('running', 'waiting'))
ORDER BY r.key

-- name: spans_of_thread
SELECT seq, terminal_seq, ended_at FROM run WHERE thread_key = ?1 ORDER BY key

-- Not below a run that goes on: its replay must read the history that its first attempt read.
-- name: raise_floor
UPDATE thread SET floor = ?2 WHERE key = ?1 AND floor < ?2
  AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = thread.key AND r.status IN ('running', 'waiting'))

-- name: floor
SELECT floor FROM thread WHERE key = ?1

-- name: segments_below
SELECT key, length(events) FROM segment WHERE thread_key = ?1 AND first_seq <= ?2 ORDER BY first_seq

-- name: drop_segments
DELETE FROM segment WHERE key IN (SELECT value FROM json_each(?1))

-- In the order of a thread's log: the first that is not below ends the search.
-- name: runs_below
SELECT key, terminal_seq <= ?2 FROM run WHERE thread_key = ?1 ORDER BY key LIMIT ?3

-- name: blobs_of_runs
SELECT b.key, length(b.data) FROM json_each(?1) r JOIN blob b ON b.run_key = r.value

-- name: drop_blobs
DELETE FROM blob WHERE key IN (SELECT value FROM json_each(?1))

-- name: drop_pinned
DELETE FROM pinned WHERE run_key IN (SELECT value FROM json_each(?1))

-- name: drop_waits
DELETE FROM wait WHERE run_key IN (SELECT value FROM json_each(?1))

-- name: drop_runs
DELETE FROM run WHERE key IN (SELECT value FROM json_each(?1))

-- name: mark_purged
UPDATE thread SET purged_at = ?2 WHERE key = ?1 AND deleted_at IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = thread.key)

-- Figures, asked for by people: these walk through whole tables.
-- name: count_threads
SELECT count(*), count(deleted_at) FROM thread

-- name: count_runs
SELECT count(*), min(created_at) FROM run

-- name: count_unfinished
SELECT (SELECT count(*) FROM run WHERE status IN ('running', 'waiting'))
  + (SELECT count(*) FROM run WHERE status = 'queued')

-- name: count_to_compact
SELECT count(*) FROM run INDEXED BY run_to_compact WHERE ended_at IS NOT NULL AND compacted_at IS NULL

-- name: count_users
SELECT count(*) FROM user

-- name: count_segments
SELECT count(*), coalesce(sum(length(events)), 0) FROM segment

-- name: count_blobs
SELECT count(*), coalesce(sum(length(data)), 0) FROM blob

-- name: page_size
PRAGMA page_size

-- name: free_pages
PRAGMA freelist_count
